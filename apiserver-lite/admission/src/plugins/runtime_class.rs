//! A pod's runtime class adds its overhead and where it runs.

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, entries, items, object, set, text};
use serde_json::Value;

use super::{array, makes_pod};
use crate::{Lookup, Plugin, Request};

/// `RuntimeClass`.
pub(crate) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        pod: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        if !makes_pod(req) {
            return Ok(());
        }
        match find(req, pod, lookup).await? {
            Some(class) => apply(pod, &class).map_err(|why| req.forbidden(&why)),
            None => Ok(()),
        }
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        pod: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        if !makes_pod(req) || entries(pod, "/spec/overhead").next().is_none() {
            return Ok(());
        }
        match find(req, pod, lookup).await? {
            Some(class) if at(&class, "/overhead/podFixed") == at(pod, "/spec/overhead") => Ok(()),
            _ => Err(req.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
        }
    }
}

async fn find(
    req: &Request<'_>,
    pod: &Value,
    lookup: &dyn Lookup,
) -> Result<Option<Value>, Status> {
    let name = text(pod, "/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    match lookup
        .get("node.k8s.io", "v1", "runtimeclasses", "", name)
        .await?
    {
        Some(class) => Ok(Some(class)),
        None => Err(req.forbidden(&format!("pod rejected: RuntimeClass \"{name}\" not found"))),
    }
}

fn apply(pod: &mut Value, class: &Value) -> Result<(), String> {
    let overhead = at(class, "/overhead/podFixed");
    if !overhead.is_null() {
        let given = at(pod, "/spec/overhead");
        if !given.is_null() && given != overhead {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
                    .to_owned(),
            );
        }
        if let Some(spec) = pod.get_mut("spec") {
            set(spec, "overhead", overhead.clone());
        }
    }
    for (key, value) in entries(class, "/scheduling/nodeSelector") {
        let spec = pod.get_mut("spec");
        let Some(selector) = spec.and_then(|s| object(s, "nodeSelector")) else {
            break;
        };
        match selector.get(key) {
            Some(given) if given != value => {
                return Err(format!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; \
                     pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    given.as_str().unwrap_or_default(),
                ));
            }
            _ => set(selector, key, value.clone()),
        }
    }
    let more = items(class, "/scheduling/tolerations");
    if !more.is_empty()
        && let Some(tolerations) = array(pod, "spec", "tolerations")
    {
        for toleration in more {
            if !tolerations.contains(toleration) {
                tolerations.push(toleration.clone());
            }
        }
    }
    Ok(())
}
