//! `Node.status` from facts. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Facts;

/// When a figure counts as pressure. The defaults are the kubelet's hard eviction thresholds, for tasks a
/// reserve of 5 %, and for disks at most 5 GiB: a tenth of a big disk is no emergency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Bytes of memory that must stay available.
    pub memory_available: u64,
    /// Percent of the disk that must stay available.
    pub disk_percent: u64,
    /// Bytes of the disk that suffice, whatever the percentage says.
    pub disk_enough: u64,
    /// Percent of the inodes that must stay free.
    pub inodes_percent: u64,
    /// Percent of the tasks that must stay free.
    pub pids_percent: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory_available: 100 << 20,
            disk_percent: 10,
            disk_enough: 5 << 30,
            inodes_percent: 5,
            pids_percent: 5,
        }
    }
}

impl Thresholds {
    /// Bytes of the disk that must stay available.
    fn disk(&self, facts: &Facts) -> u64 {
        percent(facts.disk, self.disk_percent).min(self.disk_enough)
    }
}

/// What the machine cannot say about itself.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Internal addresses, the first preferred.
    pub addresses: Vec<IpAddr>,
    /// The node's host name.
    pub hostname: String,
    /// Most pods.
    pub max_pods: u32,
    /// Such as `v1.36.0+keelson-0.1.0`.
    pub kubelet_version: String,
    /// Such as `containerd://1.6.20`.
    pub runtime_version: String,
    /// The endpoint's port.
    pub port: u16,
    /// Images on the node; the 50 largest are shown, as upstream does.
    pub images: Vec<ContainerImage>,
    /// What keeps the node from being ready, such as [`Inputs::network_down`]; empty when it is.
    pub problems: Vec<String>,
    /// Kept from pods: CPU in thousandths.
    pub reserved_cpu: u64,
    /// Kept from pods: memory in bytes.
    pub reserved_memory: u64,
    /// When there is pressure.
    pub thresholds: Thresholds,
    /// The conditions as they stand in the API, for the times of their last change.
    pub previous: Vec<NodeCondition>,
}

impl Inputs {
    /// The runtime does not answer.
    pub fn runtime_down(why: &str) -> String {
        format!("container runtime is down: {why}")
    }

    /// There is no CNI configuration, or its plugin says that it is not ready; upstream's words.
    pub fn network_down(why: &str) -> String {
        format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: {why}"
        )
    }
}

const MAX_IMAGES: usize = 50;

/// The status of a node with these facts.
pub fn status(facts: &Facts, inputs: &Inputs, now: Timestamp) -> NodeStatus {
    NodeStatus {
        addresses: Some(addresses(&inputs.addresses, &inputs.hostname)),
        allocatable: Some(allocatable(facts, inputs)),
        capacity: Some(capacity(facts, inputs)),
        conditions: Some(conditions(facts, inputs, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(inputs.port),
            }),
        }),
        images: Some(images(&inputs.images)),
        node_info: Some(system_info(facts, inputs)),
        ..NodeStatus::default()
    }
}

/// A node's addresses as its status tells them: internal ones, then the host's name.
pub fn addresses(internal: &[IpAddr], hostname: &str) -> Vec<NodeAddress> {
    let address = |kind: &str, address: String| NodeAddress {
        address,
        type_: kind.to_owned(),
    };
    let all = internal
        .iter()
        .map(|ip| address("InternalIP", ip.to_string()));
    all.chain([address("Hostname", hostname.to_owned())])
        .collect()
}

fn capacity(facts: &Facts, inputs: &Inputs) -> BTreeMap<String, Quantity> {
    let mut map = resources(facts, inputs.max_pods);
    map.insert("cpu".into(), Quantity(facts.cpus.to_string()));
    map.insert("memory".into(), kib(facts.memory));
    map.insert("ephemeral-storage".into(), kib(facts.disk));
    map
}

/// Capacity without what is reserved and what eviction defends.
fn allocatable(facts: &Facts, inputs: &Inputs) -> BTreeMap<String, Quantity> {
    let t = &inputs.thresholds;
    let huge: u64 = facts.huge_pages.iter().map(|p| p.total).sum();
    let memory = facts
        .memory
        .saturating_sub(inputs.reserved_memory + t.memory_available + huge);
    let cpu = (facts.cpus * 1000).saturating_sub(inputs.reserved_cpu);
    let cpu = if cpu.is_multiple_of(1000) {
        (cpu / 1000).to_string()
    } else {
        format!("{cpu}m")
    };
    let mut map = resources(facts, inputs.max_pods);
    map.insert("cpu".into(), Quantity(cpu));
    map.insert("memory".into(), kib(memory));
    map.insert(
        "ephemeral-storage".into(),
        Quantity((facts.disk - t.disk(facts)).to_string()),
    );
    map
}

fn resources(facts: &Facts, max_pods: u32) -> BTreeMap<String, Quantity> {
    let pages = facts.huge_pages.iter().map(|p| {
        (
            format!("hugepages-{}", binary(p.size)),
            Quantity(binary(p.total)),
        )
    });
    pages
        .chain([("pods".to_owned(), Quantity(max_pods.to_string()))])
        .collect()
}

fn percent(of: u64, percent: u64) -> u64 {
    (u128::from(of) * u128::from(percent.min(100)) / 100) as u64
}

fn kib(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

/// The shortest binary form: `2Mi`, `1Gi`, `0`.
fn binary(bytes: u64) -> String {
    let units = [("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let unit = units
        .iter()
        .find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(
        || bytes.to_string(),
        |(name, shift)| format!("{}{name}", bytes >> shift),
    )
}

fn images(all: &[ContainerImage]) -> Vec<ContainerImage> {
    let mut images = all.to_vec();
    images.sort_by_key(|i| std::cmp::Reverse(i.size_bytes));
    images.truncate(MAX_IMAGES);
    images
}

fn system_info(facts: &Facts, inputs: &Inputs) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: facts.architecture.clone(),
        boot_id: facts.boot_id.clone(),
        container_runtime_version: inputs.runtime_version.clone(),
        kernel_version: facts.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: inputs.kubelet_version.clone(),
        machine_id: facts.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: facts.os_image.clone(),
        swap: (facts.swap > 0).then(|| NodeSwapStatus {
            capacity: i64::try_from(facts.swap).ok(),
        }),
        system_uuid: facts.system_uuid.clone(),
    }
}

/// A condition's type, whether it holds, and reason and message for both cases.
struct Condition {
    kind: &'static str,
    holds: bool,
    yes: (&'static str, String),
    no: (&'static str, String),
}

fn conditions(facts: &Facts, inputs: &Inputs, now: Timestamp) -> Vec<NodeCondition> {
    let t = &inputs.thresholds;
    let disk = facts.disk_available < t.disk(facts);
    let inodes = facts.inodes_free < percent(facts.inodes, t.inodes_percent);
    let pids_free = facts.pids.saturating_sub(facts.pids_used);
    let table = [
        Condition {
            kind: "MemoryPressure",
            holds: facts.memory_available < t.memory_available,
            yes: (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available".into(),
            ),
            no: (
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available".into(),
            ),
        },
        Condition {
            kind: "DiskPressure",
            holds: disk || inodes,
            yes: ("KubeletHasDiskPressure", "kubelet has disk pressure".into()),
            no: (
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure".into(),
            ),
        },
        Condition {
            kind: "PIDPressure",
            holds: pids_free < percent(facts.pids, t.pids_percent),
            yes: (
                "KubeletHasInsufficientPID",
                "kubelet has insufficient PID available".into(),
            ),
            no: (
                "KubeletHasSufficientPID",
                "kubelet has sufficient PID available".into(),
            ),
        },
        Condition {
            kind: "Ready",
            holds: inputs.problems.is_empty(),
            yes: ("KubeletReady", "kubelet is posting ready status".into()),
            no: ("KubeletNotReady", inputs.problems.join(", ")),
        },
    ];
    table
        .into_iter()
        .map(|c| condition(c, &inputs.previous, now))
        .collect()
}

fn condition(c: Condition, previous: &[NodeCondition], now: Timestamp) -> NodeCondition {
    let status = if c.holds { "True" } else { "False" };
    let (reason, message) = if c.holds { c.yes } else { c.no };
    let before = previous
        .iter()
        .find(|p| p.type_ == c.kind && p.status == status);
    NodeCondition {
        type_: c.kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: before
            .and_then(|p| p.last_transition_time.clone())
            .or(Some(Time(now))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::HugePages;
    use super::*;

    const GI: u64 = 1 << 30;

    fn facts() -> Facts {
        Facts {
            cpus: 2,
            memory: 4 * GI,
            memory_available: GI,
            disk: 100 * GI,
            disk_available: 50 * GI,
            inodes: 1000,
            inodes_free: 500,
            pids: 1000,
            pids_used: 10,
            huge_pages: vec![HugePages {
                size: 2 << 20,
                total: 0,
            }],
            ..Facts::default()
        }
    }

    fn condition_of(status: &NodeStatus, kind: &str) -> NodeCondition {
        status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == kind)
            .expect("condition")
            .clone()
    }

    #[test]
    fn pressure_follows_the_figures() {
        type Case = (&'static str, fn(&mut Facts), &'static str);
        let table: [Case; 5] = [
            (
                "MemoryPressure",
                |f| f.memory_available = (100 << 20) - 1,
                "True",
            ),
            (
                "MemoryPressure",
                |f| f.memory_available = 100 << 20,
                "False",
            ),
            ("DiskPressure", |f| f.disk_available = 5 * GI - 1, "True"),
            ("DiskPressure", |f| f.inodes_free = 49, "True"),
            ("PIDPressure", |f| f.pids_used = 951, "True"),
        ];
        for (kind, change, want) in table {
            let mut facts = facts();
            change(&mut facts);
            let s = status(&facts, &Inputs::default(), Timestamp::UNIX_EPOCH);
            let calm = s
                .conditions
                .iter()
                .flatten()
                .filter(|c| c.type_ != kind && c.type_ != "Ready");
            assert!(calm.into_iter().all(|c| c.status == "False"), "{kind}");
            assert_eq!(condition_of(&s, kind).status, want, "{kind}");
        }
    }

    #[test]
    fn a_transition_keeps_its_time_until_the_status_changes() {
        let at = |s| Timestamp::from_second(s).expect("time");
        let first = status(&facts(), &Inputs::default(), at(1));
        let mut inputs = Inputs {
            previous: first.conditions.clone().expect("conditions"),
            ..Inputs::default()
        };
        let ready = condition_of(&status(&facts(), &inputs, at(2)), "Ready");
        assert_eq!(ready.last_transition_time, Some(Time(at(1))));
        assert_eq!(ready.last_heartbeat_time, Some(Time(at(2))));
        inputs.problems = vec![Inputs::network_down("cni plugin not initialized")];
        let down = condition_of(&status(&facts(), &inputs, at(3)), "Ready");
        assert_eq!(
            (down.status.as_str(), down.reason.as_deref()),
            ("False", Some("KubeletNotReady"))
        );
        assert_eq!(down.last_transition_time, Some(Time(at(3))));
    }

    #[test]
    fn allocatable_leaves_out_what_is_reserved() {
        let inputs = Inputs {
            reserved_cpu: 250,
            reserved_memory: GI,
            max_pods: 110,
            ..Inputs::default()
        };
        let s = status(&facts(), &inputs, Timestamp::UNIX_EPOCH);
        let get = |m: &Option<BTreeMap<String, Quantity>>, k: &str| {
            m.as_ref().and_then(|m| m.get(k)).map(|q| q.0.clone())
        };
        let table = [
            (&s.capacity, "cpu", "2"),
            (&s.capacity, "memory", "4194304Ki"),
            (&s.capacity, "pods", "110"),
            (&s.capacity, "hugepages-2Mi", "0"),
            (&s.allocatable, "cpu", "1750m"),
            (&s.allocatable, "memory", "3043328Ki"),
            (&s.allocatable, "ephemeral-storage", "102005473280"),
        ];
        for (map, key, want) in table {
            assert_eq!(get(map, key).as_deref(), Some(want), "{key}");
        }
    }
}
