//! How many pods each ReplicaSet is to have now.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::template::{DESIRED, MAX};

/// How far a rollout may stray from the wanted number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Wanted.
    pub(super) replicas: i32,
    /// So many more.
    pub(super) surge: i32,
    /// So many not available.
    pub(super) unavailable: i32,
}

impl Bounds {
    pub(super) fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let rolling = spec
            .strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        if is_recreate(spec) {
            return Self {
                replicas,
                surge: 0,
                unavailable: 0,
            };
        }
        let surge = figure(rolling.and_then(|r| r.max_surge.as_ref()), replicas, true);
        let unavailable = figure(
            rolling.and_then(|r| r.max_unavailable.as_ref()),
            replicas,
            false,
        )
        .min(replicas);
        // Rounding may leave no room at all: then one may be missing, or nothing would ever move.
        let unavailable = if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable
        };
        Self {
            replicas,
            surge,
            unavailable,
        }
    }

    /// Most pods at any time.
    pub(super) fn most(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }
}

/// A number or a percentage of `total` (25% when nothing is said).
fn figure(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    let percent = |text: &str| text.trim_end_matches('%').parse::<i64>().unwrap_or(0);
    let of = |percent: i64| {
        let exact = i64::from(total) * percent;
        i32::try_from(if up { (exact + 99) / 100 } else { exact / 100 }).unwrap_or(i32::MAX)
    };
    match value {
        None => of(25),
        Some(IntOrString::Int(n)) => (*n).max(0),
        Some(IntOrString::String(text)) => of(percent(text).max(0)),
    }
}

/// A ReplicaSet and the size it is to have.
pub(super) struct Scale<'a> {
    pub(super) set: &'a ReplicaSet,
    pub(super) to: i32,
}

/// Wanted size of a ReplicaSet.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|s| s.available_replicas)
        .unwrap_or(0)
}

fn total(sets: &[&ReplicaSet]) -> i32 {
    sets.iter().map(|s| size(s)).sum()
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// Whether the new ReplicaSet may be made: with Recreate, only when no old pod is left.
pub(super) fn may_create(spec: &DeploymentSpec, old: &[&ReplicaSet], running: usize) -> bool {
    !is_recreate(spec) || (running == 0 && total(old) == 0)
}

/// The size a new ReplicaSet begins with.
pub(super) fn first_size(spec: &DeploymentSpec, old: &[&ReplicaSet], bounds: &Bounds) -> i32 {
    if is_recreate(spec) {
        return bounds.replicas;
    }
    bounds
        .most()
        .saturating_sub(total(old))
        .clamp(0, bounds.replicas)
}

/// Decides all sizes.
pub(super) fn decide<'a>(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    new: &mut Option<&'a ReplicaSet>,
    old: &[&'a ReplicaSet],
    running: usize,
    bounds: &Bounds,
) -> Vec<Scale<'a>> {
    if spec.paused == Some(true) || is_scaling(deployment, *new, old, bounds) {
        return proportional(*new, old, bounds);
    }
    if is_recreate(spec) {
        return recreate(*new, old, running, bounds);
    }
    rolling(*new, old, bounds)
}

/// Whether the wanted number changed since the sizes were set.
fn is_scaling(
    _: &Deployment,
    new: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    bounds: &Bounds,
) -> bool {
    let desired = |s: &ReplicaSet| {
        s.annotations()
            .get(DESIRED)
            .and_then(|d| d.parse::<i32>().ok())
    };
    let mut with_pods = old.iter().copied().chain(new).filter(|s| size(s) > 0);
    with_pods.any(|s| desired(s).is_some_and(|d| d != bounds.replicas))
}

/// Spreads a change of the wanted number over all sets that have pods, by their shares.
fn proportional<'a>(
    new: Option<&'a ReplicaSet>,
    old: &[&'a ReplicaSet],
    bounds: &Bounds,
) -> Vec<Scale<'a>> {
    let mut sets: Vec<&ReplicaSet> = old
        .iter()
        .copied()
        .chain(new)
        .filter(|s| size(s) > 0)
        .collect();
    let [] = sets.as_slice() else {
        if let [only] = sets.as_slice() {
            return changed(
                vec![Scale {
                    set: only,
                    to: bounds.replicas,
                }],
                bounds,
            );
        }
        let allowed = if bounds.replicas > 0 {
            bounds.most()
        } else {
            0
        };
        let mut left = allowed - total(&sets);
        let grows = left > 0;
        // The biggest first, so that rounding is theirs; when shrinking the oldest of equals.
        sets.sort_by_key(|s| {
            (
                std::cmp::Reverse(size(s)),
                s.creation_timestamp().map(|t| t.0),
            )
        });
        let last = sets.len() - 1;
        let mut scales = Vec::new();
        for (i, set) in sets.into_iter().enumerate() {
            let most = set
                .annotations()
                .get(MAX)
                .and_then(|m| m.parse::<i32>().ok())
                .filter(|m| *m > 0)
                .unwrap_or(bounds.most());
            let share = (f64::from(size(set)) * f64::from(allowed) / f64::from(most)).round()
                as i32
                - size(set);
            let share = if i == last {
                left
            } else if grows {
                share.clamp(0, left)
            } else {
                share.clamp(left, 0)
            };
            left -= share;
            scales.push(Scale {
                set,
                to: (size(set) + share).max(0),
            });
        }
        return changed(scales, bounds);
    };
    let latest = new.or(old.last().copied());
    changed(
        latest
            .map(|set| Scale {
                set,
                to: bounds.replicas,
            })
            .into_iter()
            .collect(),
        bounds,
    )
}

/// Leaves out sets that have their size, and the note of it, already.
fn changed<'a>(scales: Vec<Scale<'a>>, bounds: &Bounds) -> Vec<Scale<'a>> {
    let noted = |s: &ReplicaSet| {
        s.annotations()
            .get(DESIRED)
            .is_some_and(|d| *d == bounds.replicas.to_string())
    };
    scales
        .into_iter()
        .filter(|s| s.to != size(s.set) || !noted(s.set))
        .collect()
}

fn recreate<'a>(
    new: Option<&'a ReplicaSet>,
    old: &[&'a ReplicaSet],
    running: usize,
    bounds: &Bounds,
) -> Vec<Scale<'a>> {
    let down: Vec<Scale<'_>> = old
        .iter()
        .filter(|s| size(s) > 0)
        .map(|set| Scale { set, to: 0 })
        .collect();
    let pods_of_new = new
        .and_then(|n| n.status.as_ref())
        .map_or(0, |s| s.replicas);
    if !down.is_empty() || i64::from(pods_of_new) < i64::try_from(running).unwrap_or(i64::MAX) {
        return down;
    }
    new.filter(|n| size(n) != bounds.replicas)
        .map(|set| Scale {
            set,
            to: bounds.replicas,
        })
        .into_iter()
        .collect()
}

fn rolling<'a>(
    new: Option<&'a ReplicaSet>,
    old: &[&'a ReplicaSet],
    bounds: &Bounds,
) -> Vec<Scale<'a>> {
    let Some(new) = new else { return Vec::new() };
    let all = size(new) + total(old);
    if size(new) > bounds.replicas {
        return vec![Scale {
            set: new,
            to: bounds.replicas,
        }];
    }
    if size(new) < bounds.replicas && all < bounds.most() {
        let room = (bounds.most() - all).min(bounds.replicas - size(new));
        return vec![Scale {
            set: new,
            to: size(new) + room,
        }];
    }
    shrink(new, old, bounds)
}

/// Takes pods from old sets: first those that are not available anyway, then as many as may be missing.
fn shrink<'a>(new: &'a ReplicaSet, old: &[&'a ReplicaSet], bounds: &Bounds) -> Vec<Scale<'a>> {
    let least = bounds.replicas - bounds.unavailable;
    let not_yet = size(new) - available(new);
    let mut may_go = size(new) + total(old) - least - not_yet;
    let mut sizes: Vec<(&ReplicaSet, i32)> = old.iter().map(|s| (*s, size(s))).collect();
    sizes.sort_by_key(|(s, _)| s.creation_timestamp().map(|t| t.0));
    for (set, to) in &mut sizes {
        let broken = (size(set) - available(set)).clamp(0, may_go.max(0));
        *to -= broken;
        may_go -= broken;
    }
    let left: i32 = sizes.iter().map(|(s, to)| available(s).min(*to)).sum();
    let mut may_go = available(new) + left - least;
    for (_, to) in &mut sizes {
        let taken = (*to).clamp(0, may_go.max(0));
        *to -= taken;
        may_go -= taken;
    }
    sizes
        .into_iter()
        .filter(|(s, to)| size(s) != *to)
        .map(|(set, to)| Scale { set, to })
        .collect()
}
