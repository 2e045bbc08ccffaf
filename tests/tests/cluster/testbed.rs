//! Beds as people have them: `scripts/testbed netns`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keelson_tests::eventually;
use keelson_tests::wait::secs;

/// A bed of this test's own name. It is taken down whatever happens.
struct Testbed(String);

impl Testbed {
    fn run(&self, args: &[&str]) -> Output {
        // Programs are found as by the script: in KEELSON_BIN, or beside it.
        let mut command = Command::new(env!("CARGO_BIN_EXE_keelson-testbed"));
        command
            .args(["--name", &self.0])
            .args(args)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, args: &[&str], why: &str) {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(why),
            "{args:?}: {output:?}"
        );
    }

    /// What is on this machine because of it.
    fn left(&self) -> Vec<PathBuf> {
        let label = format!("keelson-testbed-{}_", self.0);
        let below = |dir: &str| {
            std::fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
        };
        let hierarchies = below("/sys/fs/cgroup").flat_map(|h| below(&h.display().to_string()));
        let all = hierarchies
            .chain(below("/sys/fs/cgroup"))
            .chain(below("/tmp"))
            .chain(below("/run/keelson/testbed"));
        let ours = |path: &PathBuf| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name == self.0 || name.starts_with(&label)
        };
        all.filter(ours).collect()
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let output = self.run(&["down"]);
        assert!(
            output.status.success() || std::thread::panicking(),
            "{output:?}"
        );
    }
}

#[test]
fn a_bed_for_people() {
    let bed = Testbed(format!("test-{}", std::process::id()));
    bed.refused(&["status"], "no such bed is up");
    bed.refused(
        &["up", "--nodes", "0"],
        "nodes: 0 of them, allowed are 1 to 32",
    );
    let said = bed.done(&["up", "--nodes", "2"]);
    assert_eq!(
        bed.done(&["up", "--nodes", "2"]),
        said,
        "again, nothing is done"
    );
    bed.refused(&["up", "--nodes", "3"], "another description");

    let kubeconfig = bed.done(&["kubeconfig"]);
    let ready = || {
        let output = Command::new("kubectl")
            .args([
                "--kubeconfig",
                kubeconfig.trim(),
                "get",
                "nodes",
                "--no-headers",
            ])
            .output();
        let list = String::from_utf8(output.unwrap().stdout).unwrap();
        let ready = list.lines().filter(|l| l.contains(" Ready "));
        ready
            .filter_map(|l| l.split_whitespace().next())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(ready(), ["n1", "n2"]);
    assert!(
        bed.done(&["exec", "n1", "kubectl", "get", "nodes"])
            .contains("n2")
    );

    let health = |ip: &str| {
        let url = format!("http://{ip}:10256/healthz");
        bed.run(&["exec", "client", "curl", "-sf", "-m", "2", &url])
            .status
            .success()
    };
    assert!(health("10.88.0.12"));
    bed.done(&["cut", "n2"]);
    assert!(
        bed.done(&["status"])
            .contains("n2/nodes               eth0  10.88.0.12/24 fd88::c/64 CUT")
    );
    assert!(!health("10.88.0.12") && health("10.88.0.11"));
    bed.done(&["mend", "n2"]);
    eventually("n2 is back", secs(30), || {
        anyhow::ensure!(health("10.88.0.12"), "no answer");
        Ok(())
    });
    bed.refused(
        &["cut", "n9"],
        "no link \"n9\": there are client/outside, n1/nodes, n2/nodes, router/nodes",
    );
    bed.refused(&["degrade", "n2", "--loss", "101"], "not between 0 and 100");
    bed.done(&["degrade", "n2", "--loss", "100"]);
    assert!(!health("10.88.0.12"));
    bed.done(&["degrade", "n2"]);
    assert!(health("10.88.0.12"));

    bed.refused(&["remove", "n1"], "n1 is the server");
    bed.done(&["add", "n3", "--", "--max-pods=7"]);
    bed.done(&["move", "n3", "10.88.0.77"]);
    eventually("n3 is at its new address", secs(30), || {
        anyhow::ensure!(health("10.88.0.77"), "no answer");
        Ok(())
    });
    bed.done(&["remove", "n2"]);
    assert_eq!(ready(), ["n1", "n3"]);
    bed.done(&["reboot", "n1"]);
    eventually("the API is there after a reboot", secs(60), || {
        anyhow::ensure!(ready() == ["n1", "n3"], "{:?}", ready());
        Ok(())
    });

    assert!(!bed.left().is_empty());
    bed.done(&["down"]);
    assert_eq!(bed.left(), Vec::<PathBuf>::new());
    bed.done(&["down"]);
    assert!(!Path::new(kubeconfig.trim()).exists());
}
