//! Who owns what: the one controller among an object's owner references.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

use crate::informer::Key;

/// The reference to the controller, if there is one.
pub fn controller(object: &impl Resource) -> Option<&OwnerReference> {
    object
        .owner_references()
        .iter()
        .find(|r| r.controller == Some(true))
}

/// The key of the controller, if it is of a kind.
pub fn controller_key<P: Resource<DynamicType = ()>>(child: &impl Resource) -> Option<Key> {
    let owner = controller(child)
        .filter(|r| r.kind == P::kind(&()) && r.api_version == P::api_version(&()))?;
    Some(Key::new(
        child.namespace().unwrap_or_default(),
        owner.name.clone(),
    ))
}

/// Whether `owner` controls `child`.
pub fn controls(owner: &impl Resource, child: &impl Resource) -> bool {
    owner.uid().is_some() && controller(child).map(|r| Some(&r.uid)) == Some(owner.uid().as_ref())
}

/// A reference that makes `owner` the controller.
pub fn reference<P: Resource<DynamicType = ()>>(owner: &P) -> OwnerReference {
    OwnerReference {
        api_version: P::api_version(&()).into_owned(),
        kind: P::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether a selector takes labels. An empty selector takes all, an unknown operator none.
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let (value, values) = (labels.get(&e.key), e.values.as_deref().unwrap_or_default());
            match e.operator.as_str() {
                "In" => value.is_some_and(|v| values.contains(v)),
                "NotIn" => value.is_none_or(|v| !values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether a selector takes nothing in particular: a mistake that would gather everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector
        .match_labels
        .as_ref()
        .is_none_or(BTreeMap::is_empty)
        && selector
            .match_expressions
            .as_ref()
            .is_none_or(Vec::is_empty)
}
