//! Sandboxes without a process: a pod's namespaces, pinned by bind mounts.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, NSFS_MAGIC, TMPFS_MAGIC, statfs};

use crate::error::{Error, Errors};
use crate::failpoint;
use crate::model::{Namespace, Namespaces};
use crate::runtime::Runtime;
use crate::sys;

/// What a pod's sandbox is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxOptions {
    /// Host name set in the UTS namespace; ignored with `host_network`.
    pub hostname: String,
    /// Use the host's network (and host name).
    pub host_network: bool,
    /// Use the host's IPC.
    pub host_ipc: bool,
    /// Use the host's processes.
    pub host_pid: bool,
    /// Namespaced sysctls, dotted names; network and IPC ones are set in the sandbox.
    pub sysctls: BTreeMap<String, String>,
}

/// A pod's sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Pinned network namespace: CNI's `CNI_NETNS`; none on the host's network.
    pub netns: Option<PathBuf>,
    /// What the pod's containers join.
    pub namespaces: Namespaces,
}

/// A namespace that can be pinned: file name here and in `/proc/<pid>/ns`, and its clone flag.
type Pin = (&'static str, CloneFlags);
const NET: Pin = ("net", CloneFlags::CLONE_NEWNET);
const IPC: Pin = ("ipc", CloneFlags::CLONE_NEWIPC);
const UTS: Pin = ("uts", CloneFlags::CLONE_NEWUTS);
const ALL: [Pin; 3] = [NET, IPC, UTS];

/// The tmpfs all containers of the pod see as `/dev/shm`, 64 MiB as everywhere.
const SHM: &str = "shm";
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// sysctl(8) prefixes by the namespace that owns them (namespaces(7), sysctl/net.rst).
const SYSCTLS: [(&str, Pin); 5] = [
    ("net.", NET),
    ("kernel.shm", IPC),
    ("kernel.msg", IPC),
    ("kernel.sem", IPC),
    ("fs.mqueue.", IPC),
];

impl SandboxOptions {
    fn pins(&self) -> Vec<Pin> {
        let wanted = [
            (NET, !self.host_network),
            (IPC, !self.host_ipc),
            (UTS, !self.host_network),
        ];
        let wanted = wanted.into_iter().filter(|(_, own)| *own);
        wanted.map(|(pin, _)| pin).collect()
    }

    fn sandbox(&self, dir: &Path) -> Sandbox {
        let place = |pin: Pin, host: bool| match host {
            true => Namespace::Host,
            false => Namespace::Path(dir.join(pin.0)),
        };
        Sandbox {
            netns: (!self.host_network).then(|| dir.join(NET.0)),
            namespaces: Namespaces {
                net: place(NET, self.host_network),
                ipc: place(IPC, self.host_ipc),
                uts: place(UTS, self.host_network),
                pid: match self.host_pid {
                    true => Namespace::Host,
                    false => Namespace::Private,
                },
                shm: (!self.host_ipc).then(|| dir.join(SHM)),
            },
        }
    }

    /// Refuses sysctls that would change the host: those no namespace of the sandbox owns.
    fn check_sysctls(&self) -> Result<(), Error> {
        let pins = self.pins();
        for name in self.sysctls.keys() {
            let owner = SYSCTLS.iter().find(|(prefix, _)| name.starts_with(prefix));
            let own = owner.is_some_and(|(_, pin)| pins.contains(pin));
            if !own || name.contains("..") {
                return Err(Error::invalid(
                    "sysctl",
                    name,
                    "not of a namespace of this pod's own",
                ));
            }
        }
        Ok(())
    }
}

impl Runtime {
    /// Makes (or finds) the pod's namespaces under `run_dir/ns/<uid>/`.
    pub async fn sandbox_create(
        &self,
        uid: &str,
        options: &SandboxOptions,
    ) -> Result<Sandbox, Error> {
        check_uid(uid)?;
        options.check_sysctls()?;
        let dir = self.namespaces_dir().join(uid);
        let sandbox = options.sandbox(&dir);
        let pins = options.pins();
        let shm_ready = options.host_ipc || is_mounted(&dir.join(SHM), TMPFS_MAGIC);
        let pinned = |pin: &Pin| is_mounted(&dir.join(pin.0), NSFS_MAGIC);
        if dir.is_dir() && shm_ready && pins.iter().all(pinned) {
            return Ok(sandbox);
        }
        let options = options.clone();
        on_thread(uid, move || {
            // Interrupted half-way: nothing can have joined, as the sandbox was never handed out.
            unpin(&dir)?;
            fs::create_dir_all(&dir).map_err(Error::io("make sandbox directory", dir.display()))?;
            if !options.host_ipc {
                mount_shm(&dir.join(SHM))?;
            }
            failpoint::pass("shared memory mounted");
            match pins.is_empty() {
                true => Ok(()),
                false => make(&dir, &pins, &options),
            }
        })
        .await?;
        Ok(sandbox)
    }

    /// Unpins the pod's namespaces. Goes on after errors and returns all; success when there are none.
    pub async fn sandbox_remove(&self, uid: &str) -> Result<(), Error> {
        check_uid(uid)?;
        let dir = self.namespaces_dir().join(uid);
        // The kernel takes milliseconds for it.
        let done = tokio::task::spawn_blocking(move || unpin(&dir)).await;
        done.unwrap_or_else(|e| Err(Error::invalid("sandbox", uid, e.to_string())))
    }

    /// Whether a pod has a sandbox directory, complete or not.
    pub fn has_sandbox(&self, uid: &str) -> bool {
        self.namespaces_dir().join(uid).exists()
    }

    /// UIDs of all pods with a sandbox directory, complete or not.
    pub fn sandboxes(&self) -> Result<Vec<String>, Error> {
        let dir = self.namespaces_dir();
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("list sandboxes in", dir.display()))?,
        };
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().into_string());
        let mut uids: Vec<String> = names.flatten().collect();
        uids.sort();
        Ok(uids)
    }

    fn namespaces_dir(&self) -> PathBuf {
        self.config().run_dir.join("ns")
    }
}

/// The UID becomes a path: it must be one plain component.
fn check_uid(uid: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if uid.is_empty() || uid.starts_with('.') || !uid.chars().all(plain) {
        return Err(Error::invalid("pod uid", uid, "not a plain name"));
    }
    Ok(())
}

/// Runs `work`, which blocks, on a thread of its own, which ends with it: a thread that changed its namespaces must not
/// go back to a pool.
async fn on_thread(
    uid: &str,
    work: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("sandbox".into())
        .spawn(move || {
            // The caller may have been cancelled; the namespaces are found again by their files.
            let _ = sender.send(work());
        })
        .map_err(Error::io("start thread for sandbox", uid))?;
    let lost = |_| Error::invalid("sandbox", uid, "its thread ended early");
    receiver.await.map_err(lost)?
}

fn make(dir: &Path, pins: &[Pin], options: &SandboxOptions) -> Result<(), Error> {
    let flags = pins
        .iter()
        .fold(CloneFlags::empty(), |all, pin| all | pin.1);
    unshare(flags).map_err(Error::errno("unshare namespaces for", dir.display()))?;
    if pins.contains(&NET) {
        sys::loopback_up().map_err(Error::io("set up loopback in", dir.display()))?;
    }
    if pins.contains(&UTS) && !options.hostname.is_empty() {
        nix::unistd::sethostname(&options.hostname)
            .map_err(Error::errno("set host name", &options.hostname))?;
    }
    for (name, value) in &options.sysctls {
        fs::write(sysctl_path(name), value).map_err(Error::io("set sysctl", name))?;
    }
    for (name, _) in pins {
        let (from, to) = (format!("/proc/thread-self/ns/{name}"), dir.join(name));
        fs::File::create(&to).map_err(Error::io("create", to.display()))?;
        mount(
            Some(from.as_str()),
            &to,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(Error::errno("pin namespace", to.display()))?;
    }
    Ok(())
}

/// Dots separate, unless the name already has slashes; then dots belong to a name (`eth0.1`),
/// as sysctl(8) reads it.
fn sysctl_path(name: &str) -> PathBuf {
    let first = name.find(['.', '/']).and_then(|at| name.as_bytes().get(at));
    let relative = match first {
        Some(b'/') => name.to_owned(),
        _ => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
    };
    Path::new("/proc/sys").join(relative)
}

fn mount_shm(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::io("create", path.display()))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), path, Some("tmpfs"), flags, Some(SHM_OPTIONS))
        .map_err(Error::errno("mount", path.display()))
}

/// Whether a mount of this kind stands on `path`: for tmpfs, another one than around it.
fn is_mounted(path: &Path, kind: FsType) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let other = path.parent().and_then(device) != device(path);
    other && statfs(path).is_ok_and(|stat| stat.filesystem_type() == kind)
}

fn unpin(dir: &Path) -> Result<(), Error> {
    let mut errors = Errors::default();
    for (name, _) in ALL {
        let path = dir.join(name);
        unmount_all(&path, NSFS_MAGIC, &mut errors);
        remove(fs::remove_file(&path), &path, &mut errors);
    }
    let shm = dir.join(SHM);
    unmount_all(&shm, TMPFS_MAGIC, &mut errors);
    remove(fs::remove_dir(&shm), &shm, &mut errors);
    remove(fs::remove_dir(dir), dir, &mut errors);
    errors.finish()
}

/// More than one mount can be stacked after an interrupted start.
fn unmount_all(path: &Path, kind: FsType, errors: &mut Errors) {
    while is_mounted(path, kind) {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(errno) => {
                errors.note::<()>(Err(Error::errno("unmount", path.display())(errno)));
                break;
            }
        }
    }
}

fn remove(result: std::io::Result<()>, path: &Path, errors: &mut Errors) {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            errors.note::<()>(Err(Error::io("remove", path.display())(error)));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_own_namespaces_pass() {
        for (name, host_network, host_ipc, expected) in [
            ("net.ipv4.ip_forward", false, false, true),
            ("net.ipv4.ip_forward", true, false, false),
            ("kernel.shm_rmid_forced", false, false, true),
            ("kernel.shm_rmid_forced", false, true, false),
            ("fs.mqueue.msg_max", false, false, true),
            ("kernel.pid_max", false, false, false),
            ("vm.swappiness", false, false, false),
            ("net./../vm/swappiness", false, false, false),
        ] {
            let options = SandboxOptions {
                host_network,
                host_ipc,
                sysctls: BTreeMap::from([(name.to_owned(), "1".to_owned())]),
                ..SandboxOptions::default()
            };
            assert_eq!(options.check_sysctls().is_ok(), expected, "{options:?}");
        }
    }

    #[test]
    fn sysctl_names_become_paths() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/1.mtu",
                "/proc/sys/net/ipv4/conf/eth0.1/mtu",
            ),
            (
                "net/ipv4/conf/eth0.1/mtu",
                "/proc/sys/net/ipv4/conf/eth0.1/mtu",
            ),
        ] {
            assert_eq!(sysctl_path(name), Path::new(path), "{name}");
        }
    }
}
