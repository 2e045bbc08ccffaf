//! Static pods: a directory's files become pods of this node, and their mirrors in the API are kept.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use keelson_agent_plan::static_pod::{self, Key, Mirror, Step};
use keelson_runtime::Container;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use crate::outcome::Message;
use crate::shared::{Shared, chain};
use crate::sync;
use crate::worker::{self, Start};

/// How often the directory is looked at: one that is not there yet cannot be watched.
const LOOK: Duration = Duration::from_secs(2);
/// How often mirrors are while they are not as they should be.
const SOON: Duration = Duration::from_millis(500);

/// The mirrors that the API has of this node's static pods; `None` until they were listed.
#[derive(Default)]
pub(crate) struct Mirrors(Mutex<Option<BTreeMap<Key, Mirror>>>);

fn key(pod: &Pod) -> Key {
    let m = &pod.metadata;
    (
        m.namespace.clone().unwrap_or_default(),
        m.name.clone().unwrap_or_default(),
    )
}

impl Mirrors {
    fn lock(&self) -> MutexGuard<'_, Option<BTreeMap<Key, Mirror>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pods of the node were listed.
    pub(crate) fn listed(&self, pods: &[Pod]) {
        *self.lock() = Some(BTreeMap::new());
        pods.iter().for_each(|p| _ = self.apply(p));
    }

    /// Takes in a pod; false if it is no mirror.
    pub(crate) fn apply(&self, pod: &Pod) -> bool {
        let Some(hash) = static_pod::mirrored(pod) else {
            return false;
        };
        let mirror = Mirror {
            hash: hash.to_owned(),
            ending: pod.metadata.deletion_timestamp.is_some(),
        };
        if let Some(all) = self.lock().as_mut() {
            all.insert(key(pod), mirror);
        }
        true
    }

    /// A pod is gone.
    pub(crate) fn remove(&self, pod: &Pod) {
        if let Some(all) = self.lock().as_mut() {
            all.remove(&key(pod));
        }
    }
}

/// The static pods that run.
pub(crate) struct Statics {
    shared: Arc<Shared>,
    /// By digest of their files.
    pods: HashMap<u128, Arc<Pod>>,
}

impl Statics {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            pods: HashMap::new(),
        }
    }

    /// Reads the directory: what is new is started, what is gone is ended. `found` has what the runtime already has.
    pub(crate) fn look(&mut self, found: &mut BTreeMap<String, Vec<Container>>) {
        let Some(dir) = self.shared.config.static_pods.clone() else {
            return;
        };
        // What begins now would only have to end.
        if *self.shared.stopping.borrow() {
            return;
        }
        let files = match read(&dir) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "static pods cannot be read");
                return;
            }
        };
        let node = self.shared.config.node_name.clone();
        let mut wanted = HashMap::new();
        for (name, text) in files {
            let digest = digest(&text, &node);
            let known = self.pods.get(&digest).cloned();
            match known.map_or_else(|| parse(&text, digest, &node).map(Arc::new), Ok) {
                Ok(pod) => _ = wanted.insert(digest, pod),
                Err(error) => tracing::warn!(file = name, error, "not a static pod"),
            }
        }
        for (digest, pod) in &self.pods {
            if !wanted.contains_key(digest) {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                self.shared.gone(uid, None);
            }
        }
        for (digest, pod) in &wanted {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let ends = self.shared.entries().contains_key(&uid);
            if !self.pods.contains_key(digest) && !ends {
                let containers = found.remove(&uid).unwrap_or_default();
                let is_here = !containers.is_empty();
                let start = Start {
                    pod: pod.clone(),
                    status: sync::pin(&self.shared, pod, PodStatus::default(), is_here),
                    containers,
                    orphan: false,
                };
                worker::spawn(&self.shared, start);
            }
        }
        // One whose file came back while it still ends starts the next time.
        let entries = self.shared.entries();
        let alive = |p: &Pod| entries.contains_key(p.metadata.uid.as_deref().unwrap_or_default());
        self.pods = wanted.into_iter().filter(|(_, p)| alive(p)).collect();
    }

    /// Looks from time to time, until shutdown.
    pub(crate) async fn run(mut self) {
        if self.shared.config.static_pods.is_none() {
            return;
        }
        loop {
            let wait = if self.mirrors().await { LOOK } else { SOON };
            tokio::select! {
                () = self.shared.shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => self.look(&mut BTreeMap::new()),
            }
        }
    }

    /// Brings the mirrors in line; false when something was to be done.
    async fn mirrors(&self) -> bool {
        let Some(mirrors) = self.shared.mirrors.lock().clone() else {
            return true;
        };
        let pods: BTreeMap<Key, &Arc<Pod>> = self.pods.values().map(|p| (key(p), p)).collect();
        let hashes = pods
            .iter()
            .map(|(k, p)| (k.clone(), static_pod::hash(p).to_owned()));
        let steps = static_pod::steps(&hashes.collect(), &mirrors);
        for step in &steps {
            let (key, done) = match step {
                Step::Delete(key) => {
                    let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &key.0);
                    let params = DeleteParams::default().grace_period(0);
                    (key, api.delete(&key.1, &params).await.map(drop))
                }
                Step::Create(key) => {
                    let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &key.0);
                    let node = self.shared.node.borrow().clone();
                    let uid = node
                        .and_then(|n| n.metadata.uid.clone())
                        .unwrap_or_default();
                    let Some(pod) = pods.get(key) else { continue };
                    let mirror = static_pod::mirror(pod, &self.shared.config.node_name, &uid);
                    let made = api.create(&PostParams::default(), &mirror).await;
                    let own = pod.metadata.uid.as_deref().unwrap_or_default();
                    self.shared.tell(own, Message::Shown);
                    (key, made.map(drop))
                }
            };
            if let Err(error) = done {
                tracing::debug!(pod = key.1, error = %chain(&error), "mirror");
            }
        }
        steps.is_empty()
    }
}

/// The pods of a directory's files; files that are none are passed over.
pub(crate) fn pods(dir: &Path, node: &str) -> std::io::Result<Vec<Pod>> {
    let files = read(dir)?.into_iter();
    Ok(files
        .filter_map(|(_, text)| parse(&text, digest(&text, node), node).ok())
        .collect())
}

fn parse(text: &str, digest: u128, node: &str) -> Result<Pod, String> {
    let pod: Pod = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    static_pod::complete(pod, digest, node)
}

/// Names and texts of a directory's files but hidden ones; nothing for one that is not there.
fn read(dir: &Path) -> std::io::Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            files.push((name, fs::read_to_string(entry.path())?));
        }
    }
    Ok(files)
}

/// Two halves of 64 bits. Should a later toolchain hash otherwise, static pods are made anew once.
fn digest(text: &str, node: &str) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, text, node).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (half(1) << 64) | half(2)
}
