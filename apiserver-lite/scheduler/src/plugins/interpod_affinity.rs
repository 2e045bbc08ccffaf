//! Affinity and anti-affinity between pods.

use std::collections::HashMap;

use super::MAX_SCORE;
use crate::framework::{Cycle, Refusal};
use crate::model::{Pod, PodTerm};
use crate::snapshot::{NodeState, Snapshot};

/// How much a running pod's required affinity to the new one counts in the score (upstream's default of
/// `hardPodAffinityWeight`).
const HARD_WEIGHT: i64 = 1;

type Domains<'a> = HashMap<(&'a str, &'a str), i64>;

/// Pods and weights by node label and value.
#[derive(Default)]
pub struct Counts<'a> {
    /// Pods that do not want the new one near.
    repelling: Domains<'a>,
    /// Pods that all of its required terms mean.
    near: Domains<'a>,
    /// Pods that its anti-affinity terms mean.
    far: Domains<'a>,
    /// Sum of weights.
    preferred: Domains<'a>,
}

/// Counts the pods that the new one's terms mean, and those whose terms mean the new one.
pub fn count<'a>(pod: &'a Pod, snapshot: &'a Snapshot) -> Counts<'a> {
    let mut counts = Counts::default();
    let has_terms =
        !(pod.affinity.is_empty() && pod.anti_affinity.is_empty() && pod.preferred_pods.is_empty());
    for state in &snapshot.nodes {
        if !has_terms && state.with_terms == 0 {
            continue;
        }
        for other in state.pods.values().filter(|other| other.uid != pod.uid) {
            counts.add_terms_of_new(pod, other, state, snapshot);
            counts.add_terms_of_other(pod, other, state, snapshot);
        }
    }
    counts
}

impl<'a> Counts<'a> {
    fn add_terms_of_new(
        &mut self,
        pod: &'a Pod,
        other: &Pod,
        state: &'a NodeState,
        snapshot: &Snapshot,
    ) {
        let is_meant = |term: &&PodTerm| snapshot.is_meant(term, other);
        if !pod.affinity.is_empty() && pod.affinity.iter().all(|term| is_meant(&term)) {
            pod.affinity
                .iter()
                .for_each(|term| add(&mut self.near, term, state, 1));
        }
        for term in pod.anti_affinity.iter().filter(is_meant) {
            add(&mut self.far, term, state, 1);
        }
        for (weight, term) in pod
            .preferred_pods
            .iter()
            .filter(|(_, term)| is_meant(&term))
        {
            add(&mut self.preferred, term, state, *weight);
        }
    }

    fn add_terms_of_other(
        &mut self,
        pod: &Pod,
        other: &'a Pod,
        state: &'a NodeState,
        snapshot: &Snapshot,
    ) {
        let is_meant = |term: &&PodTerm| snapshot.is_meant(term, pod);
        for term in other.anti_affinity.iter().filter(is_meant) {
            add(&mut self.repelling, term, state, 1);
        }
        for term in other.affinity.iter().filter(is_meant) {
            add(&mut self.preferred, term, state, HARD_WEIGHT);
        }
        for (weight, term) in other
            .preferred_pods
            .iter()
            .filter(|(_, term)| is_meant(&term))
        {
            add(&mut self.preferred, term, state, *weight);
        }
    }
}

fn add<'a>(domains: &mut Domains<'a>, term: &'a PodTerm, state: &'a NodeState, amount: i64) {
    if let Some(domain) = domain(term, state) {
        *domains.entry(domain).or_default() += amount;
    }
}

fn domain<'a>(term: &'a PodTerm, state: &'a NodeState) -> Option<(&'a str, &'a str)> {
    let value = state.node.labels.get(&term.key)?;
    Some((term.key.as_str(), value.as_str()))
}

/// Refuses nodes whose domains lack a wanted pod or hold an unwanted one.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    let (pod, counts) = (cycle.pod, &cycle.affinity);
    let has = |domains: &Domains, term: &PodTerm| {
        domain(term, state).is_some_and(|domain| domains.get(&domain).is_some_and(|n| *n > 0))
    };
    if !pod.affinity.iter().all(|term| has(&counts.near, term)) && !is_first(cycle, state) {
        return Err(Refusal::final_("node(s) didn't match pod affinity rules"));
    }
    if pod.anti_affinity.iter().any(|term| has(&counts.far, term)) {
        return Err(Refusal::resolvable(
            "node(s) didn't match pod anti-affinity rules",
        ));
    }
    let is_repelled = counts
        .repelling
        .keys()
        .any(|(key, value)| state.node.labels.get(*key).is_some_and(|has| has == value));
    if is_repelled {
        return Err(Refusal::resolvable(
            "node(s) didn't satisfy existing pods anti-affinity rules",
        ));
    }
    Ok(())
}

/// The first of a group that wants to be with its own may start anywhere.
fn is_first(cycle: &Cycle, state: &NodeState) -> bool {
    let terms = &cycle.pod.affinity;
    cycle.affinity.near.is_empty()
        && terms
            .iter()
            .all(|term| cycle.snapshot.is_meant(term, cycle.pod))
        && terms
            .iter()
            .all(|term| state.node.labels.contains_key(&term.key))
}

/// The larger the weights in the node's domains, the better.
pub fn score(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let preferred = &cycle.affinity.preferred;
    let weight = |state: &&NodeState| -> i64 {
        let here = preferred.iter().filter(|((key, value), _)| {
            state.node.labels.get(*key).is_some_and(|has| has == value)
        });
        here.map(|(_, weight)| weight).sum()
    };
    let weights: Vec<i64> = nodes.iter().map(weight).collect();
    let (min, max) = (
        weights.iter().copied().min().unwrap_or_default(),
        weights.iter().copied().max().unwrap_or_default(),
    );
    let scale = |weight| {
        if max == min {
            0
        } else {
            MAX_SCORE * (weight - min) / (max - min)
        }
    };
    weights.into_iter().map(scale).collect()
}
