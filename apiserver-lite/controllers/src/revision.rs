//! Revisions of a pod template, kept as ControllerRevisions: what StatefulSets and DaemonSets can be rolled back to.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::action::{Action, Target};
use crate::deployment::template_hash;
use crate::owner::{controls, reference};

/// Label of pods: the revision they were made from.
pub const HASH: &str = "controller-revision-hash";
/// Revisions that are kept beside those in use.
const KEEP: i32 = 10;

/// The revision of a template: its name, and what it takes for it to be there with the highest number.
pub fn ensure<P: Resource<DynamicType = ()>>(
    owner: &P,
    template: &PodTemplateSpec,
    collisions: i32,
    revisions: &[Arc<ControllerRevision>],
) -> (String, Option<Action>) {
    let own = revisions.iter().filter(|r| controls(owner, r.as_ref()));
    let last = own.map(|r| r.revision).max().unwrap_or(0);
    let data = data(template);
    let hash = template_hash(template, collisions);
    let name = format!("{}-{hash}", owner.name_any());
    let there = revisions.iter().find(|r| r.name_any() == name);
    let action = match there {
        Some(r) if r.revision == last => None,
        Some(r) => Some(Action::patch(
            Target::of(r.as_ref()).unchanged(r.as_ref()),
            json!({"revision": last + 1}),
        )),
        None => {
            let labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
            let mut labels = labels.unwrap_or_default();
            labels.insert(HASH.into(), hash);
            Some(Action::create(&ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: owner.namespace(),
                    labels: Some(labels),
                    owner_references: Some(vec![reference(owner)]),
                    ..ObjectMeta::default()
                },
                data: Some(RawExtension(data)),
                revision: last + 1,
            }))
        }
    };
    (name, action)
}

/// The template as kubectl applies it: a strategic merge patch that replaces the present one. Clients compare its text
/// with what they make of an object themselves, where Go's types always write these two fields.
fn data(template: &PodTemplateSpec) -> Value {
    let mut text = json!(template);
    if let Some(meta) = text["metadata"].as_object_mut() {
        meta.entry("creationTimestamp").or_insert(Value::Null);
    }
    for kind in ["containers", "initContainers"] {
        let all = text.pointer_mut(&format!("/spec/{kind}"));
        for container in all.and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.entry("resources").or_insert_with(|| json!({}));
            }
        }
    }
    text["$patch"] = json!("replace");
    json!({"spec": {"template": text}})
}

/// The template of a revision.
pub fn template(name: &str, revisions: &[Arc<ControllerRevision>]) -> Option<PodTemplateSpec> {
    let revision = revisions.iter().find(|r| r.name_any() == name)?;
    let template = revision.data.as_ref()?.0.pointer("/spec/template")?;
    serde_json::from_value(template.clone()).ok()
}

/// Deletes the oldest revisions that are not in use, beyond a limit.
pub fn clean_up<P: Resource<DynamicType = ()>>(
    owner: &P,
    revisions: &[Arc<ControllerRevision>],
    used: &[&str],
    limit: Option<i32>,
) -> Vec<Action> {
    let mut idle: Vec<_> = revisions
        .iter()
        .filter(|r| controls(owner, r.as_ref()) && !used.contains(&&*r.name_any()))
        .collect();
    idle.sort_by_key(|r| r.revision);
    let keep = usize::try_from(limit.unwrap_or(KEEP)).unwrap_or_default();
    let beyond = idle.len().saturating_sub(keep);
    idle.iter()
        .take(beyond)
        .map(|r| Action::delete(Target::of(r.as_ref())))
        .collect()
}
