//! Containers: create, start, kill, remove, list.

mod create;
mod facts;
mod holder;
mod list;
mod oom;
mod started;
mod streams;
mod task;
mod update;

pub use create::Created;
pub use holder::holder_id;
pub(crate) use oom::Kills;
pub(crate) use started::life;
pub use streams::Attached;
pub(crate) use task::parse_signal;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::model::{Kind, PodRef};

/// Labels of our containerd objects. The first four are those every CRI implementation sets.
pub(crate) mod label {
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const NAME: &str = "io.kubernetes.container.name";
    /// Its presence marks a container as ours.
    pub(crate) const KIND: &str = "keelson.io/kind";
    pub(crate) const ATTEMPT: &str = "keelson.io/attempt";
    pub(crate) const CGROUP: &str = "keelson.io/cgroup";
    pub(crate) const IMAGE_ID: &str = "keelson.io/image-id";
    pub(crate) const LOG: &str = "keelson.io/log";
    pub(crate) const TTY: &str = "keelson.io/tty";
    /// `true`, or `once`: closed after the first client.
    pub(crate) const STDIN: &str = "keelson.io/stdin";
    /// In which life of the machine it was made.
    pub(crate) const LIFE: &str = "keelson.io/life";
}

/// State of a container's first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Made, not started (or the start was interrupted): start it or remove it.
    Created,
    /// Runs.
    Running {
        /// Process id in the host's namespace.
        pid: u32,
        /// When it was started.
        started: Timestamp,
    },
    /// Ended.
    Exited {
        /// Exit code; 128 + n after signal n.
        code: i32,
        /// When it was started, if it is known.
        started: Option<Timestamp>,
        /// When it ended.
        at: Timestamp,
        /// Whether the kernel killed one of its processes for memory.
        oom: bool,
    },
}

/// A container of ours, as read back from containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// containerd id.
    pub id: String,
    /// The pod.
    pub pod: PodRef,
    /// Name within the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// Init, app, ephemeral, or the holder of the pod's processes.
    pub kind: Kind,
    /// Image as it was asked for.
    pub image: String,
    /// Image id (digest of the configuration).
    pub image_id: String,
    /// When the container object was made.
    pub created: Timestamp,
    /// CRI log file, empty when there is none.
    pub log_path: PathBuf,
    /// Whether it has a terminal.
    pub tty: bool,
    /// State.
    pub state: State,
    /// All labels of the object.
    pub labels: BTreeMap<String, String>,
}

/// Longest identifier containerd takes.
const LONGEST_ID: usize = 76;

/// containerd id of a container: `<uid>-<name>-<attempt>`, shortened with a hash when it would be
/// longer than containerd takes (76 characters).
pub fn id(uid: &str, name: &str, attempt: u32) -> String {
    let whole = format!("{uid}-{name}-{attempt}");
    if whole.len() <= LONGEST_ID {
        return whole;
    }
    let digest = crate::image::manifest::digest_of(whole.as_bytes());
    let hash: String = digest.chars().skip("sha256:".len()).take(16).collect();
    let tail = format!("-{hash}-{attempt}");
    let head: String = whole
        .chars()
        .take(LONGEST_ID.saturating_sub(tail.len()))
        .collect();
    format!("{}{tail}", head.trim_end_matches('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_fit_and_stay_apart() {
        let uid = "0b4f9c1e-6d5a-4c7b-9f58-2f0f4a1f8f10";
        assert_eq!(id(uid, "web", 3), format!("{uid}-web-3"));
        let (a, b) = ("a".repeat(62) + "1", "a".repeat(62) + "2");
        let ids = [
            id(uid, &a, 0),
            id(uid, &b, 0),
            id(uid, &a, 1),
            id(uid, &a, u32::MAX),
        ];
        for (i, one) in ids.iter().enumerate() {
            assert!(one.len() <= LONGEST_ID, "{one}");
            assert!(ids.iter().skip(i + 1).all(|other| other != one), "{one}");
        }
    }
}
