//! The one loop: takes keys, asks the controller for actions, carries them out, puts results into the caches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;
use kube::api::{ApiResource, DynamicObject};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::action::{self, Action, Done};
use crate::informer::Key;
use crate::queue::Queue;

/// What a controller decided for a key.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What to do now, in this order.
    pub actions: Vec<Action>,
    /// When to look again though nothing changed.
    pub again: Option<Duration>,
}

impl From<Vec<Action>> for Outcome {
    fn from(actions: Vec<Action>) -> Self {
        Self {
            actions,
            again: None,
        }
    }
}

/// A controller: reads the caches, lets its plan decide.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Such as `deployment-controller`: field manager and source of events.
    fn name(&self) -> &'static str;

    /// Decides for a key.
    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome>;

    /// Takes an object that an action gave back, to put it into the caches.
    fn wrote(&self, _resource: &ApiResource, _object: DynamicObject) {}

    /// The API refused to make a child of a key, and why; `None`: it does no longer. Only changes are told.
    fn refused(&self, _key: &Key, _why: Option<&str>) {}
}

/// A queue that many may fill and workers empty.
#[derive(Clone, Default)]
pub struct Work {
    inner: Arc<(Mutex<Queue<Key, Instant>>, Notify)>,
}

impl Work {
    /// Adds a key.
    pub fn add(&self, key: Key) {
        self.with(|q| q.add(key));
        self.inner.1.notify_one();
    }

    /// Adds a key in a while.
    pub fn add_after(&self, key: Key, delay: Duration) {
        self.with(|q| q.add_at(key, Instant::now() + delay));
        self.inner.1.notify_one();
    }

    async fn next(&self) -> Key {
        loop {
            let wait = match self.with(|q| q.next(Instant::now())) {
                Ok(key) => {
                    // Others may wait for the keys behind this one.
                    self.inner.1.notify_one();
                    return key;
                }
                Err(wait) => wait,
            };
            let notified = self.inner.1.notified();
            match wait {
                Some(at) => drop(tokio::time::timeout_at(at, notified).await),
                None => notified.await,
            }
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Queue<Key, Instant>) -> T) -> T {
        f(&mut self.inner.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs a controller with some workers until shutdown.
pub async fn run(
    controller: Arc<dyn Controller>,
    client: Client,
    work: Work,
    workers: usize,
    shutdown: CancellationToken,
) {
    let refusals = Arc::new(Refusals::default());
    let worker = |_| {
        let (controller, client, work) = (controller.clone(), client.clone(), work.clone());
        let refusals = refusals.clone();
        shutdown.clone().run_until_cancelled_owned(async move {
            loop {
                let key = work.next().await;
                let result = once(controller.as_ref(), &client, &key, &refusals).await;
                if let Ok(Some(again)) = &result {
                    work.add_after(key.clone(), *again);
                }
                if let Err(error) = &result {
                    report(controller.name(), &key, error);
                }
                work.with(|q| q.done(&key, result.is_ok(), Instant::now()));
                work.inner.1.notify_one();
            }
        })
    };
    futures::future::join_all((0..workers).map(worker)).await;
}

/// Why the API last refused to make something for a key: each reason is told once.
#[derive(Default)]
struct Refusals(Mutex<HashMap<Key, String>>);

impl Refusals {
    /// Whether this is another reason than before.
    fn is_news(&self, key: &Key, why: Option<&str>) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            None => all.remove(key).is_some(),
            Some(why) if all.get(key).is_some_and(|w| w == why) => false,
            Some(why) => {
                all.insert(key.clone(), why.to_owned());
                true
            }
        }
    }
}

/// A lost race (changed or gone meanwhile) is everyday business: the newer state brings the key back.
fn report(controller: &str, key: &Key, error: &anyhow::Error) {
    let race =
        matches!(error.downcast_ref(), Some(kube::Error::Api(s)) if s.code == 409 || s.code == 404);
    if race {
        tracing::debug!(controller, object = %key, %error, "lost a race, trying again");
    } else {
        tracing::warn!(controller, object = %key, error = format!("{error:#}"), "not done, trying again");
    }
}

/// Whether an object that is being deleted is still there. In doubt it is gone: its watch may have said so
/// already, and a cache that took it again would keep it for ever.
fn is_held(object: &DynamicObject) -> bool {
    let meta = &object.metadata;
    // A namespace's own.
    let held = object.data.pointer("/spec/finalizers");
    let held = held.and_then(serde_json::Value::as_array);
    meta.deletion_timestamp.is_some()
        && (meta.deletion_grace_period_seconds.is_some_and(|g| g > 0)
            || meta.finalizers.as_ref().is_some_and(|f| !f.is_empty())
            || held.is_some_and(|f| !f.is_empty()))
}

async fn once(
    controller: &dyn Controller,
    client: &Client,
    key: &Key,
    refusals: &Refusals,
) -> anyhow::Result<Option<Duration>> {
    let outcome = controller.reconcile(key).await?;
    for action in &outcome.actions {
        let done = action::apply(client, controller.name(), action).await;
        if let Err(error) = &done
            && let Some(why) = action::refusal(action, error)
            && refusals.is_news(key, Some(&why))
        {
            controller.refused(key, Some(&why));
            action::tell_refusal(client, controller.name(), action, &why).await;
        }
        if let Done::Object(object) = done? {
            let resource = match action {
                Action::Create { resource, .. } => resource,
                Action::Patch { target, .. }
                | Action::Replace { target, .. }
                | Action::Delete { target, .. } => &target.resource,
                Action::Event { .. } => continue,
            };
            // A patch that took the last finalizer away gives back what is gone.
            let going = matches!(action, Action::Delete { .. })
                || object.metadata.deletion_timestamp.is_some();
            if !going || is_held(&object) {
                controller.wrote(resource, *object);
            }
        }
    }
    if refusals.is_news(key, None) {
        controller.refused(key, None);
    }
    Ok(outcome.again)
}
