//! A containerd of the test's own, with everything in one temporary directory.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use keelson_runtime::archive::{self, Entry};
use keelson_runtime::{
    Config, Container, ContainerSpec, Created, ImageConfig, PodRef, PodResources, Qos, Runtime,
    Sandbox, SandboxOptions, State,
};

pub(crate) const IMAGE: &str = "busybox:test";

/// A machine for a test: containerd and a runtime on it.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) dir: PathBuf,
    _temporary: tempfile::TempDir,
    containerd: Child,
}

impl Node {
    pub(crate) async fn start() -> Node {
        let temporary = tempfile::Builder::new()
            .prefix("keelson-rt-")
            .tempdir()
            .unwrap();
        let dir = temporary.path().to_owned();
        let containerd = spawn_containerd(&dir);
        let runtime = Runtime::connect(config(&dir)).await.expect("connect");
        Node {
            runtime,
            dir,
            _temporary: temporary,
            containerd,
        }
    }

    /// A node that has [`IMAGE`].
    pub(crate) async fn with_image() -> Node {
        let node = Node::start().await;
        let archive = node.dir.join("busybox.tar");
        write_busybox(&archive, IMAGE);
        node.runtime.import(&archive).await.expect("import");
        node
    }

    /// Kills containerd as a crash would, and starts it again.
    pub(crate) fn restart_containerd(&mut self) {
        self.containerd.kill().unwrap();
        self.containerd.wait().unwrap();
        self.containerd = spawn_containerd(&self.dir);
    }

    pub(crate) async fn sandbox(&self, uid: &str) -> Sandbox {
        let options = SandboxOptions {
            hostname: "pod-host".into(),
            ..SandboxOptions::default()
        };
        self.runtime
            .sandbox_create(uid, &options)
            .await
            .expect("sandbox")
    }

    /// A container of a fresh pod with sandbox and cgroup that runs a shell script.
    pub(crate) async fn spec(&self, uid: &str, name: &str, script: &str) -> ContainerSpec {
        let sandbox = self.sandbox(uid).await;
        let cgroup = self
            .runtime
            .pod_cgroup_create(uid, Qos::Burstable, &PodResources::default())
            .expect("pod cgroup");
        ContainerSpec {
            pod: PodRef {
                uid: uid.into(),
                namespace: "default".into(),
                name: "pod".into(),
            },
            name: name.into(),
            image: IMAGE.into(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            hostname: "pod-host".into(),
            namespaces: sandbox.namespaces,
            cgroup_parent: cgroup,
            log_path: self.dir.join(format!("log/{uid}/{name}/0.log")),
            ..ContainerSpec::default()
        }
    }

    pub(crate) async fn run(&self, spec: &ContainerSpec) -> String {
        let created = self.create(spec).await;
        let id = created.id.clone();
        self.runtime.container_start(created).await.expect("start");
        id
    }

    pub(crate) async fn create(&self, spec: &ContainerSpec) -> Created {
        let image = self.runtime.image(&spec.image).await.expect("image");
        let image = image.expect("is there");
        let created = self.runtime.container_create(spec, &image).await;
        created.expect("create")
    }

    pub(crate) async fn get(&self, id: &str) -> Container {
        self.runtime
            .container(id)
            .await
            .expect("get")
            .expect("exists")
    }

    /// Waits for the container to end; returns code and oom.
    pub(crate) async fn exited(&self, id: &str) -> (i32, bool) {
        loop {
            if let State::Exited { code, oom, .. } = self.get(id).await.state {
                return (code, oom);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self, spec: &ContainerSpec) -> String {
        fs::read_to_string(&spec.log_path).unwrap_or_default()
    }

    /// Waits until the log has `text`.
    pub(crate) async fn logged(&self, spec: &ContainerSpec, text: &str) -> String {
        loop {
            let log = self.log(spec);
            if log.contains(text) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes everything and checks that nothing stays.
    pub(crate) async fn finish(mut self) {
        for container in self.runtime.containers().await.expect("list") {
            self.runtime
                .container_remove(&container.id)
                .await
                .expect("remove container");
        }
        for uid in self.runtime.sandboxes().expect("sandboxes") {
            self.runtime
                .sandbox_remove(&uid)
                .await
                .expect("remove sandbox");
        }
        for (uid, _) in self.runtime.pod_cgroups().expect("pod cgroups") {
            self.runtime
                .pod_cgroup_remove(&uid)
                .expect("remove pod cgroup");
        }
        self.runtime.cgroups_remove().expect("remove cgroups");
        // A shim ends a moment after its task was deleted.
        let shims = || {
            processes(&self.dir)
                .into_iter()
                .filter(|pid| *pid != self.containerd.id())
        };
        for _ in 0..100 {
            if shims().next().is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(shims().next(), None, "processes left");
        assert_eq!(mounts(&self.dir), Vec::<PathBuf>::new(), "mounts left");
        assert_eq!(
            cgroups(&self.runtime.config().cgroup_root),
            Vec::<PathBuf>::new()
        );
        self.stop();
    }

    fn stop(&mut self) {
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
    }
}

impl Drop for Node {
    /// After a failed test: everything that carries the directory's name is ours.
    fn drop(&mut self) {
        self.stop();
        let _ = self.runtime.cgroups_remove();
        for pid in processes(&self.dir) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        for mount in mounts(&self.dir).iter().rev() {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        socket: dir.join("containerd.sock"),
        run_dir: dir.join("run"),
        root_dir: dir.join("root"),
        log_dir: dir.join("log"),
        registries: dir.join("registries.yaml"),
        logger: logger(),
        cgroup_root: format!(
            "keelson-test-{}",
            dir.file_name().unwrap().to_string_lossy()
        ),
        ..Config::default()
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
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("containerd.log"))
        .unwrap();
    Command::new("containerd")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("containerd is installed")
}

/// The logger, built when it is missing or older than its source.
pub(crate) fn logger() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("keelson-logger");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../logger/src");
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let sources = fs::read_dir(&source)
        .unwrap()
        .flatten()
        .map(|entry| time(&entry.path()));
    let newest = sources.flatten().max().unwrap_or(SystemTime::now());
    if time(&binary).is_none_or(|built| built < newest) {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "keelson-logger", "--target-dir"]);
        build
            .arg(profile.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().unwrap().success(), "build keelson-logger");
    }
    binary
}

/// An archive with busybox and a few of its names.
pub(crate) fn write_busybox(path: &Path, name: &str) {
    let links = [
        "sh", "cat", "sleep", "ls", "id", "head", "dd", "stat", "true", "tr", "grep", "yes", "stty",
    ];
    let mut files = vec![Entry::Copy {
        from: "/bin/busybox".into(),
        to: "/bin/busybox".into(),
        mode: 0o755,
    }];
    files.extend(links.map(|link| Entry::Link {
        target: "busybox".into(),
        to: format!("/bin/{link}"),
    }));
    let file = |to: &str, content: &str| Entry::Bytes {
        content: content.into(),
        to: to.into(),
        mode: 0o644,
    };
    files.push(file(
        "/etc/passwd",
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n",
    ));
    files.push(file("/etc/group", "root:x:0:\nweb:x:34:\nlog:x:4:web\n"));
    files.push(Entry::Dir {
        to: "/tmp".into(),
        mode: 0o1777,
    });
    let config = ImageConfig {
        env: vec!["FROM_IMAGE=yes".into()],
        cmd: vec!["/bin/sh".into()],
        working_dir: "/tmp".into(),
        stop_signal: "SIGTERM".into(),
        ..ImageConfig::default()
    };
    archive::write(path, name, &files, &config).expect("archive");
}

/// A pod UID that no other test uses.
pub(crate) fn uid() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "0b4f9c1e-{:04}-4c7b-9f58-{:012}",
        NEXT.fetch_add(1, Ordering::Relaxed),
        std::process::id()
    )
}

/// Processes whose command line names the directory.
pub(crate) fn processes(dir: &Path) -> Vec<u32> {
    let dir = dir.display().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&dir)
        })
        .collect()
}

pub(crate) fn mounts(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(dir))
        .collect()
}

fn cgroups(root: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter(|line| line.contains(" - cgroup"));
    let points = points.filter_map(|line| line.split(' ').nth(4));
    points
        .map(|point| Path::new(point).join(root))
        .filter(|dir| dir.exists())
        .collect()
}
