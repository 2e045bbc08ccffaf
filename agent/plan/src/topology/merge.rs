//! From what every provider could do to what is done.

use std::collections::BTreeSet;

use super::{Hint, Hints, Numa, Policy, Settings, narrower};

/// The hint that all providers go by; `None` when the policy does not let the pod in. With the policy `None` any node
/// will do.
pub fn merge(settings: &Settings, numa: &Numa, hints: &[Hints]) -> Option<Hint> {
    let mut lists = lists(hints);
    match settings.policy {
        Policy::None => Some(Hint::default()),
        Policy::BestEffort => Some(best(settings, numa, &lists)),
        Policy::Restricted => Some(best(settings, numa, &lists)).filter(|h| h.preferred),
        Policy::SingleNumaNode => {
            for list in &mut lists {
                list.retain(|h| h.preferred && h.nodes.count_ones() <= 1);
            }
            let mut hint = best(settings, numa, &lists);
            if hint.nodes == numa.mask() {
                hint.nodes = 0;
            }
            Some(hint).filter(|h| h.preferred)
        }
    }
}

/// A list for each resource; who has no preference takes any node, who can't serve would have to take any as well.
fn lists(hints: &[Hints]) -> Vec<Vec<Hint>> {
    let any = |preferred| {
        let nodes = 0;
        vec![Hint { nodes, preferred }]
    };
    let mut lists = Vec::new();
    for of_provider in hints {
        if of_provider.is_empty() {
            lists.push(any(true));
        }
        lists.extend(of_provider.values().map(|list| match list {
            None => any(true),
            Some(list) if list.is_empty() => any(false),
            Some(list) => list.clone(),
        }));
    }
    lists
}

/// The best of what is left when one hint of each list is taken and all hold at once.
fn best(settings: &Settings, numa: &Numa, lists: &[Vec<Hint>]) -> Hint {
    let all = numa.mask();
    // Choices that leave the same are one: there are never more than sets of nodes, however many lists there are.
    let mut left = BTreeSet::from([Left::all(all)]);
    for list in lists {
        let with = left.iter().flat_map(|l| list.iter().map(|h| l.with(*h)));
        left = with.collect();
    }
    let wide = wide(lists);
    let candidates = left.iter().filter(|l| l.nodes != 0);
    let candidates = candidates.map(|l| Hint {
        nodes: l.nodes,
        preferred: l.preferred,
    });
    let best = candidates.reduce(|current, c| better(settings, numa, wide, current, c));
    best.unwrap_or(Hint {
        nodes: all,
        preferred: false,
    })
}

/// What is left when some hints hold at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Left {
    /// Nodes that suit all.
    nodes: u64,
    /// Each prefers its own, and they are the same.
    preferred: bool,
    /// Those; 0 while nobody has named any, or when it does not matter any more.
    named: u64,
}

impl Left {
    fn all(nodes: u64) -> Self {
        Self {
            nodes,
            preferred: true,
            named: 0,
        }
    }

    fn with(self, hint: Hint) -> Self {
        let (nodes, named) = match hint.nodes {
            0 => (self.nodes, self.named),
            named => (self.nodes & named, named),
        };
        let same = self.named == 0 || self.named == named;
        let preferred = self.preferred && hint.preferred && same;
        Self {
            nodes,
            preferred,
            named: if preferred { named } else { 0 },
        }
    }
}

/// How many nodes the one takes who can't do with fewer: what is not preferred had better be as wide.
fn wide(lists: &[Vec<Hint>]) -> u32 {
    let least = |list: &Vec<Hint>| {
        let counts = list.iter().map(|h| h.nodes.count_ones());
        counts.filter(|n| *n > 0).min()
    };
    lists.iter().filter_map(least).max().unwrap_or(0)
}

fn better(settings: &Settings, numa: &Numa, wide: u32, current: Hint, candidate: Hint) -> Hint {
    let fitter = || match fits(settings, numa, candidate.nodes, current.nodes) {
        true => candidate,
        false => current,
    };
    if current.preferred || candidate.preferred {
        return match (current.preferred, candidate.preferred) {
            (true, true) => fitter(),
            (true, false) => current,
            _ => candidate,
        };
    }
    let (has, would) = (current.nodes.count_ones(), candidate.nodes.count_ones());
    if has > wide || has == would {
        return fitter();
    }
    // It is not too wide: what brings it closer to the width is better, what is wider than that is not.
    match would > has && would <= wide {
        true => candidate,
        false => current,
    }
}

/// Whether a set of nodes is to be taken rather than another.
fn fits(settings: &Settings, numa: &Numa, nodes: u64, than: u64) -> bool {
    let by_distance = settings.prefer_closest && settings.policy != Policy::SingleNumaNode;
    if by_distance && nodes.count_ones() == than.count_ones() {
        let closer = numa.mean(nodes).total_cmp(&numa.mean(than));
        return closer.then(narrower(nodes, than)).is_lt();
    }
    narrower(nodes, than).is_lt()
}
