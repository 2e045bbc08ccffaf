//! Which NUMA nodes could serve a container's devices.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{Resource, State, asked, asked_together};
use crate::topology::{Hint, Hints};

/// Whether a node is in a mask.
pub(super) fn has(mask: u64, node: u32) -> bool {
    mask.checked_shr(node).is_some_and(|m| m & 1 == 1)
}

impl State {
    /// For each resource of plugins that a container (without one, the pod as a whole) asks for, the sets of nodes that
    /// have enough. `numa` are the machine's nodes.
    pub fn hints(
        &self,
        spec: &PodSpec,
        uid: &str,
        container: Option<&Container>,
        numa: &[u32],
    ) -> Hints {
        let all: Vec<(&str, usize)> = match container {
            Some(c) => asked(c).collect(),
            None => asked_together(spec).into_iter().collect(),
        };
        let managed = all.into_iter().filter(|(name, _)| self.is_managed(name));
        let of = |(name, count): (&str, usize)| {
            let hints = self.of_resource(spec, uid, container, (name, count), numa);
            (name.to_owned(), hints)
        };
        managed.map(of).collect()
    }

    fn of_resource(
        &self,
        spec: &PodSpec,
        uid: &str,
        container: Option<&Container>,
        (name, count): (&str, usize),
        numa: &[u32],
    ) -> Option<Vec<Hint>> {
        let none = Resource::default();
        let resource = self.resources.get(name).unwrap_or(&none);
        if resource.devices.values().all(|d| d.nodes.is_empty()) {
            return None;
        }
        let held = container.and_then(|c| self.of(uid, &c.name)?.get(name));
        if let Some(held) = held {
            let ids: BTreeSet<&str> = held.devices.keys().map(String::as_str).collect();
            return Some(match ids.len() == count {
                true => masks(resource, &ids, &BTreeSet::new(), count, numa),
                false => Vec::new(),
            });
        }
        let reusable = match container {
            Some(c) => self.reusable(spec, uid, &c.name, name),
            None => BTreeSet::new(),
        };
        let reusable: BTreeSet<&str> = reusable.iter().map(String::as_str).collect();
        let used = self.in_use(name);
        let works = resource.devices.iter().filter(|(_, d)| d.healthy);
        let free = works.map(|(id, _)| id.as_str());
        let free: BTreeSet<&str> = free.filter(|id| !used.contains(id)).collect();
        Some(match free.union(&reusable).count() < count {
            true => Vec::new(),
            false => masks(resource, &free, &reusable, count, numa),
        })
    }
}

/// All sets of nodes whose devices are enough; preferred are those with as few nodes as it ever takes.
fn masks(
    resource: &Resource,
    free: &BTreeSet<&str>,
    reusable: &BTreeSet<&str>,
    count: usize,
    numa: &[u32],
) -> Vec<Hint> {
    let on = |mask: u64, id: &str| {
        let nodes = resource.devices.get(id).map(|d| &d.nodes);
        nodes.is_some_and(|n| n.iter().any(|n| has(mask, *n)))
    };
    let placed = |id: &&str| {
        let device = resource.devices.get(*id);
        device.is_some_and(|d| !d.nodes.is_empty())
    };
    let mut narrowest = u32::try_from(numa.len()).unwrap_or(u32::MAX);
    let mut found = Vec::new();
    for mask in subsets(numa) {
        let all = resource.devices.keys().filter(|id| on(mask, id)).count();
        if all >= count {
            narrowest = narrowest.min(mask.count_ones());
        }
        let mut again = reusable.iter().copied().filter(placed);
        let here = again.clone().count();
        let away = again.any(|id| !on(mask, id));
        if !away && here + free.iter().filter(|id| on(mask, id)).count() >= count {
            found.push(mask);
        }
    }
    found
        .into_iter()
        .map(|nodes| Hint {
            nodes,
            preferred: nodes.count_ones() == narrowest,
        })
        .collect()
}

/// Every set of nodes but the empty one. Machines have a handful; upstream refuses more than eight.
fn subsets(numa: &[u32]) -> impl Iterator<Item = u64> {
    let bits: Vec<u64> = numa.iter().filter_map(|n| 1u64.checked_shl(*n)).collect();
    let sets = 1u64 << bits.len().min(16);
    (1..sets).map(move |set| {
        let chosen = bits.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
        chosen.map(|(_, bit)| bit).sum()
    })
}
