//! Where a machine's CPUs are.

use std::collections::BTreeMap;

use crate::cpuset::CpuSet;

/// The place of one CPU (a hardware thread).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Core: the lowest of its CPUs.
    pub core: u32,
    /// Socket.
    pub socket: u32,
    /// NUMA node.
    pub node: u32,
}

/// All CPUs that are online.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Places by CPU.
    pub cpus: BTreeMap<u32, Place>,
}

/// What holds CPUs, and is taken whole where that is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Core,
    Socket,
    Node,
}

impl Level {
    pub(super) fn of(self, place: &Place) -> u32 {
        match self {
            Self::Core => place.core,
            Self::Socket => place.socket,
            Self::Node => place.node,
        }
    }
}

impl Machine {
    /// All CPUs.
    pub fn all(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }

    /// CPUs of all NUMA nodes of a mask.
    pub fn of_nodes(&self, nodes: u64) -> CpuSet {
        let wanted = CpuSet::of_mask(nodes);
        self.where_(|p| wanted.contains(&p.node))
    }

    /// All NUMA nodes with CPUs, as a mask.
    pub fn nodes(&self) -> u64 {
        self.units(Level::Node, &self.all()).mask()
    }

    /// Threads of a core; as many as the mean where cores differ.
    pub fn per_core(&self) -> usize {
        self.cpus.len() / self.count(Level::Core).max(1)
    }

    pub(super) fn where_(&self, which: impl Fn(&Place) -> bool) -> CpuSet {
        let found = self.cpus.iter().filter(|(_, p)| which(p));
        found.map(|(cpu, _)| *cpu).collect()
    }

    /// The units in which CPUs of a set are.
    pub(super) fn units(&self, level: Level, cpus: &CpuSet) -> CpuSet {
        let places = cpus.iter().filter_map(|cpu| self.cpus.get(cpu));
        places.map(|p| level.of(p)).collect()
    }

    pub(super) fn count(&self, level: Level) -> usize {
        self.units(level, &self.all()).len()
    }

    /// The CPUs of a set that are in a unit.
    pub(super) fn within(&self, level: Level, unit: u32, cpus: &CpuSet) -> CpuSet {
        let is_in = |cpu: &&u32| self.cpus.get(*cpu).is_some_and(|p| level.of(p) == unit);
        cpus.iter().filter(is_in).copied().collect()
    }

    /// All CPUs of cores of which some CPU is in a set.
    pub(super) fn whole_cores(&self, cpus: &CpuSet) -> CpuSet {
        let cores = self.units(Level::Core, cpus);
        self.where_(|p| cores.contains(&p.core))
    }
}
