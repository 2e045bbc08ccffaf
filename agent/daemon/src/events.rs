//! Events about pods and the node, as far as [`Correlator`] lets them through.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as ApiEvent, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use keelson_agent_plan::correlate::{About, Bucket, Correlator, Told};
use keelson_agent_plan::event::Event;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

/// Events waiting while the API is away; more are dropped, the oldest stay.
const QUEUE: usize = 1000;
/// Events a second of the whole node, and at once (upstream's `eventRecordQPS` and `eventBurst`).
const QPS: f64 = 50.0;
const BURST: f64 = 100.0;
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
                known: Correlator::default(),
                pace: Bucket::new(BURST, Timestamp::now()),
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

struct Task {
    client: kube::Client,
    node: String,
    known: Correlator,
    /// All events of this node together.
    pace: Bucket,
    serial: u64,
}

impl Task {
    async fn run(mut self, mut rx: mpsc::Receiver<Item>) {
        while let Some(item) = rx.recv().await {
            let Some(told) = self.known.take(&about(&item), &item.event, item.at) else {
                continue;
            };
            while !self.pace.take(QPS, BURST, Timestamp::now()) {
                tokio::time::sleep(Duration::from_secs_f64(1.0 / QPS)).await;
            }
            for i in 0..TRIES {
                match self.write(&item, &told).await {
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

    async fn write(&mut self, item: &Item, told: &Told) -> kube::Result<()> {
        let namespace = item.object.namespace.as_deref().unwrap_or("default");
        let api: Api<ApiEvent> = Api::namespaced(self.client.clone(), namespace);
        if let Some(name) = &told.name {
            let patch = json!({
                "count": told.count, "message": told.message, "lastTimestamp": seconds(item.at),
            });
            let patched = api
                .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
                .await;
            match patched {
                Ok(_) => return Ok(()),
                // It has expired: begin anew.
                Err(kube::Error::Api(s)) if s.code == 404 => {}
                Err(e) => return Err(e),
            }
        }
        let event = self.object(item, told);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        self.known.written(&told.key, &name);
        Ok(())
    }

    fn object(&mut self, item: &Item, told: &Told) -> ApiEvent {
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
            message: Some(told.message.clone()),
            type_: Some(
                if item.event.warning {
                    "Warning"
                } else {
                    "Normal"
                }
                .to_owned(),
            ),
            count: Some(told.count),
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

fn about(item: &Item) -> About {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    About {
        object: text(&item.object.uid),
        part: text(&item.object.field_path),
    }
}

fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}
