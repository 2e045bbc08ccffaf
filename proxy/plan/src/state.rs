//! What the API said: Services and EndpointSlices, put in one by one, given out whole ([`State::served`]) or as what
//! changed since it was last asked for ([`State::take_changes`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{
    Change, Endpoint, Entry, Family, Front, Hint, Kind, Policy, PortName, Protocol, Served,
    ServicePort,
};

/// Label that says who else proxies a Service.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Upstream's default of `sessionAffinityConfig.clientIP.timeoutSeconds`, in seconds.
const AFFINITY_SECONDS: i32 = 10_800;

type ObjectName = (Arc<str>, Arc<str>);

/// Endpoints of one slice by port name and protocol. Lists, as nearly all slices have one port and nearly all services
/// one slice: a tree has room for eleven of each.
type Slice = Vec<((Arc<str>, Protocol), Box<[Endpoint]>)>;

/// Where the state is seen from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// This node's name.
    pub node: String,
    /// Its `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

impl From<&str> for Here {
    fn from(node: &str) -> Self {
        let node = node.to_owned();
        Self { node, zone: None }
    }
}

/// A Service, as far as it is proxied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proxied {
    ports: Vec<Arc<ServicePort>>,
    /// `spec.healthCheckNodePort`, where it is in force.
    health_check: Option<u16>,
}

/// A port on which load balancers ask whether this node has endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port, on the node's addresses.
    pub port: u16,
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// Number of ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Services and slices known.
#[derive(Clone, Debug, Default)]
pub struct State {
    services: BTreeMap<ObjectName, Proxied>,
    slices: BTreeMap<ObjectName, Vec<(Arc<str>, Slice)>>,
    owners: BTreeMap<ObjectName, Arc<str>>,
    /// Who wants a front; the first in order has it: a cluster address is its Service's, whoever names it as an external
    /// one (CVE-2020-8554).
    claims: HashMap<Front, Vec<(bool, PortName)>>,
    /// Addresses that this node answers itself: no service's rules are for them.
    answered: BTreeSet<IpAddr>,
    /// What was there before the changes that nobody asked for yet.
    before: BTreeMap<ObjectName, Vec<Entry>>,
}

impl State {
    /// Says which addresses this node answers itself, before anything is put in.
    pub fn answer_here(&mut self, ips: BTreeSet<IpAddr>) {
        self.answered = ips;
    }

    /// Adds or replaces a Service. `false`: nothing that matters changed.
    pub fn set_service(&mut self, service: &Service) -> bool {
        let name = (
            text(&service.metadata.namespace),
            text(&service.metadata.name),
        );
        let ports = service_ports(service, &name);
        if ports.is_empty() {
            return self.drop_service(&name);
        }
        let proxied = Proxied {
            ports: ports.into_iter().map(Arc::new).collect(),
            health_check: health_check(service),
        };
        if self.services.get(&name) == Some(&proxied) {
            return false;
        }
        self.touch(&name);
        self.unclaim(&name);
        for port in &proxied.ports {
            for (front, kind) in port.fronts() {
                self.touch_rivals(&front, &name);
                let claims = self.claims.entry(front).or_default();
                let claim = claim(kind, port);
                if let Err(place) = claims.binary_search(&claim) {
                    // Nearly always there is one.
                    claims.reserve_exact(1);
                    claims.insert(place, claim);
                }
            }
        }
        self.services.insert(name, proxied);
        true
    }

    /// Removes a Service.
    pub fn remove_service(&mut self, namespace: &str, name: &str) -> bool {
        self.drop_service(&(namespace.into(), name.into()))
    }

    fn drop_service(&mut self, name: &ObjectName) -> bool {
        if !self.services.contains_key(name) {
            return false;
        }
        self.touch(name);
        self.unclaim(name);
        self.services.remove(name).is_some()
    }

    /// Remembers how a Service was, once until somebody asks for the changes.
    fn touch(&mut self, name: &ObjectName) {
        if !self.before.contains_key(name) {
            let entries = self.entries(name);
            self.before.insert(name.clone(), entries);
        }
    }

    /// A front goes to another Service when its first claimant comes or goes.
    fn touch_rivals(&mut self, front: &Front, name: &ObjectName) {
        let Some(claims) = self.claims.get(front) else {
            return;
        };
        let owners = claims
            .iter()
            .map(|(_, c)| (c.namespace.clone(), c.service.clone()));
        let rivals: Vec<ObjectName> = owners.filter(|o| o != name).collect();
        rivals.iter().for_each(|r| self.touch(r));
    }

    fn unclaim(&mut self, name: &ObjectName) {
        let ports = self.services.get(name).map(|s| s.ports.clone());
        for port in ports.iter().flatten() {
            for (front, kind) in port.fronts() {
                self.touch_rivals(&front, name);
                if let Some(claims) = self.claims.get_mut(&front) {
                    let claim = claim(kind, port);
                    claims.retain(|c| *c != claim);
                    if claims.is_empty() {
                        self.claims.remove(&front);
                    }
                }
            }
        }
    }

    /// Adds or replaces an EndpointSlice, as seen from a node. `false`: nothing that matters changed.
    pub fn set_slice(&mut self, slice: &EndpointSlice, here: &Here) -> bool {
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
        let parsed = parse_slice(slice, here);
        let owner = (namespace, service.clone());
        let have = self
            .slices
            .get(&owner)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let there = have.iter().position(|(name, _)| *name == id.1);
        if there.is_some_and(|i| have.get(i).is_some_and(|(_, s)| *s == parsed)) {
            return changed;
        }
        self.touch(&owner);
        self.owners.insert(id.clone(), service);
        let slices = self.slices.entry(owner).or_default();
        match there.and_then(|i| slices.get_mut(i)) {
            Some((_, slice)) => *slice = parsed,
            None => {
                slices.reserve_exact(1);
                slices.push((id.1, parsed));
            }
        }
        true
    }

    /// Removes an EndpointSlice.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) -> bool {
        let id = (Arc::<str>::from(namespace), Arc::<str>::from(name));
        let Some(service) = self.owners.remove(&id) else {
            return false;
        };
        let owner = (id.0, service);
        self.touch(&owner);
        let Some(slices) = self.slices.get_mut(&owner) else {
            return false;
        };
        let before = slices.len();
        slices.retain(|(name, _)| *name != id.1);
        let removed = slices.len() < before;
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
        for (name, service) in &self.services {
            for port in &service.ports {
                let endpoints = self.endpoints(name, port);
                let mine = endpoints.filter(|e| Family::of(&e.ip) == family);
                all.push(Served {
                    port,
                    endpoints: merge(mine),
                });
            }
        }
        all
    }

    /// All Services' ports as they are.
    pub fn all(&self) -> impl Iterator<Item = Vec<Entry>> {
        self.services.keys().map(|name| self.entries(name))
    }

    /// What changed since this was last asked for: work for those Services only that something happened to.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let before = std::mem::take(&mut self.before);
        let changes = before.into_iter().map(|(name, before)| Change {
            before,
            after: self.entries(&name),
        });
        changes.filter(|c| c.before != c.after).collect()
    }

    /// Forgets what changed: somebody is going to take [`State::all`].
    pub fn forget_changes(&mut self) {
        self.before.clear();
    }

    /// The ports on which load balancers ask after endpoints on this node.
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        let checks = self.services.iter().filter_map(|(name, service)| {
            // First, as few have one and this is asked at each sync.
            let port = service.health_check?;
            let endpoints = service.ports.iter().flat_map(|p| self.endpoints(name, p));
            // Not those that still serve while they go: a balancer is to look elsewhere by then.
            let local = endpoints.filter(|e| e.local && e.ready).map(|e| e.ip);
            let local: BTreeSet<IpAddr> = local.collect();
            Some(HealthCheck {
                port,
                namespace: name.0.clone(),
                service: name.1.clone(),
                local_endpoints: local.len(),
            })
        });
        checks.collect()
    }

    fn entries(&self, name: &ObjectName) -> Vec<Entry> {
        let ports = self.services.get(name).map(|s| s.ports.as_slice());
        let entries = ports.unwrap_or_default().iter().map(|port| Entry {
            port: port.clone(),
            fronts: port
                .fronts()
                .into_iter()
                .filter(|(f, _)| self.owner(f) == Some(&port.name) && !self.is_answered(f))
                .collect(),
            endpoints: merge(self.endpoints(name, port)),
        });
        entries.collect()
    }

    fn is_answered(&self, front: &Front) -> bool {
        matches!(front, Front::Address(ip, ..) if self.answered.contains(ip))
    }

    fn owner(&self, front: &Front) -> Option<&PortName> {
        let (_, first) = self.claims.get(front)?.first()?;
        Some(first)
    }

    fn endpoints(&self, name: &ObjectName, port: &ServicePort) -> impl Iterator<Item = &Endpoint> {
        let key = (port.name.port.clone(), port.protocol);
        let slices = self.slices.get(name).into_iter().flatten();
        let ports = slices.flat_map(|(_, slice)| slice);
        ports.filter(move |(k, _)| *k == key).flat_map(|(_, e)| e)
    }
}

/// Cluster addresses come first.
fn claim(kind: Kind, port: &ServicePort) -> (bool, PortName) {
    (kind != Kind::Cluster, port.name.clone())
}

/// In order, each address and port once.
fn merge<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<Endpoint> {
    let mut merged = BTreeMap::<(IpAddr, u16), Endpoint>::new();
    for e in endpoints {
        // While a pod moves between slices it stands in both: the more able entry counts.
        let kept = merged.entry((e.ip, e.port)).or_insert(*e);
        if (e.ready, e.serving) > (kept.ready, kept.serving) {
            *kept = *e;
        }
    }
    merged.into_values().collect()
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

/// Only where traffic from outside stays on the node does it matter who has endpoints.
fn health_check(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let port = u16::try_from(spec.health_check_node_port?).ok();
    port.filter(|p| local && balanced && *p > 0)
}

fn hint<'a>(mut names: impl Iterator<Item = &'a str>, own: Option<&str>) -> Hint {
    let Some(first) = names.next() else {
        return Hint::None;
    };
    if Some(first) == own || names.any(|n| Some(n) == own) {
        Hint::Here
    } else {
        Hint::Elsewhere
    }
}

fn parse_slice(slice: &EndpointSlice, here: &Here) -> Slice {
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
            let hints = e.hints.as_ref();
            let zones = hints
                .and_then(|h| h.for_zones.as_ref())
                .into_iter()
                .flatten();
            let zones = zones.map(|z| z.name.as_str());
            let nodes = hints
                .and_then(|h| h.for_nodes.as_ref())
                .into_iter()
                .flatten();
            let nodes = nodes.map(|n| n.name.as_str());
            let endpoint = Endpoint {
                ip,
                port: number,
                ready,
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                local: e.node_name.as_deref() == Some(&here.node),
                zone: hint(zones, here.zone.as_deref()),
                node: hint(nodes, Some(&here.node)),
            };
            proxied(ip).then_some(endpoint)
        });
        parsed.push(((text(&port.name), protocol), endpoints.collect()));
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
        let (mut state, me) = (State::default(), Here::from("me"));
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
        assert!(state.set_slice(&a, &me) && state.set_slice(&b, &me) && !state.set_slice(&b, &me));
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

    #[test]
    fn hints_are_seen_from_here() {
        let here = Here {
            node: "me".into(),
            zone: Some("a".into()),
        };
        let hints = |v: Value| slice("s-1", json!([{"addresses": ["10.42.0.2"], "hints": v}]));
        let cases = [
            (json!(null), Hint::None, Hint::None),
            (json!({"forZones": []}), Hint::None, Hint::None),
            (
                json!({"forZones": [{"name": "b"}, {"name": "a"}]}),
                Hint::Here,
                Hint::None,
            ),
            (
                json!({"forZones": [{"name": "b"}]}),
                Hint::Elsewhere,
                Hint::None,
            ),
            (
                json!({"forNodes": [{"name": "me"}]}),
                Hint::None,
                Hint::Here,
            ),
            (
                json!({"forNodes": [{"name": "you"}]}),
                Hint::None,
                Hint::Elsewhere,
            ),
        ];
        for (value, zone, node) in cases {
            let mut state = State::default();
            state.set_service(&service(|_| ()));
            state.set_slice(&hints(value.clone()), &here);
            let e = state.served(Family::V4)[0].endpoints[0];
            assert_eq!((e.zone, e.node), (zone, node), "{value}");
        }
    }

    fn external(name: &str) -> Service {
        service(|v| {
            v["metadata"]["name"] = json!(name);
            v["spec"]["clusterIPs"] = json!([if name == "a" {
                "10.43.0.8"
            } else {
                "10.43.0.9"
            }]);
            v["spec"]["externalIPs"] = json!(["192.0.2.1"]);
        })
    }

    #[test]
    fn the_first_by_name_has_a_front_that_several_want() {
        let mut state = State::default();
        state.set_service(&external("b"));
        state.take_changes();
        let fronts = |entries: &[Entry]| entries.iter().map(|e| e.fronts.len()).sum::<usize>();
        state.set_service(&external("a"));
        let changes = state.take_changes();
        let counts: Vec<_> = changes
            .iter()
            .map(|c| (fronts(&c.before), fronts(&c.after)))
            .collect();
        assert_eq!(counts, [(0, 2), (2, 1)], "a comes and takes it from b");
        state.remove_service("d", "a");
        let changes = state.take_changes();
        let counts: Vec<_> = changes
            .iter()
            .map(|c| (fronts(&c.before), fronts(&c.after)))
            .collect();
        assert_eq!(counts, [(2, 0), (1, 2)], "a goes and b has it again");
    }

    #[test]
    fn nobody_takes_anothers_cluster_address() {
        let mut state = State::default();
        state.set_service(&service(|_| ()));
        let thief = service(|v| {
            v["metadata"]["name"] = json!("a");
            v["spec"]["clusterIPs"] = json!(["10.43.0.7"]);
            v["spec"]["externalIPs"] = json!(["10.43.0.9"]);
        });
        state.set_service(&thief);
        let fronts: Vec<usize> = state.all().flatten().map(|e| e.fronts.len()).collect();
        assert_eq!(fronts, [1, 2], "the thief has its own address only");
    }

    #[test]
    fn changes_are_told_once_and_only_those_that_matter() {
        let (mut state, me) = (State::default(), Here::from("me"));
        state.set_service(&service(|_| ()));
        let one = slice("s-1", json!([{"addresses": ["10.42.0.2"]}]));
        state.set_slice(&one, &me);
        let changes = state.take_changes();
        assert_eq!((changes.len(), changes[0].before.len()), (1, 0));
        assert_eq!(changes[0].after[0].endpoints.len(), 1);
        assert!(state.take_changes().is_empty());
        state.set_slice(&slice("s-1", json!([])), &me);
        state.set_slice(&one, &me);
        assert!(state.take_changes().is_empty(), "there and back again");
    }

    #[test]
    fn load_balancers_ask_for_local_endpoints() {
        let (mut state, me) = (State::default(), Here::from("me"));
        let balanced = |policy: &str| {
            service(|v| {
                v["spec"]["type"] = json!("LoadBalancer");
                v["spec"]["externalTrafficPolicy"] = json!(policy);
                v["spec"]["healthCheckNodePort"] = json!(30_099);
            })
        };
        let endpoints = json!([{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.1.2"], "nodeName": "you"}]);
        state.set_slice(&slice("s-1", endpoints), &me);
        state.set_service(&balanced("Cluster"));
        assert!(state.health_checks().is_empty());
        state.set_service(&balanced("Local"));
        let checks = state.health_checks();
        let found: Vec<_> = checks.iter().map(|c| (c.port, c.local_endpoints)).collect();
        assert_eq!(found, [(30_099, 1)]);
    }
}
