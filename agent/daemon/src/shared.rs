//! What all tasks of the agent have in common.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodStatus, Service};
use keelson_agent_io::cni::Cni;
use keelson_agent_io::node::{self as io, Roots};
use keelson_agent_io::probes::Prober;
use keelson_agent_io::volumes::{Storage, Volumes};
use keelson_agent_plan::eviction::{self, Condition};
use keelson_agent_plan::quantity::value_of;
use keelson_agent_plan::{Attempt, memory, mount, status};
use keelson_runtime::{Providers, Runtime};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::csi::Drivers;
use crate::devices::Devices;
use crate::events::Recorder;
use crate::images::Pulls;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::outcome::Message;
use crate::pinning::Pinning;
use crate::pulled::Records;
use crate::qos::Classes;
use crate::statics::Mirrors;

/// A pod's worker as others see it.
#[derive(Clone)]
pub(crate) struct Entry {
    /// Wakes the worker.
    pub(crate) tx: mpsc::UnboundedSender<Message>,
    /// The pod as it was last seen in the API, without its status.
    pub(crate) pod: Arc<Pod>,
    /// The status the worker last computed.
    pub(crate) status: Arc<PodStatus>,
    /// Its containers' runs.
    pub(crate) containers: Arc<BTreeMap<String, Vec<Attempt>>>,
    /// Its network namespace; none on the host's network or before there is one.
    pub(crate) netns: Option<PathBuf>,
    /// Its spec as far as it was admitted, when that is not all.
    pub(crate) allocated: Option<Arc<PodSpec>>,
    /// A resize of it waits for room.
    pub(crate) waits: bool,
    /// The API does not have it any more.
    pub(crate) forgotten: bool,
}

impl Entry {
    /// What it takes of the node.
    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.allocated.as_deref().or(self.pod.spec.as_ref())
    }

    /// Whether it takes room.
    pub(crate) fn is_active(&self) -> bool {
        !status::is_final(self.status.phase.as_deref())
    }

    /// The pod with its status.
    pub(crate) fn whole(&self) -> Pod {
        Pod {
            status: Some(PodStatus::clone(&self.status)),
            ..Pod::clone(&self.pod)
        }
    }
}

/// Handles and figures that every task uses.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Runtime,
    pub(crate) cni: Cni,
    /// Pods' ends of the network may be left that nobody has: all pods are known now, or a DEL has failed.
    pub(crate) leftovers: Notify,
    pub(crate) volumes: Volumes,
    pub(crate) prober: Prober,
    pub(crate) roots: Roots,
    pub(crate) events: Recorder,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// What shows static pods in the API.
    pub(crate) mirrors: Mirrors,
    /// What pods ask for by class.
    pub(crate) classes: Classes,
    /// Who has CPUs and memory of their own.
    pub(crate) pinning: Pinning,
    /// Sizes of huge pages that the node knows, bytes.
    pub(crate) page_sizes: Vec<u64>,
    /// Swap that the node had when the agent started, bytes.
    swap: i64,
    /// What volumes are made of.
    pub(crate) objects: Objects,
    /// CSI drivers of this node.
    pub(crate) csi: Drivers,
    /// Devices of this node's plugins.
    pub(crate) devices: Devices,
    /// Whether mounts can be read-only with all below them.
    pub(crate) recursive_read_only: bool,
    pub(crate) shutdown: CancellationToken,
    /// Pulls under way.
    pub(crate) pulls: Pulls,
    /// With what images were pulled.
    pub(crate) records: Records,
    /// Plugins that have credentials for images.
    pub(crate) providers: Option<Arc<Providers>>,
    /// Status writes at one time.
    pub(crate) writes: Semaphore,
    /// Images of `images_dir` are in.
    pub(crate) imported: watch::Sender<bool>,
    /// Their names.
    preloaded: Mutex<BTreeSet<String>>,
    /// Images were removed: what the node shows is to be read again.
    pub(crate) images_stale: Notify,
    /// What the node is short of; `None` until it was looked at.
    pub(crate) pressure: watch::Sender<Option<Vec<Condition>>>,
    /// The machine shuts down.
    pub(crate) stopping: watch::Sender<bool>,
    /// The API knows that it does.
    pub(crate) told_stopping: watch::Sender<bool>,
    /// Whether services are known yet: containers' environments need them.
    pub(crate) services_known: watch::Sender<bool>,
    /// This node as it is in the API.
    pub(crate) node: watch::Sender<Option<Arc<Node>>>,
    entries: Mutex<HashMap<String, Entry>>,
    owners: Mutex<HashMap<String, String>>,
    services: Mutex<HashMap<(String, String), Arc<Service>>>,
}

impl Shared {
    /// Opens what needs opening; makes the agent's directories.
    pub(crate) fn new(
        config: Arc<Config>,
        client: kube::Client,
        runtime: Runtime,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        use anyhow::Context;
        for dir in [&config.root_dir, &config.run_dir, &config.log_dir] {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("create directory {}", dir.display()))?;
        }
        let cni = config.cni().swept();
        let roots = Roots::host(&config.root_dir);
        let swap = swap(&roots).context("read how much swap there is")?;
        check_memory(&config, swap)?;
        Ok(Arc::new(Self {
            events: Recorder::start(client.clone(), &config.node_name),
            metrics: Metrics::default(),
            mirrors: Mirrors::default(),
            classes: Classes::default(),
            pinning: Pinning::open(&config)?,
            page_sizes: io::page_sizes(&roots).context("read sizes of huge pages")?,
            swap,
            objects: Objects::default(),
            csi: Drivers::default(),
            devices: Devices::open(&config.device_plugins_dir),
            volumes: Volumes::new(&config.root_dir).with_storage(Storage::new(&config.storage_dir)),
            recursive_read_only: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .is_ok_and(|release| mount::kernel_can(&release)),
            prober: Prober::new(),
            roots,
            pulls: Pulls::new(config.parallel_pulls),
            records: Records::new(&config.root_dir).context("make directories of image records")?,
            providers: providers(&config)?.map(Arc::new),
            writes: Semaphore::new(8),
            imported: watch::Sender::new(config.images_dir.is_none()),
            preloaded: Mutex::default(),
            leftovers: Notify::new(),
            images_stale: Notify::new(),
            pressure: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            told_stopping: watch::Sender::new(false),
            services_known: watch::Sender::new(false),
            node: watch::Sender::new(None),
            entries: Mutex::default(),
            owners: Mutex::default(),
            services: Mutex::default(),
            config,
            client,
            runtime,
            cni,
            shutdown,
        }))
    }

    /// Workers by pod UID.
    pub(crate) fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pod UIDs by container id: where an exit belongs.
    pub(crate) fn owners(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Services by namespace and name.
    pub(crate) fn services(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<Service>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of images that were imported at start.
    pub(crate) fn preloaded(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.preloaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a pod that the API does not have any more; the pod as it was last.
    pub(crate) fn gone(&self, uid: &str, last: Option<Arc<Pod>>) {
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.forgotten = true;
        }
        self.tell(uid, Message::Gone(last));
    }

    /// Sends to a pod's worker, if it has one.
    pub(crate) fn tell(&self, uid: &str, message: Message) {
        if let Some(entry) = self.entries().get(uid) {
            // A worker that has just ended needs no message.
            let _ = entry.tx.send(message);
        }
    }

    /// Pods that hold something of the node: not over, and not being evicted.
    pub(crate) fn active(&self) -> Vec<Entry> {
        let entries = self.entries();
        let active = |e: &&Entry| {
            let evicted = e.status.reason.as_deref() == Some(eviction::REASON);
            e.is_active() && !evicted
        };
        entries.values().filter(active).cloned().collect()
    }

    /// The node's memory, as far as it is registered.
    pub(crate) fn memory(&self) -> memory::Node {
        let node = self.node.borrow();
        let status = node.as_ref().and_then(|n| n.status.as_ref());
        let capacity = status.and_then(|s| s.capacity.as_ref());
        memory::Node {
            capacity: value_of(capacity, "memory"),
            allocatable: value_of(status.and_then(|s| s.allocatable.as_ref()), "memory"),
            swap: self.swap,
        }
    }

    /// What pods may use of this node.
    pub(crate) fn allocatable(
        &self,
    ) -> BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity> {
        let node = self.node.borrow();
        let status = node.as_ref().and_then(|n| n.status.as_ref());
        status
            .and_then(|s| s.allocatable.clone())
            .unwrap_or_default()
    }
}

fn swap(roots: &Roots) -> Result<i64, io::Error> {
    let swap = io::read_figures(roots)?.swap;
    Ok(i64::try_from(swap).unwrap_or(i64::MAX))
}

/// Whether the node can do what its configuration says of memory.
fn check_memory(config: &Config, swap: i64) -> anyhow::Result<()> {
    anyhow::ensure!(
        !config.fail_swap_on || swap == 0,
        "running with swap on is not supported, please disable swap or set failSwapOn to false"
    );
    anyhow::ensure!(
        config.memory == memory::Policy::default() || keelson_runtime::is_unified(),
        "memoryReservationPolicy TieredReservation, memoryThrottlingFactor and swapBehavior LimitedSwap need cgroup v2: \
         this machine has v1"
    );
    Ok(())
}

/// The configured plugins.
fn providers(config: &Config) -> anyhow::Result<Option<Providers>> {
    let Some(file) = &config.credential_providers else {
        return Ok(None);
    };
    let dir = &config.credential_provider_dir;
    Ok(Some(Providers::load(file, dir)?))
}

/// The text of an error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = e.source();
    }
    text
}
