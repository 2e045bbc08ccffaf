//! Events about pods: the same one again only counts up.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use keelson_agent_plan::event::Event;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

/// Events waiting while the API is away; more are dropped, the oldest stay.
const QUEUE: usize = 1000;
/// Kinds of events remembered for counting.
const REMEMBERED: usize = 2000;
/// A series that was quiet for so long begins anew.
const QUIET: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
const TRIES: u32 = 5;

/// Where events go.
pub(crate) struct Recorder(mpsc::Sender<Item>);

struct Item {
    object: ObjectReference,
    event: Event,
    at: Timestamp,
}

impl Recorder {
    /// Starts the task that writes.
    pub(crate) fn start(client: kube::Client, node: &str) -> Self {
        let (tx, rx) = mpsc::channel(QUEUE);
        tokio::spawn(
            Task {
                client,
                node: node.to_owned(),
                known: HashMap::new(),
                serial: 0,
            }
            .run(rx),
        );
        Self(tx)
    }

    /// Tells about a pod.
    pub(crate) fn pod(&self, pod: &Pod, event: Event) {
        let m = &pod.metadata;
        let list = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref());
        let path = event.container.as_ref().map(|name| {
            let init = list.into_iter().flatten().any(|c| c.name == *name);
            format!(
                "spec.{}{{{name}}}",
                if init { "initContainers" } else { "containers" }
            )
        });
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: m.namespace.clone(),
            name: m.name.clone(),
            uid: m.uid.clone(),
            resource_version: m.resource_version.clone(),
            field_path: path,
        };
        self.send(object, event);
    }

    /// Tells about this node.
    pub(crate) fn node(&self, name: &str, event: Event) {
        let object = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        };
        self.send(object, event);
    }

    fn send(&self, object: ObjectReference, event: Event) {
        if self
            .0
            .try_send(Item {
                object,
                event,
                at: Timestamp::now(),
            })
            .is_err()
        {
            tracing::debug!("event dropped: the queue is full");
        }
    }
}

type Key = (Option<String>, Option<String>, Event);

struct Series {
    name: String,
    count: i32,
    last: Timestamp,
}

struct Task {
    client: kube::Client,
    node: String,
    known: HashMap<Key, Series>,
    serial: u64,
}

impl Task {
    async fn run(mut self, mut rx: mpsc::Receiver<Item>) {
        while let Some(item) = rx.recv().await {
            for i in 0..TRIES {
                match self.write(&item).await {
                    Ok(()) => break,
                    // Refused for good: the namespace is going, or the object is wrong.
                    Err(kube::Error::Api(s)) if (400..500).contains(&s.code) && s.code != 429 => {
                        tracing::debug!(reason = %item.event.reason, error = s.message, "event refused");
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "event not written");
                        tokio::time::sleep(Duration::from_secs(1 << i)).await;
                    }
                }
            }
        }
    }

    async fn write(&mut self, item: &Item) -> kube::Result<()> {
        let namespace = item.object.namespace.as_deref().unwrap_or("default");
        let api: Api<ApiEvent> = Api::namespaced(self.client.clone(), namespace);
        let key = (
            item.object.uid.clone(),
            item.object.field_path.clone(),
            item.event.clone(),
        );
        if let Some(series) = self
            .known
            .get_mut(&key)
            .filter(|s| item.at.duration_since(s.last) < QUIET)
        {
            let patch = json!({"count": series.count + 1, "lastTimestamp": seconds(item.at)});
            match api
                .patch(&series.name, &PatchParams::default(), &Patch::Merge(&patch))
                .await
            {
                Ok(_) => {
                    series.count += 1;
                    series.last = item.at;
                    return Ok(());
                }
                // It has expired: begin anew.
                Err(kube::Error::Api(s)) if s.code == 404 => {}
                Err(e) => return Err(e),
            }
        }
        let event = self.object(item);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        if self.known.len() >= REMEMBERED {
            self.known
                .retain(|_, s| item.at.duration_since(s.last) < QUIET);
        }
        if self.known.len() < REMEMBERED {
            self.known.insert(
                key,
                Series {
                    name,
                    count: 1,
                    last: item.at,
                },
            );
        }
        Ok(())
    }

    fn object(&mut self, item: &Item) -> ApiEvent {
        self.serial += 1;
        let about = item.object.name.clone().unwrap_or_default();
        // As upstream: the time in hexadecimal; the serial keeps two of one nanosecond apart.
        let name = format!(
            "{about}.{:x}{:x}",
            item.at.as_nanosecond(),
            self.serial % 16
        );
        let at = Some(Time(
            Timestamp::from_second(item.at.as_second()).unwrap_or(item.at),
        ));
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(
                    item.object
                        .namespace
                        .clone()
                        .unwrap_or_else(|| "default".into()),
                ),
                ..ObjectMeta::default()
            },
            involved_object: item.object.clone(),
            reason: Some(item.event.reason.clone().into_owned()),
            message: Some(item.event.message.clone()),
            type_: Some(
                if item.event.warning {
                    "Warning"
                } else {
                    "Normal"
                }
                .to_owned(),
            ),
            count: Some(1),
            first_timestamp: at.clone(),
            last_timestamp: at,
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..ApiEvent::default()
        }
    }
}

fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}
