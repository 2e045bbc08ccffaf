//! The plan of a DaemonSet.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::placement::{bind, fits, node_of};
use super::update::{Step, Update};
use crate::action::{Action, Target};
use crate::claim::claim;
use crate::owner::controls;
use crate::pod::{active, age_of_readiness, available, child, failed_now, is_ready, retry_in};
use crate::revision::{self, HASH};
use crate::runner::Outcome;

/// What there is.
#[derive(Default)]
pub struct Around {
    /// Pods of the set's namespace.
    pub pods: Vec<Arc<Pod>>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Revisions of the set's namespace.
    pub revisions: Vec<Arc<ControllerRevision>>,
}

/// A node, whether it should have a pod, and the pods it has, oldest first.
pub(super) struct Place<'a> {
    pub(super) node: &'a str,
    pub(super) wanted: bool,
    may_stay: bool,
    pub(super) pods: Vec<&'a Pod>,
}

/// Decides for a DaemonSet.
pub fn plan(set: &DaemonSet, around: &Around, now: Timestamp) -> Outcome {
    let Some(spec) = &set.spec else {
        return Outcome::default();
    };
    let names: Vec<String> = around.nodes.iter().map(|n| n.name_any()).collect();
    let places = places(set, spec, around, &names);
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    let (revision, make) = revision::ensure(
        set,
        &spec.template,
        collisions.unwrap_or(0),
        &around.revisions,
    );
    // Pods carry the hash, as upstream's do, revisions their whole name.
    let hash = revision
        .rsplit_once('-')
        .map_or(revision.as_str(), |(_, h)| h);
    let min_ready = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let well = |p: &Pod| p.metadata.deletion_timestamp.is_none() && available(p, min_ready, now);
    let takes = |p: &Pod| super::takes(set, p);
    let mut actions = claim(set, &around.pods, &takes, &active, None);
    actions.extend(make);
    // Told before pods are made: the API may refuse them.
    let status = status(set, &places, hash, &well);
    if set.status.as_ref() != Some(&status) {
        actions.push(Action::whole_status(
            Target::of(set),
            set.status.as_ref(),
            &status,
        ));
    }
    let mut wake = None;
    if set.metadata.deletion_timestamp.is_none() {
        let update = Update::new(spec, &places, hash, &well);
        let make = |node: &str| create(set, spec, node, hash);
        let (placed, retry) = manage(set, &places, &update, &make, now);
        let settled = placed.is_empty();
        wake = retry;
        actions.extend(placed);
        if settled {
            actions.extend(update.steps(&places).into_iter().map(|step| match step {
                Step::Delete(pod) => Action::delete(Target::of(pod)),
                Step::Create(node) => make(node),
            }));
        }
        let limit = spec.revision_history_limit;
        actions.extend(revision::clean_up(
            set,
            &around.revisions,
            &[&revision],
            limit,
        ));
    }
    let ages = places
        .iter()
        .flat_map(|p| &p.pods)
        .filter_map(|p| age_of_readiness(p, now));
    let soon = ages.map(|age| min_ready - age).filter(|l| *l > 0);
    Outcome {
        actions,
        again: soon
            .chain(wake)
            .min()
            .map(|s| std::time::Duration::from_secs(s.unsigned_abs())),
    }
}

fn places<'a>(
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    around: &'a Around,
    names: &'a [String],
) -> Vec<Place<'a>> {
    let mut on: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    let own = around
        .pods
        .iter()
        .filter(|p| controls(set, p.as_ref()) && super::takes(set, p));
    for pod in own {
        if let Some(node) = node_of(pod) {
            on.entry(node).or_default().push(pod);
        }
    }
    let template = spec.template.spec.clone().unwrap_or_default();
    let nodes = around.nodes.iter().zip(names);
    nodes
        .map(|(node, name)| {
            let (wanted, may_stay) = fits(&template, node);
            let mut pods = on.remove(name.as_str()).unwrap_or_default();
            pods.sort_by_key(|p| (p.creation_timestamp().map(|t| t.0), p.name_any()));
            Place {
                node: name,
                wanted,
                may_stay,
                pods,
            }
        })
        .collect()
}

/// One pod where one is wanted, none where none may stay; and in how many seconds an ended one may be made anew.
fn manage(
    set: &DaemonSet,
    places: &[Place<'_>],
    update: &Update<'_>,
    make: &dyn Fn(&str) -> Action,
    now: Timestamp,
) -> (Vec<Action>, Option<i64>) {
    let (mut actions, mut wake) = (Vec::new(), None);
    let delete = |p: &Pod| {
        let here = p.metadata.deletion_timestamp.is_none();
        here.then(|| Action::delete(Target::of(p)))
    };
    for place in places {
        let (ended, living): (Vec<&Pod>, Vec<&Pod>) =
            place.pods.iter().copied().partition(|p| failed_now(p));
        if !place.may_stay {
            actions.extend(place.pods.iter().filter_map(|p| delete(p)));
        } else if place.pods.is_empty() && place.wanted {
            actions.push(make(place.node));
        } else {
            // An ended one is made anew when it is gone.
            for pod in ended {
                if let Some(left) = retry_in(pod, now) {
                    wake = wake.into_iter().chain([left]).min();
                } else if let Some(delete) = delete(pod) {
                    actions.extend([tell(set, pod, place.node), delete]);
                }
            }
            let here = living.into_iter();
            let here = here.filter(|p| p.metadata.deletion_timestamp.is_none());
            let surplus = update.superfluous(&here.collect::<Vec<_>>());
            actions.extend(surplus.into_iter().filter_map(delete));
        }
    }
    (actions, wake)
}

fn create(set: &DaemonSet, spec: &DaemonSetSpec, node: &str, hash: &str) -> Action {
    let mut template = spec.template.clone();
    bind(template.spec.get_or_insert_default(), node);
    let mut pod = child(set, Some(&template));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.into(), hash.into());
    Action::create_told(&pod, Target::of(set))
}

/// Tells that an ended pod is made anew.
fn tell(set: &DaemonSet, pod: &Pod, node: &str) -> Action {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let failed = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed");
    let (kind, reason, what) = match failed {
        true => ("Warning", "FailedDaemonPod", "failed"),
        false => ("Normal", "SucceededDaemonPod", "succeeded"),
    };
    let verb = if failed { "kill" } else { "delete" };
    Action::Event {
        about: Target::of(set),
        kind,
        reason,
        message: format!("Found {what} daemon pod {name} on node {node}, will try to {verb} it"),
    }
}

fn status(
    set: &DaemonSet,
    places: &[Place<'_>],
    hash: &str,
    well: &dyn Fn(&Pod) -> bool,
) -> DaemonSetStatus {
    let count = |f: &dyn Fn(&Place<'_>) -> bool| {
        i32::try_from(places.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
    };
    let first =
        |p: &Place<'_>, f: &dyn Fn(&Pod) -> bool| p.wanted && p.pods.first().is_some_and(|p| f(p));
    let desired = count(&|p| p.wanted);
    let ready = count(&|p| first(p, &is_ready));
    let available = count(&|p| first(p, well));
    let old = set.status.as_ref();
    DaemonSetStatus {
        observed_generation: set.metadata.generation,
        desired_number_scheduled: desired,
        current_number_scheduled: count(&|p| p.wanted && !p.pods.is_empty()),
        number_misscheduled: count(&|p| !p.wanted && !p.pods.is_empty()),
        number_ready: ready,
        number_available: Some(available).filter(|n| *n > 0),
        number_unavailable: Some(desired - available).filter(|n| *n > 0),
        updated_number_scheduled: Some(count(&|p| {
            first(p, &|p| p.labels().get(HASH).is_some_and(|h| h == hash))
        }))
        .filter(|n| *n > 0),
        collision_count: old.and_then(|s| s.collision_count),
        conditions: old.and_then(|s| s.conditions.clone()),
    }
}
