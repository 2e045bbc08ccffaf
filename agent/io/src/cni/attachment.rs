//! One pod on one network, and what plugins are told about it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::volumes::quantity;

/// A pod's end of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attachment {
    /// The pod's UID; also the container id that plugins see.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pinned network namespace.
    pub netns: PathBuf,
    /// The link's name in the pod.
    pub ifname: String,
    /// Host ports.
    pub ports: Vec<PortMapping>,
    /// Rate limits.
    pub bandwidth: Option<Bandwidth>,
    /// Wanted addresses, for plugins that declare `ips`.
    pub ips: Vec<IpNet>,
    /// Wanted hardware address, for plugins that declare `mac`.
    pub mac: Option<String>,
}

/// A host port; the names are those of the `portMappings` convention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// On the host.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Only on this address of the host.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none", default)]
    pub host_ip: Option<IpAddr>,
}

/// Rates in bits a second, as seen from the pod; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Towards the pod.
    pub ingress: u64,
    /// From the pod.
    pub egress: u64,
}

/// The most the bandwidth plugin takes for a burst; containerd gives the same.
const BURST: u64 = i32::MAX as u64;

impl Bandwidth {
    /// From `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth`; a value that is no quantity
    /// sets no limit.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let rate = |key: &str| annotations.get(key).and_then(|v| quantity(v)).unwrap_or(0);
        let both = Self {
            ingress: rate("kubernetes.io/ingress-bandwidth"),
            egress: rate("kubernetes.io/egress-bandwidth"),
        };
        (both != Self::default()).then_some(both)
    }

    fn to_value(self) -> Value {
        let mut map = Map::new();
        for (rate, rate_key, burst_key) in [
            (self.ingress, "ingressRate", "ingressBurst"),
            (self.egress, "egressRate", "egressBurst"),
        ] {
            if rate > 0 {
                map.insert(rate_key.into(), json!(rate));
                map.insert(burst_key.into(), json!(BURST));
            }
        }
        Value::Object(map)
    }
}

impl Attachment {
    /// The attachment of a pod: its `eth0`, host ports and bandwidth annotations.
    pub fn from_pod(pod: &Pod, netns: impl Into<PathBuf>) -> Self {
        let meta = &pod.metadata;
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            netns: netns.into(),
            ifname: "eth0".into(),
            ports: host_ports(pod),
            bandwidth: meta
                .annotations
                .as_ref()
                .and_then(Bandwidth::from_annotations),
            ips: Vec::new(),
            mac: None,
        }
    }

    /// `CNI_ARGS`.
    pub(super) fn args(&self) -> String {
        let Self {
            uid,
            namespace,
            name,
            ..
        } = self;
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={uid};K8S_POD_UID={uid}"
        )
    }

    /// What a plugin gets in `runtimeConfig` if it declares the capability.
    pub(super) fn capability(&self, name: &str) -> Option<Value> {
        match name {
            "portMappings" => (!self.ports.is_empty()).then(|| json!(self.ports)),
            "bandwidth" => self.bandwidth.map(Bandwidth::to_value),
            "ips" => (!self.ips.is_empty()).then(|| json!(self.ips)),
            "mac" => self.mac.as_ref().map(|m| json!(m)),
            _ => None,
        }
    }
}

fn host_ports(pod: &Pod) -> Vec<PortMapping> {
    let Some(spec) = pod.spec.as_ref().filter(|s| s.host_network != Some(true)) else {
        return Vec::new();
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    let mapping = |p: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(PortMapping {
            host_port: u16::try_from(p.host_port?).ok().filter(|p| *p > 0)?,
            container_port: u16::try_from(p.container_port).ok()?,
            protocol: p.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
            host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
        })
    };
    ports.filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Attachment {
        Attachment::from_pod(&serde_json::from_value(value).expect("pod"), "/ns")
    }

    #[test]
    fn a_pod_says_its_ports_and_rates() {
        let spec = json!({
            "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1"},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}, {"containerPort": 9}]}],
            "initContainers": [
                {"name": "once", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "sidecar", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 2}]}],
        });
        let annotations = json!({"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "fast"});
        let got = pod(json!({"metadata": {"uid": "u", "annotations": annotations}, "spec": spec}));
        let ports: Vec<_> = got
            .ports
            .iter()
            .map(|p| (p.host_port, p.container_port, p.protocol.as_str()))
            .collect();
        assert_eq!(ports, [(8080, 80, "tcp"), (53, 53, "udp"), (2, 2, "tcp")]);
        let ports = got.capability("portMappings").expect("ports");
        assert_eq!(ports.pointer("/0/hostIP"), Some(&json!("192.0.2.1")));
        let rates = json!({"ingressRate": 10_000_000, "ingressBurst": 2_147_483_647});
        assert_eq!(got.capability("bandwidth"), Some(rates));

        let mut host = spec;
        host["hostNetwork"] = json!(true);
        let got = pod(json!({"metadata": {}, "spec": host}));
        assert_eq!(
            (got.capability("portMappings"), got.capability("bandwidth")),
            (None, None)
        );
    }
}
