//! What a Service's slices should say: pods as endpoints, grouped by the ports they resolve to.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::pack::Group;
use crate::pod::{failed_now, is_ready};

/// Whether a Service chooses pods at all.
pub(super) fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| {
        s.selector.as_ref().is_some_and(|l| !l.is_empty())
            && s.type_.as_deref() != Some("ExternalName")
    })
}

/// Whether a Service chooses a pod.
pub(crate) fn selected(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    has_selector(service)
        && selector.is_some_and(|s| s.iter().all(|(k, v)| pod.labels().get(k) == Some(v)))
}

/// Groups for each address family of a Service; a family without endpoints gets one empty group, so that
/// consumers can tell "none" from "not known yet".
pub(super) fn groups(
    service: &Service,
    pods: &[&Pod],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Vec<Group> {
    let mut groups = Vec::new();
    for family in families(service) {
        let mut own: Vec<Group> = Vec::new();
        for pod in pods.iter().filter(|p| !failed_now(p)) {
            let Some(ip) = address(pod, family) else {
                continue;
            };
            let ports = ports_of(service, pod);
            let endpoint = endpoint(service, pod, ip, zone);
            match own.iter_mut().find(|g| g.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => own.push(Group {
                    address_type: family,
                    ports,
                    endpoints: vec![endpoint],
                }),
            }
        }
        if own.is_empty() {
            own.push(Group {
                address_type: family,
                ports: Vec::new(),
                endpoints: Vec::new(),
            });
        }
        groups.extend(own);
    }
    groups
}

/// `IPv4`, `IPv6` or both.
pub(crate) fn families(service: &Service) -> Vec<&'static str> {
    let spec = service.spec.as_ref();
    let known = |f: &String| match f.as_str() {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    };
    let families: Vec<_> = spec
        .and_then(|s| s.ip_families.as_ref())
        .into_iter()
        .flatten()
        .filter_map(known)
        .collect();
    if !families.is_empty() {
        return families;
    }
    let ip = spec.and_then(|s| s.cluster_ip.as_deref()).unwrap_or("");
    vec![if ip.contains(':') { "IPv6" } else { "IPv4" }]
}

/// A pod's address of a family.
pub(crate) fn address(pod: &Pod, family: &str) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|i| i.ip.as_str());
    let mut all = all
        .chain(status.pod_ip.as_deref())
        .filter_map(|i| i.parse().ok());
    all.find(|ip: &IpAddr| ip.is_ipv6() == (family == "IPv6"))
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    ip: IpAddr,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let spec = pod.spec.as_ref();
    let publish = publishes_unready(service);
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node = spec.and_then(|s| s.node_name.clone());
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        zone: node.as_deref().and_then(zone),
        node_name: node,
        target_ref: Some(target(pod)),
        ..Endpoint::default()
    }
}

/// Whether pods count as ready though they are not.
pub(crate) fn publishes_unready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// The name a pod has below the Service's, when it names the Service as its subdomain.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let ours = spec.subdomain.as_ref() == Some(&service.name_any());
    let hostname = spec.hostname.clone().filter(|h| !h.is_empty());
    hostname.filter(|_| ours)
}

/// A reference to a pod.
pub(crate) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

/// A Service's ports on a pod; a name that none of its containers has is left out.
pub(crate) fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    let resolve = |p: &ServicePort| {
        Some(EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(resolve(p, pod)?),
            protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: p.app_protocol.clone(),
        })
    };
    ports.into_iter().flatten().filter_map(resolve).collect()
}

fn resolve(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        Some(IntOrString::Int(0)) | None => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    // Init containers that stay (KEP-753) serve as well.
    let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    let wanted = port.protocol.as_deref().unwrap_or("TCP");
    let mut found = ports.filter(|p| {
        p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == wanted
    });
    found.next().map(|p| p.container_port)
}
