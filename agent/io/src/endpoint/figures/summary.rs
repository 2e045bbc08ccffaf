//! `/stats/summary`: the Summary API's answer (`stats/v1alpha1`).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::rates::{Look, Rates};
use super::{ContainerUse, Depth, Disk, FileSystem, Interface, PodUse, System, Usage, VolumeUse};
use crate::node::{Facts, Load};

/// What is told of the node.
pub(in crate::endpoint) struct Node<'a> {
    /// Its name.
    pub(in crate::endpoint) name: &'a str,
    /// What it is.
    pub(in crate::endpoint) facts: &'a Facts,
    /// What it uses.
    pub(in crate::endpoint) load: &'a Load,
    /// What its own parts use.
    pub(in crate::endpoint) system: &'a System,
}

/// The answer. Below [`Depth::Disk`] it has CPU and memory only.
pub(in crate::endpoint) fn summary(
    node: &Node<'_>,
    pods: &[PodUse],
    rates: &Rates,
    depth: Depth,
) -> Value {
    let mut teller = Teller {
        rates: rates.look(),
        at: node.load.at,
        disk: file_system(node.facts),
        images: node.system.images,
        whole: depth == Depth::Disk,
    };
    let pods: Vec<Value> = pods.iter().map(|p| teller.pod(p)).collect();
    json!({"node": teller.node(node), "pods": pods})
}

fn file_system(facts: &Facts) -> FileSystem {
    FileSystem {
        device: 0,
        size: facts.disk,
        available: facts.disk_available,
        inodes: facts.inodes,
        inodes_free: facts.inodes_free,
    }
}

struct Teller<'a> {
    rates: Look<'a>,
    at: Timestamp,
    /// Where volumes and logs are.
    disk: FileSystem,
    /// Where images and containers' layers are, if that is known.
    images: Option<FileSystem>,
    whole: bool,
}

impl Teller<'_> {
    fn node(&mut self, node: &Node<'_>) -> Value {
        let (load, facts) = (node.load, node.facts);
        let mut cpu = json!({"time": time(load.at), "usageCoreNanoSeconds": load.cpu_nanoseconds});
        put(
            &mut cpu,
            "usageNanoCores",
            self.rates.rate("/", load.at, load.cpu_nanoseconds),
        );
        let mut out = json!({
            "nodeName": node.name,
            "startTime": time(facts.booted(load.at)),
            "cpu": cpu,
            "memory": {
                "time": time(load.at),
                "availableBytes": load.memory_available,
                "usageBytes": load.memory.saturating_sub(load.memory_free),
                "workingSetBytes": load.working_set(),
                "rssBytes": load.rss,
                "pageFaults": load.page_faults,
                "majorPageFaults": load.major_page_faults,
            },
        });
        let system = &node.system.containers;
        let system: Vec<Value> = system
            .iter()
            .map(|(name, started, usage)| {
                let mut of = json!({"name": name, "startTime": time(*started)});
                self.usage(&mut of, &format!("system:{name}"), usage);
                of
            })
            .collect();
        put(&mut out, "systemContainers", some(system));
        if !self.whole {
            return out;
        }
        put(
            &mut out,
            "swap",
            Some(json!({
                "time": time(load.at),
                "swapAvailableBytes": load.swap_free,
                "swapUsageBytes": load.swap.saturating_sub(load.swap_free),
            })),
        );
        put(&mut out, "network", self.network(&load.interfaces));
        let used = used_of(&self.disk);
        out["fs"] = self.fs(Some(self.disk), Some(used));
        if let Some(on) = node.system.images {
            let fs = self.fs(Some(on), None);
            out["runtime"] = json!({"imageFs": fs, "containerFs": fs});
        }
        let at = time(load.at);
        out["rlimit"] = json!({"time": at, "maxpid": facts.pids, "curproc": facts.pids_used});
        out
    }

    fn pod(&mut self, pod: &PodUse) -> Value {
        let containers: Vec<Value> = pod.containers.iter().map(|c| self.container(c)).collect();
        let mut out = json!({
            "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "startTime": time(pod.started),
            "containers": containers,
        });
        if let Some(usage) = &pod.usage {
            self.usage(&mut out, &pod.cgroup, usage);
            if self.whole {
                let containers = pod.containers.iter().filter_map(|c| c.usage.as_ref());
                let processes: u64 = containers.map(|u| u.processes).sum();
                out["process_stats"] = json!({"process_count": processes});
            }
        }
        if !self.whole {
            return out;
        }
        put(&mut out, "network", self.network(&pod.network));
        let volumes: Vec<Value> = pod.volumes.iter().map(|v| self.volume(pod, v)).collect();
        put(&mut out, "volume", some(volumes));
        out["ephemeral-storage"] = self.fs(Some(self.disk), Some(ephemeral(pod)));
        out
    }

    fn container(&mut self, c: &ContainerUse) -> Value {
        let mut out = json!({"name": c.name, "startTime": time(c.started)});
        if let Some(usage) = &c.usage {
            self.usage(&mut out, &c.cgroup, usage);
        }
        if self.whole {
            put(
                &mut out,
                "rootfs",
                c.rootfs.map(|used| self.fs(self.images, Some(used))),
            );
            put(
                &mut out,
                "logs",
                c.logs.map(|used| self.fs(Some(self.disk), Some(used))),
            );
        }
        out
    }

    fn usage(&mut self, out: &mut Value, cgroup: &str, usage: &Usage) {
        let (at, memory) = (time(usage.at), &usage.memory);
        let mut cpu = json!({"time": at, "usageCoreNanoSeconds": usage.cpu.total});
        let rate = self.rates.rate(cgroup, usage.at, usage.cpu.total);
        put(&mut cpu, "usageNanoCores", rate);
        out["cpu"] = cpu;
        let mut told = json!({
            "time": at,
            "usageBytes": memory.usage,
            "workingSetBytes": memory.working_set,
            "rssBytes": memory.rss,
            "pageFaults": memory.page_faults,
            "majorPageFaults": memory.major_page_faults,
        });
        let left = |limit: u64| limit.saturating_sub(memory.working_set);
        put(&mut told, "availableBytes", usage.limits.memory.map(left));
        out["memory"] = told;
        let mut swap = json!({"time": at, "swapUsageBytes": memory.swap});
        let left = |limit: u64| limit.saturating_sub(memory.swap);
        put(&mut swap, "swapAvailableBytes", usage.limits.swap.map(left));
        out["swap"] = swap;
    }

    fn network(&self, interfaces: &[Interface]) -> Option<Value> {
        let tell = |i: &Interface| {
            json!({
                "name": i.name, "rxBytes": i.received[0], "rxErrors": i.received[2],
                "txBytes": i.sent[0], "txErrors": i.sent[2],
            })
        };
        let mut out = tell(interfaces.first()?);
        out["time"] = json!(time(self.at));
        out["interfaces"] = interfaces.iter().map(tell).collect();
        Some(out)
    }

    fn volume(&self, pod: &PodUse, volume: &VolumeUse) -> Value {
        let mut out = self.fs(Some(volume.on), Some(volume.used));
        out["name"] = json!(volume.name);
        let claim = |name: &String| json!({"name": name, "namespace": pod.namespace});
        put(&mut out, "pvcRef", volume.claim.as_ref().map(claim));
        out
    }

    fn fs(&self, on: Option<FileSystem>, used: Option<Disk>) -> Value {
        let mut out = json!({"time": time(self.at)});
        if let Some(on) = on {
            out["availableBytes"] = json!(on.available);
            out["capacityBytes"] = json!(on.size);
            // A file system without a limit says 0: then there is nothing to tell.
            if on.inodes > 0 {
                out["inodes"] = json!(on.inodes);
                out["inodesFree"] = json!(on.inodes_free);
            }
        }
        put(&mut out, "usedBytes", used.map(|u| u.bytes));
        put(&mut out, "inodesUsed", used.map(|u| u.inodes));
        out
    }
}

fn used_of(on: &FileSystem) -> Disk {
    Disk {
        bytes: on.size.saturating_sub(on.available),
        inodes: on.inodes.saturating_sub(on.inodes_free),
    }
}

/// Writable layers, logs and local volumes.
fn ephemeral(pod: &PodUse) -> Disk {
    let containers = pod
        .containers
        .iter()
        .flat_map(|c| [c.rootfs, c.logs])
        .flatten();
    let volumes = pod.volumes.iter().filter(|v| v.ephemeral).map(|v| v.used);
    containers
        .chain(volumes)
        .fold(Disk::default(), |sum, d| Disk {
            bytes: sum.bytes + d.bytes,
            inodes: sum.inodes + d.inodes,
        })
}

fn put(out: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let (Some(map), Some(value)) = (out.as_object_mut(), value) {
        let map: &mut Map<String, Value> = map;
        map.insert(key.to_owned(), value.into());
    }
}

fn some(list: Vec<Value>) -> Option<Vec<Value>> {
    Some(list).filter(|l| !l.is_empty())
}

/// Whole seconds, as the API writes times.
fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{Cpu, Limits, Memory};
    use super::*;

    fn usage(seconds: i64, cpu: u64) -> Usage {
        Usage {
            at: Timestamp::from_second(seconds).expect("time"),
            cpu: Cpu {
                total: cpu,
                ..Cpu::default()
            },
            memory: Memory {
                usage: 30,
                working_set: 15,
                ..Memory::default()
            },
            processes: 3,
            limits: Limits {
                memory: Some(100),
                ..Limits::default()
            },
            ..Usage::default()
        }
    }

    fn pod(seconds: i64, cpu: u64) -> PodUse {
        let disk = |bytes| Some(Disk { bytes, inodes: 1 });
        PodUse {
            uid: "u".into(),
            name: "p".into(),
            namespace: "ns".into(),
            cgroup: "/pod".into(),
            usage: Some(usage(seconds, cpu)),
            network: vec![Interface {
                name: "eth0".into(),
                received: [1, 2, 3, 4],
                sent: [5, 6, 7, 8],
            }],
            containers: vec![ContainerUse {
                name: "c".into(),
                usage: Some(usage(seconds, cpu)),
                rootfs: disk(100),
                logs: disk(20),
                ..ContainerUse::default()
            }],
            volumes: vec![
                VolumeUse {
                    name: "scratch".into(),
                    used: Disk {
                        bytes: 3,
                        inodes: 1,
                    },
                    ephemeral: true,
                    ..VolumeUse::default()
                },
                VolumeUse {
                    name: "data".into(),
                    claim: Some("claim".into()),
                    used: Disk {
                        bytes: 4000,
                        inodes: 1,
                    },
                    ..VolumeUse::default()
                },
            ],
            ..PodUse::default()
        }
    }

    #[test]
    fn what_was_measured_is_told_and_nothing_else() {
        let (facts, system, rates) = (Facts::default(), System::default(), Rates::default());
        let tell = |depth, pod: PodUse| {
            let load = Load::default();
            let node = Node {
                name: "n",
                facts: &facts,
                load: &load,
                system: &system,
            };
            summary(&node, &[pod], &rates, depth)
        };
        let first = tell(Depth::Disk, pod(60, 1_000_000_000));
        let table = [
            ("/node/nodeName", json!("n")),
            (
                "/pods/0/podRef",
                json!({"name": "p", "namespace": "ns", "uid": "u"}),
            ),
            (
                "/pods/0/cpu",
                json!({"time": "1970-01-01T00:01:00Z", "usageCoreNanoSeconds": 1_000_000_000u64}),
            ),
            ("/pods/0/memory/workingSetBytes", json!(15)),
            ("/pods/0/memory/availableBytes", json!(85)),
            ("/pods/0/network/rxErrors", json!(3)),
            ("/pods/0/network/interfaces/0/txBytes", json!(5)),
            ("/pods/0/process_stats/process_count", json!(3)),
            ("/pods/0/ephemeral-storage/usedBytes", json!(123)),
            ("/pods/0/containers/0/rootfs/usedBytes", json!(100)),
            ("/pods/0/containers/0/rootfs/capacityBytes", Value::Null),
            (
                "/pods/0/volume/1/pvcRef",
                json!({"name": "claim", "namespace": "ns"}),
            ),
            ("/pods/0/volume/1/inodes", Value::Null),
            ("/node/runtime", Value::Null),
            ("/node/systemContainers", Value::Null),
        ];
        for (pointer, want) in table {
            let found = first.pointer(pointer).cloned().unwrap_or_default();
            assert_eq!(found, want, "{pointer} of {first}");
        }
        let second = tell(Depth::Resource, pod(62, 2_000_000_000));
        let rate = second.pointer("/pods/0/cpu/usageNanoCores");
        assert_eq!(rate, Some(&json!(500_000_000)));
        for pointer in [
            "/pods/0/network",
            "/pods/0/volume",
            "/node/fs",
            "/pods/0/containers/0/rootfs",
        ] {
            assert_eq!(second.pointer(pointer), None, "{pointer} costs too much");
        }
    }
}
