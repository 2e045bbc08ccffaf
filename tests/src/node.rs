//! One node: a space that looks like a fresh Debian machine, with containerd and keelson.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use nix::sys::signal::Signal;

use crate::bins::program;
use crate::images;
use crate::process::{Process, tail};
use crate::space::Space;
use crate::wait::{eventually, secs};

/// /etc, /var and /opt are the machine's with a layer of the node's own over them; what another cluster on this
/// machine may have there is hidden. containerd's files can't be on an overlay: they are in a plain folder.
const SETUP: &str = r#"
mount -t tmpfs tmpfs /run
mkdir /run/lock
mkdir -p "$DIR"/{containerd,tmp}
mount --rbind /sys/fs/cgroup "$DIR/tmp"
mount -t sysfs sysfs /sys
mount --rbind "$DIR/tmp" /sys/fs/cgroup
umount -R "$DIR/tmp"
for part in etc var opt; do
  mkdir -p "$DIR/$part" "$DIR/$part.work"
  mount -t overlay overlay -o "lowerdir=/$part,upperdir=$DIR/$part,workdir=$DIR/$part.work" "/$part"
done
[ -e "$DIR/mounts" ] || rm -rf /etc/cni /etc/keelson /opt/cni /var/lib/{cni,kubelet,keelson} /var/log/pods
mkdir -p /var/lib/containerd /var/lib/keelson/images /etc/containerd
mount --bind "$DIR/containerd" /var/lib/containerd
mount --make-rshared /
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >/etc/containerd/config.toml
printf 'nameserver 192.0.2.53\n' >/etc/resolv.conf
echo "$NAME" >/etc/hostname
awk '{print $2}' /proc/self/mounts >"$DIR/mounts"
"#;

/// How full this machine's disk is does not matter to a bed.
pub const CALM: &str =
    "evictionHard: {memory.available: 100Mi}\nimageGCHighThresholdPercent: 100\n";

/// What keelson was started as, to start it so again.
struct Started {
    args: Vec<String>,
    process: Option<Process>,
}

/// A node of a bed.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    /// Its address on the segment.
    pub ip: Ipv4Addr,
    /// Its top cgroup below each hierarchy.
    pub cgroup: String,
    /// Its files, as seen from outside.
    pub dir: PathBuf,
    /// Its namespaces.
    pub space: Space,
    containerd: Mutex<Option<Process>>,
    keelson: Mutex<Started>,
}

impl Node {
    /// A node without programs yet.
    pub fn new(name: &str, ip: Ipv4Addr, cgroup: String, dir: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&dir)?;
        let space = Space::new(name, SETUP, &[("DIR", &dir)])?;
        let keelson = Started {
            args: Vec::new(),
            process: None,
        };
        Ok(Self {
            name: name.into(),
            ip,
            cgroup,
            dir,
            space,
            containerd: Mutex::default(),
            keelson: Mutex::new(keelson),
        })
    }

    /// Puts what containerd and keelson keep, but image archives, on one disk of this size (as mount takes it).
    pub fn small_disk(&self, size: &str) {
        let disk = self.dir.join("disk");
        fs::create_dir(&disk).expect("a folder");
        self.sh(&format!(
            "mount -t tmpfs -o size={size} tmpfs {0} && mkdir -p {0}/containerd {0}/keelson/images
            mount --bind {0}/containerd /var/lib/containerd && mount --bind {0}/keelson /var/lib/keelson
            mount --bind {1} /var/lib/keelson/images",
            disk.display(),
            self.images().display()
        ));
    }

    /// As after a power cut: nothing runs, the kernel and /run are new, the disk is as it was.
    pub(crate) fn reboot(&mut self) -> anyhow::Result<()> {
        self.space.cut();
        remove_cgroups(&self.cgroup);
        *self.containerd.get_mut().expect("unpoisoned") = None;
        self.keelson.get_mut().expect("unpoisoned").process = None;
        self.space = Space::new(&self.name, SETUP, &[("DIR", &self.dir)])?;
        Ok(())
    }

    /// Where archives go that are imported when the agent starts.
    pub fn images(&self) -> PathBuf {
        self.outside("/var/lib/keelson/images")
    }

    /// Where a file below the node's /etc, /var or /opt is outside of it, if the node wrote it.
    pub fn outside(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    fn log(&self, program: &str) -> PathBuf {
        self.dir.join(format!("{program}.log"))
    }

    /// Starts containerd.
    pub fn start_containerd(&self) {
        let log = self.log("containerd");
        let process =
            Process::start(&self.space, Path::new("containerd"), &[], &log).expect("containerd");
        *self.containerd.lock().expect("unpoisoned") = Some(process);
    }

    /// What a node needs before keelson: containerd, and images.
    pub fn install(&self) {
        self.start_containerd();
        images::copy_into(&self.images());
    }

    /// Ends containerd.
    pub fn end_containerd(&self, signal: Signal) {
        let process = self.containerd.lock().expect("unpoisoned").take();
        process.expect("containerd runs").end(signal);
    }

    /// Starts `keelson` with these arguments and those that all nodes need.
    pub fn start_keelson(&self, args: &[&str]) {
        let ip = self.ip.to_string();
        let told = ["--node-ip", &ip];
        self.start_keelson_anywhere(&[args, &told].concat());
    }

    /// The same, but its address is its own to find out.
    pub fn start_keelson_anywhere(&self, args: &[&str]) {
        let own = ["--node-name", &self.name, "--cgroup-root", &self.cgroup];
        let mut args: Vec<String> = args.iter().chain(&own).map(ToString::to_string).collect();
        if !args.iter().any(|a| a == "--config") {
            let file = self.dir.join("config.yaml");
            fs::write(&file, CALM).expect("a configuration");
            args.extend(["--config".to_owned(), file.display().to_string()]);
        }
        *self.keelson.lock().expect("unpoisoned") = Started {
            args,
            process: None,
        };
        self.start_again();
    }

    /// Starts `keelson` as it was started before.
    pub fn start_again(&self) {
        let mut keelson = self.keelson.lock().expect("unpoisoned");
        let process = Process::start(
            &self.space,
            &program("keelson"),
            &keelson.args,
            &self.log("keelson"),
        );
        keelson.process = Some(process.expect("keelson"));
    }

    /// With what `keelson` is started the next time: an option with this value, and not another.
    pub fn set_option(&self, option: &str, value: &str) {
        let mut keelson = self.keelson.lock().expect("unpoisoned");
        if let Some(place) = keelson.args.iter().position(|a| a == option) {
            keelson.args.drain(place..place + 2);
        }
        keelson.args.extend([option.to_owned(), value.to_owned()]);
    }

    /// An error when keelson has ended by itself.
    pub fn alive(&self) -> anyhow::Result<()> {
        let mut keelson = self.keelson.lock().expect("unpoisoned");
        keelson
            .process
            .as_mut()
            .context("keelson was ended")?
            .alive()
    }

    /// PID of keelson, as seen from outside.
    pub fn pid(&self) -> u32 {
        let keelson = self.keelson.lock().expect("unpoisoned");
        keelson.process.as_ref().expect("keelson runs").pid()
    }

    /// PID of containerd, as seen from outside.
    pub fn containerd_pid(&self) -> u32 {
        let containerd = self.containerd.lock().expect("unpoisoned");
        containerd.as_ref().expect("containerd runs").pid()
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.take().end(Signal::SIGKILL);
    }

    /// Takes note that keelson has ended by itself.
    pub fn forget(&self) {
        drop(self.take());
    }

    /// Asks keelson to end.
    ///
    /// # Panics
    /// When it does not end well.
    pub fn stop(&self) {
        let status = self.take().end(Signal::SIGTERM);
        assert!(
            status.success(),
            "keelson ended with {status}\n{}",
            tail(&self.log("keelson"), 20)
        );
    }

    fn take(&self) -> Process {
        self.keelson
            .lock()
            .expect("unpoisoned")
            .process
            .take()
            .expect("keelson runs")
    }

    /// Waits until the file is there.
    pub fn wait_for(&self, path: &str) {
        eventually(path, secs(120), || {
            self.alive()?;
            anyhow::ensure!(
                self.outside(path).exists(),
                "{} is not there",
                self.outside(path).display()
            );
            Ok(())
        });
    }

    /// Runs a bash script on the node.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        match self.space.sh(script) {
            Ok(text) => text,
            Err(error) => panic!("on {}: {error:#}", self.name),
        }
    }

    /// The last lines of the logs, for a failed test's output.
    pub fn logs(&self, lines: usize) -> String {
        let of = |program: &str| {
            format!(
                "---- {program} on {}\n{}\n",
                self.name,
                tail(&self.log(program), lines)
            )
        };
        of("keelson")
    }

    /// Cuts the node off without a warning: all its processes end.
    pub fn lose(&mut self) {
        self.space.cut();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.space.cut();
        remove_cgroups(&self.cgroup);
    }
}

/// Removes empty cgroups at the top of each hierarchy whose names begin so; false when some are left.
pub(crate) fn remove_cgroups(begin: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let hierarchies = entries(root).map(|entry| entry.path());
    let all = hierarchies
        .chain([root.to_owned()])
        .flat_map(|h| entries(&h));
    let ours = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(begin));
    let removed: Vec<bool> = ours.map(|entry| remove_cgroup(&entry.path())).collect();
    removed.iter().all(|removed| *removed)
}

/// Removes an empty cgroup and those below; false when it is still there.
fn remove_cgroup(dir: &Path) -> bool {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let removed = fs::remove_dir(dir);
    if let Err(error) = &removed {
        eprintln!("remove cgroup {}: {error}", dir.display());
    }
    removed.is_ok()
}
