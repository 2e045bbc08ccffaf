//! What is asked of a bed's cluster: kubectl, requests, waiting.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::{Bed, KUBECONFIG, Output};
use crate::https::{Answer, Https, Identity};
use crate::node::Node;
use crate::wait::{eventually, secs};

impl Bed {
    /// Waits until the API says that it is ready.
    pub fn wait_ready(&self) {
        eventually("the API is ready", secs(60), || {
            self.server().alive()?;
            let answer = self.request(&Identity::Anonymous, "GET", "/readyz", &[], b"")?;
            anyhow::ensure!(answer.status == 200, "/readyz: {}", answer.text());
            Ok(())
        });
    }

    /// Waits until a node is Ready.
    pub fn wait_node_ready(&self, node: &Node) {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        eventually(&format!("{} is Ready", node.name), secs(90), || {
            node.alive()?;
            let output = self.try_kubectl(&format!("get node {} -o \"{path}\"", node.name));
            anyhow::ensure!(output.out == "True", "{output:?}");
            Ok(())
        });
    }

    /// Waits until all nodes are Ready.
    pub fn wait_all_ready(&self) {
        self.nodes
            .iter()
            .for_each(|node| self.wait_node_ready(node));
    }

    /// A join token.
    pub fn token(&self) -> String {
        let keelson = crate::bins::program("keelson");
        self.server()
            .sh(&format!(
                "{} token create --kubeconfig {KUBECONFIG}",
                keelson.display()
            ))
            .trim()
            .to_owned()
    }

    /// Runs bash on the server's node with the administrator's kubeconfig.
    pub fn bash(&self, script: &str, input: &str) -> Output {
        use std::io::Write;
        let home = self.dir.path().join("home");
        std::fs::create_dir_all(&home).expect("a home");
        let mut child = self
            .server()
            .space
            .command("bash")
            .args(["-o", "pipefail", "-c", script])
            .env("KUBECONFIG", KUBECONFIG)
            .env("HOME", &home)
            .current_dir(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bash");
        // It may end without reading.
        let _ = child
            .stdin
            .take()
            .expect("a pipe")
            .write_all(input.as_bytes());
        let output = child.wait_with_output().expect("bash");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Output {
            ok: output.status.success(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Runs kubectl; `line` is quoted as for bash, and may end in a pipe.
    pub fn try_kubectl(&self, line: &str) -> Output {
        self.bash(&format!("kubectl {line}"), "")
    }

    /// The same; its output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn kubectl(&self, line: &str) -> String {
        self.kubectl_with(line, "")
    }

    /// The same with standard input.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn kubectl_with(&self, line: &str, input: &str) -> String {
        let output = self.bash(&format!("kubectl {line}"), input);
        assert!(output.ok, "kubectl {line}\n{}{}", output.out, output.err);
        output.out
    }

    /// The same where it must fail; its standard error.
    ///
    /// # Panics
    /// When it succeeds.
    #[track_caller]
    pub fn refused(&self, line: &str, input: &str) -> String {
        let output = self.bash(&format!("kubectl {line}"), input);
        assert!(
            !output.ok,
            "kubectl {line} went well\n{}{}",
            output.out, output.err
        );
        output.err
    }

    /// Applies YAML.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        self.kubectl_with("apply -f -", yaml)
    }

    /// Waits until kubectl prints this (without space around it).
    #[track_caller]
    pub fn wait_for(&self, line: &str, wanted: &str) {
        eventually(&format!("kubectl {line}: {wanted:?}"), secs(60), || {
            let output = self.try_kubectl(line);
            anyhow::ensure!(output.out.trim() == wanted, "{output:?}");
            Ok(())
        });
    }

    /// Waits until kubectl prints something with this in it.
    #[track_caller]
    pub fn wait_contains(&self, line: &str, wanted: &str) -> String {
        eventually(
            &format!("kubectl {line}: ...{wanted:?}..."),
            secs(60),
            || {
                let output = self.try_kubectl(line);
                anyhow::ensure!(output.out.contains(wanted), "{output:?}");
                Ok(output.out)
            },
        )
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> Kubeconfig {
        Kubeconfig::read_from(self.server().outside(KUBECONFIG))
            .expect("the administrator's kubeconfig")
    }

    /// A file with the same that leads to the server from elsewhere.
    pub fn kubeconfig_from_elsewhere(&self) -> PathBuf {
        let mut config = self.kubeconfig();
        let clusters = config.clusters.iter_mut();
        for cluster in clusters.filter_map(|c| c.cluster.as_mut()) {
            cluster.server = Some(format!("https://{}:6443", self.server().ip));
        }
        let path = self.folder().join("elsewhere.kubeconfig");
        let text = serde_json::to_string(&config).expect("a kubeconfig");
        std::fs::write(&path, text).expect("write it");
        path
    }

    fn kubeconfig_value(&self) -> Value {
        let text = std::fs::read_to_string(self.server().outside(KUBECONFIG))
            .expect("the administrator's kubeconfig");
        serde_yaml_ng::from_str(&text).expect("a kubeconfig")
    }

    /// Runs the test's code with a client of the kube crate as administrator, in the server's network.
    pub fn kube<T: Send>(&self, code: impl AsyncFnOnce(Client) -> T + Send) -> T {
        let kubeconfig = self.kubeconfig();
        self.server().space.block_on(|| async {
            let config =
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            let client = Client::try_from(config.expect("a configuration")).expect("a client");
            code(client).await
        })
    }

    /// One HTTP request to the API as anyone, byte for byte as given.
    pub fn request(
        &self,
        who: &Identity,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let https = Https::new(&self.kubeconfig_value(), who)?;
        self.server()
            .space
            .block_on(|| https.request("127.0.0.1:6443", method, path, headers, body))
    }
}

/// A bash word.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Parses JSON that kubectl printed.
///
/// # Panics
/// When it is none.
#[track_caller]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text)
        .with_context(|| text.to_owned())
        .expect("JSON")
}
