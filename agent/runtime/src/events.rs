//! Task events of containerd, followed in the background for as long as a [`crate::Runtime`] lives.

use std::sync::{Arc, Weak};
use std::time::Duration;

use containerd_client::events::{TaskExit, TaskOom, TaskStart};
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use jiff::Timestamp;
use prost::Message;
use prost_types::Any;
use tokio::sync::{broadcast, oneshot};
use tonic::{Response, Status, Streaming};

use crate::cgroup::Driver;
use crate::runtime::Inner;

/// What happened to a container. Kills for memory are not among it: the shim begins to watch for them after the
/// start and misses an early one, so they are read from the cgroup, as long as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Its first process runs.
    Start {
        /// Container id.
        id: String,
    },
    /// Its first process ended.
    Exit {
        /// Container id.
        id: String,
        /// Exit code; 128 + n after signal n.
        code: i32,
        /// When.
        at: Timestamp,
    },
    /// Events may have been missed: list again.
    Reconnected,
}

/// A subscription to [`RuntimeEvent`]s.
pub struct Events(broadcast::Receiver<RuntimeEvent>);

impl Events {
    /// The next event; `None` when the runtime is gone. A receiver that was too slow gets
    /// [`RuntimeEvent::Reconnected`]. Cancel safe.
    pub async fn recv(&mut self) -> Option<RuntimeEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(RuntimeEvent::Reconnected),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The sending side.
pub(crate) struct Feed(broadcast::Sender<RuntimeEvent>);

impl Default for Feed {
    fn default() -> Self {
        Feed(broadcast::channel(1024).0)
    }
}

impl Feed {
    pub(crate) fn subscribe(&self) -> Events {
        Events(self.0.subscribe())
    }

    fn send(&self, event: RuntimeEvent) {
        // Nobody listens: whoever comes later lists first.
        let _ = self.0.send(event);
    }

    /// Follows containerd's events until the runtime is dropped. Returns when the subscription
    /// stands (or cannot be made within a few seconds; then it is tried again in the background).
    pub(crate) async fn follow(inner: &Arc<Inner>) {
        let (ready, standing) = oneshot::channel();
        tokio::spawn(follow(Arc::downgrade(inner), ready));
        let _ = tokio::time::timeout(STANDING, standing).await;
    }
}

/// How long [`Feed::follow`] waits for the first subscription.
const STANDING: Duration = Duration::from_secs(5);
const PING: &str = "/keelson/ping";
const OOM: &str = "/tasks/oom";

async fn follow(runtime: Weak<Inner>, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    let mut pause = Duration::from_millis(50);
    while let Some(inner) = runtime.upgrade() {
        let again = ready.is_none();
        let mut stream = match subscribe(&inner).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "no events from containerd");
                drop(inner);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
                continue;
            }
        };
        pause = Duration::from_millis(50);
        if again {
            inner.feed.send(RuntimeEvent::Reconnected);
        }
        if let Some(ready) = ready.take() {
            let _ = ready.send(());
        }
        drop(inner);
        forward(&runtime, &mut stream).await;
    }
}

/// Passes events on until the stream or the runtime ends.
async fn forward(runtime: &Weak<Inner>, stream: &mut Streaming<Envelope>) {
    let mut check = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(envelope)) => {
                    let Some(inner) = runtime.upgrade() else { return };
                    if let Some(id) = killed(&envelope) {
                        inner.kills.tell(id);
                    } else if let Some(event) = decode(&envelope) {
                        inner.feed.send(event);
                    }
                }
                Ok(None) | Err(_) => return,
            },
            _ = check.tick() => if runtime.strong_count() == 0 { return },
        }
    }
}

/// Subscribes, and proves that the subscription stands: containerd answers the call only with the
/// first event, so we publish one of our own until it comes back.
async fn subscribe(inner: &Inner) -> Result<Streaming<Envelope>, Status> {
    let client = &inner.client;
    let namespace = &inner.config.namespace;
    // Only where the cgroup of a container goes with it is its word needed.
    let oom = (inner.config.cgroup_driver == Driver::Systemd).then_some(OOM);
    let topics = ["/tasks/start", "/tasks/exit", PING].into_iter().chain(oom);
    let filter = |topic: &&str| format!("namespace=={namespace},topic=={topic:?}");
    let message = SubscribeRequest {
        filters: topics.map(|topic| filter(&topic)).collect(),
    };
    let mut service = client.events();
    let subscription = service.subscribe(client.request(message));
    let pings = async {
        loop {
            let event = Any {
                type_url: "keelson.ping".into(),
                value: Vec::new(),
            };
            let topic = PING.to_owned();
            let message = PublishRequest {
                topic,
                event: Some(event),
            };
            if let Err(status) = client.events().publish(client.request(message)).await {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answer = subscription => answer.map(Response::into_inner),
        status = pings => Err(status),
    }
}

/// The container of which this says that it was killed for memory.
fn killed(envelope: &Envelope) -> Option<String> {
    let event = envelope.event.as_ref().filter(|_| envelope.topic == OOM)?;
    Some(TaskOom::decode(event.value.as_slice()).ok()?.container_id)
}

/// Type URLs are bare names here, so the topic says what to decode.
fn decode(envelope: &Envelope) -> Option<RuntimeEvent> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    match envelope.topic.as_str() {
        "/tasks/start" => Some(RuntimeEvent::Start {
            id: TaskStart::decode(bytes).ok()?.container_id,
        }),
        "/tasks/exit" => {
            let exit = TaskExit::decode(bytes).ok()?;
            // Execs end too; theirs carry the exec's id.
            (exit.id == exit.container_id).then(|| RuntimeEvent::Exit {
                id: exit.container_id,
                code: exit.exit_status.cast_signed(),
                at: timestamp(exit.exited_at.as_ref()).unwrap_or_else(Timestamp::now),
            })
        }
        _ => None,
    }
}

/// A protobuf time; `None` for the zero time Go sends for "not yet".
pub(crate) fn timestamp(time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time.filter(|time| time.seconds > 0)?;
    Timestamp::new(time.seconds, time.nanos).ok()
}
