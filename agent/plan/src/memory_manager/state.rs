//! Who has memory where, in the form of the checkpoint.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde::{Deserialize, Serialize};

use super::NodeMemory;
use crate::containers;
use crate::cpuset::CpuSet;
use crate::quantity;

/// One resource of one NUMA node, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// All of it.
    pub total: u64,
    /// Kept from pods.
    pub system_reserved: u64,
    /// For pods.
    pub allocatable: u64,
    /// Given to pods.
    pub reserved: u64,
    /// Not given yet.
    pub free: u64,
}

/// One NUMA node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Blocks it has a part in.
    pub number_of_assignments: u32,
    /// By resource.
    pub memory_map: BTreeMap<String, Table>,
    /// The group in which it serves; only itself when it serves alone.
    pub cells: Vec<u32>,
}

/// Memory of one kind for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// On these nodes.
    pub numa_affinity: Vec<u32>,
    /// `memory` or `hugepages-SIZE`.
    #[serde(rename = "type")]
    pub resource: String,
    /// Bytes.
    pub size: u64,
}

/// Blocks by pod UID and container name.
pub type Entries = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// Who has memory where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What the nodes have left.
    pub machine: BTreeMap<u32, Node>,
    /// Who has the rest.
    pub entries: Entries,
}

impl Node {
    /// With nothing given.
    pub(super) fn new(id: u32, memory: &NodeMemory, kept: &BTreeMap<String, u64>) -> Self {
        let table = |name: &str, total: u64, other: u64| {
            let system_reserved = kept.get(name).copied().unwrap_or(0);
            let allocatable = total.saturating_sub(system_reserved + other);
            Table {
                total,
                system_reserved,
                allocatable,
                reserved: 0,
                free: allocatable,
            }
        };
        let page = |(size, total): (&u64, &u64)| {
            let name = format!("hugepages-{}", quantity::binary(*size));
            let table = table(&name, *total, 0);
            (name, table)
        };
        let mut memory_map: BTreeMap<String, Table> = memory.huge.iter().map(page).collect();
        let huge = memory.huge.values().sum();
        memory_map.insert("memory".into(), table("memory", memory.memory, huge));
        Self {
            number_of_assignments: 0,
            memory_map,
            cells: vec![id],
        }
    }
}

/// Takes so much for a block from its nodes, the lower first.
pub(super) fn reserve(machine: &mut BTreeMap<u32, Node>, block: &Block, mut size: u64) {
    for id in &block.numa_affinity {
        let Some(node) = machine.get_mut(id) else {
            continue;
        };
        node.number_of_assignments += 1;
        node.cells.clone_from(&block.numa_affinity);
        if let Some(table) = node.memory_map.get_mut(&block.resource) {
            let part = size.min(table.free);
            table.free -= part;
            table.reserved += part;
            size -= part;
        }
    }
}

/// Gives a block back.
fn release(machine: &mut BTreeMap<u32, Node>, block: &Block) {
    let mut size = block.size;
    for id in &block.numa_affinity {
        let Some(node) = machine.get_mut(id) else {
            continue;
        };
        node.number_of_assignments = node.number_of_assignments.saturating_sub(1);
        if node.number_of_assignments == 0 {
            node.cells = vec![*id];
        }
        if let Some(table) = node.memory_map.get_mut(&block.resource) {
            let part = size.min(table.reserved);
            table.free += part;
            table.reserved -= part;
            size -= part;
        }
    }
}

/// Whether two views of a machine agree. What a group gives may come from any of its nodes.
pub(super) fn same(a: &BTreeMap<u32, Node>, b: &BTreeMap<u32, Node>) -> bool {
    let group = |machine: &BTreeMap<u32, Node>, cells: &[u32], name: &str| {
        let tables = cells
            .iter()
            .filter_map(|id| machine.get(id)?.memory_map.get(name));
        tables.fold((0, 0), |(free, reserved), t| {
            (free + t.free, reserved + t.reserved)
        })
    };
    let fixed = |t: &Table| (t.total, t.system_reserved, t.allocatable);
    let tables = |a_node: &Node, b_node: &Node| {
        a_node.memory_map.iter().all(|(name, table)| {
            b_node
                .memory_map
                .get(name)
                .is_some_and(|other| fixed(table) == fixed(other))
                && group(a, &a_node.cells, name) == group(b, &a_node.cells, name)
        })
    };
    let set = |cells: &[u32]| cells.iter().copied().collect::<CpuSet>();
    a.len() == b.len()
        && a.iter().all(|(id, a_node)| {
            b.get(id).is_some_and(|b_node| {
                a_node.number_of_assignments == b_node.number_of_assignments
                    && set(&a_node.cells) == set(&b_node.cells)
                    && a_node.memory_map.len() == b_node.memory_map.len()
                    && tables(a_node, b_node)
            })
        })
}

impl State {
    /// The nodes a container has its memory on; none if it may use any.
    pub fn nodes_of(&self, uid: &str, container: &str) -> CpuSet {
        let own = self.entries.get(uid).and_then(|own| own.get(container));
        let blocks = own.into_iter().flatten();
        blocks
            .flat_map(|b| b.numa_affinity.iter().copied())
            .collect()
    }

    fn release(&mut self, uid: &str, container: &str) -> bool {
        let Some(own) = self.entries.get_mut(uid) else {
            return false;
        };
        let Some(blocks) = own.remove(container) else {
            return false;
        };
        if own.is_empty() {
            self.entries.remove(uid);
        }
        for block in &blocks {
            release(&mut self.machine, block);
        }
        true
    }

    /// Gives all memory back that a pod has; whether it had any.
    pub fn release_pod(&mut self, uid: &str) -> bool {
        let own = self.entries.get(uid).into_iter().flatten();
        let names: Vec<String> = own.map(|(name, _)| name.clone()).collect();
        names.iter().filter(|name| self.release(uid, name)).count() > 0
    }

    /// A container has started, so init containers before it (but sidecars) have ended for good; whether one had memory.
    pub fn started(&mut self, uid: &str, spec: &PodSpec, container: &str) -> bool {
        if !self.entries.contains_key(uid) {
            return false;
        }
        containers::ended_before(spec, container)
            .filter(|c| self.release(uid, &c.name))
            .count()
            > 0
    }

    /// What a container takes over from init containers before it is not theirs any more, so that each byte is given back
    /// once.
    pub(super) fn shrink_init(&mut self, uid: &str, spec: &PodSpec, container: &str, by: &Block) {
        let Some(own) = self.entries.get_mut(uid) else {
            return;
        };
        let mut left = by.size;
        for c in containers::ended_before(spec, container) {
            for block in own.get_mut(&c.name).into_iter().flatten() {
                if block.resource == by.resource && block.numa_affinity == by.numa_affinity {
                    let part = left.min(block.size);
                    block.size -= part;
                    left -= part;
                }
            }
        }
    }
}
