//! The downward API: a pod's own fields and resources as text, for variables and for volume files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Error;
use crate::quantity::milli;

/// What the pod object does not say (yet) at the time a container is made.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The node's addresses, primary first.
    pub host_ips: Vec<IpAddr>,
    /// The sandbox's addresses, primary first.
    pub pod_ips: Vec<IpAddr>,
    /// What the node offers: stands in for limits that are not set.
    pub allocatable: BTreeMap<String, Quantity>,
}

fn join(ips: &[IpAddr]) -> String {
    ips.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(ToString::to_string).unwrap_or_default()
}

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, Error> {
    let m = &pod.metadata;
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.labels" => &m.labels,
            "metadata.annotations" => &m.annotations,
            _ => return Err(Error::Field(path.to_owned())),
        };
        return Ok(map
            .iter()
            .flatten()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.clone())
            .unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&m.name),
        "metadata.namespace" => text(&m.namespace),
        "metadata.uid" => text(&m.uid),
        "metadata.labels" => lines(m.labels.as_ref()),
        "metadata.annotations" => lines(m.annotations.as_ref()),
        "spec.nodeName" => spec.map(|s| text(&s.node_name)).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .map(|s| text(&s.service_account_name))
            .unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => join(&facts.pod_ips),
        _ => return Err(Error::Field(path.to_owned())),
    })
}

/// A map as `key="value"` lines with Go's quoting of the value.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The value of a `resourceFieldRef`; `own` is the container the variable belongs to.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    r: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, Error> {
    let named = r.container_name.as_deref().filter(|n| !n.is_empty());
    let all = || {
        pod.spec.iter().flat_map(|s| {
            s.containers
                .iter()
                .chain(s.init_containers.iter().flatten())
        })
    };
    let container = match named {
        Some(name) => all().find(|c| c.name == name),
        None => own,
    };
    let Some(container) = container else {
        return Err(Error::Resource(format!(
            "container {} not found",
            named.unwrap_or_default()
        )));
    };
    let unsupported =
        || Error::Resource(format!("unsupported container resource : {}", r.resource));
    let (list, name) = r.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let limit = resources
        .and_then(|r| r.limits.as_ref())
        .and_then(|l| l.get(name));
    let quantity = match list {
        "limits" => limit.or_else(|| facts.allocatable.get(name)),
        "requests" => resources
            .and_then(|r| r.requests.as_ref())
            .and_then(|l| l.get(name)),
        _ => return Err(unsupported()),
    };
    let value = quantity.and_then(|q| milli(&q.0)).unwrap_or(0);
    let divisor = r
        .divisor
        .as_ref()
        .and_then(|q| milli(&q.0))
        .filter(|d| *d > 0)
        .unwrap_or(1000);
    Ok((value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)).to_string())
}

/// The contents of a file of a downward API volume.
pub fn file(pod: &Pod, item: &DownwardAPIVolumeFile, facts: &Facts) -> Result<String, Error> {
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(f), _) => field(pod, &f.field_path, facts),
        (None, Some(r)) => resource(pod, None, r, facts),
        (None, None) => Err(Error::Field(String::new())),
    }
}
