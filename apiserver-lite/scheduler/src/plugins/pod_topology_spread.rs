//! Spreading over topology domains (KEP-895).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::{MAX_SCORE, node_affinity, taint_toleration};
use crate::framework::{Cycle, Refusal};
use crate::model::{Node, Pod, Selector, Spread};
use crate::snapshot::{NodeState, Snapshot};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const MISSING: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";

/// The pod's constraints, with how many pods are in each domain.
pub struct Counts<'a> {
    required: Vec<Counted<'a>>,
    preferred: Vec<Counted<'a>>,
    /// Preferences of the pod's own: a node without one of the labels is out of the comparison.
    is_own: bool,
}

struct Counted<'a> {
    constraint: Cow<'a, Spread>,
    domains: HashMap<&'a str, i64>,
    /// The pod counts towards its own constraint.
    own: i64,
}

/// Counts the pods that the constraints mean.
pub fn count<'a>(pod: &'a Pod, snapshot: &'a Snapshot) -> Counts<'a> {
    let is_own = !pod.spread.is_empty();
    let (required, preferred): (Vec<_>, Vec<_>) = if is_own {
        pod.spread
            .iter()
            .map(Cow::Borrowed)
            .partition(|constraint| constraint.is_required)
    } else {
        (Vec::new(), defaults(pod, snapshot))
    };
    Counts {
        required: count_all(required, pod, snapshot, true),
        preferred: count_all(preferred, pod, snapshot, is_own),
        is_own,
    }
}

/// Pods of one Service, ReplicaSet or StatefulSet spread over nodes and zones (upstream's system defaults).
fn defaults<'a>(pod: &Pod, snapshot: &Snapshot) -> Vec<Cow<'a, Spread>> {
    let groups = snapshot.groups.values();
    let own = groups.filter(|g| g.namespace == pod.namespace && g.selector.matches(&pod.labels));
    let terms: Vec<_> = own
        .flat_map(|group| group.selector.0.iter().cloned())
        .collect();
    if terms.is_empty() {
        return Vec::new();
    }
    [(HOSTNAME, 3), (ZONE, 5)]
        .map(|(key, max_skew)| {
            Cow::Owned(Spread {
                key: key.into(),
                max_skew,
                min_domains: 1,
                is_required: false,
                selector: Selector(terms.clone()),
                honours_affinity: true,
                honours_taints: false,
            })
        })
        .into()
}

fn count_all<'a>(
    constraints: Vec<Cow<'a, Spread>>,
    pod: &Pod,
    snapshot: &'a Snapshot,
    needs_all_keys: bool,
) -> Vec<Counted<'a>> {
    let keys: Vec<String> = constraints
        .iter()
        .map(|constraint| constraint.key.clone())
        .collect();
    let count = |constraint: Cow<'a, Spread>| {
        let mut domains = HashMap::new();
        for state in &snapshot.nodes {
            let labels = &state.node.labels;
            let Some(domain) = labels.get(&constraint.key) else {
                continue;
            };
            let has_keys = !needs_all_keys || keys.iter().all(|key| labels.contains_key(key));
            if has_keys && is_counted(&constraint, pod, &state.node) {
                *domains.entry(domain.as_str()).or_default() += meant(&constraint, pod, state);
            }
        }
        let own = i64::from(constraint.selector.matches(&pod.labels));
        Counted {
            constraint,
            domains,
            own,
        }
    };
    constraints.into_iter().map(count).collect()
}

fn is_counted(constraint: &Spread, pod: &Pod, node: &Node) -> bool {
    (!constraint.honours_affinity || node_affinity::admits(pod, node))
        && (!constraint.honours_taints
            || taint_toleration::untolerated(pod, &node.taints).is_none())
}

/// How many pods on a node the constraint means.
fn meant(constraint: &Spread, pod: &Pod, state: &NodeState) -> i64 {
    let others = state.pods.values().filter(|other| {
        other.uid != pod.uid
            && other.namespace == pod.namespace
            && !other.is_terminating
            && constraint.selector.matches(&other.labels)
    });
    others.count() as i64
}

/// Refuses nodes whose domain would become fuller than the emptiest by more than the skew.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    let labels = &state.node.labels;
    for counted in &cycle.spread.required {
        let Some(domain) = labels.get(&counted.constraint.key) else {
            return Err(Refusal::final_(MISSING));
        };
        let is_few = counted.domains.len() < counted.constraint.min_domains;
        let emptiest = counted.domains.values().copied().min().filter(|_| !is_few);
        let here = counted
            .domains
            .get(domain.as_str())
            .copied()
            .unwrap_or_default();
        if here + counted.own - emptiest.unwrap_or_default() > counted.constraint.max_skew {
            return Err(Refusal::resolvable(MISMATCH));
        }
    }
    Ok(())
}

/// The fewer pods in the node's domains, the better.
pub fn score(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let counts = &cycle.spread;
    if counts.preferred.is_empty() {
        return vec![0; nodes.len()];
    }
    let weights: Vec<f64> = counts.preferred.iter().map(|c| weight(c, nodes)).collect();
    let amounts: Vec<Option<i64>> = nodes
        .iter()
        .map(|state| amount(counts, &weights, state))
        .collect();
    let known = || amounts.iter().flatten().copied();
    let (min, max) = (
        known().min().unwrap_or_default(),
        known().max().unwrap_or_default(),
    );
    let score = |amount: Option<i64>| match amount {
        None => 0,
        Some(_) if max == 0 => MAX_SCORE,
        Some(amount) => MAX_SCORE * (max + min - amount) / max,
    };
    amounts.into_iter().map(score).collect()
}

/// Constraints with many domains count more: their counts are smaller.
fn weight(counted: &Counted, nodes: &[&NodeState]) -> f64 {
    let key = &counted.constraint.key;
    let domains: HashSet<_> = nodes
        .iter()
        .filter_map(|state| state.node.labels.get(key))
        .collect();
    (domains.len() as f64 + 2.0).ln()
}

fn amount(counts: &Counts, weights: &[f64], state: &NodeState) -> Option<i64> {
    let mut sum = 0.0;
    for (counted, weight) in counts.preferred.iter().zip(weights) {
        match state.node.labels.get(&counted.constraint.key) {
            Some(domain) => {
                let pods = counted
                    .domains
                    .get(domain.as_str())
                    .copied()
                    .unwrap_or_default();
                sum += pods as f64 * weight + (counted.constraint.max_skew - 1) as f64;
            }
            None if counts.is_own => return None,
            None => {}
        }
    }
    Some(sum.round() as i64)
}
