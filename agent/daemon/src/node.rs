//! This node in the API: registration, lease, status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_agent_io::node::{self as io, Facts, Inputs, Pressure};
use keelson_agent_plan::event::Event;
use keelson_agent_plan::eviction::Condition;
use keelson_agent_plan::reserve::Reserved;
use keelson_agent_plan::shutdown;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::config::Config;
use crate::csi;
use crate::shared::{Shared, chain};

/// Between two renewals of the lease, and two looks at the node's own figures.
const PERIOD: Duration = Duration::from_secs(10);
/// While the node is not registered or not ready.
const SOON: Duration = Duration::from_secs(1);
/// A status without changes is written this often all the same (upstream's `nodeStatusReportFrequency`).
const REPORT: Duration = Duration::from_secs(300);

/// Makes the Node, with its addresses, if there is none: before the agent runs, when the node asks for its serving
/// certificate, which is signed for no other addresses than the Node has.
pub async fn announce(config: &Config, client: &kube::Client) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let addresses = io::addresses(&config.ips(), &config.node_name);
    if nodes.get_opt(&config.node_name).await?.is_none() {
        let wanted = io::node(
            &config.node_name,
            &config.labels,
            &config.taints,
            NodeStatus::default(),
        );
        nodes.create(&PostParams::default(), &wanted).await?;
    }
    let patch = json!({"status": {"addresses": addresses}});
    nodes
        .patch_status(
            &config.node_name,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await?;
    Ok(())
}

/// Registers the node and keeps it.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut keeper = Keeper {
        nodes: Api::all(shared.client.clone()),
        leases: Api::namespaced(shared.client.clone(), "kube-node-lease"),
        shared: shared.clone(),
        images: (None, Vec::new()),
        images_changed: false,
        written: None,
        lease: None,
    };
    let mut pressure = shared.pressure.subscribe();
    let mut ips = shared.config.node_ips.clone();
    let mut stopping = shared.stopping.subscribe();
    // A node that was short before the agent started is not shown as well for a moment.
    tokio::select! {
        () = shared.shutdown.cancelled() => return,
        _ = pressure.wait_for(Option::is_some) => {}
    }
    loop {
        pressure.mark_unchanged();
        shared.metrics.turn();
        let wait = match keeper.turn().await {
            Ok(true) => PERIOD,
            Ok(false) => SOON,
            Err(error) => {
                tracing::warn!(
                    node = shared.config.node_name,
                    error = format!("{error:#}"),
                    "node not kept"
                );
                SOON
            }
        };
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            _ = pressure.changed() => {}
            Ok(()) = ips.changed() => {}
            _ = stopping.changed() => {}
            () = shared.images_stale.notified() => keeper.images.0 = None,
            () = shared.devices.changed.notified() => {}
        }
    }
}

struct Keeper {
    shared: Arc<Shared>,
    nodes: Api<Node>,
    leases: Api<Lease>,
    images: (Option<Instant>, Vec<ContainerImage>),
    /// They are others than those that were written.
    images_changed: bool,
    /// What was written last, without its heartbeat times, and when.
    written: Option<(Value, Instant)>,
    lease: Option<Lease>,
}

impl Keeper {
    /// Once around. False when the node is not ready yet and it should be looked at again soon.
    async fn turn(&mut self) -> anyhow::Result<bool> {
        let mut known = self.shared.node.borrow().clone();
        if known.is_none() {
            // Its conditions go on as they were: an agent that starts again flips none.
            let found = self.nodes.get_opt(&self.shared.config.node_name).await?;
            known = found.map(|node| Arc::new(slim(node)));
        }
        let previous = known
            .as_ref()
            .and_then(|n| n.status.clone())
            .unwrap_or_default();
        let mut status = self
            .status(previous.conditions.clone().unwrap_or_default())
            .await?;
        status.images = status.images.filter(|i| !i.is_empty());
        status.volumes_in_use =
            csi::volumes_in_use(&self.shared, previous.volumes_in_use.is_some());
        let node = match known {
            Some(node) if self.written.is_some() => node,
            _ => Arc::new(self.register(&status).await?),
        };
        // The lease says that the agent lives: it does not wait for anything else.
        let renewed = self.renew(&node).await;
        self.report(&node, status.clone(), &previous).await?;
        let stops = |c: &NodeCondition| {
            c.message
                .as_deref()
                .is_some_and(|m| m.contains(shutdown::NOT_READY))
        };
        let told = status.conditions.iter().flatten().any(stops);
        self.shared.told_stopping.send_replace(told);
        renewed?;
        Ok(is_ready(&status))
    }

    async fn status(&mut self, previous: Vec<NodeCondition>) -> anyhow::Result<NodeStatus> {
        let config = &self.shared.config;
        let mut problems = Vec::new();
        let version = match self.shared.runtime.version().await {
            Ok(version) => version,
            Err(error) => {
                problems.push(Inputs::runtime_down(&chain(&error)));
                String::new()
            }
        };
        if let Err(error) = self.shared.cni.status().await {
            problems.push(Inputs::network_down(&chain(&error)));
        }
        let due = self.images.0.is_none_or(|at| at.elapsed() > REPORT);
        if problems.is_empty() && due && *self.shared.imported.borrow() {
            let found = images(&self.shared).await;
            self.images_changed |= found != self.images.1;
            self.images = (Some(Instant::now()), found);
        }
        if *self.shared.stopping.borrow() {
            problems.push(shutdown::NOT_READY.to_owned());
        }
        let roots = self.shared.roots.clone();
        let facts = tokio::task::spawn_blocking(move || io::read(&roots)).await??;
        let reserved = reserved(config, &facts);
        let short = self.shared.pressure.borrow().clone().unwrap_or_default();
        let inputs = Inputs {
            addresses: config.ips(),
            hostname: config.node_name.clone(),
            max_pods: config.max_pods,
            kubelet_version: config.version.clone(),
            runtime_version: format!("containerd://{}", version.trim_start_matches('v')),
            port: config.serving.as_ref().map_or(0, |s| s.bind.port()),
            images: self.images.1.clone(),
            problems,
            previous,
            reserved_cpu: reserved.cpu,
            reserved_memory: reserved.memory,
            reserved_storage: reserved.storage,
            pressure: Pressure {
                memory: short.contains(&Condition::Memory),
                disk: short.contains(&Condition::Disk),
                pids: short.contains(&Condition::Pid),
            },
        };
        let mut status = io::status(&facts, &inputs, Timestamp::now());
        let devices = self.shared.devices.figures();
        let of =
            |m: BTreeMap<String, usize>| m.into_iter().map(|(k, n)| (k, Quantity(n.to_string())));
        status
            .capacity
            .get_or_insert_default()
            .extend(of(devices.capacity));
        status
            .allocatable
            .get_or_insert_default()
            .extend(of(devices.allocatable));
        Ok(status)
    }

    /// Creates the node, or brings the labels of the one that stands up to date.
    async fn register(&self, status: &NodeStatus) -> anyhow::Result<Node> {
        let config = &self.shared.config;
        let mut wanted = io::node(
            &config.node_name,
            &config.labels,
            &config.taints,
            status.clone(),
        );
        wanted.metadata.annotations = storage_note(config);
        let node = match self.nodes.get_opt(&config.node_name).await? {
            None => self.nodes.create(&PostParams::default(), &wanted).await?,
            Some(_) => {
                let notes = wanted.metadata.annotations;
                let patch =
                    json!({"metadata": {"labels": wanted.metadata.labels, "annotations": notes}});
                self.nodes
                    .patch(
                        &config.node_name,
                        &PatchParams::default(),
                        &Patch::Merge(&patch),
                    )
                    .await?
            }
        };
        tracing::info!(node = config.node_name, "node registered");
        let started = Event {
            warning: false,
            reason: "Starting".into(),
            message: "Starting kubelet.".into(),
            container: None,
        };
        self.shared.events.node(&config.node_name, started);
        Ok(node)
    }

    async fn renew(&mut self, node: &Node) -> anyhow::Result<()> {
        let name = &self.shared.config.node_name;
        if self.lease.is_none() {
            self.lease = self.leases.get_opt(name).await?;
        }
        let wanted = io::lease(
            name,
            node.metadata.uid.as_deref(),
            self.lease.as_ref(),
            Timestamp::now(),
        );
        let renewed = match &self.lease {
            None => self.leases.create(&PostParams::default(), &wanted).await,
            Some(_) => {
                self.leases
                    .replace(name, &PostParams::default(), &wanted)
                    .await
            }
        };
        // After a conflict or a deletion the lease is read again.
        self.lease = renewed.as_ref().ok().cloned();
        renewed?;
        Ok(())
    }

    async fn report(
        &mut self,
        node: &Node,
        mut status: NodeStatus,
        previous: &NodeStatus,
    ) -> anyhow::Result<()> {
        let own: Vec<String> = status
            .conditions
            .iter()
            .flatten()
            .map(|c| c.type_.clone())
            .collect();
        let theirs = previous
            .conditions
            .iter()
            .flatten()
            .filter(|c| !own.contains(&c.type_))
            .cloned();
        let theirs: Vec<_> = theirs.collect();
        status.conditions.get_or_insert_default().extend(theirs);
        let content = without_heartbeats(&status);
        let same = self
            .written
            .as_ref()
            .is_some_and(|(w, at)| *w == content && at.elapsed() < REPORT);
        let stands = without_heartbeats(&told_by_us(previous, &status));
        if same && !self.images_changed && stands == content {
            return Ok(());
        }
        let patch = json!({"status": status});
        let name = &self.shared.config.node_name;
        let written = match self
            .nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            // Somebody deleted the node: register again.
            Err(kube::Error::Api(s)) if s.code == 404 => {
                self.written = None;
                anyhow::bail!("node {name} is gone from the API");
            }
            r => r?,
        };
        let first = self.shared.node.borrow().is_none();
        if first || node.metadata.uid != written.metadata.uid || self.written.is_none() {
            self.shared.node.send_replace(Some(Arc::new(slim(written))));
        }
        self.written = Some((content, Instant::now()));
        self.images_changed = false;
        Ok(())
    }
}

/// Where this node keeps directories that are volumes: whoever makes volumes for it must know.
fn storage_note(config: &Config) -> Option<BTreeMap<String, String>> {
    let dir = config.storage_dir.to_str().filter(|d| !d.is_empty())?;
    Some([("keelson.io/local-path".to_owned(), dir.to_owned())].into())
}

/// A node without what the agent never reads.
pub(crate) fn slim(mut node: Node) -> Node {
    node.metadata.managed_fields = None;
    if let Some(status) = &mut node.status {
        status.images = status.images.take().map(|_| Vec::new());
    }
    node
}

/// What is kept from pods: what was asked for, and what the hard thresholds defend.
fn reserved(config: &Config, facts: &Facts) -> Reserved {
    let thresholds = &config.eviction.thresholds;
    config
        .reserved
        .with_thresholds(thresholds, facts.memory, facts.disk)
}

fn is_ready(status: &NodeStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A status without what others say that the node has: extended resources that no plugin of it offers.
fn told_by_us(stands: &NodeStatus, status: &NodeStatus) -> NodeStatus {
    let mut own = stands.clone();
    type List = Option<BTreeMap<String, Quantity>>;
    let known = |all: &mut List, ours: &List| {
        if let (Some(all), Some(ours)) = (all, ours) {
            all.retain(|name, _| ours.contains_key(name));
        }
    };
    known(&mut own.capacity, &status.capacity);
    known(&mut own.allocatable, &status.allocatable);
    own
}

/// What must not count as a change: heartbeats, and which images there are, which has its own pace.
fn without_heartbeats(status: &NodeStatus) -> Value {
    let mut status = status.clone();
    status.images = status.images.take().map(|_| Vec::new());
    for c in status.conditions.iter_mut().flatten() {
        c.last_heartbeat_time = None;
    }
    serde_json::to_value(status).unwrap_or_default()
}

async fn images(shared: &Shared) -> Vec<ContainerImage> {
    let found = shared.runtime.images().await;
    let found = found.inspect_err(|e| tracing::warn!(error = %chain(e), "images cannot be listed"));
    let image = |i: keelson_runtime::Image| ContainerImage {
        names: Some(i.names),
        size_bytes: i64::try_from(i.size).ok(),
    };
    found.unwrap_or_default().into_iter().map(image).collect()
}
