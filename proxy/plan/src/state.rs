//! What the API said: Services and EndpointSlices, put in one by one, given out per family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{Endpoint, Family, Policy, PortName, Protocol, Served, ServicePort};

/// Label that says who else proxies a Service.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`, in seconds.
const AFFINITY_SECONDS: i32 = 10_800;

type ObjectName = (Arc<str>, Arc<str>);

/// Endpoints of one slice for one port, by port name and protocol.
type Slice = BTreeMap<(Arc<str>, Protocol), Vec<Endpoint>>;

/// Services and slices known.
#[derive(Clone, Debug, Default)]
pub struct State {
    services: BTreeMap<ObjectName, Vec<ServicePort>>,
    slices: BTreeMap<ObjectName, BTreeMap<Arc<str>, Slice>>,
    owners: BTreeMap<ObjectName, Arc<str>>,
}

impl State {
    /// Adds or replaces a Service. `false`: nothing that matters changed.
    pub fn set_service(&mut self, service: &Service) -> bool {
        let name = (
            text(&service.metadata.namespace),
            text(&service.metadata.name),
        );
        let ports = service_ports(service, &name);
        if ports.is_empty() {
            return self.services.remove(&name).is_some();
        }
        let old = self.services.insert(name.clone(), ports);
        old.as_ref() != self.services.get(&name)
    }

    /// Removes a Service.
    pub fn remove_service(&mut self, namespace: &str, name: &str) -> bool {
        self.services
            .remove(&(namespace.into(), name.into()))
            .is_some()
    }

    /// Adds or replaces an EndpointSlice, as seen from a node. `false`: nothing that matters changed.
    pub fn set_slice(&mut self, slice: &EndpointSlice, node: &str) -> bool {
        let namespace = text(&slice.metadata.namespace);
        let id = (namespace.clone(), text(&slice.metadata.name));
        let labels = slice.metadata.labels.as_ref();
        let service = labels
            .and_then(|l| l.get(SERVICE_NAME))
            .map(|s| Arc::<str>::from(s.as_str()));
        // A headless service's slices have no rules; leave their memory to those that need it.
        let skip = labels.is_some_and(|l| l.contains_key(HEADLESS) || l.contains_key(PROXY_NAME));
        let Some(service) = service.filter(|_| !skip && slice.address_type != "FQDN") else {
            return self.remove_slice(&id.0, &id.1);
        };
        let mut changed = false;
        if self.owners.get(&id).is_some_and(|o| *o != service) {
            changed = self.remove_slice(&id.0, &id.1);
        }
        self.owners.insert(id.clone(), service.clone());
        let parsed = parse_slice(slice, node);
        let slices = self.slices.entry((namespace, service)).or_default();
        changed |= slices.get(&id.1) != Some(&parsed);
        slices.insert(id.1, parsed);
        changed
    }

    /// Removes an EndpointSlice.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) -> bool {
        let id = (Arc::<str>::from(namespace), Arc::<str>::from(name));
        let Some(service) = self.owners.remove(&id) else {
            return false;
        };
        let owner = (id.0, service);
        let Some(slices) = self.slices.get_mut(&owner) else {
            return false;
        };
        let removed = slices.remove(&id.1).is_some();
        if slices.is_empty() {
            self.slices.remove(&owner);
        }
        removed
    }

    /// Forgets Services and slices that a new list did not bring.
    pub fn retain(
        &mut self,
        services: Option<&BTreeSet<(String, String)>>,
        slices: Option<&BTreeSet<(String, String)>>,
    ) -> bool {
        let gone = |all: &mut dyn Iterator<Item = &ObjectName>,
                    keep: Option<&BTreeSet<(String, String)>>| {
            let Some(keep) = keep else { return Vec::new() };
            all.filter(|(a, b)| !keep.contains(&(a.to_string(), b.to_string())))
                .cloned()
                .collect::<Vec<_>>()
        };
        let services = gone(&mut self.services.keys(), services);
        let slices = gone(&mut self.owners.keys(), slices);
        for (namespace, name) in &services {
            self.remove_service(namespace, name);
        }
        for (namespace, name) in &slices {
            self.remove_slice(namespace, name);
        }
        !services.is_empty() || !slices.is_empty()
    }

    /// All service ports with their endpoints of a family, in a fixed order.
    pub fn served(&self, family: Family) -> Vec<Served<'_>> {
        let mut all = Vec::new();
        for (name, ports) in &self.services {
            let slices = self.slices.get(name);
            for port in ports {
                let key = (port.name.port.clone(), port.protocol);
                let of_port = slices
                    .into_iter()
                    .flat_map(BTreeMap::values)
                    .filter_map(|s| s.get(&key));
                let mut merged = BTreeMap::<(IpAddr, u16), Endpoint>::new();
                for e in of_port.flatten().filter(|e| Family::of(&e.ip) == family) {
                    // While a pod moves between slices it stands in both: the more able entry counts.
                    let kept = merged.entry((e.ip, e.port)).or_insert(*e);
                    if (e.ready, e.serving) > (kept.ready, kept.serving) {
                        *kept = *e;
                    }
                }
                all.push(Served {
                    port,
                    endpoints: merged.into_values().collect(),
                });
            }
        }
        all
    }
}

fn text(value: &Option<String>) -> Arc<str> {
    value.as_deref().unwrap_or_default().into()
}

fn addresses(list: Option<&Vec<String>>) -> Vec<IpAddr> {
    list.into_iter()
        .flatten()
        .filter_map(|a| a.parse().ok())
        .collect()
}

/// A Service's ports; none where there is nothing to proxy (ExternalName, headless, another's).
fn service_ports(service: &Service, name: &ObjectName) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let foreign = service
        .metadata
        .labels
        .as_ref()
        .is_some_and(|l| l.contains_key(PROXY_NAME));
    let mut cluster_ips = addresses(spec.cluster_ips.as_ref());
    if cluster_ips.is_empty() {
        cluster_ips.extend(
            spec.cluster_ip
                .as_deref()
                .and_then(|a| a.parse::<IpAddr>().ok()),
        );
    }
    if foreign || spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return Vec::new();
    }
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        Some(ServicePort {
            name: PortName {
                namespace: name.0.clone(),
                service: name.1.clone(),
                port: text(&p.name),
            },
            protocol: Protocol::parse(p.protocol.as_deref())?,
            port: u16::try_from(p.port).ok().filter(|p| *p > 0)?,
            node_port: p
                .node_port
                .and_then(|n| u16::try_from(n).ok())
                .filter(|n| *n > 0),
            cluster_ips: cluster_ips.clone(),
            external_ips: addresses(spec.external_ips.as_ref()),
            load_balancer_ips: load_balancer_ips(service),
            source_ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|r| r.trim().parse().ok())
                .collect(),
            affinity: affinity(spec),
            external_policy: policy(spec.external_traffic_policy.as_deref()),
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        })
    });
    ports.collect()
}

fn policy(text: Option<&str>) -> Policy {
    if text == Some("Local") {
        Policy::Local
    } else {
        Policy::Cluster
    }
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    let config = spec
        .session_affinity_config
        .as_ref()
        .and_then(|c| c.client_ip.as_ref());
    let seconds = config
        .and_then(|c| c.timeout_seconds)
        .unwrap_or(AFFINITY_SECONDS);
    (spec.session_affinity.as_deref() == Some("ClientIP"))
        .then(|| u32::try_from(seconds).unwrap_or_default())
}

fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let ingress = status
        .and_then(|l| l.ingress.as_ref())
        .into_iter()
        .flatten();
    let vip = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    vip.filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

fn parse_slice(slice: &EndpointSlice, node: &str) -> Slice {
    let mut parsed = Slice::new();
    for port in slice.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            continue;
        };
        let Some(number) = port
            .port
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p > 0)
        else {
            continue;
        };
        let endpoints = slice.endpoints.iter().flatten().filter_map(|e| {
            // All addresses of an endpoint are the same thing; upstream uses the first.
            let ip: IpAddr = e.addresses.first()?.parse().ok()?;
            let conditions = e.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let endpoint = Endpoint {
                ip,
                port: number,
                ready,
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                local: e.node_name.as_deref() == Some(node),
            };
            proxied(ip).then_some(endpoint)
        });
        parsed
            .entry((text(&port.name), protocol))
            .or_default()
            .extend(endpoints);
    }
    parsed
}

/// Endpoints on loopback or link-local addresses would let a user reach a node's own ports (CVE-2020-8558 and kin).
fn proxied(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    !ip.is_loopback() && !link_local && !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(change: impl Fn(&mut Value)) -> Service {
        let mut v = json!({"metadata": {"namespace": "d", "name": "s"}, "spec": {"clusterIP": "10.43.0.9",
            "clusterIPs": ["10.43.0.9", "fd43::9"], "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]}});
        change(&mut v);
        serde_json::from_value(v).expect("service")
    }

    fn slice(name: &str, endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({"metadata": {"namespace": "d", "name": name, "labels": {SERVICE_NAME: "s"}},
            "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}], "endpoints": endpoints})).expect("slice")
    }

    fn seen(state: &State, family: Family) -> Vec<String> {
        state
            .served(family)
            .iter()
            .flat_map(|s| s.endpoints.iter())
            .map(|e| format!("{}{}", socket(e), flags(e)))
            .collect()
    }

    fn socket(e: &Endpoint) -> String {
        crate::model::socket(e.ip, e.port)
    }

    fn flags(e: &Endpoint) -> &'static str {
        match (e.ready, e.local) {
            (true, true) => " ready local",
            (true, false) => " ready",
            (false, true) => " local",
            (false, false) => "",
        }
    }

    #[test]
    fn slices_of_a_service_are_merged() {
        let mut state = State::default();
        assert!(state.set_service(&service(|_| ())));
        assert!(
            !state.set_service(&service(|v| v["metadata"]["resourceVersion"] = json!("7"))),
            "nothing that matters"
        );
        let a = slice(
            "s-1",
            json!([{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.0.3"], "conditions": {"ready": false}}]),
        );
        let b = slice(
            "s-2",
            json!([{"addresses": ["10.42.0.3"], "conditions": {"ready": true}}, {"addresses": ["127.0.0.1"]}, {"addresses": ["169.254.169.254"]}]),
        );
        assert!(
            state.set_slice(&a, "me") && state.set_slice(&b, "me") && !state.set_slice(&b, "me")
        );
        assert_eq!(
            seen(&state, Family::V4),
            ["10.42.0.2:8080 ready local", "10.42.0.3:8080 ready"]
        );
        assert!(seen(&state, Family::V6).is_empty());
        assert!(state.remove_slice("d", "s-2"));
        assert_eq!(
            seen(&state, Family::V4),
            ["10.42.0.2:8080 ready local", "10.42.0.3:8080"]
        );
        assert!(state.retain(Some(&BTreeSet::new()), None));
        assert!(state.served(Family::V4).is_empty());
    }

    #[test]
    fn what_is_not_ours_to_proxy_is_left_out() {
        type Change = fn(&mut Value);
        let cases: &[(&str, Change)] = &[
            ("headless", |v| {
                v["spec"] = json!({"clusterIP": "None", "ports": [{"port": 80}]})
            }),
            ("external name", |v| {
                v["spec"]["type"] = json!("ExternalName")
            }),
            ("another proxy's", |v| {
                v["metadata"]["labels"] = json!({PROXY_NAME: "other"})
            }),
            ("no address yet", |v| {
                v["spec"] = json!({"ports": [{"port": 80}]})
            }),
            ("unknown protocol", |v| {
                v["spec"]["ports"][0]["protocol"] = json!("QUIC")
            }),
            ("no port number", |v| {
                v["spec"]["ports"][0]["port"] = json!(0)
            }),
        ];
        for (name, change) in cases {
            let mut state = State::default();
            state.set_service(&service(|_| ()));
            assert!(
                state.set_service(&service(change)),
                "{name}: the old one goes"
            );
            assert!(state.served(Family::V4).is_empty(), "{name}");
        }
    }
}
