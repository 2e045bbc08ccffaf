//! The API's objects as a stream of what the scheduler keeps of them. The objects themselves are dropped at once.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use keelson_api::volume::{Claim, Class, Volume};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use crate::model::{Budget, Group, Labels, Node, Pod, Selector};
use crate::storage;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Pod,
    Node,
    Namespace,
    Service,
    ReplicationController,
    ReplicaSet,
    StatefulSet,
    Budget,
    Volume,
    Claim,
    Class,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Pod,
        Self::Node,
        Self::Namespace,
        Self::Service,
        Self::ReplicationController,
        Self::ReplicaSet,
        Self::StatefulSet,
        Self::Budget,
        Self::Volume,
        Self::Claim,
        Self::Class,
    ];
}

/// What is kept of an object.
pub(crate) enum Object {
    Pod(Arc<Pod>),
    Node(Node),
    Namespace(Labels),
    Group(Group),
    Budget(Budget),
    Volume(Box<Volume>),
    Claim(Box<Claim>),
    Class(Class),
}

pub(crate) enum Update {
    /// An object is new or changed.
    Put(String, Object),
    /// An object is gone, or is nothing to us any more.
    Gone(Kind, String),
    /// All that there are; what we know besides has gone.
    Listed(Kind, HashSet<String>),
}

/// Watches everything until `stop`.
pub(crate) fn start(client: &Client, updates: &Sender<Update>, stop: &CancellationToken) {
    for kind in Kind::ALL {
        let (client, updates, stop) = (client.clone(), updates.clone(), stop.clone());
        tokio::spawn(async move {
            stop.run_until_cancelled(follow_kind(kind, client, updates))
                .await
        });
    }
}

async fn follow_kind(kind: Kind, client: Client, updates: Sender<Update>) {
    match kind {
        Kind::Pod => {
            follow(kind, client, updates, |pod| {
                Some(Object::Pod(Arc::new(Pod::parse(pod))))
            })
            .await;
        }
        Kind::Node => {
            follow(kind, client, updates, |node| {
                Some(Object::Node(Node::parse(node)))
            })
            .await
        }
        Kind::Namespace => {
            let read =
                |namespace: &core::Namespace| Some(Object::Namespace(namespace.labels().clone()));
            follow(kind, client, updates, read).await;
        }
        Kind::Service => {
            let read = |service: &core::Service| {
                by_map(
                    service,
                    service
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.selector.as_ref()),
                )
            };
            follow(kind, client, updates, read).await;
        }
        Kind::ReplicationController => {
            let read = |controller: &core::ReplicationController| {
                by_map(
                    controller,
                    controller
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.selector.as_ref()),
                )
            };
            follow(kind, client, updates, read).await;
        }
        Kind::ReplicaSet => {
            let read = |set: &ReplicaSet| {
                group(
                    set,
                    Selector::from_label_selector(&set.spec.as_ref()?.selector),
                )
            };
            follow(kind, client, updates, read).await;
        }
        Kind::StatefulSet => {
            let read = |set: &StatefulSet| {
                group(
                    set,
                    Selector::from_label_selector(&set.spec.as_ref()?.selector),
                )
            };
            follow(kind, client, updates, read).await;
        }
        Kind::Budget => {
            let read = |budget: &PodDisruptionBudget| Some(Object::Budget(Budget::parse(budget)));
            follow(kind, client, updates, read).await;
        }
        Kind::Volume => {
            let read = |volume: &core::PersistentVolume| {
                Some(Object::Volume(Box::new(Volume::parse(&json!(volume)))))
            };
            follow(kind, client, updates, read).await;
        }
        Kind::Claim => {
            let read = |claim: &core::PersistentVolumeClaim| {
                Some(Object::Claim(Box::new(Claim::parse(&json!(claim)))))
            };
            follow(kind, client, updates, read).await;
        }
        Kind::Class => {
            let read = |class: &StorageClass| Some(Object::Class(Class::parse(&json!(class))));
            follow(kind, client, updates, read).await;
        }
    }
}

fn by_map<K: Resource>(object: &K, selector: Option<&Labels>) -> Option<Object> {
    group(object, Selector::from_map(selector))
}

/// A group of pods; without a selector it has none.
fn group<K: Resource>(object: &K, selector: Selector) -> Option<Object> {
    let namespace = object.meta().namespace.clone().unwrap_or_default();
    (!selector.0.is_empty()).then_some(Object::Group(Group {
        namespace,
        selector,
    }))
}

fn id<K: Resource>(kind: Kind, object: &K) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match kind {
        Kind::Pod => meta.uid.clone().unwrap_or_default(),
        Kind::Node | Kind::Namespace | Kind::Volume | Kind::Class => name.into(),
        Kind::Claim => storage::key(meta.namespace.as_deref().unwrap_or_default(), name),
        _ => format!(
            "{kind:?}/{}/{name}",
            meta.namespace.as_deref().unwrap_or_default()
        ),
    }
}

async fn follow<K>(
    kind: Kind,
    client: Client,
    updates: Sender<Update>,
    read: fn(&K) -> Option<Object>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events =
        pin!(watcher(Api::<K>::all(client), watcher::Config::default()).default_backoff());
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        let put = |object: &K| {
            let id = id(kind, object);
            read(object).map_or_else(
                || Update::Gone(kind, id.clone()),
                |kept| Update::Put(id.clone(), kept),
            )
        };
        let update = match &event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(id(kind, object));
                put(object)
            }
            Ok(watcher::Event::Apply(object)) => put(object),
            Ok(watcher::Event::Delete(object)) => Update::Gone(kind, id(kind, object)),
            Ok(watcher::Event::InitDone) => Update::Listed(kind, std::mem::take(&mut listed)),
            Err(error) => {
                tracing::warn!(?kind, %error, "watch");
                continue;
            }
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}
