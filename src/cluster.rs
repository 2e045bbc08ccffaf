//! What all nodes of a cluster must agree on: told by the server in the ConfigMap `kube-system/keelson`.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use keelson_auth::pki::write_private;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::network::Network;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "keelson";
const KEY: &str = "cluster.json";

/// Facts of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cluster {
    /// Pods' addresses.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Services' addresses.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Whom pods ask for names; empty: whom their node asks.
    pub(crate) cluster_dns: Vec<IpAddr>,
    /// Each node answers there itself.
    #[serde(default)]
    pub(crate) node_dns: bool,
    /// The DNS domain.
    pub(crate) cluster_domain: String,
    /// How pods reach each other.
    #[serde(default = "Network::routes")]
    pub(crate) network: Network,
}

/// How a kubeconfig says the API is reached.
pub(crate) async fn access(kubeconfig: &Path) -> anyhow::Result<Config> {
    let read = Kubeconfig::read_from(kubeconfig);
    let read = read.with_context(|| format!("read {}", kubeconfig.display()))?;
    let options = KubeConfigOptions::default();
    Ok(Config::from_custom_kubeconfig(read, &options).await?)
}

/// Publishes the facts, readable for nodes.
pub(crate) async fn publish(client: &Client, cluster: &Cluster) -> anyhow::Result<()> {
    let meta = json!({"name": NAME, "namespace": NAMESPACE});
    let data = BTreeMap::from([(KEY, serde_json::to_string(cluster)?)]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "keelson:node-config"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NAME], "verbs": ["get"]}]});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "keelson:node-config"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "keelson:node-config"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]});
    let params = PatchParams::apply("keelson").force();
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data});
    Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE)
        .patch(NAME, &params, &Patch::Apply(config))
        .await?;
    let name = "keelson:node-config";
    Api::<Role>::namespaced(client.clone(), NAMESPACE)
        .patch(name, &params, &Patch::Apply(role))
        .await?;
    Api::<RoleBinding>::namespaced(client.clone(), NAMESPACE)
        .patch(name, &params, &Patch::Apply(binding))
        .await?;
    Ok(())
}

/// The facts as they were when the server was last asked.
pub(crate) fn kept(file: &Path) -> Option<Cluster> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// Keeps the facts for when the server is away.
pub(crate) fn keep(file: &Path, cluster: &Cluster) -> anyhow::Result<()> {
    write_private(file, &serde_json::to_vec(cluster)?)
        .with_context(|| format!("write {}", file.display()))
}

/// Reads the facts.
pub(crate) async fn read(client: &Client) -> anyhow::Result<Cluster> {
    let map = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE)
        .get(NAME)
        .await
        .context("read the cluster's configuration")?;
    let text = map
        .data
        .as_ref()
        .and_then(|d| d.get(KEY))
        .context("the cluster's configuration is empty")?;
    serde_json::from_str(text).context("read the cluster's configuration")
}
