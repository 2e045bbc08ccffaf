//! One watch and one cache a kind, shared by all controllers. What a controller wrote is put into the cache at
//! once: the next plan sees its own deeds, and never makes a child twice because a watch was slow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Namespace (empty for cluster objects) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// An object's key.
    pub fn of(object: &impl Resource) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }

    /// From parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The namespace, if the object has one.
    pub fn namespace(&self) -> Option<&str> {
        (!self.namespace.is_empty()).then_some(self.namespace.as_str())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace() {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A change, as subscribers see it: the state before and after.
pub struct Change<'a, K> {
    /// Before; `None`: new.
    pub old: Option<&'a K>,
    /// After; `None`: gone.
    pub new: Option<&'a K>,
}

impl<K> Change<'_, K> {
    /// Both states, as far as there are.
    pub fn states(&self) -> impl Iterator<Item = &K> {
        self.old.into_iter().chain(self.new)
    }
}

type Subscriber<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// Cache and watch of a kind.
pub struct Informer<K> {
    state: RwLock<State<K>>,
    subscribers: RwLock<Vec<Subscriber<K>>>,
    synced: watch::Sender<bool>,
    config: watcher::Config,
    slim: fn(&mut K),
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Written by ourselves while a list was under way: the list may be older.
    own: BTreeSet<Key>,
    listing: Option<BTreeSet<Key>>,
}

impl<K> Default for Informer<K> {
    fn default() -> Self {
        Self::new(watcher::Config::default(), |_| ())
    }
}

impl<K> Informer<K> {
    /// Watches what `config` selects; `slim` drops what nobody here reads.
    pub fn new(config: watcher::Config, slim: fn(&mut K)) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            own: BTreeSet::new(),
            listing: None,
        };
        Self {
            state: RwLock::new(state),
            subscribers: RwLock::default(),
            synced: watch::Sender::new(false),
            config,
            slim,
        }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static>
    Informer<K>
{
    /// Calls a function at every change from now on.
    pub fn subscribe(&self, f: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.subscribers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(f));
    }

    /// An object.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read(|s| s.objects.get(key).cloned())
    }

    /// All objects of a namespace, by name; of all namespaces when it is empty.
    pub fn list(&self, namespace: &str) -> Vec<Arc<K>> {
        self.read(|s| {
            let from = Key::new(namespace, "");
            let range = s
                .objects
                .range(from..)
                .take_while(|(k, _)| namespace.is_empty() || k.namespace == namespace);
            range.map(|(_, o)| o.clone()).collect()
        })
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        // The sender lives as long as `self`.
        let _ = self.synced.subscribe().wait_for(|s| *s).await;
    }

    /// Watches for ever.
    pub async fn run(self: Arc<Self>, client: Client) {
        let mut events = watcher(Api::<K>::all(client), self.config.clone())
            .default_backoff()
            .boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.take(event),
                Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch interrupted"),
            }
        }
    }

    /// Takes a watch event.
    pub fn take(&self, event: watcher::Event<K>) {
        match event {
            watcher::Event::Init => self.write(|s| {
                s.listing = Some(BTreeSet::new());
                s.own.clear();
            }),
            watcher::Event::InitApply(object) => {
                let key = Key::of(&object);
                self.write(|s| s.listing.get_or_insert_default().insert(key));
                self.set(object);
            }
            watcher::Event::InitDone => {
                let gone = self.write(|s| {
                    let listed = s.listing.take().unwrap_or_default();
                    let gone = s
                        .objects
                        .keys()
                        .filter(|k| !listed.contains(k) && !s.own.contains(k));
                    gone.cloned().collect::<Vec<_>>()
                });
                gone.iter().for_each(|key| self.remove(key, None));
                self.synced.send_replace(true);
            }
            watcher::Event::Apply(object) => self.set(object),
            watcher::Event::Delete(object) => {
                self.remove(&Key::of(&object), object.meta().resource_version.as_deref())
            }
        }
    }

    /// Takes what a write of our own gave back.
    pub fn wrote(&self, object: K) {
        let key = Key::of(&object);
        self.write(|s| s.own.insert(key));
        self.set(object);
    }

    fn set(&self, mut object: K) {
        // Nobody here reads them, and they are a third of an object.
        object.meta_mut().managed_fields = None;
        if let Some(annotations) = &mut object.meta_mut().annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        (self.slim)(&mut object);
        let (key, new) = (Key::of(&object), Arc::new(object));
        let old = self.write(|s| {
            let old = s.objects.get(&key).cloned();
            if old
                .as_ref()
                .is_some_and(|o| version(o.as_ref()) >= version(new.as_ref()))
            {
                return Err(());
            }
            s.objects.insert(key, new.clone());
            Ok(old)
        });
        if let Ok(old) = old {
            self.publish(&Change {
                old: old.as_deref(),
                new: Some(&new),
            });
        }
    }

    /// Removes an object, unless what is there is newer than the deletion.
    fn remove(&self, key: &Key, deleted_at: Option<&str>) {
        let at: u64 = deleted_at.and_then(|v| v.parse().ok()).unwrap_or(u64::MAX);
        let old = self.write(|s| match s.objects.get(key) {
            Some(o) if version(o.as_ref()) <= at => s.objects.remove(key),
            _ => None,
        });
        if let Some(old) = old {
            self.publish(&Change {
                old: Some(&old),
                new: None,
            });
        }
    }

    fn publish(&self, change: &Change<'_, K>) {
        self.subscribers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .for_each(|f| f(change));
    }

    fn read<T>(&self, f: impl FnOnce(&State<K>) -> T) -> T {
        f(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut State<K>) -> T) -> T {
        f(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Resource versions of one kind are ordered numbers (KEP-5504).
fn version(object: &impl Resource) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::Mutex;

    fn object(name: &str, version: u64) -> ConfigMap {
        let mut c = ConfigMap::default();
        c.metadata.name = Some(name.into());
        c.metadata.namespace = Some("d".into());
        c.metadata.resource_version = Some(version.to_string());
        c
    }

    #[test]
    fn own_writes_are_seen_and_older_news_are_not() {
        let informer = Informer::<ConfigMap>::default();
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = log.clone();
        informer.subscribe(move |c| {
            let version = |o: Option<&ConfigMap>| o.map_or(0, super::version);
            seen.lock()
                .expect("log")
                .push((version(c.old), version(c.new)));
        });
        let at = |name: &str| {
            informer
                .get(&Key::new("d", name))
                .map(|o| super::version(o.as_ref()))
        };
        informer.take(watcher::Event::Init);
        informer.take(watcher::Event::InitApply(object("a", 5)));
        // Written after the list was read: the list's end must not take it away.
        informer.wrote(object("b", 9));
        informer.take(watcher::Event::InitDone);
        assert_eq!((at("a"), at("b")), (Some(5), Some(9)));
        informer.wrote(object("a", 12));
        informer.take(watcher::Event::Apply(object("a", 11)));
        assert_eq!(at("a"), Some(12), "older than our own write");
        informer.take(watcher::Event::Delete(object("a", 10)));
        assert_eq!(at("a"), Some(12), "a deletion before it was made anew");
        informer.take(watcher::Event::Delete(object("a", 13)));
        assert_eq!(at("a"), None);
        informer.take(watcher::Event::Init);
        informer.take(watcher::Event::InitDone);
        assert_eq!(at("b"), None, "a later list without it");
        assert_eq!(
            *log.lock().expect("log"),
            [(0, 5), (0, 9), (5, 12), (12, 0), (9, 0)]
        );
    }
}
