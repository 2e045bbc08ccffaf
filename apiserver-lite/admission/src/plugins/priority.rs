//! A pod's priority class becomes its priority.

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, flag, has, int, set, text};
use serde_json::Value;

use super::makes_pod;
use crate::{Lookup, Operation, Plugin, Request};

/// `Priority`.
pub(crate) struct Priority;

const GROUP: (&str, &str, &str) = ("scheduling.k8s.io", "v1", "priorityclasses");
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        pod: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        if req.is("", "pods") && req.subresource.is_empty() && req.op == Operation::Update {
            keep_resolved(pod, req.old);
            return Ok(());
        }
        if !makes_pod(req) {
            return Ok(());
        }
        let class = resolve(req, pod, lookup).await?;
        let value = class.as_ref().and_then(|c| int(c, "/value")).unwrap_or(0);
        let policy = class.as_ref().map_or("", |c| text(c, "/preemptionPolicy"));
        let policy = if policy.is_empty() {
            DEFAULT_POLICY
        } else {
            policy
        };
        check_given(pod, value, policy).map_err(|why| req.forbidden(&why))?;
        if let Some(spec) = pod.get_mut("spec") {
            if let Some(class) = &class {
                set(spec, "priorityClassName", text(class, "/metadata/name"));
            }
            set(spec, "priority", value);
            set(spec, "preemptionPolicy", policy);
        }
        Ok(())
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        class: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        let writes = matches!(req.op, Operation::Create | Operation::Update);
        if !writes || !req.is(GROUP.0, GROUP.2) || !flag(class, "/globalDefault") {
            return Ok(());
        }
        let classes = lookup.list(GROUP.0, GROUP.1, GROUP.2, "").await?;
        let name = text(class, "/metadata/name");
        let other = classes
            .iter()
            .find(|c| flag(c, "/globalDefault") && text(c, "/metadata/name") != name);
        match other {
            Some(other) => Err(req.forbidden(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                text(other, "/metadata/name"),
            ))),
            None => Ok(()),
        }
    }
}

/// An update that leaves out what was resolved when the pod was made means no change.
fn keep_resolved(pod: &mut Value, old: Option<&Value>) {
    let Some((spec, old)) = pod.get_mut("spec").zip(old) else {
        return;
    };
    for key in ["priority", "preemptionPolicy"] {
        let was = at(old, &format!("/spec/{key}"));
        if !has(spec, &format!("/{key}")) && !was.is_null() {
            set(spec, key, was.clone());
        }
    }
}

/// The class the pod names, or the default one with the lowest value, if any.
async fn resolve(
    req: &Request<'_>,
    pod: &Value,
    lookup: &dyn Lookup,
) -> Result<Option<Value>, Status> {
    let name = text(pod, "/spec/priorityClassName");
    if name.is_empty() {
        let classes = lookup.list(GROUP.0, GROUP.1, GROUP.2, "").await?;
        let defaults = classes.into_iter().filter(|c| flag(c, "/globalDefault"));
        return Ok(defaults.min_by_key(|c| int(c, "/value")));
    }
    match lookup.get(GROUP.0, GROUP.1, GROUP.2, "", name).await? {
        Some(class) => Ok(Some(class)),
        None => Err(req.forbidden(&format!("no PriorityClass with name {name} was found"))),
    }
}

/// What the pod says itself must be what its class says.
fn check_given(pod: &Value, value: i64, policy: &str) -> Result<(), String> {
    if let Some(given) = int(pod, "/spec/priority").filter(|given| *given != value) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        ));
    }
    let given = text(pod, "/spec/preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        ));
    }
    Ok(())
}
