//! What a node keeps from its pods ("Reserve Compute Resources for System Daemons"): node allocatable, and the limits
//! of the cgroup of all pods.

use std::collections::BTreeMap;

use crate::eviction::{Error, Observation, Signal, Threshold};
use crate::quantity;
use crate::resources;

/// Kept for the system and for Kubernetes' own programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a CPU.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes of the file system with pods' volumes.
    pub storage: u64,
    /// Process ids.
    pub pids: u64,
}

/// Reads `kubeReserved` or `systemReserved`.
pub fn parse(field: &str, map: &BTreeMap<String, String>) -> Result<Reserved, Error> {
    let mut reserved = Reserved::default();
    for (key, text) in map {
        let wrong = |why: String| Error::new(field, Some(key), why);
        let milli =
            quantity::milli(text).ok_or_else(|| wrong(format!("{text:?} is not a quantity")))?;
        let milli = u64::try_from(milli).map_err(|_| {
            wrong(format!(
                "resource quantity for {key:?} cannot be negative: {text}"
            ))
        })?;
        match key.as_str() {
            "cpu" => reserved.cpu = milli,
            "memory" => reserved.memory = milli / 1000,
            "ephemeral-storage" => reserved.storage = milli / 1000,
            "pid" => reserved.pids = milli / 1000,
            _ => return Err(wrong(format!("cannot reserve {key:?} resource"))),
        }
    }
    Ok(reserved)
}

impl Reserved {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
            storage: self.storage + other.storage,
            pids: self.pids + other.pids,
        }
    }

    /// With what the hard thresholds defend: pods cannot have it either.
    pub fn with_thresholds(mut self, thresholds: &[Threshold], memory: u64, disk: u64) -> Self {
        for t in thresholds.iter().filter(|t| t.grace.is_none()) {
            match t.signal {
                Signal::MemoryAvailable => self.memory += t.value.of(memory),
                Signal::NodefsAvailable => self.storage += t.value.of(disk),
                _ => {}
            }
        }
        self
    }
}

/// Limits of the cgroup of all pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllPods {
    /// cgroup v1 cpu shares.
    pub cpu_shares: u64,
    /// Bytes.
    pub memory: u64,
    /// Tasks.
    pub pids: u64,
}

/// What all pods together may have: the machine without what is reserved. The hard thresholds are not taken off
/// here, so that a pod is evicted before the kernel kills one.
pub fn all_pods(cpus: u64, memory: u64, pids: u64, reserved: Reserved) -> AllPods {
    let cpu = (cpus * 1000).saturating_sub(reserved.cpu);
    AllPods {
        cpu_shares: resources::shares(i64::try_from(cpu).unwrap_or(i64::MAX / 1024)),
        memory: memory.saturating_sub(reserved.memory),
        pids: pids.saturating_sub(reserved.pids),
    }
}

/// The signal of all pods' memory: what is left below their limit.
pub fn allocatable_memory(limit: u64, working_set: u64) -> Observation {
    Observation {
        available: limit.saturating_sub(working_set),
        capacity: limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::{Settings, parse as thresholds};

    const GI: u64 = 1 << 30;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        own.collect()
    }

    #[test]
    fn reserved() {
        let kube = parse(
            "kubeReserved",
            &map(&[("cpu", "250m"), ("memory", "1Gi"), ("pid", "100")]),
        )
        .expect("kube");
        let system = parse(
            "systemReserved",
            &map(&[("cpu", "1"), ("ephemeral-storage", "2Gi")]),
        )
        .expect("system");
        let both = kube.and(system);
        assert_eq!(
            both,
            Reserved {
                cpu: 1250,
                memory: GI,
                storage: 2 * GI,
                pids: 100
            }
        );
        let defended = both.with_thresholds(
            &thresholds(&Settings::default()).expect("defaults"),
            8 * GI,
            100 * GI,
        );
        assert_eq!(
            (defended.memory, defended.storage),
            (GI + (100 << 20), 12 * GI)
        );
        let pods = all_pods(4, 8 * GI, 1000, both);
        assert_eq!(
            pods,
            AllPods {
                cpu_shares: 2816,
                memory: 7 * GI,
                pids: 900
            }
        );
        assert_eq!(
            all_pods(1, GI, 10, both).cpu_shares,
            2,
            "never less than the least"
        );
    }

    #[test]
    fn soft_thresholds_reserve_nothing() {
        let settings = Settings {
            hard: Some(map(&[])),
            soft: map(&[("memory.available", "1Gi")]),
            soft_grace: map(&[("memory.available", "1m")]),
            ..Settings::default()
        };
        let all = thresholds(&settings).expect("soft");
        assert_eq!(
            Reserved::default().with_thresholds(&all, GI, GI),
            Reserved::default()
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            (
                "hugepages-2Mi",
                "1",
                "field kubeReserved[hugepages-2Mi]: cannot reserve \"hugepages-2Mi\" resource",
            ),
            ("cpu", "some", "\"some\" is not a quantity"),
            ("memory", "-1Gi", "cannot be negative"),
        ];
        for (key, value, want) in rows {
            let error = parse("kubeReserved", &map(&[(key, value)]))
                .expect_err(want)
                .to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
