//! containerd, directories and the agent on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use keelson_agent::{Config, Eviction};
use keelson_agent_plan::image_gc::Policy;
use keelson_runtime::archive::{self, Entry};
use keelson_runtime::{Container, ImageConfig, Runtime};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::Api;

/// How long anything may take on a busy machine; waiting ends as soon as it happens.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Machine {
    pub(crate) api: Api,
    pub(crate) dir: PathBuf,
    _temporary: tempfile::TempDir,
    containerd: Child,
    tokio: tokio::runtime::Runtime,
    agent: Option<tokio::runtime::Runtime>,
}

impl Machine {
    /// A machine in a network namespace of its own, with the agent running.
    pub(crate) fn start() -> Self {
        // Threads and processes that this thread starts from here on live in the new namespace.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
        assert!(
            Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status()
                .unwrap()
                .success()
        );
        let temporary = tempfile::Builder::new()
            .prefix("keelson-ag-")
            .tempdir()
            .unwrap();
        let dir = temporary.path().to_owned();
        let containerd = spawn_containerd(&dir);
        fs::create_dir_all(dir.join("images")).unwrap();
        fs::create_dir_all(dir.join("cni")).unwrap();
        write_busybox(&dir.join("images/busybox.tar"), "busybox:test", "/bin/sh");
        let conf = json!({"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "ptp",
            "ipam": {"type": "host-local", "subnet": "10.99.0.0/24", "dataDir": dir.join("ipam")}}]});
        fs::write(dir.join("cni/10-test.conflist"), conf.to_string()).unwrap();
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut machine = Self {
            api: Api::new(),
            dir,
            _temporary: temporary,
            containerd,
            tokio,
            agent: None,
        };
        machine.start_agent();
        machine
    }

    pub(crate) fn start_agent(&mut self) {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = &self.dir;
        let config = Config {
            root_dir: dir.join("root"),
            run_dir: dir.join("run"),
            log_dir: dir.join("log"),
            device_plugins_dir: dir.join("device-plugins"),
            pod_resources_dir: dir.join("pod-resources"),
            cni_conf_dir: dir.join("cni"),
            cni_bin_dirs: vec!["/usr/lib/cni".into()],
            cni_bridge: None,
            network: None,
            containerd_socket: dir.join("containerd.sock"),
            logger: logger(),
            cgroup_root: self.cgroup_root(),
            registries: dir.join("registries.yaml"),
            images_dir: Some(dir.join("images")),
            // How full this machine's disk is does not matter here.
            eviction: Eviction {
                thresholds: Vec::new(),
                period: Duration::from_millis(500),
                ..Eviction::default()
            },
            image_gc: Policy {
                high: 100,
                min_age: SignedDuration::ZERO,
                max_age: Some(SignedDuration::from_secs(1)),
                ..Policy::default()
            },
            image_gc_period: Duration::from_millis(500),
            ..Config::new("n1", vec!["192.0.2.1".parse().unwrap()])
        };
        let client = tokio.block_on(async { self.api.client() });
        tokio.spawn(async move {
            keelson_agent::run(config, client, CancellationToken::new())
                .await
                .unwrap()
        });
        self.agent = Some(tokio);
    }

    /// Ends the agent without a word, as a crash would.
    pub(crate) fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.shutdown_timeout(Duration::from_millis(10));
        }
    }

    fn cgroup_root(&self) -> String {
        format!(
            "keelson-test-{}",
            self.dir.file_name().unwrap().to_string_lossy()
        )
    }

    /// A connection of the test's own.
    pub(crate) fn runtime(&self) -> Runtime {
        let config = keelson_runtime::Config {
            socket: self.dir.join("containerd.sock"),
            run_dir: self.dir.join("run"),
            root_dir: self.dir.join("root"),
            log_dir: self.dir.join("log"),
            logger: logger(),
            cgroup_root: self.cgroup_root(),
            ..keelson_runtime::Config::default()
        };
        self.tokio
            .block_on(Runtime::connect(config))
            .expect("connect")
    }

    /// Brings an image in without the agent's knowledge.
    pub(crate) fn import(&self, name: &str, command: &str) {
        let archive = self.dir.join("other.tar");
        write_busybox(&archive, name, command);
        let imported = self.tokio.block_on(self.runtime().import(&archive));
        imported.expect("import");
    }

    pub(crate) fn has_image(&self, name: &str) -> bool {
        let image = self.tokio.block_on(self.runtime().image(name));
        image.expect("image").is_some()
    }

    /// Waits until an image is gone.
    pub(crate) fn image_gone(&self, name: &str) {
        let gone = || (!self.has_image(name)).then_some(());
        self.wait("the image is gone", gone, || json!(name));
    }

    pub(crate) fn containers(&self) -> Vec<Container> {
        let runtime = self.runtime();
        self.tokio
            .block_on(runtime.containers())
            .expect("containers")
    }

    /// Creates a pod bound to this node.
    pub(crate) fn pod(&self, name: &str, spec: Value) -> String {
        let mut spec = spec;
        spec["nodeName"] = json!("n1");
        for list in ["containers", "initContainers"] {
            for c in spec[list].as_array_mut().into_iter().flatten() {
                if c["image"].is_null() {
                    c["image"] = json!("busybox:test");
                }
                c["imagePullPolicy"] = json!("IfNotPresent");
            }
        }
        let uid = format!(
            "5a1c0000-0000-4000-8000-{:05}{:07}",
            std::process::id() % 100_000,
            self.api.list("pods").len()
        );
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"uid": uid}, "spec": spec});
        self.api.put("pods", "default", name, pod);
        uid
    }

    /// Asks for a pod's deletion, as the API server does.
    pub(crate) fn delete_pod(&self, name: &str, grace: i64) {
        let mut pod = self.api.get("pods", "default", name).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!(jiff::Timestamp::now());
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.api.put("pods", "default", name, pod);
    }

    pub(crate) fn status(&self, pod: &str) -> Value {
        self.api
            .get("pods", "default", pod)
            .map(|p| p["status"].clone())
            .unwrap_or_default()
    }

    /// Waits until something holds of a pod's status.
    pub(crate) fn until(&self, pod: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.wait(
            what,
            || Some(self.status(pod)).filter(|s| holds(s)),
            || self.status(pod),
        )
    }

    /// Waits until a pod is gone from the API and nothing of it is left on the machine.
    pub(crate) fn gone(&self, uid: &str) {
        let left = || {
            let mut left: Vec<String> = Vec::new();
            let pods = self.api.list("pods");
            left.extend(
                pods.iter()
                    .filter(|p| p["metadata"]["uid"] == uid)
                    .map(|_| "pod".to_owned()),
            );
            left.extend(
                self.containers()
                    .into_iter()
                    .filter(|c| c.pod.uid == uid)
                    .map(|c| c.id),
            );
            for dir in ["run/ns", "root/pods"] {
                left.extend(Some(format!("{dir}/{uid}")).filter(|p| self.dir.join(p).exists()));
            }
            let runtime = self.runtime();
            left.extend(
                runtime
                    .pod_cgroups()
                    .unwrap()
                    .into_iter()
                    .filter(|(u, _)| u == uid)
                    .map(|_| "cgroup".into()),
            );
            left.extend(
                mounts(&self.dir)
                    .into_iter()
                    .map(|m| m.display().to_string())
                    .filter(|m| m.contains(uid)),
            );
            let logs = fs::read_dir(self.dir.join("log")).unwrap().flatten();
            left.extend(
                logs.filter_map(|l| l.file_name().into_string().ok())
                    .filter(|l| l.ends_with(uid)),
            );
            left
        };
        self.wait(
            "everything gone",
            || left().is_empty().then_some(()),
            || json!(left()),
        );
    }

    fn wait<T>(&self, what: &str, mut f: impl FnMut() -> Option<T>, now: impl Fn() -> Value) -> T {
        let began = Instant::now();
        loop {
            if let Some(t) = f() {
                return t;
            }
            assert!(
                began.elapsed() < LIMIT,
                "{what}: {:#}\nevents: {:#?}",
                now(),
                self.events()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reasons and messages of all events.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        self.api
            .list("events")
            .iter()
            .map(|e| format!("{}: {}", text(&e["reason"]), text(&e["message"])))
            .collect()
    }

    pub(crate) fn log(&self, pod: &str, uid: &str, container: &str, attempt: u32) -> String {
        let path = self
            .dir
            .join(format!("log/default_{pod}_{uid}/{container}/{attempt}.log"));
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Machine {
    /// Everything that carries the directory's name is ours.
    fn drop(&mut self) {
        self.kill_agent();
        if let Ok(all) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.containers()))
        {
            let runtime = self.runtime();
            for c in all {
                let _ = self.tokio.block_on(runtime.container_remove(&c.id));
            }
            let _ = runtime.cgroups_remove();
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        for pid in processes(&self.dir) {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        for mount in mounts(&self.dir).iter().rev() {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

fn spawn_containerd(dir: &Path) -> Child {
    let config = dir.join("config.toml");
    let text = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.tracing.processor.v1.otlp\", \
         \"io.containerd.internal.v1.tracing\"]\n[grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n",
        root = dir.join("containerd-root"),
        state = dir.join("containerd-state"),
        socket = dir.join("containerd.sock"),
        ttrpc = dir.join("containerd.sock.ttrpc"),
    );
    fs::write(&config, text).unwrap();
    let log = fs::File::create(dir.join("containerd.log")).unwrap();
    let mut command = Command::new("containerd");
    command
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command.spawn().expect("containerd is installed")
}

/// The logger, built when it is missing or older than its source.
fn logger() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("keelson-logger");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../logger/src");
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let newest = fs::read_dir(&source)
        .unwrap()
        .flatten()
        .filter_map(|entry| time(&entry.path()))
        .max();
    if time(&binary).is_none_or(|built| Some(built) < newest) {
        let mut build = Command::new(env!("CARGO"));
        build
            .args(["build", "--quiet", "-p", "keelson-logger", "--target-dir"])
            .arg(profile.parent().unwrap());
        assert!(build.status().unwrap().success(), "build keelson-logger");
    }
    binary
}

fn write_busybox(path: &Path, name: &str, command: &str) {
    let mut files = vec![Entry::Copy {
        from: "/bin/busybox".into(),
        to: "/bin/busybox".into(),
        mode: 0o755,
    }];
    files.extend(
        [
            "sh", "cat", "sleep", "true", "ls", "test", "hostname", "env",
        ]
        .map(|link| Entry::Link {
            target: "busybox".into(),
            to: format!("/bin/{link}"),
        }),
    );
    let config = ImageConfig {
        cmd: vec![command.into()],
        ..ImageConfig::default()
    };
    archive::write(path, name, &files, &config).expect("archive");
}

fn processes(dir: &Path) -> Vec<i32> {
    let dir = dir.display().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let names = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&dir)
    };
    pids.filter(names).collect()
}

fn mounts(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect()
}
