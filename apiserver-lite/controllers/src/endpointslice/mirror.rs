//! Mirrors hand-made Endpoints into slices, as all consumers read slices only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};

use super::pack::{self, Group, Parent};
use super::{HEADLESS, desired, kept, labels, parents};
use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::owner::reference;
use crate::runner::{Controller, Outcome, Work};

const OURS: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// kube-controller-manager's `--mirroring-max-endpoints-per-subset`.
const MOST: usize = 1000;

/// The controller.
pub struct Mirror {
    caches: Arc<Caches>,
}

impl Mirror {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .endpoints
            .subscribe(move |c| c.states().for_each(|e| queue.add(Key::of(e))));
        let queue = work.clone();
        caches
            .services
            .subscribe(move |c| c.states().for_each(|s| queue.add(Key::of(s))));
        let queue = work.clone();
        caches
            .slices
            .subscribe(move |c| parents(c, OURS).for_each(|k| queue.add(k)));
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

#[async_trait]
impl Controller for Mirror {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let existing = kept(&self.caches, key, OURS);
        let endpoints = self.caches.endpoints.get(key);
        let service = self.caches.services.get(key);
        Ok(plan(endpoints.as_deref(), service.as_deref(), &existing).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for Endpoints and the Service of their name.
pub(super) fn plan(
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    existing: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let (Some(endpoints), Some(_)) = (
        endpoints.filter(|e| is_mirrored(e)),
        service.filter(|s| by_hand(s)),
    ) else {
        let all = existing.iter();
        return all
            .map(|s| Action::delete(Target::of(s.as_ref())))
            .collect();
    };
    let name = endpoints.name_any();
    let mut own = endpoints.labels().clone();
    let headless = own.remove(HEADLESS).is_some();
    let annotations: BTreeMap<_, _> = endpoints
        .annotations()
        .iter()
        .filter(|(k, _)| !k.starts_with("endpoints.kubernetes.io/"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let parent = Parent {
        namespace: endpoints.namespace().unwrap_or_default(),
        reference: reference(endpoints),
        labels: labels(&own, &name, OURS, headless),
        name,
        annotations,
        most: MOST,
    };
    let subsets = endpoints.subsets.iter().flatten();
    pack::pack(
        &parent,
        merged(subsets.flat_map(groups).collect()),
        existing,
    )
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.labels().get(SKIP).is_none_or(|v| v != "true")
        && !endpoints.annotations().contains_key(LEADER)
        && endpoints.metadata.deletion_timestamp.is_none()
}

fn by_hand(service: &Service) -> bool {
    !desired::has_selector(service)
        && service
            .spec
            .as_ref()
            .is_some_and(|s| s.type_.as_deref() != Some("ExternalName"))
}

/// Subsets with the same ports share their slices.
fn merged(groups: Vec<Group>) -> Vec<Group> {
    let mut out: Vec<Group> = Vec::new();
    for group in groups {
        match out
            .iter_mut()
            .find(|g| g.address_type == group.address_type && g.ports == group.ports)
        {
            Some(same) => same.endpoints.extend(group.endpoints),
            None => out.push(group),
        }
    }
    out
}

fn groups(subset: &EndpointSubset) -> Vec<Group> {
    let ports: Vec<EndpointPort> = subset
        .ports
        .iter()
        .flatten()
        .map(|p| EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            port: Some(p.port),
            protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    let addresses = |list: &Option<Vec<EndpointAddress>>, ready| {
        let all = list.iter().flatten().take(MOST);
        all.filter_map(move |a| endpoint(a, ready))
            .collect::<Vec<_>>()
    };
    let all = [
        addresses(&subset.addresses, true),
        addresses(&subset.not_ready_addresses, false),
    ];
    let all: Vec<_> = all.concat();
    ["IPv4", "IPv6"]
        .into_iter()
        .map(|family| Group {
            address_type: family,
            ports: ports.clone(),
            endpoints: all
                .iter()
                .filter(|(f, _)| *f == family)
                .map(|(_, e)| e.clone())
                .collect(),
        })
        .filter(|g| !g.endpoints.is_empty())
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv6() { "IPv6" } else { "IPv4" }, endpoint))
}
