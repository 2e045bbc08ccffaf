//! A bed: router, client and nodes, and kubectl.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tempfile::TempDir;

use crate::https::{Answer, Https, Identity};
use crate::images;
use crate::node::Node;
use crate::space::Space;
use crate::wait::{eventually, secs};

/// Where the administrator's kubeconfig is on the server's node.
pub const KUBECONFIG: &str = "/etc/keelson/admin.kubeconfig";

/// The client's address, outside of the nodes' segment.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

static BEDS: AtomicU32 = AtomicU32::new(0);

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// It ended with 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A cluster of one server and any number of agents. Dropping it leaves nothing.
pub struct Bed {
    /// The nodes; the first is the server.
    pub nodes: Vec<Node>,
    /// A machine outside of the cluster.
    pub client: Space,
    router: Space,
    dir: TempDir,
    number: u32,
}

impl Bed {
    /// A server without an agent.
    pub fn api(args: &[&str]) -> Self {
        let mut bed = Self::empty();
        bed.add_node("n1");
        let args: Vec<&str> = ["server", "--no-agent"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        bed.nodes[0].start_keelson(&args);
        bed.nodes[0].wait_for(KUBECONFIG);
        bed.wait_ready();
        bed
    }

    /// A server without a node, and one agent that joined it, started with these arguments; Ready. Each a process
    /// of its own.
    pub fn split(args: &[&str]) -> Self {
        Self::split_on(|_| {}, args)
    }

    /// The same; the agent's machine is made ready by `prepare`, before containerd runs on it.
    pub fn split_on(prepare: impl FnOnce(&Node), args: &[&str]) -> Self {
        let mut bed = Self::api(&[]);
        let node = bed.add_node("n2");
        prepare(node);
        node.start_containerd();
        images::copy_into(&node.images());
        bed.join(&bed.nodes[1], args);
        bed.wait_node_ready(&bed.nodes[1]);
        bed
    }

    /// One node with containerd, without keelson yet.
    pub fn bare() -> Self {
        let mut bed = Self::empty();
        let node = bed.add_node("n1");
        node.start_containerd();
        images::copy_into(&node.images());
        bed
    }

    /// One node whose volumes and images are on one small disk (`size` as mount takes it), without keelson yet.
    pub fn small_disk(size: &str) -> Self {
        let mut bed = Self::empty();
        let node = bed.add_node("n1");
        node.small_disk(size);
        node.start_containerd();
        bed
    }

    /// A server and an agent that joined it, each a node, the server started with these arguments; nobody tells the
    /// agent its address. All Ready.
    pub fn pair(args: &[&str]) -> Self {
        let mut bed = Self::empty();
        for name in ["n1", "n2"] {
            let node = bed.add_node(name);
            node.start_containerd();
            images::copy_into(&node.images());
        }
        bed.start_server_with(args);
        let token = bed.token();
        let server = format!("https://{}:6443", bed.server().ip);
        let joins = ["agent", "--server", &server, "--token", &token];
        bed.nodes[1].start_keelson_anywhere(&joins);
        bed.wait_node_ready(&bed.nodes[1]);
        bed
    }

    /// Starts the server with a node on the first machine, and waits until it is Ready.
    pub fn start_server(&self) {
        self.start_server_with(&[]);
    }

    fn start_server_with(&self, args: &[&str]) {
        self.server().start_keelson(&[&["server"], args].concat());
        self.server().wait_for(KUBECONFIG);
        self.wait_ready();
        self.wait_node_ready(self.server());
    }

    /// A server that is a node, and agents that joined it with tokens; all Ready.
    pub fn cluster(nodes: usize) -> Self {
        let mut bed = Self::empty();
        for n in 1..=nodes {
            let node = bed.add_node(&format!("n{n}"));
            node.start_containerd();
            images::copy_into(&node.images());
        }
        bed.start_server();
        for n in 1..nodes {
            bed.join(&bed.nodes[n], &[]);
        }
        for node in &bed.nodes {
            bed.wait_node_ready(node);
        }
        bed
    }

    /// Starts an agent with a new token.
    fn join(&self, node: &Node, args: &[&str]) {
        let token = self.token();
        let server = format!("https://{}:6443", self.server().ip);
        let own = ["agent", "--server", &server, "--token", &token];
        let args: Vec<&str> = own.iter().chain(args).copied().collect();
        node.start_keelson(&args);
    }

    fn empty() -> Self {
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new()
            .prefix("keelson-test-")
            .tempdir()
            .expect("a folder");
        let router =
            "ip link add br0 type bridge; ip address add 10.88.0.1/24 dev br0; ip link set br0 up
            sysctl -qw net.ipv4.ip_forward=1";
        let router = Space::new("router", router, &[]).expect("the router");
        let client = Space::new("client", "", &[]).expect("the client");
        let (inside, outside) = (router.init(), client.init());
        let bed = Self {
            nodes: Vec::new(),
            client,
            router,
            dir,
            number,
        };
        bed.link(inside, outside, "client", "10.99.0.2/24", "10.99.0.1");
        bed.router
            .sh("ip address add 10.99.0.1/24 dev client")
            .expect("the client's gateway");
        bed
    }

    /// A veth pair from the router to a space. Made from outside, where all PIDs mean the same.
    fn link(&self, router: u32, space: u32, name: &str, address: &str, gateway: &str) {
        let steps = [
            (
                router,
                format!("ip link add {name} type veth peer name eth0 netns {space}"),
            ),
            (router, format!("ip link set {name} up")),
            (space, format!("ip address add {address} dev eth0")),
            (space, "ip link set eth0 up".to_owned()),
            (space, format!("ip route add default via {gateway}")),
        ];
        for (within, step) in steps {
            let done = Command::new("nsenter")
                .args(["-t", &within.to_string(), "-n", "--"])
                .args(step.split(' '))
                .status();
            assert!(done.is_ok_and(|s| s.success()), "{step}");
        }
    }

    fn add_node(&mut self, name: &str) -> &Node {
        let last = u8::try_from(11 + self.nodes.len()).expect("few nodes");
        let ip = Ipv4Addr::new(10, 88, 0, last);
        let cgroup = format!("keelson-test-{}-{}-{name}", std::process::id(), self.number);
        let node = Node::new(name, ip, cgroup, self.dir.path().join(name)).expect("a node");
        self.plug(&node);
        self.nodes.push(node);
        &self.nodes[self.nodes.len() - 1]
    }

    /// Puts a new machine on the nodes' segment.
    fn plug(&self, node: &Node) {
        self.attach(&node.space, &node.name, node.ip);
    }

    /// Puts a machine that is no node on the nodes' segment: as `eth0`, its default route. `name` is the link's at the
    /// other end.
    pub fn attach(&self, space: &Space, name: &str, ip: Ipv4Addr) {
        self.link(
            self.router.init(),
            space.init(),
            name,
            &format!("{ip}/24"),
            "10.88.0.1",
        );
        self.router
            .sh(&format!("ip link set {name} master br0"))
            .expect("on the segment");
    }

    /// Cuts a node's power; when it is back, containerd and keelson start as they were started before.
    pub fn reboot(&mut self, node: usize) {
        self.nodes[node].reboot().expect("a machine");
        let node = &self.nodes[node];
        self.plug(node);
        node.start_containerd();
        node.start_again();
    }

    /// The server's node.
    pub fn server(&self) -> &Node {
        &self.nodes[0]
    }

    /// A folder for the test's own files; nodes see it at the same path.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Sends a range of addresses to a node, as a network's router would be told.
    pub fn route(&self, range: &str, node: &Node) {
        self.router
            .sh(&format!("ip route replace {range} via {}", node.ip))
            .expect("a route");
    }

    /// Cuts a node's link.
    pub fn unplug(&self, node: &Node) {
        self.router
            .sh(&format!("ip link set {} down", node.name))
            .expect("cut the link");
    }

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

    /// What is wrong, for a failed test.
    pub fn logs(&self, lines: usize) -> String {
        self.nodes.iter().map(|n| n.logs(lines)).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs(60));
            // To look around: nsenter -a -t PID of each node's first process.
            if let Some(pause) = std::env::var("KEELSON_PAUSE")
                .ok()
                .and_then(|p| p.parse().ok())
            {
                self.nodes
                    .iter()
                    .for_each(|n| eprintln!("{}: nsenter -a -t {}", n.name, n.space.init()));
                std::thread::sleep(secs(pause));
            }
            if std::env::var_os("KEELSON_KEEP").is_some() {
                self.dir.disable_cleanup(true);
                eprintln!("kept: {}", self.dir.path().display());
            }
        }
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
