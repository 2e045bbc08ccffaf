//! Puts endpoints into slices, changing as few as possible: every change of a slice goes to every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use crate::action::{Action, Target};

/// What slices are made for.
pub(super) struct Parent {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) reference: OwnerReference,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Endpoints a slice takes.
    pub(super) most: usize,
}

/// Endpoints of one family and with the same ports.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) address_type: &'static str,
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// A slice as it should be; `of`: the one there is.
struct Draft<'a> {
    of: Option<&'a EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// The steps that lead from the slices there are to the groups. What is new comes before what goes, so that no
/// endpoint is missing meanwhile.
pub(super) fn pack(
    parent: &Parent,
    groups: Vec<Group>,
    existing: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let mut spare: Vec<&EndpointSlice> = existing.iter().map(Arc::as_ref).collect();
    let mut writes = Vec::new();
    for group in groups {
        let (own, rest) = spare.into_iter().partition(|s| holds(s, &group));
        spare = rest;
        let (drafts, emptied) = fill(parent, &group, own);
        spare.extend(emptied);
        writes.push((group, drafts));
    }
    let mut actions = Vec::new();
    for (group, drafts) in &writes {
        for draft in drafts {
            // To rewrite a slice that is left over is one change instead of two.
            let left = spare
                .iter()
                .position(|s| s.address_type == group.address_type);
            let of = match (draft.of, left) {
                (None, Some(at)) => Some(spare.swap_remove(at)),
                (of, _) => of,
            };
            match of {
                None => actions.push(create(parent, group, draft)),
                Some(slice) if draft.changed => {
                    actions.push(update(parent, group, slice, &draft.endpoints));
                }
                Some(_) => {}
            }
        }
    }
    actions.sort_by_key(|a| !matches!(a, Action::Create { .. }));
    actions.extend(spare.into_iter().map(|s| Action::delete(Target::of(s))));
    actions
}

fn holds(slice: &EndpointSlice, group: &Group) -> bool {
    let ports = slice.ports.as_deref().unwrap_or_default();
    slice.address_type == group.address_type
        && ports.len() == group.ports.len()
        && ports
            .iter()
            .all(|p| group.ports.iter().any(|g| port_key(p) == port_key(g)))
}

/// Ports without what is only spelled differently.
fn port_key(port: &EndpointPort) -> (&str, &str, Option<i32>, Option<&str>) {
    (
        port.name.as_deref().unwrap_or_default(),
        port.protocol.as_deref().unwrap_or("TCP"),
        port.port,
        port.app_protocol.as_deref(),
    )
}

type Id = (String, Option<String>);

fn id(endpoint: &Endpoint) -> Id {
    let address = endpoint.addresses.first().cloned().unwrap_or_default();
    (
        address,
        endpoint.target_ref.as_ref().and_then(|t| t.uid.clone()),
    )
}

/// Fills a group into its slices; gives the slices as they should be, and those that are empty now.
fn fill<'a>(
    parent: &Parent,
    group: &Group,
    own: Vec<&'a EndpointSlice>,
) -> (Vec<Draft<'a>>, Vec<&'a EndpointSlice>) {
    let all = group.endpoints.iter().cloned().map(|e| (id(&e), e));
    let mut missing: BTreeMap<Id, Endpoint> = all.collect();
    let keep = |slice| keep(parent, slice, &mut missing);
    let mut drafts: Vec<Draft<'a>> = own.into_iter().map(keep).collect();
    for draft in drafts.iter_mut().filter(|d| d.changed) {
        while draft.endpoints.len() < parent.most
            && let Some((_, endpoint)) = missing.pop_first()
        {
            draft.endpoints.push(endpoint);
        }
    }
    // An untouched slice is touched only if it takes all the rest: the fullest of those.
    let fits = drafts
        .iter_mut()
        .filter(|d| d.endpoints.len() + missing.len() <= parent.most);
    if !missing.is_empty()
        && let Some(draft) = fits.max_by_key(|d| d.endpoints.len())
    {
        draft.changed = true;
        draft
            .endpoints
            .extend(std::mem::take(&mut missing).into_values());
    }
    let rest: Vec<Endpoint> = missing.into_values().collect();
    drafts.extend(rest.chunks(parent.most).map(|c| Draft {
        of: None,
        endpoints: c.to_vec(),
        changed: true,
    }));
    let (full, mut empty): (Vec<_>, Vec<_>) =
        drafts.into_iter().partition(|d| !d.endpoints.is_empty());
    if group.endpoints.is_empty() {
        let nothing = || Draft {
            of: None,
            endpoints: Vec::new(),
            changed: true,
        };
        let first = if empty.is_empty() {
            nothing()
        } else {
            empty.remove(0)
        };
        return (
            vec![first],
            empty.into_iter().filter_map(|d| d.of).collect(),
        );
    }
    (full, empty.into_iter().filter_map(|d| d.of).collect())
}

/// A slice with the endpoints that it keeps, as they are now.
fn keep<'a>(
    parent: &Parent,
    slice: &'a EndpointSlice,
    missing: &mut BTreeMap<Id, Endpoint>,
) -> Draft<'a> {
    let owned = slice.owner_references().contains(&parent.reference);
    let annotations = parent
        .annotations
        .iter()
        .all(|(k, v)| slice.annotations().get(k) == Some(v));
    let mut changed = *slice.labels() != parent.labels || !owned || !annotations;
    let mut endpoints = Vec::new();
    for old in slice.endpoints.iter().flatten() {
        match missing.remove(&id(old)) {
            Some(new) => {
                changed |= new != *old;
                endpoints.push(new);
            }
            None => changed = true,
        }
    }
    Draft {
        of: Some(slice),
        endpoints,
        changed,
    }
}

fn create(parent: &Parent, group: &Group, draft: &Draft<'_>) -> Action {
    Action::create(&EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", parent.name)),
            namespace: Some(parent.namespace.clone()),
            labels: Some(parent.labels.clone()),
            annotations: Some(parent.annotations.clone()).filter(|a| !a.is_empty()),
            owner_references: Some(vec![parent.reference.clone()]),
            ..ObjectMeta::default()
        },
        address_type: group.address_type.into(),
        endpoints: Some(draft.endpoints.clone()),
        ports: Some(group.ports.clone()),
    })
}

fn update(parent: &Parent, group: &Group, slice: &EndpointSlice, endpoints: &[Endpoint]) -> Action {
    let gone = slice
        .labels()
        .keys()
        .filter(|k| !parent.labels.contains_key(*k));
    let mut labels: Map<String, Value> = gone.map(|k| (k.clone(), Value::Null)).collect();
    labels.extend(parent.labels.iter().map(|(k, v)| (k.clone(), json!(v))));
    let mut metadata = json!({"labels": labels, "ownerReferences": [parent.reference]});
    if !parent.annotations.is_empty() {
        metadata["annotations"] = json!(parent.annotations);
    }
    Action::patch(
        Target::of(slice).unchanged(slice),
        json!({"metadata": metadata, "endpoints": endpoints, "ports": group.ports}),
    )
}
