//! The nodes of the cluster: this one's pod addresses become the CNI configuration, the others' routes and tunnels.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_agent_io::cni::Attachment;
use keelson_agent_plan::cni;
use keelson_overlay::{self as overlay, Facts, Mode};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use tokio::sync::watch;

use crate::conflist;
use crate::shared::{Shared, chain};
use crate::{node, sync};

/// Where a node shows its WireGuard key.
const KEY_NOTE: &str = "keelson.io/wireguard-public-key";
/// After something failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows the nodes.
pub(crate) async fn run(shared: Arc<Shared>) {
    let (tx, rx) = watch::channel(None);
    let (facts, known) = watch::channel(Facts::default());
    let mut nodes = Nodes {
        shared: &shared,
        all: BTreeMap::new(),
        fresh: BTreeMap::new(),
        tx,
        own: watch::Sender::new(Vec::new()),
        left: false,
    };
    let configured = configure(&shared, nodes.own.subscribe(), known.clone());
    let api: Api<Node> = Api::all(shared.client.clone());
    let follow = sync::follow(&shared, api, watcher::Config::default(), |event| {
        nodes.take(event)
    });
    // Ends with the watch, at shutdown.
    tokio::select! {
        () = follow => {}
        () = keep(&shared, rx, facts) => {}
        () = configured => {}
        () = publish(&shared, known) => {}
        () = collect(&shared) => {}
    }
}

/// Keeps the way to other nodes' pods until shutdown.
async fn keep(
    shared: &Shared,
    nodes: watch::Receiver<Option<Vec<overlay::Node>>>,
    facts: watch::Sender<Facts>,
) {
    let config = &shared.config;
    let Some(options) = config.network.clone() else {
        return shared.shutdown.cancelled().await;
    };
    let options = overlay::Options {
        node: config.node_name.clone(),
        cluster_cidrs: config.cluster_cidrs.clone(),
        key_file: config.root_dir.join("wireguard.key"),
        ..options
    };
    while !shared.shutdown.is_cancelled() {
        let kept = overlay::run(options.clone(), nodes.clone(), facts.clone()).await;
        if let Err(error) = kept {
            tracing::error!(error = %chain(&error), "the pod network between nodes is not kept; trying again");
        }
        wait(shared, AGAIN).await;
    }
}

async fn wait(shared: &Shared, time: Duration) {
    tokio::select! {
        () = shared.shutdown.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}

/// Writes the CNI configuration for this node's pods, once it is known how large packets may be, until shutdown.
async fn configure(
    shared: &Shared,
    mut own: watch::Receiver<Vec<IpNet>>,
    mut facts: watch::Receiver<Facts>,
) {
    let config = &shared.config;
    if is_left_to_others(shared)
        && let Err(error) = conflist::remove(&config.cni_conf_dir)
    {
        tracing::error!(dir = %config.cni_conf_dir.display(), %error, "cni configuration not removed");
    }
    let Some(bridge) = &config.cni_bridge else {
        return shared.shutdown.cancelled().await;
    };
    loop {
        let cidrs = own.borrow_and_update().clone();
        let mtu = match &config.network {
            None => Some(0),
            Some(_) => facts.borrow_and_update().mtu,
        };
        let mut again = None;
        if let Some(mtu) = mtu.filter(|_| !cidrs.is_empty()) {
            let data = config.root_dir.join("cni-addresses");
            let conf = conflist::bridge(bridge, mtu, &cidrs, &data);
            if let Err(error) = conflist::write(&config.cni_conf_dir, &conf) {
                tracing::error!(dir = %config.cni_conf_dir.display(), %error, "cni configuration not written");
                again = Some(AGAIN);
            }
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            Ok(()) = own.changed() => {}
            Ok(()) = facts.changed() => {}
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}

/// Shows this node's WireGuard key in its Node, until shutdown; anew when the Node is made anew.
async fn publish(shared: &Shared, mut facts: watch::Receiver<Facts>) {
    let mut node = shared.node.subscribe();
    let nodes: Api<Node> = Api::all(shared.client.clone());
    loop {
        let key = facts.borrow_and_update().key.map(|k| k.to_string());
        let told = node.borrow_and_update().clone();
        let shown = told.as_deref().and_then(|n| note(n, KEY_NOTE));
        let mut again = None;
        if let Some(key) = key.filter(|key| told.is_some() && shown != Some(key)) {
            let patch = json!({"metadata": {"annotations": {KEY_NOTE: key}}});
            let (name, params) = (&shared.config.node_name, PatchParams::default());
            if let Err(error) = nodes.patch(name, &params, &Patch::Merge(&patch)).await {
                tracing::warn!(node = name, error = %chain(&error), "WireGuard key not shown; trying again");
                again = Some(AGAIN);
            }
        }
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            Ok(()) = facts.changed() => {}
            Ok(()) = node.changed() => {}
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}

fn note<'a>(node: &'a Node, name: &str) -> Option<&'a String> {
    node.metadata.annotations.as_ref()?.get(name)
}

/// Somebody else is to make the pod network.
fn is_left_to_others(shared: &Shared) -> bool {
    let network = &shared.config.network;
    network.as_ref().is_some_and(|n| n.mode == Mode::None)
}

/// Sees to it that a pod with these addresses is restricted as it must be.
pub(crate) async fn guard(shared: &Shared, pod: &Pod, ips: &[IpAddr]) -> Result<(), String> {
    match &shared.config.network_guard {
        Some(guard) => guard.added(pod, ips).await,
        None => Ok(()),
    }
}

/// Takes a pod off the network; what a failed plugin may have left is looked after.
pub(crate) async fn leave(shared: &Shared, attachment: &Attachment) -> Result<(), String> {
    let left = shared.cni.del(attachment).await;
    if left.is_err() {
        shared.leftovers.notify_one();
    }
    left.map_err(|e| chain(&e))
}

/// Undoes attachments that nobody has, and tells plugins which live, whenever something may be left, until shutdown.
async fn collect(shared: &Shared) {
    let mut last = None;
    loop {
        shared.leftovers.notified().await;
        let now = Timestamp::now();
        let rest = cni::gc_at(now, last).duration_since(now);
        wait(shared, rest.try_into().unwrap_or_default()).await;
        let pods = || shared.entries().keys().cloned().collect();
        for error in shared.cni.gc(pods).await {
            tracing::warn!(error = %chain(&error), "cni: leftovers cannot be removed");
        }
        last = Some(Timestamp::now());
    }
}

struct Nodes<'a> {
    shared: &'a Shared,
    all: BTreeMap<String, overlay::Node>,
    /// A list under way.
    fresh: BTreeMap<String, overlay::Node>,
    tx: watch::Sender<Option<Vec<overlay::Node>>>,
    /// This node's pods.
    own: watch::Sender<Vec<IpNet>>,
    /// Somebody else makes the pod network, and it has been told.
    left: bool,
}

impl Nodes<'_> {
    fn take(&mut self, event: Event<Node>) {
        match event {
            Event::Init => return self.fresh.clear(),
            Event::InitApply(node) => {
                let node = self.seen(node);
                self.fresh.insert(node.name.clone(), node);
                return;
            }
            Event::InitDone => self.all = std::mem::take(&mut self.fresh),
            Event::Apply(node) => {
                let node = self.seen(node);
                self.all.insert(node.name.clone(), node);
            }
            Event::Delete(node) => _ = self.all.remove(&parse(&node).name),
        }
        if self.are_others() {
            return;
        }
        let now = Some(self.all.values().cloned().collect());
        self.tx.send_if_modified(|old| {
            let new = *old != now;
            *old = now;
            new
        });
    }

    /// Reads a node; of this one, the agent keeps all, and its pod addresses become the CNI configuration.
    fn seen(&self, node: Node) -> overlay::Node {
        let parsed = parse(&node);
        if parsed.name != self.shared.config.node_name {
            return parsed;
        }
        self.shared
            .node
            .send_replace(Some(Arc::new(node::slim(node))));
        self.own.send_if_modified(|own| {
            let new = *own != parsed.pod_cidrs;
            own.clone_from(&parsed.pod_cidrs);
            new
        });
        parsed
    }

    /// Another plugin's configuration is in place, and none of ours: then routes are its too.
    fn are_others(&mut self) -> bool {
        let config = &self.shared.config;
        if config.cni_bridge.is_none() {
            return false;
        }
        let other = conflist::in_the_way(&config.cni_conf_dir).ok().flatten();
        if let Some(file) = &other
            && !self.left
        {
            tracing::info!(file = %file.display(), "another network plugin is configured: routes, tunnels and masquerade are left to it");
        }
        self.left = other.is_some();
        self.left
    }
}

fn parse(node: &Node) -> overlay::Node {
    let spec = node.spec.as_ref();
    let several = spec.and_then(|s| s.pod_cidrs.clone());
    let cidrs = several.or_else(|| spec.and_then(|s| s.pod_cidr.clone()).map(|c| vec![c]));
    let addresses = node
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten());
    let internal = addresses
        .filter(|a| a.type_ == "InternalIP")
        .filter_map(|a| a.address.parse().ok());
    overlay::Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        pod_cidrs: cidrs
            .iter()
            .flatten()
            .filter_map(|c| c.parse().ok())
            .collect(),
        addresses: internal.collect(),
        key: note(node, KEY_NOTE).and_then(|key| key.parse().ok()),
    }
}
