//! The topology manager: those who hand out CPUs, memory and devices say on which NUMA nodes they could, and what suits
//! all of them is chosen ("Control Topology Management Policies on a node", KEP-693).
//!
//! ```text
//! container (or pod) -> hints of every provider -> merge by policy -> each provider allocates by what was chosen
//! ```

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::admit::{Refusal, refuse};
use crate::containers;
use crate::cpuset::CpuSet;
use crate::eviction::Error;

mod merge;
mod settings;

pub use merge::merge;
pub(crate) use settings::flag;

/// NUMA nodes as a bitmask, and whether it is the narrowest that could serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The nodes; 0: any.
    pub nodes: u64,
    /// Nothing narrower could serve.
    pub preferred: bool,
}

/// For each resource name the hints of its provider; `None`: no preference. An empty list: it cannot be had anywhere.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// `topologyManagerPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody is asked.
    #[default]
    None,
    /// What suits best, even if it suits badly.
    BestEffort,
    /// What is narrowest for all, or the pod is refused.
    Restricted,
    /// One node, or the pod is refused.
    SingleNumaNode,
}

/// `topologyManagerScope`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each container by itself.
    #[default]
    Container,
    /// All containers of a pod together.
    Pod,
}

/// Upstream's names.
pub(crate) const POLICIES: [(&str, Policy); 4] = [
    ("none", Policy::None),
    ("best-effort", Policy::BestEffort),
    ("restricted", Policy::Restricted),
    ("single-numa-node", Policy::SingleNumaNode),
];
pub(crate) const SCOPES: [(&str, Scope); 2] =
    [("container", Scope::Container), ("pod", Scope::Pod)];

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = POLICIES.iter().find(|(_, p)| p == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = SCOPES.iter().find(|(_, s)| s == self);
        f.write_str(found.map_or("", |(name, _)| name))
    }
}

/// How the topology manager works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What is insisted on.
    pub policy: Policy,
    /// For whom.
    pub scope: Scope,
    /// `prefer-closest-numa-nodes`: of several sets of as many nodes the one with the shortest ways.
    pub prefer_closest: bool,
    /// `max-allowable-numa-nodes`, if set.
    pub most_nodes: Option<u32>,
}

/// The machine's NUMA nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numa {
    /// Distances to all nodes (in their order), by node.
    pub distances: BTreeMap<u32, Vec<u32>>,
}

/// The most nodes for which all sets of them are still looked at in time.
const MOST_NODES: usize = 8;

impl Numa {
    /// All nodes.
    pub fn mask(&self) -> u64 {
        self.distances.keys().copied().collect::<CpuSet>().mask()
    }

    /// The mean distance between nodes of a set.
    fn mean(&self, nodes: u64) -> f64 {
        let nodes = CpuSet::of_mask(nodes);
        let mut ways = Vec::new();
        for from in nodes.iter() {
            let row = self.distances.get(from).map_or(&[][..], Vec::as_slice);
            let to = self.distances.keys().zip(row);
            ways.extend(to.filter(|(to, _)| nodes.contains(to)).map(|(_, way)| *way));
        }
        let count = u32::try_from(ways.len()).unwrap_or(u32::MAX).max(1);
        f64::from(ways.iter().sum::<u32>()) / f64::from(count)
    }

    /// Whether this machine can be handled.
    pub fn check(&self, settings: &Settings) -> Result<(), Error> {
        let most = settings.most_nodes.map_or(MOST_NODES, |n| n as usize);
        if settings.policy == Policy::None || self.distances.len() <= most {
            return Ok(());
        }
        let why = format!("unsupported on machines with more than {most} NUMA Nodes");
        Err(Error::new("topologyManagerPolicy", None, why))
    }
}

/// All sets of some nodes, small ones first, low ones first among them.
pub(crate) fn masks(all: u64) -> Vec<u64> {
    let nodes: Vec<u32> = CpuSet::of_mask(all).iter().copied().collect();
    let sets = 1u64.checked_shl(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
    let spread = |set: u64| {
        let chosen = nodes.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1);
        chosen.map(|(_, n)| 1u64 << n).sum::<u64>()
    };
    let mut masks: Vec<u64> = (1..sets.unwrap_or(0)).map(spread).collect();
    masks.sort_by_key(|m| (m.count_ones(), std::cmp::Reverse(m.reverse_bits())));
    masks
}

/// Fewer nodes; of as many the lower ones.
pub(crate) fn narrower(a: u64, b: u64) -> Ordering {
    a.count_ones().cmp(&b.count_ones()).then(a.cmp(&b))
}

/// Who hands something out, for one pod's admission: nothing counts before the whole pod was admitted.
pub trait Provider {
    /// The pod was given something earlier, and keeps it.
    fn knows(&self, uid: &str) -> bool;
    /// Where a container's part could be had; with no container the whole pod's.
    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints;
    /// Takes a container's part, on these nodes as far as they have it.
    fn allocate(&mut self, pod: &Pod, container: &Container, hint: Hint) -> Result<(), Failure>;
}

/// Why a provider cannot allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Whole cores are wanted, and this is none of them.
    Smt(String),
    /// Anything else.
    Unexpected(String),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Smt(why) => refuse("SMTAlignmentError", why),
            Failure::Unexpected(why) => refuse(
                "UnexpectedAdmissionError",
                format!("Allocate failed due to {why}, which is unexpected"),
            ),
        }
    }
}

fn unaligned() -> Refusal {
    let message = "Resources cannot be allocated with Topology locality";
    refuse("TopologyAffinityError", message.into())
}

/// Gives a pod its part of everything, or says why it fails.
pub fn admit(
    pod: &Pod,
    settings: &Settings,
    numa: &Numa,
    providers: &mut [&mut dyn Provider],
) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let known: Vec<bool> = providers.iter().map(|p| p.knows(uid)).collect();
    if known.iter().all(|k| *k) {
        return Ok(());
    }
    let choose = |providers: &[&mut dyn Provider], container| {
        if settings.policy == Policy::None {
            return Ok(Hint::default());
        }
        let hints: Vec<Hints> = providers.iter().map(|p| p.hints(pod, container)).collect();
        merge(settings, numa, &hints).ok_or_else(unaligned)
    };
    let of_pod = match settings.scope {
        Scope::Pod => Some(choose(providers, None)?),
        Scope::Container => None,
    };
    for container in containers::all(spec) {
        let hint = match of_pod {
            Some(hint) => hint,
            None => choose(providers, Some(container))?,
        };
        for (provider, known) in providers.iter_mut().zip(&known) {
            if !known {
                provider.allocate(pod, container, hint)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
