//! Who is asked about: what FROM and TO mean.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};

use crate::model::Protocol;

/// A connection that somebody asks about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who connects: an address, `NAMESPACE/POD`, or `node` for a process of this node.
    pub from: String,
    /// To whom: an address, `NAMESPACE/SERVICE` or `NAMESPACE/POD`.
    pub to: String,
    /// Destination port; a service with a single port needs none.
    pub port: Option<u16>,
    /// Protocol.
    pub protocol: Protocol,
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The node that this is.
    pub node: String,
    /// All services, those that no rule is made of among them.
    pub services: Vec<Service>,
    /// All pods.
    pub pods: Vec<Pod>,
}

/// Both ends of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who connects; none: this node.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port.
    pub port: u16,
    /// What should be known of them.
    pub notes: Vec<String>,
}

/// One end, as far as it is known without the other.
struct End {
    /// Addresses; none: this node, whatever its address.
    addresses: Option<Vec<IpAddr>>,
    notes: Vec<String>,
}

/// What a question means. Errors say what may stand there instead.
pub fn ends(question: &Question, known: &Known) -> Result<Ends, String> {
    let from = from(&question.from, known)?;
    let (to, port) = to(question, known)?;
    let fits = |ip: &IpAddr| {
        let same = |s: &IpAddr| s.is_ipv4() == ip.is_ipv4();
        from.addresses
            .as_ref()
            .is_none_or(|all| all.iter().any(same))
    };
    let addresses = to.addresses.unwrap_or_default();
    let destination = addresses.iter().copied().find(fits).ok_or_else(|| {
        let sources = from.addresses.as_deref().unwrap_or_default();
        let (to, from) = (&question.to, &question.from);
        format!(
            "TO {to} has {}, and FROM {from} has {}: none of the same family",
            list(&addresses),
            list(sources)
        )
    })?;
    let same = |ip: &IpAddr| ip.is_ipv4() == destination.is_ipv4();
    let source = from.addresses.and_then(|all| all.into_iter().find(same));
    Ok(Ends {
        source,
        destination,
        port,
        notes: [from.notes, to.notes].concat(),
    })
}

fn list<T: ToString>(all: &[T]) -> String {
    let texts: Vec<String> = all.iter().map(T::to_string).collect();
    texts.join(", ")
}

fn from(text: &str, known: &Known) -> Result<End, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(of(vec![ip]));
    }
    if text == "node" {
        return Ok(this_node(Vec::new()));
    }
    let allowed = "an address, NAMESPACE/POD, or \"node\" for a process of this node";
    if !text.contains('/') {
        return Err(format!("FROM {text}: it is {allowed}"));
    }
    let found = pod(&known.pods, text);
    let pod = found.ok_or_else(|| format!("FROM {text}: there is no such pod; it is {allowed}"))?;
    let end = of_pod("FROM", text, pod, known)?;
    let is_here = node_of(pod) == known.node;
    if is_here && in_host_network(pod) {
        return Ok(this_node(end.notes));
    }
    Ok(end)
}

fn of(addresses: Vec<IpAddr>) -> End {
    End {
        addresses: Some(addresses),
        notes: Vec::new(),
    }
}

fn this_node(notes: Vec<String>) -> End {
    End {
        addresses: None,
        notes,
    }
}

fn of_pod(which: &str, name: &str, pod: &Pod, known: &Known) -> Result<End, String> {
    let ips = ips(pod);
    if ips.is_empty() {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let phase = phase.unwrap_or("unknown");
        return Err(format!(
            "{which} {name}: the pod has no address (its phase is {phase})"
        ));
    }
    let (node, mut notes) = (node_of(pod), Vec::new());
    if in_host_network(pod) {
        notes.push(format!(
            "pod {name} is in the network of node {node}: it has the node's addresses, and no NetworkPolicy is for it"
        ));
    }
    if node != known.node && which == "FROM" {
        notes.push(format!(
            "pod {name} is on node {node}, whose rules come first: services are translated there; this is what node {} does \
             with what comes here as it was sent",
            known.node
        ));
    }
    Ok(End {
        addresses: Some(ips),
        notes,
    })
}

fn to(question: &Question, known: &Known) -> Result<(End, u16), String> {
    let to = &question.to;
    let which = || format!("TO {to}: which port? Say {to}:PORT");
    if let Ok(ip) = to.parse::<IpAddr>() {
        return Ok((of(vec![ip]), question.port.ok_or_else(which)?));
    }
    let service = named(&known.services, to, |s| &s.metadata);
    let pod = pod(&known.pods, to);
    match (service, pod) {
        (Some(service), pod) => {
            let (mut end, port) = of_service(question, service, known)?;
            let both = format!("{to} is a pod too: that is asked for by its address");
            end.notes.extend(pod.map(|_| both));
            Ok((end, port))
        }
        (None, Some(pod)) => {
            let end = of_pod("TO", to, pod, known)?;
            Ok((end, question.port.ok_or_else(which)?))
        }
        (None, None) => {
            let why = match to.contains('/') {
                true => "there is no such service and no such pod; ",
                false => "",
            };
            Err(format!(
                "TO {to}: {why}it is ADDRESS:PORT, NAMESPACE/SERVICE[:PORT] or NAMESPACE/POD:PORT"
            ))
        }
    }
}

fn of_service(question: &Question, service: &Service, known: &Known) -> Result<(End, u16), String> {
    let to = &question.to;
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.unwrap_or_default();
        return Err(format!(
            "TO {to}: a service of type ExternalName is but another name of {name} in DNS: no rule is made of it; ask for \
             the address of {name}"
        ));
    }
    let ports = spec.ports.unwrap_or_default();
    let addresses: Vec<IpAddr> = cluster_ips(&spec.cluster_ips, &spec.cluster_ip);
    if addresses.is_empty() {
        let pods = endpoints(known, to);
        return Err(format!(
            "TO {to}: a headless service has no address: DNS gives its endpoints' ({pods}); ask for one of these, \
             ADDRESS:PORT"
        ));
    }
    let port = service_port(question, &ports)?;
    Ok((of(addresses), port))
}

fn cluster_ips(all: &Option<Vec<String>>, first: &Option<String>) -> Vec<IpAddr> {
    let all = all.iter().flatten().chain(first);
    let mut ips: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    ips.dedup();
    ips
}

/// Addresses of pods whose names a headless service gives: its selector's.
fn endpoints(known: &Known, service: &str) -> String {
    let found = named(&known.services, service, |s| &s.metadata);
    let selector = found.and_then(|s| s.spec.as_ref()?.selector.clone());
    let Some(selector) = selector.filter(|s| !s.is_empty()) else {
        return "whatever its EndpointSlices say".into();
    };
    let namespace = service.split('/').next();
    let selected = known.pods.iter().filter(|p| {
        let labels = p.metadata.labels.as_ref();
        let has = |(k, v): (&String, &String)| labels.and_then(|l| l.get(k)) == Some(v);
        p.metadata.namespace.as_deref() == namespace && selector.iter().all(has)
    });
    let ips: Vec<IpAddr> = selected.flat_map(ips).collect();
    match ips.as_slice() {
        [] => "there are none now".into(),
        ips => list(ips),
    }
}

fn service_port(question: &Question, ports: &[ServicePort]) -> Result<u16, String> {
    let to = &question.to;
    let name = question.protocol.name();
    let number = |p: &ServicePort| u16::try_from(p.port).unwrap_or_default();
    let of = |p: &&ServicePort| Protocol::parse(p.protocol.as_deref()) == Some(question.protocol);
    let mine: Vec<&ServicePort> = ports.iter().filter(of).collect();
    let has = list(&ports.iter().map(described).collect::<Vec<_>>());
    match (question.port, mine.as_slice()) {
        (Some(port), mine) if mine.iter().any(|p| number(p) == port) => Ok(port),
        (Some(port), _) => {
            let other = ports.iter().any(|p| number(p) == port);
            let hint = match other {
                true => "; --protocol says which protocol is asked for",
                false => "",
            };
            Err(format!(
                "TO {to}: the service has no {name} port {port}; it has {has}{hint}"
            ))
        }
        (None, [only]) => Ok(number(only)),
        (None, []) => Err(format!(
            "TO {to}: the service has no {name} port; it has {has} (--protocol)"
        )),
        (None, _) => Err(format!("TO {to}: which port? Say {to}:PORT; it has {has}")),
    }
}

fn described(port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.name {
        Some(name) => format!("{} {}/{protocol}", name, port.port),
        None => format!("{}/{protocol}", port.port),
    }
}

/// An object by `NAMESPACE/NAME`.
fn named<'a, T>(
    all: &'a [T],
    name: &str,
    meta: impl Fn(&T) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<&'a T> {
    let (namespace, name) = name.split_once('/')?;
    all.iter().find(|o| {
        let meta = meta(o);
        meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
    })
}

fn pod<'a>(pods: &'a [Pod], name: &str) -> Option<&'a Pod> {
    named(pods, name, |p| &p.metadata)
}

/// A pod's addresses.
pub fn ips(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let ips = status.and_then(|s| s.pod_ips.as_ref());
    let ips = ips.into_iter().flatten();
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// Whether a pod has its node's network.
pub fn in_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// The node that a pod is on; empty: none yet.
pub fn node_of(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
