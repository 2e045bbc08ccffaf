//! What the API says, as it is now.

use anyhow::Context;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use keelson_proxy_plan::explain::{Known, Names, in_host_network, ips, node_of};
use keelson_proxy_plan::policy;
use keelson_proxy_plan::state::{Here, State};
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::{Config, ZONE};

/// Services and their endpoints as seen from this node, and all objects that answers are made of.
pub(super) struct Cluster {
    pub(super) state: State,
    pub(super) known: Known,
    pub(super) policies: Vec<NetworkPolicy>,
    namespaces: Vec<Namespace>,
}

impl Cluster {
    pub(super) async fn read(config: &Config, client: &Client) -> anyhow::Result<Self> {
        let node = Api::<Node>::all(client.clone())
            .get_opt(&config.node_name)
            .await;
        let node = node.context("read the node")?;
        let node = node.with_context(|| {
            let name = &config.node_name;
            format!("the cluster has no node {name}: --node-name says which node this is")
        })?;
        let here = Here {
            node: config.node_name.clone(),
            zone: node.metadata.labels.and_then(|mut l| l.remove(ZONE)),
        };
        let mut state = State::default();
        let answered = config.dns.iter().flat_map(|d| &d.listen).map(|a| a.ip());
        state.answer_here(answered.collect());
        let services: Vec<Service> = list(client).await.context("list services")?;
        for service in &services {
            state.set_service(service);
        }
        let slices: Vec<EndpointSlice> = list(client).await.context("list endpointslices")?;
        for slice in &slices {
            state.set_slice(slice, &here);
        }
        let pods: Vec<Pod> = list(client).await.context("list pods")?;
        Ok(Self {
            state,
            known: Known {
                node: config.node_name.clone(),
                services,
                pods,
            },
            policies: list(client).await.context("list networkpolicies")?,
            namespaces: list(client).await.context("list namespaces")?,
        })
    }

    /// NetworkPolicies as a node sees them.
    pub(super) fn policies(&self, node: &str) -> policy::state::State {
        let mut state = policy::state::State::new(node);
        for namespace in &self.namespaces {
            state.set_namespace(namespace);
        }
        for pod in &self.known.pods {
            state.set_pod(pod);
        }
        for policy in &self.policies {
            state.set_policy(policy);
        }
        state.sync();
        state
    }

    /// What pods' addresses are called, and which node they are on. Those in their node's network have none of their own.
    pub(super) fn names(&self) -> Names {
        let mut names = Names::default();
        for pod in self.known.pods.iter().filter(|p| !in_host_network(p)) {
            let namespace = pod.namespace().unwrap_or_default();
            let over = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            // What ran to its end has given its address back.
            if matches!(over, Some("Succeeded" | "Failed")) {
                continue;
            }
            for ip in ips(pod) {
                names
                    .of
                    .insert(ip, format!("pod {namespace}/{}", pod.name_any()));
                names.nodes.insert(ip, node_of(pod).to_owned());
            }
        }
        names
    }
}

async fn list<K>(client: &Client) -> kube::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let all = Api::<K>::all(client.clone());
    Ok(all.list(&ListParams::default()).await?.items)
}
