//! CNI as a runtime speaks it (spec 0.3.1 to 1.1.0): which network, which plugins in which order, what
//! each is told, what came back. Plugins are run as the specification's section 2 says; results are kept
//! on disk, so that DEL gets what ADD gave even after a restart and a changed configuration.

mod attachment;
mod cache;
mod config;
mod exec;
mod result;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::RwLock;

pub use attachment::{Attachment, Bandwidth, PortMapping};
pub use config::{Network, is_of_pods};
pub use result::Outcome;

use cache::{Cache, Record};
use exec::{Call, Verb};

/// What went wrong with a pod's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable configuration; upstream's words.
    #[error("cni config uninitialized: no network config found in {dir}: {why}")]
    NoConfig {
        /// Where it was looked for.
        dir: PathBuf,
        /// What is wrong with the files that are there.
        why: String,
    },
    /// A configuration is wrong.
    #[error("cni config {file}: {why}")]
    Config {
        /// Its file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A plugin is in none of the directories.
    #[error("failed to find plugin {name:?} in path {dirs:?}")]
    NoPlugin {
        /// Its type.
        name: String,
        /// Where it was looked for.
        dirs: Vec<PathBuf>,
    },
    /// A plugin said no.
    #[error("plugin type={plugin:?} name={network:?} failed ({verb}): {message}")]
    Plugin {
        /// Its type.
        plugin: String,
        /// The network.
        network: String,
        /// `add`, `del`, ...
        verb: &'static str,
        /// The plugin's error code; 0 when it gave none.
        code: u32,
        /// Its message and details.
        message: String,
    },
    /// A plugin took too long and was killed.
    #[error("plugin type={plugin:?} name={network:?} failed ({verb}): no answer within {seconds}s")]
    Timeout {
        /// Its type.
        plugin: String,
        /// The network.
        network: String,
        /// `add`, `del`, ...
        verb: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A result that the specification does not allow.
    #[error("cni result of network {network:?}: {why}")]
    Result {
        /// The network.
        network: String,
        /// What is wrong.
        why: String,
    },
    /// A name that cannot be part of a file name.
    #[error("invalid attachment name {0:?}")]
    Name(String),
    /// The system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The node's pod network.
pub struct Cni {
    conf_dir: PathBuf,
    bin_dirs: Vec<PathBuf>,
    cache: Cache,
    timeout: Duration,
    loaded: Mutex<Option<(config::Stamp, Arc<Network>)>>,
    /// Read by ADD and DEL, written by GC, which must not meet them (spec 1.1, "Lifecycle & Ordering"): an attachment
    /// that is made after GC was told who lives would be freed under the pod.
    order: RwLock<()>,
}

/// How long one plugin may take; the kubelet allows two minutes for the whole sandbox.
const TIMEOUT: Duration = Duration::from_secs(60);

impl Cni {
    /// Reads configuration from `conf_dir` (again whenever it changes), plugins from `bin_dirs`, and keeps
    /// results below `cache_dir`. Nothing is read yet.
    pub fn load(
        conf_dir: impl Into<PathBuf>,
        bin_dirs: Vec<PathBuf>,
        cache_dir: impl Into<PathBuf>,
    ) -> Self {
        let cache = Cache::new(&cache_dir.into());
        Self {
            conf_dir: conf_dir.into(),
            bin_dirs,
            cache,
            timeout: TIMEOUT,
            loaded: Mutex::new(None),
            order: RwLock::default(),
        }
    }

    /// Removes results that a crash left half written: for the one process that adds and deletes.
    #[must_use]
    pub fn swept(self) -> Self {
        self.cache.sweep();
        self
    }

    /// Another limit for one plugin.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The network in force: the first valid file in lexical order.
    pub fn network(&self) -> Result<Arc<Network>, Error> {
        let stamp = config::stamp(&self.conf_dir)?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, network)) = loaded.as_ref()
            && *seen == stamp
        {
            return Ok(network.clone());
        }
        let network = Arc::new(config::discover(&self.conf_dir, &stamp)?);
        tracing::info!(
            network = network.name,
            version = network.version,
            file = network.file,
            "cni configuration read"
        );
        *loaded = Some((stamp, network.clone()));
        Ok(network)
    }

    /// What an earlier ADD gave, if it succeeded and was not undone.
    pub fn cached(&self, attachment: &Attachment) -> Result<Option<Outcome>, Error> {
        let records = self.cache.of(&attachment.uid, &attachment.ifname)?;
        let done = records.into_iter().find(|r| !r.result.is_null());
        done.map(|r| result::parse(&r.network.name, &attachment.ifname, r.result))
            .transpose()
    }

    /// Joins a pod to the network. What an earlier, interrupted ADD left is undone first; a failed one is
    /// undone at once.
    pub async fn add(&self, attachment: &Attachment) -> Result<Outcome, Error> {
        let _order = self.order.read().await;
        let network = self.network()?;
        self.undo(attachment).await?;
        let mut record = Record::new(&network, attachment);
        self.cache.put(&record)?;
        match self.add_chain(&record).await {
            Ok(value) => {
                let outcome = result::parse(&network.name, &attachment.ifname, value.clone())?;
                record.result = value;
                self.cache.put(&record)?;
                Ok(outcome)
            }
            Err(e) => {
                if let Err(undo) = self.undo(attachment).await {
                    tracing::warn!(pod = attachment.name, namespace = attachment.namespace, error = %undo, "cni: undo of a failed add");
                }
                Err(e)
            }
        }
    }

    async fn add_chain(&self, record: &Record) -> Result<Value, Error> {
        let mut previous = Value::Null;
        for plugin in &record.network.plugins {
            let stdin = config::stdin(&record.network, plugin, &record.attachment, &previous);
            previous = self.run(record, plugin, Verb::Add, &stdin).await?;
            if !previous.is_object() {
                return Err(Error::Result {
                    network: record.network.name.clone(),
                    why: "plugin printed none".into(),
                });
            }
        }
        Ok(previous)
    }

    /// Takes a pod off the network: the chain in reverse, with the configuration and result of its ADD. A pod
    /// that was never added is fine. All plugins are run, and the first error is returned.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), Error> {
        let _order = self.order.read().await;
        self.undo(attachment).await
    }

    async fn undo(&self, attachment: &Attachment) -> Result<(), Error> {
        for record in self.cache.of(&attachment.uid, &attachment.ifname)? {
            self.del_record(&record).await?;
        }
        Ok(())
    }

    async fn del_record(&self, record: &Record) -> Result<(), Error> {
        let mut failed = None;
        let previous = if record.network.at_least(0, 4) {
            &record.result
        } else {
            &Value::Null
        };
        for plugin in record.network.plugins.iter().rev() {
            let stdin = config::stdin(&record.network, plugin, &record.attachment, previous);
            if let Err(e) = self.run(record, plugin, Verb::Del, &stdin).await {
                failed.get_or_insert(e);
            }
        }
        let Some(error) = failed else {
            return self.cache.remove(record);
        };
        // The next GC does not count it among those that live.
        let record = Record {
            ending: true,
            ..record.clone()
        };
        if let Err(error) = self.cache.put(&record) {
            tracing::warn!(pod = record.attachment.name, error = %error, "cni: a failed del is not written down");
        }
        Err(error)
    }

    /// Asks the plugins whether a pod's network is as ADD left it (spec 0.4 and later; `disableCheck` skips it).
    pub async fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        for record in self.cache.of(&attachment.uid, &attachment.ifname)? {
            if !record.network.at_least(0, 4)
                || record.network.disable_check
                || record.result.is_null()
            {
                continue;
            }
            for plugin in &record.network.plugins {
                let stdin =
                    config::stdin(&record.network, plugin, &record.attachment, &record.result);
                self.run(&record, plugin, Verb::Check, &stdin).await?;
            }
        }
        Ok(())
    }

    /// Whether pods can be added now: a valid configuration, all its plugins there, and (spec 1.1) their own word.
    pub async fn status(&self) -> Result<(), Error> {
        let network = self.network()?;
        for plugin in &network.plugins {
            exec::find(&self.bin_dirs, config::type_of(plugin))?;
        }
        if !network.at_least(1, 1) {
            return Ok(());
        }
        let record = Record::new(&network, &Attachment::default());
        for plugin in &network.plugins {
            let stdin = config::stdin(&network, plugin, &record.attachment, &Value::Null);
            self.run(&record, plugin, Verb::Status, &stdin).await?;
        }
        Ok(())
    }

    /// UIDs of the pods that have an attachment, or the rest of one.
    pub fn attached(&self) -> Result<Vec<String>, Error> {
        let records = self.cache.all()?;
        Ok(records.into_iter().map(|r| r.attachment.uid).collect())
    }

    /// Undoes every attachment of one pod. All are tried, and the errors returned.
    pub async fn detach(&self, uid: &str) -> Vec<Error> {
        let _order = self.order.read().await;
        let records = match self.cache.all() {
            Ok(records) => records,
            Err(e) => return vec![e],
        };
        let mut errors = Vec::new();
        for record in records.iter().filter(|r| r.attachment.uid == uid) {
            errors.extend(self.del_record(record).await.err());
        }
        errors
    }

    /// Undoes every attachment whose pod UID is not among `valid`, or whose DEL has failed, then tells plugins which
    /// live (spec 1.1 GC; `disableGC` skips that). Waits until no ADD or DEL is under way, and only then asks `valid`.
    /// Goes on after errors and returns them all.
    pub async fn gc(&self, valid: impl FnOnce() -> Vec<String>) -> Vec<Error> {
        let _order = self.order.write().await;
        let records = match self.cache.all() {
            Ok(records) => records,
            Err(e) => return vec![e],
        };
        let valid = valid();
        let (keep, stale): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|r| valid.contains(&r.attachment.uid) && !r.ending);
        let mut errors = Vec::new();
        for record in &stale {
            errors.extend(self.del_record(record).await.err());
        }
        let Ok(network) = self.network() else {
            return errors;
        };
        if !network.at_least(1, 1) || network.disable_gc {
            return errors;
        }
        let keep = keep.iter().filter(|r| r.network.name == network.name);
        let keep: Vec<Value> = keep
            .map(|r| json!({"containerID": r.attachment.uid, "ifname": r.attachment.ifname}))
            .collect();
        let record = Record::new(&network, &Attachment::default());
        for plugin in &network.plugins {
            let mut stdin = config::stdin(&network, plugin, &record.attachment, &Value::Null);
            stdin["cni.dev/valid-attachments"] = json!(keep);
            errors.extend(self.run(&record, plugin, Verb::Gc, &stdin).await.err());
        }
        errors
    }

    async fn run(
        &self,
        record: &Record,
        plugin: &Value,
        verb: Verb,
        stdin: &Value,
    ) -> Result<Value, Error> {
        let call = Call {
            bin_dirs: &self.bin_dirs,
            network: &record.network.name,
            plugin: config::type_of(plugin),
            verb,
            attachment: &record.attachment,
            stdin,
            timeout: self.timeout,
        };
        exec::run(&call).await
    }
}
