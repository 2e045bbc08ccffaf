//! From the API's objects. What does not mean anything is left out and told: never does it select more.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::{Container, Pod as ApiPod, PodSpec};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::model::{
    Invalid, IpBlock, Name, NamedPort, Peer, Pod, Policy, PolicyRule, Port, PortName, PortRange,
    Scope,
};
use super::selector::{Labels, Selector};
use crate::model::Protocol;

/// A port's name has at most so many letters (RFC 6335).
const PORT_NAME_BYTES: usize = 15;

/// A NetworkPolicy, and what of it means nothing.
pub fn policy(policy: &NetworkPolicy) -> (Policy, Vec<Invalid>) {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let name = Name::new(
        &text(&policy.metadata.namespace),
        &text(&policy.metadata.name),
    );
    let mut reader = Reader {
        name: name.clone(),
        invalid: Vec::new(),
    };
    let spec = policy.spec.clone().unwrap_or_default();
    let ingress = spec.ingress.as_deref().unwrap_or_default();
    let egress = spec.egress.as_deref().unwrap_or_default();
    let types = reader.types(
        spec.policy_types.as_deref().unwrap_or_default(),
        !egress.is_empty(),
    );
    let pods = reader.selector("spec.podSelector", &spec.pod_selector.unwrap_or_default());
    let ingress = types.0.then(|| {
        let rules = ingress.iter().enumerate();
        rules
            .map(|(i, r)| {
                reader.rule(
                    &format!("spec.ingress[{i}]"),
                    "from",
                    r.from.as_deref(),
                    r.ports.as_deref(),
                )
            })
            .collect()
    });
    let egress = types.1.then(|| {
        let rules = egress.iter().enumerate();
        rules
            .map(|(i, r)| {
                reader.rule(
                    &format!("spec.egress[{i}]"),
                    "to",
                    r.to.as_deref(),
                    r.ports.as_deref(),
                )
            })
            .collect()
    });
    let policy = Policy {
        name,
        pods,
        ingress,
        egress,
    };
    (policy, reader.invalid)
}

struct Reader {
    name: Name,
    invalid: Vec<Invalid>,
}

impl Reader {
    /// Keeps what is right, remembers what is not.
    fn keep<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        let (policy, field) = (self.name.clone(), field.to_owned());
        result
            .map_err(|why| self.invalid.push(Invalid { policy, field, why }))
            .ok()
    }

    /// Whether the policy is about ingress, and about egress: without a word about ingress, and about egress if it has
    /// rules for it.
    fn types(&mut self, types: &[String], has_egress: bool) -> (bool, bool) {
        if types.is_empty() {
            return (true, has_egress);
        }
        for (i, other) in types
            .iter()
            .enumerate()
            .filter(|(_, t)| !matches!(t.as_str(), "Ingress" | "Egress"))
        {
            let why = Err(format!("{other:?} is neither Ingress nor Egress"));
            self.keep::<()>(&format!("spec.policyTypes[{i}]"), why);
        }
        let has = |name: &str| types.iter().any(|t| t == name);
        (has("Ingress"), has("Egress"))
    }

    fn selector(&mut self, field: &str, selector: &LabelSelector) -> Option<Selector> {
        self.keep(field, Selector::parse(selector))
    }

    /// An entry of `ingress` or `egress`. An empty list of peers or ports is as good as none.
    fn rule(
        &mut self,
        field: &str,
        side: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> PolicyRule {
        let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
        let peers = (!peers.is_empty()).then(|| {
            let of = |(i, p)| self.peer(&format!("{field}.{side}[{i}]"), p);
            peers.iter().enumerate().filter_map(of).collect()
        });
        let ports = (!ports.is_empty()).then(|| {
            let of = |(i, p)| self.keep(&format!("{field}.ports[{i}]"), port(p));
            ports.iter().enumerate().filter_map(of).collect()
        });
        PolicyRule { peers, ports }
    }

    fn peer(&mut self, field: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        let refuse = |why: &str| Err::<Peer, _>(why.to_owned());
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(b), None, None) => self
                .keep(&format!("{field}.ipBlock"), block(b))
                .map(Peer::Block),
            (Some(_), _, _) => self.keep(field, refuse("ipBlock stands beside another selector")),
            (None, None, None) => self.keep(field, refuse("a peer is missing")),
            (None, namespaces, pods) => {
                // Both are looked at, so that both are told.
                let scope = match namespaces {
                    None => Some(Scope::One(self.name.namespace.clone())),
                    Some(s) => self
                        .selector(&format!("{field}.namespaceSelector"), s)
                        .map(Scope::Matching),
                };
                let pods = match pods {
                    None => Some(Selector::everything()),
                    Some(s) => self.selector(&format!("{field}.podSelector"), s),
                };
                Some(Peer::Pods(scope?, pods?))
            }
        }
    }
}

fn port(port: &NetworkPolicyPort) -> Result<Port, String> {
    let text = port.protocol.as_deref();
    let protocol = Protocol::parse(text)
        .ok_or_else(|| format!("{:?} is no protocol", text.unwrap_or_default()))?;
    let number = |n: i32| {
        u16::try_from(n)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| format!("{n} is no port"))
    };
    let range = |first, last| {
        Ok(Port::Numbers(PortRange {
            protocol,
            first,
            last,
        }))
    };
    match (&port.port, port.end_port) {
        (None, None) => range(0, u16::MAX),
        (None, Some(_)) => Err("endPort without port".into()),
        (Some(IntOrString::Int(n)), None) => range(number(*n)?, number(*n)?),
        (Some(IntOrString::Int(n)), Some(end)) if end < *n => {
            Err(format!("endPort {end} is below port {n}"))
        }
        (Some(IntOrString::Int(n)), Some(end)) => range(number(*n)?, number(end)?),
        (Some(IntOrString::String(_)), Some(_)) => Err("endPort beside the name of a port".into()),
        (Some(IntOrString::String(name)), None) if !is_port_name(name) => {
            Err(format!("{name:?} is no name of a port"))
        }
        (Some(IntOrString::String(name)), None) => Ok(Port::Named(PortName {
            protocol,
            name: name.as_str().into(),
        })),
    }
}

/// RFC 6335: letters, digits and single dashes between them, one letter at least.
fn is_port_name(name: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    name.len() <= PORT_NAME_BYTES
        && name.bytes().all(is_inner)
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

fn block(block: &IPBlock) -> Result<IpBlock, String> {
    let net = |text: &str| cidr(text).ok_or_else(|| format!("{text:?} is no CIDR"));
    // An exception that can't be read must not become part of what is allowed: the whole block goes.
    let except = block
        .except
        .iter()
        .flatten()
        .map(|e| net(e))
        .collect::<Result<_, _>>()?;
    Ok(IpBlock {
        cidr: net(&block.cidr)?,
        except,
    })
}

/// A CIDR as upstream's `ParseCIDRSloppy` reads it: objects from old clusters may have leading zeros, bits behind the
/// prefix, or IPv4 written as IPv6.
fn cidr(text: &str) -> Option<IpNet> {
    let (address, prefix) = text.split_once('/')?;
    let net = match address.split('.').collect::<Vec<_>>().as_slice() {
        octets @ [_, _, _, _] if !address.contains(':') => {
            let mut bytes = [0; 4];
            for (byte, octet) in bytes.iter_mut().zip(octets) {
                *byte = octet.parse().ok()?;
            }
            IpNet::new(Ipv4Addr::from(bytes).into(), prefix.parse().ok()?).ok()?
        }
        _ => text.parse().ok()?,
    };
    let mapped = match net {
        IpNet::V6(n) => n
            .addr()
            .to_ipv4_mapped()
            .zip(n.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let net = match mapped {
        Some((address, prefix)) => Ipv4Net::new(address, prefix).ok()?.into(),
        None => net,
    };
    Some(net.trunc())
}

/// A pod as seen from a node. `None`: it has no addresses of its own (host network), or none any more (finished).
/// The specification leaves open what policies mean for pods in the host's network; here, as in most implementations,
/// they are part of their node.
pub fn pod(pod: &ApiPod, node: &str) -> Option<Pod> {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref());
    if spec.and_then(|s| s.host_network) == Some(true)
        || matches!(phase, Some("Succeeded" | "Failed"))
    {
        return None;
    }
    let listed = status
        .and_then(|s| s.pod_ips.as_ref())
        .into_iter()
        .flatten();
    let mut addresses: Vec<IpAddr> = listed.filter_map(|a| address(&a.ip)).collect();
    if addresses.is_empty() {
        addresses.extend(status.and_then(|s| s.pod_ip.as_deref()).and_then(address));
    }
    let created = pod.metadata.creation_timestamp.as_ref();
    Some(Pod {
        uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
        labels: Arc::new(Labels::new(pod.metadata.labels.as_ref())),
        addresses,
        ports: spec.map(named_ports).unwrap_or_default(),
        local: spec.and_then(|s| s.node_name.as_deref()) == Some(node),
        ending: pod.metadata.deletion_timestamp.is_some(),
        created: created.map(|t| t.0.as_second()).unwrap_or_default(),
    })
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|a| a.to_canonical())
}

/// Names of ports of containers that run as long as the pod does: also of init containers that stay (sidecars).
fn named_ports(spec: &PodSpec) -> Vec<NamedPort> {
    let stays = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(stays);
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    let named = ports.filter_map(|p| {
        let name = PortName {
            protocol: Protocol::parse(p.protocol.as_deref())?,
            name: p.name.as_deref().filter(|n| !n.is_empty())?.into(),
        };
        let port = u16::try_from(p.container_port).ok().filter(|p| *p > 0)?;
        Some(NamedPort { name, port })
    });
    // Two containers may say the same.
    let named: BTreeSet<NamedPort> = named.collect();
    named.into_iter().collect()
}

#[cfg(test)]
mod tests;
