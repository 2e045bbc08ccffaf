//! Endpoints: the older form of EndpointSlices, one object a Service, cut off at 1000 addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde_json::{Value, json};

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::endpointslice::{self as slices, HEADLESS, ports_of, selected, target};
use crate::informer::Key;
use crate::pod::{failed_now, is_ready};
use crate::runner::{Controller, Outcome, Work};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OURS: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MOST: usize = 1000;

/// The controller.
pub struct EndpointsController {
    caches: Arc<Caches>,
}

impl EndpointsController {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        slices::wake_services(caches, &work);
        let (queue, services) = (work.clone(), caches.services.clone());
        caches.endpoints.subscribe(move |c| {
            // Only those of a Service: others use Endpoints for themselves.
            let keys = c.states().map(Key::of);
            keys.filter(|k| services.get(k).is_some())
                .for_each(|k| queue.add(k));
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

#[async_trait]
impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        OURS
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let current = self.caches.endpoints.get(key);
        let Some(service) = self.caches.services.get(key) else {
            // The Service went, and its Endpoints with it.
            let gone = current.map(|e| Action::delete(Target::of(e.as_ref())));
            return Ok(gone.into_iter().collect::<Vec<_>>().into());
        };
        let pods = self.caches.pods.list(&key.namespace);
        Ok(plan(&service, &pods, current.as_deref()).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for a Service among all pods of its namespace and the Endpoints there are.
pub fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Vec<Action> {
    let has_selector = service
        .spec
        .as_ref()
        .and_then(|s| s.selector.as_ref())
        .is_some_and(|s| !s.is_empty());
    if !has_selector || service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let (subsets, cut) = subsets(service, pods);
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if slices::headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), OURS.into());
    let Some(current) = current else {
        let over = (OVER_CAPACITY.to_owned(), "truncated".to_owned());
        return vec![Action::create(&Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                annotations: cut.then(|| BTreeMap::from([over])),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            subsets: Some(subsets),
        })];
    };
    let marked = current
        .annotations()
        .get(OVER_CAPACITY)
        .is_some_and(|v| v == "truncated");
    let same = current.subsets.as_deref().unwrap_or_default() == subsets;
    if same && *current.labels() == labels && marked == cut {
        return Vec::new();
    }
    let stale = current.labels().keys().filter(|k| !labels.contains_key(*k));
    let mut all: serde_json::Map<String, Value> = stale.map(|k| (k.clone(), Value::Null)).collect();
    all.extend(labels.iter().map(|(k, v)| (k.clone(), json!(v))));
    let mut patch = json!({"metadata": {"labels": all}, "subsets": subsets});
    if cut || marked {
        patch["metadata"]["annotations"] = json!({OVER_CAPACITY: cut.then_some("truncated")});
    }
    vec![Action::patch(Target::of(current).unchanged(current), patch)]
}

/// Subsets in a steady order, and whether addresses were cut off: unready ones go first.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let publish = slices::publishes_unready(service);
    let family = slices::families(service)
        .into_iter()
        .next()
        .unwrap_or("IPv4");
    let pods = pods.iter().filter(|p| {
        selected(service, p)
            && !failed_now(p)
            && (publish || p.metadata.deletion_timestamp.is_none())
    });
    let mut found: Vec<(bool, String, EndpointAddress, Vec<EndpointPort>)> = Vec::new();
    for pod in pods {
        let Some(ip) = slices::address(pod, family) else {
            continue;
        };
        let ports: Vec<EndpointPort> = ports_of(service, pod).into_iter().map(port).collect();
        let headless_without_ports = slices::headless(service)
            && service
                .spec
                .as_ref()
                .is_none_or(|s| s.ports.as_ref().is_none_or(Vec::is_empty));
        if ports.is_empty() && !headless_without_ports {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: slices::hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            target_ref: Some(target(pod)),
        };
        found.push((
            !(publish || is_ready(pod)),
            address.ip.clone(),
            address,
            ports,
        ));
    }
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let cut = found.len() > MOST;
    found.truncate(MOST);
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for (unready, _, address, ports) in found {
        let at = subsets
            .iter()
            .position(|s| s.ports.as_ref() == Some(&ports));
        let at = at.unwrap_or_else(|| {
            subsets.push(EndpointSubset {
                ports: Some(ports),
                ..EndpointSubset::default()
            });
            subsets.len() - 1
        });
        if let Some(subset) = subsets.get_mut(at) {
            let list = if unready {
                &mut subset.not_ready_addresses
            } else {
                &mut subset.addresses
            };
            list.get_or_insert_default().push(address);
        }
    }
    (subsets, cut)
}

fn port(p: k8s_openapi::api::discovery::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: p.name.filter(|n| !n.is_empty()),
        port: p.port.unwrap_or_default(),
        protocol: p.protocol,
        app_protocol: p.app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "a"}},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(from_value(pod).expect("pod"))
    }

    fn service() -> Service {
        from_value(
            json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"selector": {"app": "a"},
            "clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": 8080}]}}),
        )
        .expect("service")
    }

    fn made(actions: &[Action]) -> Value {
        match actions {
            [Action::Create { object, .. }] => object.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ready_and_unready_addresses_and_no_second_write() {
        let pods = [pod("b", "10.1.0.2", true), pod("a", "10.1.0.3", false)];
        let object = made(&plan(&service(), &pods, None));
        assert_eq!(object["subsets"][0]["addresses"][0]["ip"], "10.1.0.2");
        assert_eq!(
            object["subsets"][0]["notReadyAddresses"][0]["ip"],
            "10.1.0.3"
        );
        assert_eq!(object["subsets"][0]["ports"][0]["port"], 8080);
        let stored: Endpoints = from_value(object).expect("endpoints");
        assert_eq!(plan(&service(), &pods, Some(&stored)), []);
        assert_eq!(plan(&service(), &pods[..1], Some(&stored)).len(), 1);
    }

    #[test]
    fn beyond_a_thousand_the_unready_are_cut() {
        let pods: Vec<_> = (0..1001)
            .map(|i| {
                pod(
                    &format!("p{i}"),
                    &format!("10.1.{}.{}", i / 250, i % 250),
                    i != 7,
                )
            })
            .collect();
        let object = made(&plan(&service(), &pods, None));
        let subset = &object["subsets"][0];
        assert_eq!(subset["addresses"].as_array().map(Vec::len), Some(1000));
        assert_eq!(subset["notReadyAddresses"], Value::Null);
        assert_eq!(
            object["metadata"]["annotations"][OVER_CAPACITY],
            "truncated"
        );
    }
}
