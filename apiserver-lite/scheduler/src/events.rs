//! Events on pods (`events.k8s.io/v1`). The same thing said again counts up the event that said it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::model::Pod;

/// What to say.
pub(crate) struct Saying<'a> {
    pub(crate) is_warning: bool,
    pub(crate) reason: &'a str,
    pub(crate) action: &'a str,
    pub(crate) note: String,
}

/// The last event on a pod.
struct Said {
    name: String,
    reason: String,
    note: String,
    count: i32,
}

pub(crate) struct Recorder {
    client: Client,
    reporter: String,
    last: Mutex<HashMap<String, Said>>,
}

impl Recorder {
    pub(crate) fn new(client: Client, reporter: &str) -> Self {
        Self {
            client,
            reporter: reporter.into(),
            last: Mutex::default(),
        }
    }

    /// A pod is gone or placed: nothing more will be said about it.
    pub(crate) fn forget(&self, uid: &str) {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }

    pub(crate) async fn say(&self, pod: &Pod, saying: Saying<'_>) -> Result<(), kube::Error> {
        let events = Api::<Event>::namespaced(self.client.clone(), &pod.namespace);
        if let Some((name, count)) = self.again(pod, &saying) {
            let series = json!({"series": {"count": count, "lastObservedTime": MicroTime(Timestamp::now())}});
            let done = events
                .patch(&name, &PatchParams::default(), &Patch::Merge(series))
                .await;
            // It may have expired meanwhile; then it is said anew.
            if !matches!(&done, Err(kube::Error::Api(status)) if status.code == 404) {
                return done.map(drop);
            }
        }
        let event = self.event(pod, &saying);
        let name = event.metadata.name.clone().unwrap_or_default();
        events.create(&PostParams::default(), &event).await?;
        let said = Said {
            name,
            reason: saying.reason.into(),
            note: saying.note,
            count: 1,
        };
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pod.uid.clone(), said);
        Ok(())
    }

    /// The event that said the same, and how often it was said with this time.
    fn again(&self, pod: &Pod, saying: &Saying) -> Option<(String, i32)> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let said = last.get_mut(&pod.uid)?;
        let is_same = said.reason == saying.reason && said.note == saying.note;
        is_same.then(|| {
            said.count += 1;
            (said.name.clone(), said.count)
        })
    }

    fn event(&self, pod: &Pod, saying: &Saying) -> Event {
        let now = Timestamp::now();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.name, now.as_nanosecond())),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name.clone()),
                namespace: Some(pod.namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            }),
            type_: Some(
                if saying.is_warning {
                    "Warning"
                } else {
                    "Normal"
                }
                .into(),
            ),
            reason: Some(saying.reason.into()),
            action: Some(saying.action.into()),
            note: Some(saying.note.clone()),
            reporting_controller: Some(self.reporter.clone()),
            reporting_instance: Some(self.reporter.clone()),
            ..Event::default()
        }
    }
}
