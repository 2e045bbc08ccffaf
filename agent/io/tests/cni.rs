//! The CNI exec protocol: against Debian's plugins in fresh network namespaces, and against scripts that
//! write down what they are told.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use keelson_agent_io::cni::{Attachment, Cni, Error, PortMapping};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Room {
    dir: TempDir,
}

impl Room {
    /// A mount namespace and a network namespace ("the host") of this thread's own: plugins started from it
    /// are born in both.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        ip(&["link", "set", "lo", "up"]);
        let room = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for sub in ["net.d", "bin", "state"] {
            fs::create_dir(room.path(sub)).unwrap();
        }
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, name: &str, config: &Value) {
        fs::write(self.path("net.d").join(name), config.to_string()).unwrap();
    }

    fn cni(&self) -> Cni {
        Cni::load(
            self.path("net.d"),
            vec![self.path("bin"), "/usr/lib/cni".into()],
            self.path("state"),
        )
    }

    /// A plugin that appends `<name> <command>` to `calls` and its input to `stdin`, then does as `body` says.
    fn script(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        let dir = self.dir.path().display();
        let text = format!(
            "#!/bin/sh\necho \"{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME\" >> {dir}/calls\ncat > {dir}/stdin-{name}-$CNI_COMMAND\necho \"$CNI_ARGS\" > {dir}/args\n{body}\n"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        _ = fs::remove_file(self.path("calls"));
        text.lines().map(str::to_owned).collect()
    }

    fn stdin(&self, which: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(&format!("stdin-{which}"))).unwrap())
            .unwrap()
    }

    /// A network namespace pinned to a file.
    fn netns(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap();
        let target = path.clone();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        })
        .join()
        .unwrap();
        path
    }

    fn records(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("state/results"))
            .map(|d| d.map(|e| e.unwrap().path()).collect());
        entries.unwrap_or_default()
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn ip(args: &[&str]) -> String {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn pod(uid: &str, netns: &Path) -> Attachment {
    Attachment {
        uid: uid.into(),
        namespace: "default".into(),
        name: "web".into(),
        netns: netns.into(),
        ifname: "eth0".into(),
        ..Attachment::default()
    }
}

/// Answers one connection on a port inside a namespace.
fn serve_once(netns: &Path, port: u16) -> std::thread::JoinHandle<()> {
    let namespace = File::open(netns).unwrap();
    let (ready, listening) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
        ready.send(()).unwrap();
        listener.accept().unwrap().0.write_all(b"pod").unwrap();
    });
    listening.recv().unwrap();
    server
}

fn fetch(address: SocketAddr) -> String {
    let mut text = String::new();
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5));
    stream.unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn debians_bridge_and_portmap_join_two_pods() {
    let room = Room::new();
    room.configure(
        "10-net.conflist",
        &json!({"name": "pods", "cniVersion": "1.0.0", "plugins": [
            {"type": "bridge", "bridge": "cni9", "isGateway": true, "ipMasq": false, "hairpinMode": true,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
                      "dataDir": room.path("ipam")}},
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ]}),
    );
    let cni = room.cni();
    let (a_ns, b_ns) = (room.netns("a"), room.netns("b"));
    let mut a = pod("uid-a", &a_ns);
    a.ports = vec![PortMapping {
        host_port: 18080,
        container_port: 8080,
        protocol: "tcp".into(),
        host_ip: None,
    }];
    let b = pod("uid-b", &b_ns);
    run(async {
        cni.status().await.unwrap();
        let outcome = cni.add(&a).await.unwrap();
        let address: IpAddr = "10.99.0.2".parse().unwrap();
        assert_eq!(outcome.ips, [address]);
        assert_eq!(cni.cached(&a).unwrap(), Some(outcome));
        assert_eq!(
            cni.add(&b).await.unwrap().ips,
            ["10.99.0.3".parse::<IpAddr>().unwrap()]
        );
        // Debian's portmap 1.1.1 cannot CHECK a mapping without IPv6, so the pod without one is asked about.
        cni.check(&b).await.unwrap();

        let server = serve_once(&a_ns, 8080);
        assert_eq!(fetch(SocketAddr::new(address, 8080)), "pod");
        server.join().unwrap();
        let server = serve_once(&a_ns, 8080);
        assert_eq!(fetch("10.99.0.1:18080".parse().unwrap()), "pod");
        server.join().unwrap();

        assert_eq!(room.records().len(), 2);
        let mode = fs::metadata(&room.records()[0])
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        // Another agent process, whose configuration has changed meanwhile, still undoes what was added.
        fs::remove_file(room.path("net.d/10-net.conflist")).unwrap();
        let later = room.cni();
        later.del(&a).await.unwrap();
        later.del(&a).await.unwrap();
        assert!(later.gc(Vec::new).await.is_empty());
    });
    assert!(room.records().is_empty());
    assert!(!ip(&["-o", "link"]).contains("veth"));
    assert!(
        !room.path("ipam/pods/10.99.0.2").exists() && !room.path("ipam/pods/10.99.0.3").exists()
    );
    let nat = Command::new("iptables")
        .args(["-t", "nat", "-S"])
        .output()
        .unwrap();
    assert!(!String::from_utf8(nat.stdout).unwrap().contains("18080"));
}

const GOOD: &str = r#"[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.1.2/24","interface":0}]}'; exit 0"#;
const BAD: &str = r#"[ "$CNI_COMMAND" = ADD ] && { echo '{"cniVersion":"1.1.0","code":7,"msg":"no address","details":"left"}'; exit 1; }; exit 0"#;

fn chain(version: &str) -> Value {
    json!({"name": "n", "cniVersion": version, "plugins": [{"type": "one"}, {"type": "two"}]})
}

#[test]
fn a_chain_runs_forwards_and_back() {
    let room = Room::new();
    room.script("one", GOOD);
    room.script("two", GOOD);
    room.configure("a.conflist", &chain("1.1.0"));
    let cni = room.cni();
    let attachment = pod("u1", Path::new("/x"));
    run(async {
        cni.add(&attachment).await.unwrap();
        assert_eq!(room.calls(), ["one ADD u1 eth0", "two ADD u1 eth0"]);
        let stdin = room.stdin("two-ADD");
        assert_eq!(stdin["prevResult"]["ips"][0]["address"], "10.1.1.2/24");
        assert_eq!(
            (stdin["name"].as_str(), stdin["cniVersion"].as_str()),
            (Some("n"), Some("1.1.0"))
        );
        assert!(room.stdin("one-ADD").get("prevResult").is_none());
        let args = fs::read_to_string(room.path("args")).unwrap();
        assert_eq!(
            args.trim(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=u1;K8S_POD_UID=u1"
        );
        cni.check(&attachment).await.unwrap();
        assert_eq!(room.calls(), ["one CHECK u1 eth0", "two CHECK u1 eth0"]);
        cni.status().await.unwrap();
        assert_eq!(room.calls(), ["one STATUS  ", "two STATUS  "]);
        assert!(cni.gc(|| vec!["u1".into()]).await.is_empty());
        assert_eq!(room.calls(), ["one GC  ", "two GC  "]);
        let valid = json!([{"containerID": "u1", "ifname": "eth0"}]);
        assert_eq!(room.stdin("one-GC")["cni.dev/valid-attachments"], valid);
        cni.del(&attachment).await.unwrap();
        assert_eq!(room.calls(), ["two DEL u1 eth0", "one DEL u1 eth0"]);
        assert_eq!(
            room.stdin("one-DEL")["prevResult"]["ips"][0]["address"],
            "10.1.1.2/24"
        );
        cni.del(&attachment).await.unwrap();
        assert!(room.calls().is_empty());
    });
}

#[test]
fn a_failed_add_is_undone_and_says_why() {
    let room = Room::new();
    room.script("one", GOOD);
    room.script("two", BAD);
    room.configure("a.conflist", &chain("1.0.0"));
    let cni = room.cni();
    run(async {
        let e = cni.add(&pod("u1", Path::new("/x"))).await.unwrap_err();
        assert_eq!(
            e.to_string(),
            "plugin type=\"two\" name=\"n\" failed (add): no address; left"
        );
        assert!(matches!(e, Error::Plugin { code: 7, .. }));
        assert_eq!(
            room.calls(),
            [
                "one ADD u1 eth0",
                "two ADD u1 eth0",
                "two DEL u1 eth0",
                "one DEL u1 eth0"
            ]
        );
        assert!(room.records().is_empty());
        // Before 1.1 there is no STATUS to ask.
        cni.status().await.unwrap();
        assert!(room.calls().is_empty());
    });
}

/// What the agent writes: 1.0.0 for those who know nothing later, 1.1.0 for itself.
fn both_versions() -> Value {
    let mut list = chain("1.0.0");
    list["cniVersions"] = json!(["1.0.0", "1.1.0"]);
    list
}

#[test]
fn what_an_older_agent_added_lives_on_and_goes_as_it_came() {
    let room = Room::new();
    room.script("one", GOOD);
    room.script("two", GOOD);
    room.configure("a.conflist", &chain("1.0.0"));
    let old = pod("u1", Path::new("/x"));
    run(async {
        room.cni().add(&old).await.unwrap();
        room.configure("a.conflist", &both_versions());
        let cni = room.cni();
        cni.status().await.unwrap();
        assert!(cni.gc(|| vec!["u1".into()]).await.is_empty());
        let told = room.stdin("one-GC");
        let valid = json!([{"containerID": "u1", "ifname": "eth0"}]);
        assert_eq!(
            (&told["cniVersion"], &told["cni.dev/valid-attachments"]),
            (&json!("1.1.0"), &valid)
        );
        room.calls();
        cni.del(&old).await.unwrap();
        assert_eq!(room.calls(), ["two DEL u1 eth0", "one DEL u1 eth0"]);
        assert_eq!(room.stdin("one-DEL")["cniVersion"], "1.0.0");
    });
    assert!(room.records().is_empty());
}

#[test]
fn a_plugin_that_is_not_ready_says_why() {
    let room = Room::new();
    room.script(
        "one",
        r#"[ "$CNI_COMMAND" = STATUS ] && { echo '{"cniVersion":"1.1.0","code":50,"msg":"no uplink"}'; exit 1; }; exit 0"#,
    );
    room.script("two", GOOD);
    room.configure("a.conflist", &both_versions());
    let e = run(room.cni().status()).unwrap_err();
    assert_eq!(
        e.to_string(),
        "plugin type=\"one\" name=\"n\" failed (status): no uplink"
    );
}

#[test]
fn after_a_failed_del_gc_is_told_that_the_attachment_is_gone() {
    let room = Room::new();
    room.script("one", GOOD);
    room.script(
        "two",
        &format!(
            r#"[ "$CNI_COMMAND" = DEL ] && [ -e {0} ] && exit 1; {GOOD}"#,
            room.path("stuck").display()
        ),
    );
    room.configure("a.conflist", &both_versions());
    let cni = room.cni();
    let (stuck, other) = (pod("u1", Path::new("/x")), pod("u2", Path::new("/y")));
    let pods = || vec!["u1".to_owned(), "u2".to_owned()];
    let living = |uids: &[&str]| -> Value {
        let one = |uid| json!({"containerID": uid, "ifname": "eth0"});
        uids.iter().map(one).collect()
    };
    run(async {
        cni.add(&stuck).await.unwrap();
        cni.add(&other).await.unwrap();
        fs::write(room.path("stuck"), "").unwrap();
        cni.del(&stuck).await.unwrap_err();
        // Another process knows it too, and tries again.
        assert_eq!(room.cni().gc(pods).await.len(), 1);
        let told = &room.stdin("two-GC")["cni.dev/valid-attachments"];
        assert_eq!(*told, living(&["u2"]));
        // Added anew, it lives.
        fs::remove_file(room.path("stuck")).unwrap();
        cni.add(&stuck).await.unwrap();
        assert!(cni.gc(pods).await.is_empty());
        let told = room.stdin("two-GC")["cni.dev/valid-attachments"].clone();
        let mut uids: Vec<&str> = told
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|a| a["containerID"].as_str())
            .collect();
        uids.sort_unstable();
        assert_eq!(uids, ["u1", "u2"]);
    });
}

#[test]
fn gc_waits_for_an_add_under_way_and_spares_it() {
    let room = Room::new();
    room.script("one", GOOD);
    let go = room.path("go");
    room.script(
        "two",
        &format!(
            r#"[ "$CNI_COMMAND" = ADD ] && until [ -e {} ]; do sleep 0.02; done; echo "two is done with $CNI_COMMAND" >>{}; {GOOD}"#,
            go.display(),
            room.path("calls").display()
        ),
    );
    room.configure("a.conflist", &both_versions());
    let cni = room.cni();
    let attachment = pod("u1", Path::new("/x"));
    run(async {
        let gc = async {
            // The ADD holds its place by now.
            while !room.path("stdin-two-ADD").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let errors = cni.gc(|| vec!["u1".into()]);
            let release = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                fs::write(&go, "").unwrap();
            };
            tokio::join!(errors, release).0
        };
        let (added, errors) = tokio::join!(cni.add(&attachment), gc);
        added.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
    });
    assert_eq!(
        room.calls(),
        [
            "one ADD u1 eth0",
            "two ADD u1 eth0",
            "two is done with ADD",
            "one GC  ",
            "two GC  ",
            "two is done with GC"
        ]
    );
    let valid = json!([{"containerID": "u1", "ifname": "eth0"}]);
    assert_eq!(room.stdin("one-GC")["cni.dev/valid-attachments"], valid);
}

#[test]
fn nobody_is_asked_for_gc_where_it_is_off() {
    let room = Room::new();
    room.script("one", GOOD);
    room.script("two", GOOD);
    let mut list = both_versions();
    list["disableGC"] = json!(true);
    list["disableCheck"] = json!(true);
    room.configure("a.conflist", &list);
    let cni = room.cni();
    let attachment = pod("u1", Path::new("/x"));
    run(async {
        cni.add(&attachment).await.unwrap();
        room.calls();
        cni.check(&attachment).await.unwrap();
        // What is left goes all the same.
        assert!(cni.gc(Vec::new).await.is_empty());
        assert_eq!(room.calls(), ["two DEL u1 eth0", "one DEL u1 eth0"]);
    });
}

#[test]
fn what_a_crash_left_half_written_goes_and_records_stay() {
    let room = Room::new();
    room.script("one", GOOD);
    room.script("two", GOOD);
    room.configure("a.conflist", &chain("1.0.0"));
    run(room.cni().add(&pod("u1", Path::new("/x")))).unwrap();
    let whole = room.records();
    assert_eq!(whole.len(), 1);
    fs::write(room.path("state/results/.partial-n-u2-eth0"), "{").unwrap();
    // Whom the machine's fall kept from writing anything.
    fs::write(room.path("state/results/n-u3-eth0"), "").unwrap();
    let cni = room.cni().swept();
    assert_eq!(cni.attached().unwrap(), ["u1"]);
    assert_eq!(room.records(), whole);
    assert!(run(cni.detach("u1")).is_empty());
    assert!(room.records().is_empty());
}

#[test]
fn a_plugin_that_hangs_is_killed() {
    let room = Room::new();
    room.script(
        "one",
        r#"[ "$CNI_COMMAND" = ADD ] && exec sleep 600; exit 0"#,
    );
    room.script("two", GOOD);
    room.configure("a.conflist", &chain("1.0.0"));
    let cni = room.cni().with_timeout(Duration::from_secs(1));
    let e = run(cni.add(&pod("u1", Path::new("/x")))).unwrap_err();
    assert!(matches!(e, Error::Timeout { .. }), "{e}");
    assert_eq!(
        room.calls(),
        ["one ADD u1 eth0", "two DEL u1 eth0", "one DEL u1 eth0"]
    );
}

#[test]
fn the_first_valid_configuration_counts_and_changes_are_seen() {
    let room = Room::new();
    let cni = room.cni();
    let e = cni.network().unwrap_err();
    assert!(e.to_string().contains("cni plugin not initialized"), "{e}");
    fs::write(room.path("net.d/00-broken.conflist"), "{").unwrap();
    fs::write(room.path("net.d/01-readme.txt"), "{}").unwrap();
    room.configure(
        "02-podmans-own.conflist",
        &json!({"name": "podman", "cniVersion": "0.4.0", "plugins": [{"type": "bridge", "bridge": "cni-podman0"}]}),
    );
    room.configure(
        "20-two.conf",
        &json!({"name": "second", "cniVersion": "0.4.0", "type": "one"}),
    );
    assert_eq!(cni.network().unwrap().name, "second");
    room.configure("10-one.conflist", &chain("1.0.0"));
    assert_eq!(cni.network().unwrap().name, "n");
    let e = run(cni.status()).unwrap_err();
    assert!(
        e.to_string().contains("failed to find plugin \"one\""),
        "{e}"
    );
}
