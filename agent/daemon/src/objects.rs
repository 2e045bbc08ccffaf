//! Watches of the ConfigMaps and Secrets that volumes of this node's pods are made of: one an object, as long as
//! a pod uses it. Only metadata is watched: what changed is fetched by those whom it concerns.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use keelson_agent_io::volumes::{Want, wants};
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use tokio_util::task::AbortOnDropHandle;

use crate::outcome::Message;
use crate::shared::Shared;
use crate::sync::feed;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    ConfigMap,
    Secret,
}

/// Kind, namespace and name.
type Key = (Kind, String, String);

struct Watched {
    /// Pod UIDs.
    users: HashSet<String>,
    _task: AbortOnDropHandle<()>,
}

/// What is watched.
#[derive(Default)]
pub(crate) struct Objects(Mutex<HashMap<Key, Watched>>);

/// What a pod's volumes are made of.
fn keys(pod: &Pod) -> HashSet<Key> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let key = |want| match want {
        Want::ConfigMap { name, .. } => Some((Kind::ConfigMap, namespace.clone(), name)),
        Want::Secret { name, .. } => Some((Kind::Secret, namespace.clone(), name)),
        Want::Token { .. } => None,
    };
    volumes.flat_map(wants).filter_map(key).collect()
}

impl Objects {
    /// Watches what a pod uses from now on.
    pub(crate) fn add(&self, shared: &Arc<Shared>, uid: &str, pod: &Pod) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys(pod) {
            let watched = all.entry(key.clone()).or_insert_with(|| {
                let shared = shared.clone();
                let task = async move {
                    match key.0 {
                        Kind::ConfigMap => watch::<ConfigMap>(shared, key).await,
                        Kind::Secret => watch::<Secret>(shared, key).await,
                    }
                };
                Watched {
                    users: HashSet::new(),
                    _task: AbortOnDropHandle::new(tokio::spawn(task)),
                }
            });
            watched.users.insert(uid.to_owned());
        }
    }

    /// Forgets a pod, and what nobody uses any more.
    pub(crate) fn remove(&self, uid: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, w| !w.users.remove(uid) || !w.users.is_empty());
    }

    fn users(&self, key: &Key) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let users = all.get(key).map(|w| w.users.iter().cloned().collect());
        users.unwrap_or_default()
    }
}

async fn watch<K>(shared: Arc<Shared>, key: Key)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(shared.client.clone(), &key.1);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.2));
    let take = |event| match event {
        Event::Init | Event::InitApply(_) => {}
        Event::InitDone | Event::Apply(_) | Event::Delete(_) => {
            for uid in shared.objects.users(&key) {
                shared.tell(&uid, Message::Refresh);
            }
        }
    };
    feed(&shared, watcher(api, config), take).await;
}
