//! Watches of the ConfigMaps, Secrets and ClusterTrustBundles that volumes of this node's pods are made of: one an
//! object, as long as a pod uses it. Only metadata is watched: what changed is fetched by those whom it concerns.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use keelson_agent_io::volumes::{Want, wants};
use kube::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::outcome::Message;
use crate::shared::Shared;
use crate::sync::feed;

/// What is watched: an object of a namespace by its name, or bundles.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    ConfigMap(String, String),
    Secret(String, String),
    /// By field and label selector.
    Trust(String, String),
}

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
        Want::ConfigMap { name, .. } => Some(Key::ConfigMap(namespace.clone(), name)),
        Want::Secret { name, .. } => Some(Key::Secret(namespace.clone(), name)),
        Want::Trust(bundles) => {
            let selectors = bundles.selectors();
            selectors.map(|(fields, labels)| Key::Trust(fields, labels.to_owned()))
        }
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
                let task = start(shared.clone(), key);
                Watched {
                    users: HashSet::new(),
                    _task: AbortOnDropHandle::new(task),
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

fn start(shared: Arc<Shared>, key: Key) -> JoinHandle<()> {
    let client = shared.client.clone();
    let config = watcher::Config::default();
    let named = |name: &str| config.clone().fields(&format!("metadata.name={name}"));
    match &key {
        Key::ConfigMap(namespace, name) => {
            let api: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(client, namespace);
            tokio::spawn(watch(shared, api, named(name), key))
        }
        Key::Secret(namespace, name) => {
            let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(client, namespace);
            tokio::spawn(watch(shared, api, named(name), key))
        }
        Key::Trust(fields, labels) => {
            let api: Api<PartialObjectMeta<ClusterTrustBundle>> = Api::all(client);
            let which = config.fields(fields).labels(labels);
            tokio::spawn(watch(shared, api, which, key))
        }
    }
}

async fn watch<K>(
    shared: Arc<Shared>,
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    key: Key,
) where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
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
