//! The nodes of the cluster: this one's pod addresses become the CNI configuration, the others' routes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use keelson_overlay as overlay;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::shared::{Shared, chain};
use crate::{node, sync};

/// The file the agent writes; others' files in the directory win.
pub(crate) const CONF_FILE: &str = "10-keelson.conflist";

/// Follows the nodes.
pub(crate) async fn run(shared: Arc<Shared>) {
    let (tx, rx) = watch::channel(None);
    let routes = async {
        if !shared.config.overlay {
            return;
        }
        let options = overlay::Options {
            node: shared.config.node_name.clone(),
            cluster_cidrs: shared.config.cluster_cidrs.clone(),
        };
        while !shared.shutdown.is_cancelled() {
            if let Err(error) = overlay::run(options.clone(), rx.clone()).await {
                tracing::error!(error = %chain(&error), "routes to other nodes are not kept; trying again");
            }
            tokio::select! {
                () = shared.shutdown.cancelled() => {}
                () = tokio::time::sleep(std::time::Duration::from_secs(5)) => {}
            }
        }
    };
    let mut nodes = Nodes {
        shared: &shared,
        all: BTreeMap::new(),
        fresh: BTreeMap::new(),
        tx,
    };
    let api: Api<Node> = Api::all(shared.client.clone());
    let follow = sync::follow(&shared, api, watcher::Config::default(), |event| {
        nodes.take(event)
    });
    // Ends with the watch, at shutdown; without an overlay only the watch runs.
    tokio::select! {
        () = follow => {}
        () = async { routes.await; shared.shutdown.cancelled().await } => {}
    }
}

/// Sees to it that a pod with these addresses is restricted as it must be.
pub(crate) async fn guard(shared: &Shared, pod: &Pod, ips: &[IpAddr]) -> Result<(), String> {
    match &shared.config.network_guard {
        Some(guard) => guard.added(pod, ips).await,
        None => Ok(()),
    }
}

struct Nodes<'a> {
    shared: &'a Shared,
    all: BTreeMap<String, overlay::Node>,
    /// A list under way.
    fresh: BTreeMap<String, overlay::Node>,
    tx: watch::Sender<Option<Vec<overlay::Node>>>,
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
        let config = &self.shared.config;
        let bridge = config
            .cni_bridge
            .as_ref()
            .filter(|_| !parsed.pod_cidrs.is_empty());
        if let Some(bridge) = bridge {
            let conf = cni_conf(
                bridge,
                &parsed.pod_cidrs,
                &config.root_dir.join("cni-addresses"),
            );
            if let Err(error) = write_conf(&config.cni_conf_dir, &conf) {
                tracing::error!(dir = %config.cni_conf_dir.display(), %error, "cni configuration not written");
            }
        }
        parsed
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
    }
}

/// A bridge with an address of each family; host ports by Debian's portmap, which the plugin starts when there are any.
fn cni_conf(bridge: &str, cidrs: &[IpNet], data_dir: &Path) -> Value {
    let ranges: Vec<Value> = cidrs.iter().map(|c| json!([{"subnet": c}])).collect();
    let default = |c: &IpNet| match c {
        IpNet::V4(_) => json!({"dst": "0.0.0.0/0"}),
        IpNet::V6(_) => json!({"dst": "::/0"}),
    };
    let routes: Vec<Value> = cidrs.iter().map(default).collect();
    json!({
        "cniVersion": "1.0.0",
        "name": "keelson",
        "plugins": [
            {"type": "keelson-cni", "bridge": bridge, "isGateway": true, "hairpinMode": true,
             "capabilities": {"portMappings": true},
             "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": data_dir}},
        ],
    })
}

/// Writes the file as a whole, if it is not there as it should be and nobody else configures the network.
fn write_conf(dir: &Path, conf: &Value) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(CONF_FILE);
    let text = format!("{conf:#}\n");
    if std::fs::read_to_string(&path).ok().as_deref() == Some(&text)
        || (!path.exists() && others(dir)?)
    {
        return Ok(());
    }
    let new = dir.join(format!(".{CONF_FILE}.new"));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, &path)
}

fn others(dir: &Path) -> io::Result<bool> {
    let is_conf = |e: std::fs::DirEntry| {
        let path = e.path();
        let known = path
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| ["conf", "conflist", "json"].contains(&e));
        known && path.file_name().is_some_and(|n| n != CONF_FILE)
    };
    Ok(std::fs::read_dir(dir)?.flatten().any(is_conf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_configuration_wins_and_ours_follows_the_node() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = |c: &str| cni_conf("br0", &[c.parse().expect("cidr")], Path::new("/d"));
        let read = || std::fs::read_to_string(dir.path().join(CONF_FILE)).ok();
        std::fs::write(dir.path().join("99-other.conf"), "{}").expect("write");
        write_conf(dir.path(), &conf("10.42.0.0/24")).expect("written");
        assert_eq!(read(), None, "somebody else's is there");
        std::fs::remove_file(dir.path().join("99-other.conf")).expect("removed");
        for cidr in ["10.42.0.0/24", "10.42.1.0/24"] {
            write_conf(dir.path(), &conf(cidr)).expect("written");
            assert!(read().is_some_and(|t| t.contains(cidr)), "{cidr}");
        }
    }
}
