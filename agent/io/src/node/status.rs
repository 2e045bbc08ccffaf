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

use keelson_agent_plan::quantity::binary;

use super::Facts;

/// What the node is short of, as the eviction's thresholds say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Space or inodes of a disk.
    pub disk: bool,
    /// Process ids.
    pub pids: bool,
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
    /// Kept from pods: bytes of the disk.
    pub reserved_storage: u64,
    /// What it is short of.
    pub pressure: Pressure,
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
        conditions: Some(conditions(inputs, now)),
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
    let huge: u64 = facts.huge_pages.iter().map(|p| p.total).sum();
    let memory = facts.memory.saturating_sub(inputs.reserved_memory + huge);
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
        Quantity(
            facts
                .disk
                .saturating_sub(inputs.reserved_storage)
                .to_string(),
        ),
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

fn kib(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
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

fn conditions(inputs: &Inputs, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = inputs.pressure;
    let table = [
        Condition {
            kind: "MemoryPressure",
            holds: pressure.memory,
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
            holds: pressure.disk,
            yes: ("KubeletHasDiskPressure", "kubelet has disk pressure".into()),
            no: (
                "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure".into(),
            ),
        },
        Condition {
            kind: "PIDPressure",
            holds: pressure.pids,
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
    fn pressure_becomes_conditions() {
        type Case = (&'static str, fn(&mut Pressure), &'static str);
        let table: [Case; 3] = [
            (
                "MemoryPressure",
                |p| p.memory = true,
                "KubeletHasInsufficientMemory",
            ),
            ("DiskPressure", |p| p.disk = true, "KubeletHasDiskPressure"),
            (
                "PIDPressure",
                |p| p.pids = true,
                "KubeletHasInsufficientPID",
            ),
        ];
        for (kind, change, want) in table {
            let mut inputs = Inputs::default();
            change(&mut inputs.pressure);
            let s = status(&facts(), &inputs, Timestamp::UNIX_EPOCH);
            let calm = s
                .conditions
                .iter()
                .flatten()
                .filter(|c| c.type_ != kind && c.type_ != "Ready");
            assert!(calm.into_iter().all(|c| c.status == "False"), "{kind}");
            let got = condition_of(&s, kind);
            assert_eq!(
                (got.status.as_str(), got.reason.as_deref()),
                ("True", Some(want))
            );
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
            reserved_storage: 5 * GI,
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
            (&s.allocatable, "memory", "3145728Ki"),
            (&s.allocatable, "ephemeral-storage", "102005473280"),
        ];
        for (map, key, want) in table {
            assert_eq!(get(map, key).as_deref(), Some(want), "{key}");
        }
    }
}
