//! What stands on a node for pods, and which of it nobody needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Kinds of things that pods leave, in the order in which they are taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A container in containerd, with its task, shim and snapshot.
    Container,
    /// A network attachment: address, link, host ports.
    Network,
    /// Pinned namespaces.
    Sandbox,
    /// Directory of volumes, with mounts.
    Volumes,
    /// cgroup in any hierarchy.
    Cgroup,
    /// Directory of logs.
    Logs,
    /// Devices of plugins.
    Devices,
    /// Files that a container's streams come through.
    Streams,
    /// Note of a container's start.
    Start,
}

/// Every kind.
pub const KINDS: [Kind; 9] = [
    Kind::Container,
    Kind::Network,
    Kind::Sandbox,
    Kind::Volumes,
    Kind::Cgroup,
    Kind::Logs,
    Kind::Devices,
    Kind::Streams,
    Kind::Start,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Container => "container",
            Kind::Network => "network",
            Kind::Sandbox => "namespaces",
            Kind::Volumes => "volumes",
            Kind::Cgroup => "cgroup",
            Kind::Logs => "logs",
            Kind::Devices => "devices",
            Kind::Streams => "streams",
            Kind::Start => "start",
        })
    }
}

/// Whom a thing stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A pod, by its UID.
    Pod(String),
    /// A container, by its id in containerd.
    Container(String),
}

/// Something of ours that is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Whom it stands for.
    pub owner: Owner,
    /// Its name among those of its kind: container id, path, UID.
    pub name: String,
}

/// Something that is not needed, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What.
    pub found: Found,
    /// Why it can go.
    pub why: String,
}

/// Says what of `found` is not needed, in the order in which to take it away. `pods` are those of this node by UID
/// and have to be asked for after `found` was gathered: UIDs never come back, so what belongs to none of them then
/// never will.
pub fn examine(found: &[Found], pods: &BTreeMap<String, String>) -> Vec<Finding> {
    let containers: BTreeSet<&str> = found
        .iter()
        .filter(|f| f.kind == Kind::Container)
        .map(|f| f.name.as_str())
        .collect();
    let why = |f: &Found| match &f.owner {
        Owner::Pod(uid) => {
            (!pods.contains_key(uid)).then(|| format!("no pod of this node has the UID {uid}"))
        }
        Owner::Container(id) => {
            (!containers.contains(id.as_str())).then(|| format!("containerd has no container {id}"))
        }
    };
    let mut findings: Vec<Finding> = found
        .iter()
        .filter_map(|f| {
            Some(Finding {
                found: f.clone(),
                why: why(f)?,
            })
        })
        .collect();
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_pod(kind: Kind, uid: &str) -> Found {
        Found {
            kind,
            owner: Owner::Pod(uid.into()),
            name: uid.into(),
        }
    }

    #[test]
    fn only_what_belongs_to_nobody_can_go() {
        let container = |uid: &str, id: &str| Found {
            name: id.into(),
            ..of_pod(Kind::Container, uid)
        };
        let of_container = |kind, id: &str| Found {
            kind,
            owner: Owner::Container(id.into()),
            name: id.into(),
        };
        let pods = BTreeMap::from([("live".to_owned(), "default/web".to_owned())]);
        // What is there, and the kinds that can go, in order.
        let rows: Vec<(&str, Vec<Found>, Vec<Kind>)> = vec![
            ("nothing", vec![], vec![]),
            (
                "a pod that runs",
                KINDS[..7].iter().map(|k| of_pod(*k, "live")).collect(),
                vec![],
            ),
            (
                "all of a pod that is gone, last first",
                KINDS[..7]
                    .iter()
                    .rev()
                    .map(|k| of_pod(*k, "gone"))
                    .collect(),
                KINDS[..7].to_vec(),
            ),
            (
                "a cgroup in two hierarchies is one",
                vec![of_pod(Kind::Cgroup, "gone"), of_pod(Kind::Cgroup, "gone")],
                vec![Kind::Cgroup],
            ),
            (
                "a container's files beside it",
                vec![
                    container("live", "live-web-0"),
                    of_container(Kind::Start, "live-web-0"),
                    of_container(Kind::Streams, "live-web-0"),
                ],
                vec![],
            ),
            (
                "a container's files alone",
                vec![
                    container("live", "live-web-1"),
                    of_container(Kind::Start, "live-web-0"),
                    of_container(Kind::Streams, "live-web-0"),
                ],
                vec![Kind::Streams, Kind::Start],
            ),
            (
                "a container of a pod that is gone takes its files with it",
                vec![
                    container("gone", "gone-web-0"),
                    of_container(Kind::Start, "gone-web-0"),
                ],
                vec![Kind::Container],
            ),
        ];
        for (name, found, want) in rows {
            let kinds: Vec<Kind> = examine(&found, &pods)
                .iter()
                .map(|f| f.found.kind)
                .collect();
            assert_eq!(kinds, want, "{name}");
        }
    }
}
