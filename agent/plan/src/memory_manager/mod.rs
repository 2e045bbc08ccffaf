//! The memory manager's static policy ("Utilizing the NUMA-aware Memory Manager", KEP-1769): containers of guaranteed pods
//! have their memory and huge pages on as few NUMA nodes as can be. A node serves containers that need it alone, or a
//! group of nodes, never both.

mod checkpoint;
mod settings;
mod state;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::containers;
use crate::cpuset::CpuSet;
use crate::quantity;
use crate::resources;
use crate::topology::{Failure, Hint, Hints, Provider, masks, narrower};

pub use checkpoint::{read, write};
pub use settings::{Reservation, Settings};
pub use state::{Block, Entries, Node, State, Table};

/// Memory of one NUMA node, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeMemory {
    /// All of it.
    pub memory: u64,
    /// The part of it in huge pages, by the size of a page.
    pub huge: BTreeMap<u64, u64>,
}

/// The policy on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Static {
    /// With nothing given.
    empty: BTreeMap<u32, Node>,
}

/// Bytes by resource.
type Amounts = BTreeMap<String, u64>;

impl Static {
    /// `reserved` is what node allocatable keeps from pods, bytes: the settings say of which nodes, and have to come to
    /// the same. Texts are upstream's.
    pub fn new(
        machine: &BTreeMap<u32, NodeMemory>,
        settings: &Settings,
        reserved: u64,
    ) -> Result<Self, String> {
        let mut totals = Amounts::from([("memory".to_owned(), 0)]);
        for (node, limits) in &settings.reserved {
            if !machine.contains_key(node) {
                return Err(format!(
                    "the reserved memory configuration references a NUMA node {node} that does not exist on this machine"
                ));
            }
            for (resource, bytes) in limits {
                *totals.entry(resource.clone()).or_default() += bytes;
            }
        }
        for (resource, bytes) in &totals {
            let kept = if resource == "memory" { reserved } else { 0 };
            if *bytes != kept {
                return Err(format!(
                    "the total amount {:?} of type {resource:?} is not equal to the value {:?} determined by Node Allocatable feature (kubeReserved, systemReserved and evictionHard together); set reservedMemory to it",
                    quantity::binary(*bytes),
                    quantity::binary(kept)
                ));
            }
        }
        if totals["memory"] == 0 {
            return Err("[memorymanager] you should specify the system reserved memory".into());
        }
        let none = Amounts::new();
        let of = |(id, node): (&u32, &NodeMemory)| {
            let kept = settings.reserved.get(id).unwrap_or(&none);
            (*id, Node::new(*id, node, kept))
        };
        Ok(Self {
            empty: machine.iter().map(of).collect(),
        })
    }

    /// What an earlier agent left is checked; without it nobody has anything.
    pub fn start(&self, left: Option<State>) -> Result<State, String> {
        let state = left.unwrap_or_default();
        if state.machine.is_empty() {
            return match state.entries.is_empty() {
                true => Ok(State {
                    machine: self.empty.clone(),
                    ..state
                }),
                false => Err(
                    "[memorymanager] machine state can not be empty when it has memory assignments"
                        .into(),
                ),
            };
        }
        let mut expected = self.empty.clone();
        for (pod, own) in &state.entries {
            for (container, blocks) in own {
                for block in blocks {
                    let lacks = |what| {
                        format!(
                            "[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses {what} that does not exist"
                        )
                    };
                    for id in &block.numa_affinity {
                        let node = expected.get(id).ok_or_else(|| lacks("the NUMA"))?;
                        if !node.memory_map.contains_key(&block.resource) {
                            return Err(lacks("memory resource"));
                        }
                    }
                    state::reserve(&mut expected, block, block.size);
                }
            }
        }
        match state::same(&state.machine, &expected) {
            true => Ok(state),
            false => Err(
                "[memorymanager] the expected machine state is different from the real one".into(),
            ),
        }
    }
}

/// What a container is to have on certain nodes; nothing if its pod is not guaranteed.
fn wanted(spec: &PodSpec, container: &Container) -> Amounts {
    if !resources::is_pinned(spec) {
        return Amounts::new();
    }
    let lists = container.resources.iter();
    let names = lists
        .flat_map(|r| [&r.requests, &r.limits])
        .flatten()
        .flat_map(BTreeMap::keys);
    let names = names.filter(|name| settings::is_memory(name));
    let amount = |name: &String| {
        let bytes = resources::request_of(container, name) / 1000;
        (name.clone(), u64::try_from(bytes).unwrap_or(0))
    };
    names.map(amount).collect()
}

/// What a pod's containers are to have at one time.
fn wanted_at_once(spec: &PodSpec) -> Amounts {
    let (mut peak, mut stay) = (Amounts::new(), Amounts::new());
    for c in containers::all(spec) {
        let ends = containers::ends(spec, &c.name);
        for (name, bytes) in wanted(spec, c) {
            let sum = stay.get(&name).copied().unwrap_or(0) + bytes;
            let place = if ends { &mut peak } else { &mut stay };
            let before = place.entry(name).or_default();
            *before = sum.max(*before);
        }
    }
    for (name, bytes) in stay {
        let before = peak.entry(name).or_default();
        *before = bytes.max(*before);
    }
    peak
}

/// One pod's admission: a state that counts when all of the pod was admitted.
pub struct Asking<'a> {
    policy: &'a Static,
    /// With what was given to the pod.
    pub state: State,
    /// Memory of init containers that will have ended, by nodes and resource: later containers of the pod take it first.
    reuse: BTreeMap<(u64, String), u64>,
}

impl<'a> Asking<'a> {
    /// Begins.
    pub fn new(policy: &'a Static, state: &State) -> Self {
        Self {
            policy,
            state: state.clone(),
            reuse: BTreeMap::new(),
        }
    }

    fn reusable(&self, nodes: u64, resource: &str) -> u64 {
        let key = (nodes, resource.to_owned());
        self.reuse.get(&key).copied().unwrap_or(0)
    }

    fn sum(&self, nodes: u64, resource: &str, of: impl Fn(&Table) -> u64) -> u64 {
        let nodes = CpuSet::of_mask(nodes);
        let tables = nodes
            .iter()
            .filter_map(|id| self.state.machine.get(id)?.memory_map.get(resource));
        tables.map(of).sum()
    }

    /// Sets of nodes that could serve.
    fn candidates(&self, wanted: &Amounts) -> Vec<Hint> {
        let all = self.policy.empty.keys().copied().collect::<CpuSet>().mask();
        let could = |nodes: &u64| {
            let has = |(name, bytes): (&String, &u64)| {
                self.sum(*nodes, name, |t| t.allocatable) >= *bytes
            };
            wanted.iter().all(has)
        };
        let can = |nodes: &u64| {
            let has = |(name, bytes): (&String, &u64)| {
                self.sum(*nodes, name, |t| t.free) + self.reusable(*nodes, name) >= *bytes
            };
            !self.mixes(*nodes) && wanted.iter().all(has)
        };
        let possible: Vec<u64> = masks(all).into_iter().filter(could).collect();
        let least = possible.iter().map(|m| m.count_ones()).min().unwrap_or(0);
        let hint = |nodes: u64| Hint {
            nodes,
            preferred: nodes.count_ones() == least,
        };
        possible.into_iter().filter(can).map(hint).collect()
    }

    /// Whether nodes would serve by themselves and in a group, or in two groups.
    fn mixes(&self, nodes: u64) -> bool {
        let group = CpuSet::of_mask(nodes);
        let mut used = group.iter().filter_map(|id| self.state.machine.get(id));
        match group.len() {
            1 => used.any(|node| node.cells.len() > 1),
            _ => used.any(|node| {
                let cells: CpuSet = node.cells.iter().copied().collect();
                node.number_of_assignments > 0 && cells != group
            }),
        }
    }

    /// The nodes to take memory from: those of the hint, and more where they are too few.
    fn choose(&self, wanted: &Amounts, hint: Hint) -> Result<u64, &'static str> {
        let best = |within: u64| {
            let hints = self.candidates(wanted).into_iter();
            let hints = hints.filter(|h| h.nodes & within == within);
            hints.min_by(|a, b| {
                b.preferred
                    .cmp(&a.preferred)
                    .then(narrower(a.nodes, b.nodes))
            })
        };
        let mut chosen = hint;
        if hint.nodes == 0 {
            chosen = best(0).ok_or("failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")?;
            if hint.preferred && !chosen.preferred {
                return Err("failed to find the default preferred hint");
            }
        }
        let has =
            |(name, bytes): (&String, &u64)| self.sum(chosen.nodes, name, |t| t.free) >= *bytes;
        if !wanted.iter().all(has) {
            let more = best(chosen.nodes)
                .ok_or("failed to find NUMA nodes to extend the current topology hint")?;
            if chosen.preferred && !more.preferred {
                return Err("failed to find the extended preferred hint");
            }
            chosen = more;
        }
        let alone = chosen.nodes.count_ones() == 1;
        match !alone && self.mixes(chosen.nodes) {
            true => Err("preferred hint violates NUMA node allocation"),
            false => Ok(chosen.nodes),
        }
    }

    /// Notes what init containers leave behind, and what others take of that.
    fn note_reuse(&mut self, nodes: u64, block: &Block, ends: bool) {
        let left = self
            .reuse
            .entry((nodes, block.resource.clone()))
            .or_default();
        *left = match ends {
            true => block.size.max(*left),
            false => left.saturating_sub(block.size),
        };
    }
}

impl Provider for Asking<'_> {
    fn knows(&self, uid: &str) -> bool {
        self.state.entries.contains_key(uid)
    }

    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints {
        let Some(spec) = &pod.spec else {
            return Hints::new();
        };
        let wanted = match container {
            Some(container) => wanted(spec, container),
            None => wanted_at_once(spec),
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let had = containers::all(spec)
            .filter(|c| container.is_none_or(|only| only.name == c.name))
            .map(|c| self.state.nodes_of(uid, &c.name).mask())
            .fold(0, |all, nodes| all | nodes);
        let list = match had {
            0 => self.candidates(&wanted),
            nodes => vec![Hint {
                nodes,
                preferred: true,
            }],
        };
        wanted
            .into_keys()
            .map(|name| (name, Some(list.clone())))
            .collect()
    }

    fn allocate(&mut self, pod: &Pod, container: &Container, hint: Hint) -> Result<(), Failure> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let wanted = wanted(spec, container);
        if wanted.is_empty() {
            return Ok(());
        }
        let nodes = self
            .choose(&wanted, hint)
            .map_err(|why| Failure::Unexpected(format!("[memorymanager] {why}")))?;
        let ends = containers::ends(spec, &container.name);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut blocks = Vec::new();
        for (resource, size) in wanted {
            let block = Block {
                numa_affinity: CpuSet::of_mask(nodes).iter().copied().collect(),
                resource,
                size,
            };
            let more = size.saturating_sub(self.reusable(nodes, &block.resource));
            state::reserve(&mut self.state.machine, &block, more);
            self.note_reuse(nodes, &block, ends);
            self.state.shrink_init(&uid, spec, &container.name, &block);
            blocks.push(block);
        }
        let own = self.state.entries.entry(uid).or_default();
        own.insert(container.name.clone(), blocks);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
