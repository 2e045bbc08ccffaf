//! Choosing CPUs evenly from several NUMA nodes (`distribute-cpus-across-numa`, KEP-2902).

use std::collections::BTreeMap;

use super::machine::{Level, Machine};
use super::take::{in_order, levels, packed, too_few};
use crate::cpuset::CpuSet;

/// Takes so many of the free CPUs from as few NUMA nodes as can be, the same number from each; what does not divide goes,
/// `group` at a time, where it leaves the machine most even. Packed when no set of nodes can give evenly.
pub(super) fn distributed(
    machine: &Machine,
    free: &CpuSet,
    count: usize,
    group: usize,
) -> Result<CpuSet, String> {
    if count > free.len() {
        return Err(too_few(count, free.len()));
    }
    if count == 0 || !count.is_multiple_of(group) {
        return packed(machine, free, count);
    }
    let by_level = levels(machine);
    let depth = by_level.iter().position(|l| *l == Level::Node).unwrap_or(0);
    let nodes = in_order(machine, &by_level[..=depth], free);
    let left = |node: &u32| (*node, machine.within(Level::Node, *node, free).len());
    let left: BTreeMap<u32, usize> = nodes.iter().map(left).collect();
    let groups = machine.cpus.len().div_ceil(group);
    let per_node = groups.div_ceil(machine.count(Level::Node).max(1));
    let least = (count / group).div_ceil(per_node.max(1));
    for width in least..=nodes.len().min(count / group) {
        let mut best: Option<(f64, BTreeMap<u32, usize>)> = None;
        for set in subsets(&nodes, width) {
            let Some((balance, shares)) = shares(&left, &set, count, group) else {
                continue;
            };
            if best.as_ref().is_none_or(|(b, _)| balance < *b) {
                best = Some((balance, shares));
            }
        }
        if let Some((_, shares)) = best {
            return give(machine, free, &shares);
        }
    }
    packed(machine, free, count)
}

fn give(machine: &Machine, free: &CpuSet, shares: &BTreeMap<u32, usize>) -> Result<CpuSet, String> {
    let mut taken = CpuSet::default();
    for (node, share) in shares {
        let here = machine.within(Level::Node, *node, free);
        taken = &taken | &packed(machine, &here, *share)?;
    }
    Ok(taken)
}

/// How much each node of a set gives, and how uneven that leaves all nodes.
fn shares(
    left: &BTreeMap<u32, usize>,
    set: &[u32],
    count: usize,
    group: usize,
) -> Option<(f64, BTreeMap<u32, usize>)> {
    let even = count / set.len() / group * group;
    let has = |node: &u32| left.get(node).copied().unwrap_or(0);
    let total: usize = set.iter().map(|n| has(n) / group * group).sum();
    if total < count || set.iter().any(|n| has(n) < even) {
        return None;
    }
    let (mut after, mut shares) = (left.clone(), BTreeMap::new());
    for node in set {
        *after.entry(*node).or_default() -= even;
        shares.insert(*node, even);
    }
    let rest = count - even * set.len();
    if rest == 0 {
        return Some((unevenness(&after), shares));
    }
    let can: Vec<u32> = set.iter().copied().filter(|n| after[n] >= group).collect();
    let mut best: Option<(f64, Vec<u32>)> = None;
    for width in (1..=can.len()).rev() {
        for some in subsets(&can, width) {
            let Some(after) = hand_out(after.clone(), &some, rest, group) else {
                continue;
            };
            let balance = unevenness(&after);
            if best.as_ref().is_none_or(|(b, _)| balance < *b) {
                best = Some((balance, some));
            }
        }
    }
    let (balance, some) = best?;
    let given = hand_out(after.clone(), &some, rest, group)?;
    for node in some {
        *shares.entry(node).or_default() += after[&node] - given[&node];
    }
    Some((balance, shares))
}

/// Takes the rest from some nodes in turn; `None` when they have not so much.
fn hand_out(
    mut left: BTreeMap<u32, usize>,
    nodes: &[u32],
    mut rest: usize,
    group: usize,
) -> Option<BTreeMap<u32, usize>> {
    while rest > 0 {
        let before = rest;
        for node in nodes {
            let has = left.entry(*node).or_default();
            if rest > 0 && *has >= group {
                *has -= group;
                rest -= group;
            }
        }
        if rest == before {
            return None;
        }
    }
    Some(left)
}

/// The standard deviation, to a thousandth so that it does not depend on the order of summing.
fn unevenness(left: &BTreeMap<u32, usize>) -> f64 {
    let figure = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    let count = figure(left.len());
    let mean = left.values().map(|n| figure(*n)).sum::<f64>() / count;
    let squares = left.values().map(|n| (figure(*n) - mean).powi(2));
    ((squares.sum::<f64>() / count).sqrt() * 1000.0).round() / 1000.0
}

/// All choices of so many, in order.
fn subsets(of: &[u32], width: usize) -> Vec<Vec<u32>> {
    match (width, of.split_first()) {
        (0, _) => vec![Vec::new()],
        (_, None) => Vec::new(),
        (_, Some((first, rest))) => {
            let with = subsets(rest, width - 1).into_iter();
            let with = with.map(|tail| [&[*first], &tail[..]].concat());
            with.chain(subsets(rest, width)).collect()
        }
    }
}
