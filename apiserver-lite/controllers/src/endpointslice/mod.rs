//! EndpointSlices (KEP-752): which addresses stand behind a Service, in pieces small enough to be sent often.
//!
//! ```text
//! service, pods, nodes -> groups (one a family and list of ports) -> pack into the slices there are -> actions
//! hand-made Endpoints  -> groups ------------------------------------^
//! ```

mod desired;
mod mirror;
mod pack;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};

use crate::action::Action;
use crate::caches::Caches;
use crate::informer::{Change, Informer, Key};
use crate::owner::reference;
use crate::runner::{Controller, Outcome, Work};

pub(crate) use desired::{
    address, families, hostname, ports_of, publishes_unready, selected, target,
};
pub use mirror::Mirror;
use pack::Parent;

/// Label: the Service that a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label: who keeps the slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label on slices and Endpoints of headless Services.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
const OURS: &str = "endpointslice-controller.k8s.io";
/// kube-controller-manager's `--max-endpoints-per-slice`.
const MOST: usize = 100;
const ZONE: &str = "topology.kubernetes.io/zone";

/// The controller.
pub struct EndpointSlices {
    caches: Arc<Caches>,
}

impl EndpointSlices {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        wake_services(caches, &work);
        let queue = work.clone();
        caches
            .slices
            .subscribe(move |c| parents(c, OURS).for_each(|k| queue.add(k)));
        let (queue, services) = (work.clone(), caches.services.clone());
        caches.nodes.subscribe(move |c| {
            let zone = |n: Option<&Node>| n.and_then(|n| n.labels().get(ZONE).cloned());
            if zone(c.old) != zone(c.new) {
                let all = services.list("");
                all.iter().for_each(|s| queue.add(Key::of(s.as_ref())));
            }
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

/// A Service and its pods wake the Service.
pub(crate) fn wake_services(caches: &Caches, work: &Work) {
    let queue = work.clone();
    caches
        .services
        .subscribe(move |c| c.states().for_each(|s| queue.add(Key::of(s))));
    let (queue, services) = (work.clone(), caches.services.clone());
    caches.pods.subscribe(move |c| wake(c, &services, &queue));
}

fn wake(change: &Change<'_, Pod>, services: &Informer<Service>, queue: &Work) {
    let Some(namespace) = change.states().find_map(|p| p.namespace()) else {
        return;
    };
    for service in services.list(&namespace) {
        if change.states().any(|p| selected(&service, p)) {
            queue.add(Key::of(service.as_ref()));
        }
    }
}

/// The objects that changed slices of a keeper belong to.
fn parents(change: &Change<'_, EndpointSlice>, keeper: &str) -> impl Iterator<Item = Key> + use<> {
    let kept = |s: &&EndpointSlice| s.labels().get(MANAGED_BY).is_some_and(|m| m == keeper);
    let key = |s: &EndpointSlice| {
        let name = s.labels().get(SERVICE_NAME)?;
        Some(Key::new(s.namespace()?, name))
    };
    let keys: Vec<Key> = change.states().filter(kept).filter_map(key).collect();
    keys.into_iter()
}

/// The slices of a Service that a keeper keeps.
fn kept(caches: &Caches, key: &Key, keeper: &str) -> Vec<Arc<EndpointSlice>> {
    let is = |s: &Arc<EndpointSlice>, label, value: &str| {
        s.labels().get(label).is_some_and(|v| v == value)
    };
    let all = caches.slices.list(&key.namespace).into_iter();
    all.filter(|s| is(s, SERVICE_NAME, &key.name) && is(s, MANAGED_BY, keeper))
        .filter(|s| s.metadata.deletion_timestamp.is_none())
        .collect()
}

#[async_trait]
impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let existing = kept(&self.caches, key, OURS);
        let Some(service) = self.caches.services.get(key) else {
            // Its slices go by their owner reference.
            return Ok(Outcome::default());
        };
        let pods = self.caches.pods.list(&key.namespace);
        let zone = |node: &str| {
            let node = self.caches.nodes.get(&Key::new("", node))?;
            node.labels().get(ZONE).cloned()
        };
        Ok(plan(&service, &pods, &zone, &existing).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for a Service among all pods of its namespace and its own slices.
pub fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    zone: &dyn Fn(&str) -> Option<String>,
    existing: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    if !desired::has_selector(service) || service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let pods = pods.iter().map(Arc::as_ref);
    let pods: Vec<&Pod> = pods.filter(|p| selected(service, p)).collect();
    let groups = desired::groups(service, &pods, zone);
    let parent = Parent {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        reference: reference(service),
        labels: labels(
            service.labels(),
            &service.name_any(),
            OURS,
            headless(service),
        ),
        annotations: BTreeMap::new(),
        most: MOST,
    };
    pack::pack(&parent, groups, existing)
}

/// Whether a Service has no cluster IP.
pub(crate) fn headless(service: &Service) -> bool {
    let ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref());
    ip == Some("None")
}

/// A slice's labels: the parent's, and ours over them.
fn labels(
    parent: &BTreeMap<String, String>,
    service: &str,
    keeper: &str,
    headless: bool,
) -> BTreeMap<String, String> {
    let mut labels = parent.clone();
    labels.remove(HEADLESS);
    labels.insert(SERVICE_NAME.into(), service.into());
    labels.insert(MANAGED_BY.into(), keeper.into());
    if headless {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

#[cfg(test)]
mod tests;
