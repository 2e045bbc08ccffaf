//! Writes a pod's status: in order, only what changed, as often as it takes, and never in the worker's way.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use keelson_agent_plan::static_pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use crate::shared::Shared;

#[derive(Clone, Default)]
struct Wanted {
    /// How often something was wanted.
    count: u64,
    status: Option<Arc<PodStatus>>,
    delete: bool,
    /// What somebody else wrote, and how often that was.
    theirs: (u64, Option<Arc<PodStatus>>),
}

impl Wanted {
    fn is_being_made(&self) -> bool {
        let phase = self.status.as_ref().and_then(|s| s.phase.as_deref());
        phase == Some("Pending") && !self.delete
    }
}

/// A pod's writer. Its task ends with it.
pub(crate) struct Writer {
    wanted: watch::Sender<Wanted>,
    /// What was wanted last when the API was last told, or could not be.
    told: watch::Receiver<u64>,
}

/// How long others wait for the API to be told.
const TOLD: Duration = Duration::from_millis(100);

impl Writer {
    /// A writer for a pod whose status in the API is `known`.
    pub(crate) fn start(shared: Arc<Shared>, pod: &Pod, known: PodStatus) -> Self {
        let (wanted, rx) = watch::channel(Wanted::default());
        let (tell, told) = watch::channel(0);
        let m = &pod.metadata;
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let task = Task {
            shared,
            namespace: text(&m.namespace),
            name: text(&m.name),
            uid: text(&m.uid),
            mirrored: static_pod::is_static(pod),
            rx,
            tell,
        };
        tokio::spawn(task.run(Known::new(&value(&known))));
        Self { wanted, told }
    }

    fn want(&self, change: impl FnOnce(&mut Wanted) -> bool) {
        self.wanted.send_if_modified(|w| {
            let new = change(w);
            w.count += u64::from(new);
            new
        });
    }

    /// Waits until what is wanted now was told. Not long: nothing stands still because the API is away.
    pub(crate) fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        let wanted = self.wanted.borrow().count;
        let mut told = self.told.clone();
        async move {
            // Who has ended has nothing more to tell.
            let _ = tokio::time::timeout(TOLD, told.wait_for(|n| *n >= wanted)).await;
        }
    }

    /// Wants this status written; one that was not written yet is skipped over.
    pub(crate) fn write(&self, status: &Arc<PodStatus>) {
        self.want(|w| {
            let new = w.status.as_ref() != Some(status);
            if new {
                w.status = Some(status.clone());
            }
            new
        });
    }

    /// Wants the last status written once more.
    pub(crate) fn again(&self) {
        self.want(|_| true);
    }

    /// The API has another status than was written: the difference is written again.
    pub(crate) fn correct(&self, theirs: PodStatus) {
        let theirs = Arc::new(theirs);
        self.want(|w| {
            w.theirs = (w.theirs.0 + 1, Some(theirs));
            true
        });
    }

    /// Wants the pod deleted, after its status.
    pub(crate) fn delete(&self) {
        self.want(|w| !std::mem::replace(&mut w.delete, true));
    }
}

fn value(status: &PodStatus) -> Value {
    serde_json::to_value(status).unwrap_or_default()
}

/// What the API has, as text: there is one of it for every pod, and as a tree it is ten times as large.
struct Known(Box<str>);

impl Known {
    fn new(status: &Value) -> Self {
        Self(status.to_string().into())
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// How an attempt ended.
enum Done {
    Written,
    /// The pod is not there any more, or is another one.
    Gone,
    /// The mirror is not there yet.
    Later,
    Failed(kube::Error),
}

impl Done {
    fn of<T>(result: kube::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Written,
            // The only precondition is the UID: a conflict is another pod of that name.
            Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => Self::Gone,
            Err(e) => Self::Failed(e),
        }
    }
}

/// How long what a pod goes through before it runs is gathered for one write.
const GATHER: Duration = Duration::from_millis(200);

const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

struct Task {
    shared: Arc<Shared>,
    namespace: String,
    name: String,
    uid: String,
    /// What the API has is a mirror, which may be made anew at any time: written whole, whatever its UID.
    mirrored: bool,
    rx: watch::Receiver<Wanted>,
    tell: watch::Sender<u64>,
}

impl Task {
    async fn run(mut self, mut known: Known) {
        let mut corrected = 0;
        while self.rx.changed().await.is_ok() {
            // Boxed: what a write needs is there only as long as the write, not as long as the pod.
            if Box::pin(self.insist(&mut known, &mut corrected))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    /// Writes what is wanted, as often as it takes. `None`: there is nothing to write any more.
    async fn insist(&mut self, known: &mut Known, corrected: &mut u64) -> Option<()> {
        self.gather().await;
        let mut wait = RETRY.0;
        loop {
            let wanted = self.rx.borrow_and_update().clone();
            if let (count, Some(theirs)) = &wanted.theirs
                && count > corrected
            {
                *corrected = *count;
                *known = Known::new(&value(theirs));
            }
            let done = self.bring(&wanted, known).await;
            self.tell.send_replace(wanted.count);
            match done {
                Done::Written => return Some(()),
                Done::Gone => return None,
                Done::Later => {}
                Done::Failed(error) => {
                    tracing::warn!(pod = self.name, namespace = self.namespace, %error, "status not written");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY.1);
            if self.rx.has_changed().is_err() {
                return None;
            }
        }
    }

    /// Waits a moment for a pod that is being made: that it runs is soon told, and in the same write.
    async fn gather(&mut self) {
        let settled = self.rx.wait_for(|w| !w.is_being_made());
        // Without a worker what was wanted last is written all the same.
        let _ = tokio::time::timeout(GATHER, settled).await;
    }

    async fn bring(&self, wanted: &Wanted, known: &mut Known) -> Done {
        let Ok(_slot) = self.shared.writes.acquire().await else {
            return Done::Gone;
        };
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &self.namespace);
        if let Some(status) = &wanted.status {
            let new = value(status);
            let old = match self.mirrored {
                true => Value::Null,
                false => known.value(),
            };
            let changes = diff(&old, &new);
            if !changes.is_empty() {
                let mut patch = json!({"status": changes});
                if !self.mirrored {
                    patch["metadata"] = json!({"uid": self.uid});
                }
                match Done::of(
                    api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&patch))
                        .await,
                ) {
                    Done::Written => *known = Known::new(&new),
                    Done::Gone if self.mirrored => return Done::Later,
                    other => return other,
                }
            }
        }
        if !wanted.delete {
            return Done::Written;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        Done::of(api.delete(&self.name, &params).await)
    }
}

/// The merge patch from one object to another: what is new or different, and null for what is gone.
fn diff(old: &Value, new: &Value) -> Map<String, Value> {
    let empty = Map::new();
    let (old, new) = (
        old.as_object().unwrap_or(&empty),
        new.as_object().unwrap_or(&empty),
    );
    let gone = old
        .keys()
        .filter(|k| !new.contains_key(*k))
        .map(|k| (k.clone(), Value::Null));
    let changed = new
        .iter()
        .filter(|(k, v)| old.get(*k) != Some(v))
        .map(|(k, v)| (k.clone(), v.clone()));
    gone.chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn others_wait_until_the_api_was_told_but_not_for_ever() {
        let (wanted, _writes) = watch::channel(Wanted::default());
        let (tell, told) = watch::channel(0);
        let writer = Writer { wanted, told };
        assert!(writer.told().now_or_never().is_some(), "nothing is wanted");
        writer.write(&Arc::default());
        assert!(writer.told().now_or_never().is_none(), "not yet told");
        tell.send_replace(1);
        assert!(writer.told().now_or_never().is_some(), "told");
        writer.write(&Arc::default());
        assert!(writer.told().now_or_never().is_some(), "nothing new");
        writer.delete();
        // Nobody tells: it ends all the same.
        writer.told().await;
    }

    #[test]
    fn patches() {
        let rows = [
            ("nothing", json!({"a": 1}), json!({"a": 1}), json!({})),
            (
                "changed and gone",
                json!({"a": 1, "b": 2}),
                json!({"a": 3}),
                json!({"a": 3, "b": null}),
            ),
            (
                "lists whole",
                json!({"l": [1, 2]}),
                json!({"l": [2]}),
                json!({"l": [2]}),
            ),
        ];
        for (name, old, new, want) in rows {
            assert_eq!(Value::Object(diff(&old, &new)), want, "{name}");
        }
    }
}
