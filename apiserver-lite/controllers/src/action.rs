//! What a plan wants done: values, carried out by one applier for all controllers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
    PropagationPolicy,
};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::informer::Key;

/// An object by kind, namespace and name.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Kind.
    pub resource: ApiResource,
    /// Namespace and name.
    pub key: Key,
    /// UID that it must have, so that a namesake made meanwhile is left alone.
    pub uid: Option<String>,
    /// Resource version that it must have, where the plan depends on it.
    pub version: Option<String>,
}

impl Target {
    /// An object at hand, whatever version it has by then.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self {
            resource: ApiResource::erase::<K>(&()),
            key: Key::of(object),
            uid: object.uid(),
            version: None,
        }
    }

    /// Only if the object has not changed since.
    #[must_use]
    pub fn unchanged<K: Resource>(mut self, object: &K) -> Self {
        self.version = object.resource_version();
        self
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make an object.
    Create {
        /// Kind.
        resource: ApiResource,
        /// The object, with its namespace.
        object: Value,
        /// Whose events tell of it, since its name is known only then.
        told_by: Option<Target>,
    },
    /// Change an object by a JSON merge patch.
    Patch {
        /// Which.
        target: Target,
        /// What changes.
        patch: Value,
        /// `status`, another subresource, or the object itself.
        subresource: Option<&'static str>,
    },
    /// Put a whole object (or a subresource that knows no patch).
    Replace {
        /// Which.
        target: Target,
        /// The object.
        object: Value,
        /// Such as `finalize`.
        subresource: Option<&'static str>,
    },
    /// Delete an object.
    Delete {
        /// Which.
        target: Target,
        /// What becomes of what it owns.
        propagation: PropagationPolicy,
        /// Seconds that its pod may take to end; `None`: its own.
        grace: Option<u32>,
    },
    /// Tell people: an event about an object.
    Event {
        /// About which.
        about: Target,
        /// `Normal` or `Warning`.
        kind: &'static str,
        /// Such as `ScalingReplicaSet`.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

impl Action {
    /// Makes an object.
    pub fn create<K: Resource<DynamicType = ()> + serde::Serialize>(object: &K) -> Self {
        Self::Create {
            resource: ApiResource::erase::<K>(&()),
            // Kubernetes types have string keys only: they always serialise.
            object: serde_json::to_value(object).unwrap_or_default(),
            told_by: None,
        }
    }

    /// Makes an object, told in an event `SuccessfulCreate` of its owner.
    pub fn create_told<K>(object: &K, owner: Target) -> Self
    where
        K: Resource<DynamicType = ()> + serde::Serialize,
    {
        match Self::create(object) {
            Self::Create {
                resource, object, ..
            } => Self::Create {
                resource,
                object,
                told_by: Some(owner),
            },
            other => other,
        }
    }

    /// Changes an object.
    pub fn patch(target: Target, patch: Value) -> Self {
        Self::Patch {
            target,
            patch,
            subresource: None,
        }
    }

    /// Makes an object's status this one: what it no longer has is taken away too, which a merge patch does only
    /// when told.
    pub fn whole_status<S: serde::Serialize>(target: Target, old: Option<&S>, new: &S) -> Self {
        let (old, mut new) = (json!(old), json!(new));
        take_away(&old, &mut new);
        Self::status(target, new)
    }

    /// Changes some fields of an object's status.
    pub fn status(target: Target, status: Value) -> Self {
        Self::Patch {
            target,
            patch: json!({ "status": status }),
            subresource: Some("status"),
        }
    }

    /// Deletes an object, and what it owns in the background.
    pub fn delete(target: Target) -> Self {
        Self::Delete {
            target,
            propagation: PropagationPolicy::Background,
            grace: None,
        }
    }

    /// Deletes a pod that nobody will end any more.
    pub fn delete_now(target: Target) -> Self {
        Self::Delete {
            target,
            propagation: PropagationPolicy::Background,
            grace: Some(0),
        }
    }
}

/// Makes a value a merge patch that leaves nothing of an old one.
fn take_away(old: &Value, new: &mut Value) {
    if let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) {
        for (field, old) in old {
            match new.get_mut(field) {
                Some(new) => take_away(old, new),
                None => drop(new.insert(field.clone(), Value::Null)),
            }
        }
    }
}

/// What an action gave back.
#[derive(Debug)]
pub enum Done {
    /// The object as it is now.
    Object(Box<DynamicObject>),
    /// It is gone, or there was nothing to do.
    Nothing,
}

/// Carries an action out. What is gone already counts as deleted; events never fail a plan.
pub async fn apply(
    client: &Client,
    controller: &str,
    action: &Action,
) -> Result<Done, kube::Error> {
    match action {
        Action::Create {
            resource,
            object,
            told_by,
        } => {
            let object: DynamicObject =
                serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
            let api = api(client, resource, object.metadata.namespace.as_deref());
            let params = PostParams {
                field_manager: Some(controller.to_owned()),
                ..PostParams::default()
            };
            let made = api.create(&params, &object).await?;
            if let Some(owner) = told_by {
                let what = resource.kind.to_lowercase();
                let message = format!("Created {what}: {}", made.name_any());
                record(
                    client,
                    controller,
                    &event(controller, owner, "Normal", "SuccessfulCreate", &message),
                )
                .await;
            }
            Ok(Done::Object(Box::new(made)))
        }
        Action::Patch {
            target,
            patch,
            subresource,
        } => {
            let mut patch = patch.clone();
            if let Some(version) = &target.version {
                patch["metadata"]["resourceVersion"] = json!(version);
            }
            if let Some(uid) = &target.uid {
                patch["metadata"]["uid"] = json!(uid);
            }
            let api = api(client, &target.resource, target.key.namespace());
            let params = PatchParams {
                field_manager: Some(controller.to_owned()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(&patch);
            let name = &target.key.name;
            let object = match subresource {
                Some(sub) => api.patch_subresource(sub, name, &params, &patch).await?,
                None => api.patch(name, &params, &patch).await?,
            };
            Ok(Done::Object(Box::new(object)))
        }
        Action::Replace {
            target,
            object,
            subresource,
        } => {
            let api = api(client, &target.resource, target.key.namespace());
            let params = PostParams {
                field_manager: Some(controller.to_owned()),
                ..PostParams::default()
            };
            let name = &target.key.name;
            let object = match subresource {
                Some(sub) => api.replace_subresource(sub, name, &params, object).await?,
                None => {
                    let object =
                        serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
                    api.replace(name, &params, &object).await?
                }
            };
            Ok(Done::Object(Box::new(object)))
        }
        Action::Delete {
            target,
            propagation,
            grace,
        } => {
            let api = api(client, &target.resource, target.key.namespace());
            let preconditions = Preconditions {
                uid: target.uid.clone(),
                resource_version: target.version.clone(),
            };
            let params = DeleteParams {
                propagation_policy: Some(propagation.clone()),
                preconditions: Some(preconditions),
                grace_period_seconds: *grace,
                ..DeleteParams::default()
            };
            match api.delete(&target.key.name, &params).await {
                Ok(either) => Ok(either
                    .left()
                    .map_or(Done::Nothing, |o| Done::Object(Box::new(o)))),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Done::Nothing),
                Err(error) => Err(error),
            }
        }
        Action::Event {
            about,
            kind,
            reason,
            message,
        } => {
            record(
                client,
                controller,
                &event(controller, about, kind, reason, message),
            )
            .await;
            Ok(Done::Nothing)
        }
    }
}

/// Why the API refused to make what is told in events: not a lost race, which is tried again.
pub fn refusal(action: &Action, error: &kube::Error) -> Option<String> {
    match (action, error) {
        (
            Action::Create {
                told_by: Some(_), ..
            },
            kube::Error::Api(status),
        ) if !matches!(status.code, 404 | 409) => Some(status.message.clone()),
        _ => None,
    }
}

/// Tells the owner of what could not be made.
pub async fn tell_refusal(client: &Client, controller: &str, action: &Action, why: &str) {
    if let Action::Create {
        told_by: Some(owner),
        ..
    } = action
    {
        let message = format!("Error creating: {why}");
        let event = event(controller, owner, "Warning", "FailedCreate", &message);
        record(client, controller, &event).await;
    }
}

/// Records an event. One that can't be recorded never fails a plan.
async fn record(client: &Client, controller: &str, event: &k8s_openapi::api::core::v1::Event) {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let events = Api::<k8s_openapi::api::core::v1::Event>::namespaced(client.clone(), namespace);
    if let Err(error) = events.create(&PostParams::default(), event).await {
        let (about, reason) = (
            event.involved_object.name.as_deref(),
            event.reason.as_deref(),
        );
        tracing::debug!(controller, object = about, reason, %error, "event not recorded");
    }
}

fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace.filter(|n| !n.is_empty()) {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

fn event(
    controller: &str,
    about: &Target,
    kind: &str,
    reason: &str,
    message: &str,
) -> k8s_openapi::api::core::v1::Event {
    use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
    let now = jiff::Timestamp::now();
    Event {
        metadata: ObjectMeta {
            // Upstream's form: the object's name and the time in nanoseconds.
            name: Some(format!("{}.{:x}", about.key.name, now.as_nanosecond())),
            namespace: Some(about.key.namespace().unwrap_or("default").to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(about.resource.api_version.clone()),
            kind: Some(about.resource.kind.clone()),
            name: Some(about.key.name.clone()),
            namespace: about.key.namespace().map(str::to_owned),
            uid: about.uid.clone(),
            resource_version: about.version.clone(),
            ..ObjectReference::default()
        },
        type_: Some(kind.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        source: Some(EventSource {
            component: Some(controller.to_owned()),
            host: None,
        }),
        reporting_component: Some(controller.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        event_time: None::<MicroTime>,
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_an_old_status() {
        for (old, new, patch) in [
            (
                json!({"a": 1, "b": 2}),
                json!({"a": 1}),
                json!({"a": 1, "b": null}),
            ),
            (
                json!({"a": {"b": 1, "c": 2}}),
                json!({"a": {"c": 3}}),
                json!({"a": {"b": null, "c": 3}}),
            ),
            (json!({"a": [1]}), json!({"a": []}), json!({"a": []})),
            (json!(null), json!({"a": {}}), json!({"a": {}})),
        ] {
            let mut made = new.clone();
            take_away(&old, &mut made);
            assert_eq!(made, patch, "{old} -> {new}");
        }
    }
}
