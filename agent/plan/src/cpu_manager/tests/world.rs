//! Made-up machines and pods.

use serde_json::{Value, json};

use super::super::*;

/// Threads of a core are as far apart as there are cores, as firmware counts them.
pub(super) fn machine(sockets: u32, nodes: u32, cores: u32, threads: u32) -> Machine {
    let all = sockets * nodes * cores;
    let place = |cpu: u32| Place {
        core: cpu % all,
        node: cpu % all / cores,
        socket: cpu % all / cores / nodes,
    };
    Machine {
        cpus: (0..all * threads).map(|cpu| (cpu, place(cpu))).collect(),
    }
}

/// Four cores of two threads.
pub(super) fn threads() -> Machine {
    machine(1, 1, 4, 2)
}

/// Two sockets, each a node of two cores of two threads: 0-1,4-5 and 2-3,6-7.
pub(super) fn sockets() -> Machine {
    machine(2, 1, 2, 2)
}

/// Two sockets of two nodes of two cores: a pair of numbers each.
pub(super) fn nodes() -> Machine {
    machine(2, 2, 2, 1)
}

/// Four sockets, each a node of four cores.
pub(super) fn wide() -> Machine {
    machine(4, 1, 4, 1)
}

pub(super) fn set(list: &str) -> CpuSet {
    CpuSet::parse(list).expect("a list")
}

pub(super) fn shown(taken: Result<CpuSet, String>) -> String {
    taken.map_or_else(|why| why, |cpus| cpus.to_string())
}

pub(super) fn settings(options: Options, reserved: &str) -> Settings {
    Settings {
        exclusive: true,
        options,
        reserved: set(reserved),
    }
}

pub(super) fn policy(machine: Machine, options: Options, reserved: &str) -> Static {
    Static::new(machine, &settings(options, reserved), 0).expect("a policy")
}

pub(super) fn container(name: &str, cpu: &str) -> Value {
    json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}, "limits": {"cpu": cpu, "memory": "1Mi"}}})
}

pub(super) fn sidecar(name: &str, cpu: &str) -> Value {
    let mut value = container(name, cpu);
    value["restartPolicy"] = json!("Always");
    value
}

pub(super) fn pod(uid: &str, init: &[Value], apps: &[Value]) -> Pod {
    let value =
        json!({"metadata": {"uid": uid}, "spec": {"initContainers": init, "containers": apps}});
    serde_json::from_value(value).expect("a pod")
}
