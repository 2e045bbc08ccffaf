//! Which shim a pod's containers run under: its own, or one of a few that all pods are spread among.
//!
//! containerd's runc shim puts containers of one group into one process. The group is chosen by the pod's UID alone, so
//! that nothing has to be remembered. A shim ends with its last container, and one that is ending still answers a start;
//! so in a shared group tasks are made and deleted one at a time.

use procfs::process::Process;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{Mutex, MutexGuard};

use crate::container::label;
use crate::error::Error;
use crate::runtime::Runtime;

/// The groups there are.
pub(crate) struct Shims(Vec<Mutex<()>>);

impl Shims {
    /// One a pod, or so many for all.
    pub(crate) fn new(shared: Option<u32>) -> Self {
        let n = shared.map_or(0, |n| n.max(1));
        Self((0..n).map(|_| Mutex::default()).collect())
    }

    fn index(&self, uid: &str) -> Option<usize> {
        let hash = |h: usize, b: u8| h.wrapping_mul(31).wrapping_add(b.into());
        uid.bytes().fold(0, hash).checked_rem(self.0.len())
    }

    /// The group of a pod's containers.
    pub(crate) fn group(&self, uid: &str) -> String {
        match self.index(uid) {
            Some(i) => format!("keelson-{i}"),
            None => uid.to_owned(),
        }
    }

    /// Whether pods share.
    pub(crate) fn are_shared(&self) -> bool {
        !self.0.is_empty()
    }

    /// Keeps others from making and deleting tasks in a pod's group, if it is shared.
    pub(crate) async fn hold(&self, uid: &str) -> Option<MutexGuard<'_, ()>> {
        match self.index(uid).and_then(|i| self.0.get(i)) {
            Some(group) => Some(group.lock().await),
            None => None,
        }
    }
}

/// What the runc shim is told: its namespace and its first container.
const TOLD: [&str; 2] = ["-namespace", "-id"];

/// Whether a command line is that of the shim that was started for a container.
fn is_shim_of(command: &[String], namespace: &str, id: &str) -> bool {
    let told = |name: &str| {
        let mut pairs = command.windows(2);
        pairs
            .find(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str())
    };
    let name = command.first().and_then(|path| path.rsplit('/').next());
    let is_shim = name.is_some_and(|name| name.starts_with("containerd-shim-"));
    is_shim && TOLD.map(told) == [Some(namespace), Some(id)]
}

impl Runtime {
    /// Ends the shim of a container without a task. When an agent is killed while it waits for a task, containerd gives
    /// up; the shim it has just started may stay then, with nothing to do, and nobody knows of it.
    pub(crate) async fn end_lost_shim(&self, id: &str) -> Result<(), Error> {
        // One that pods share is found again by the next of them.
        if self.inner.shims.are_shared() {
            return Ok(());
        }
        let Some(object) = self.object(id).await? else {
            return Ok(());
        };
        let uid = object.labels.get(label::POD_UID);
        let uid = uid.map(String::as_str).unwrap_or_default();
        // The shim of a pod has the name of the first of its containers; others may still be in it.
        if self.tasks().await?.keys().any(|task| task.starts_with(uid)) {
            return Ok(());
        }
        let (namespace, of) = (self.config().namespace.clone(), id.to_owned());
        let done = tokio::task::spawn_blocking(move || end_shims_of(&namespace, &of)).await;
        let done = done.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        done.map_err(Error::io("end lost shim of", id))
    }
}

/// Looks through the machine's processes.
fn end_shims_of(namespace: &str, id: &str) -> std::io::Result<()> {
    let all = procfs::process::all_processes().map_err(std::io::Error::other)?;
    let is_shim = |p: &Process| {
        p.cmdline()
            .is_ok_and(|line| is_shim_of(&line, namespace, id))
    };
    for process in all.flatten().filter(is_shim) {
        let pid = Pid::from_raw(process.pid()).ok_or(Errno::SRCH)?;
        // Held, and looked at once more: no other gets its number and the signal.
        let ended = pidfd_open(pid, PidfdFlags::empty()).and_then(|held| {
            if !is_shim(&process) {
                return Err(Errno::SRCH);
            }
            tracing::info!(container = id, pid = process.pid(), "lost shim is ended");
            pidfd_send_signal(&held, Signal::KILL)
        });
        match ended {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_shim_is_known_by_what_it_was_told() {
        let rows = [
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id a -address s",
                true,
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id ab -address s",
                false,
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace other -id a -address s",
                false,
            ),
            (
                "/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -address s -id",
                false,
            ),
            ("/bin/sh -namespace k8s.io -id a", false),
            ("", false),
        ];
        for (command, want) in rows {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(is_shim_of(&words, "k8s.io", "a"), want, "{command}");
        }
    }

    #[test]
    fn pods_have_their_own_or_are_spread() {
        let uids: Vec<String> = (0..110u64)
            .map(|n| {
                format!(
                    "{:08x}-0000-4000-8000-{:012x}",
                    n * 2_654_435_761 % (1 << 32),
                    n
                )
            })
            .collect();
        for (shared, groups, most) in [
            (None, 110, 1),
            (Some(0), 1, 110),
            (Some(1), 1, 110),
            (Some(11), 11, 25),
        ] {
            let shims = Shims::new(shared);
            let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
            for uid in &uids {
                *sizes.entry(shims.group(uid)).or_default() += 1;
            }
            let largest = sizes.values().copied().max().unwrap_or_default();
            assert_eq!(sizes.len(), groups, "{shared:?}");
            assert!(largest <= most, "{shared:?}: {sizes:?}");
        }
    }
}
