//! Which UDP flows outlived their endpoint. A TCP client notices and connects anew; a UDP client goes on
//! sending, and its conntrack entry goes on translating to an address that nobody has any more.
//!
//! Only UDP: kube-proxy leaves TCP and SCTP entries alone (its `pkg/proxy/conntrack/cleanup.go`). To end TCP connections
//! of endpoints that are gone was proposed there and declined, as it breaks a graceful end (kubernetes/kubernetes pull
//! requests 100755, 102631 and 102669, none merged): they end with the pod, or by TCP itself.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::model::{Change, Entry, Front, Protocol};

/// A flow as conntrack knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Where the client sends to.
    pub destination: (IpAddr, u16),
    /// Who answers: the endpoint when the flow is translated, else the destination itself.
    pub answerer: (IpAddr, u16),
}

impl Flow {
    /// Whether somebody else answers than who was asked.
    pub fn is_translated(&self) -> bool {
        self.answerer != self.destination
    }
}

/// Where flows to some fronts of UDP services may go: to those that changed since flows were looked through last, which
/// for a proxy that starts are all. What did not change can't have made a flow stale.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In order; none where the front, or its last endpoint, is gone.
    fronts: HashMap<Front, Vec<(IpAddr, u16)>>,
}

impl Wanted {
    /// Adds what changed. What was known of the same fronts before is replaced.
    pub fn add(&mut self, changes: &[Change]) {
        // First all that was: a front that went to another Service stands in the changes of both.
        for entry in changes.iter().flat_map(|c| &c.before).filter(is_udp) {
            let gone = entry.fronts.iter().map(|(front, _)| (*front, Vec::new()));
            self.fronts.extend(gone);
        }
        for entry in changes.iter().flat_map(|c| &c.after).filter(is_udp) {
            let endpoints = answering(entry);
            let fronts = entry.fronts.iter();
            self.fronts
                .extend(fronts.map(|(front, _)| (*front, endpoints.clone())));
        }
    }

    /// The fronts whose flows have to be looked through.
    pub fn fronts(&self) -> impl ExactSizeIterator<Item = &Front> {
        self.fronts.keys()
    }

    /// Whether there is anything that a flow could have outlived.
    pub fn is_empty(&self) -> bool {
        self.fronts.is_empty()
    }

    /// Whether a flow must be removed: it is translated to none of its front's endpoints, or it isn't translated at all
    /// (it began before there was one) and there is one now. `own` tells on which addresses node ports are reached.
    pub fn is_stale(&self, flow: &Flow, own: impl Fn(&IpAddr) -> bool) -> bool {
        let (ip, port) = flow.destination;
        let address = Front::Address(ip, Protocol::Udp, port);
        let node_port = Front::Node(Protocol::Udp, port);
        let endpoints = match self.fronts.get(&address) {
            None => self.fronts.get(&node_port).filter(|_| own(&ip)),
            endpoints => endpoints,
        };
        endpoints.is_some_and(|all| match flow.is_translated() {
            true => all.binary_search(&flow.answerer).is_err(),
            false => !all.is_empty(),
        })
    }
}

fn is_udp(entry: &&Entry) -> bool {
    entry.port.protocol == Protocol::Udp
}

/// All endpoints that still answer, in order. Policies, hints and termination are for new flows: those that are there
/// stay, as TCP connections do (kubernetes/kubernetes issue 126130).
fn answering(entry: &Entry) -> Vec<(IpAddr, u16)> {
    let answering = entry.endpoints.iter().filter(|e| e.ready || e.serving);
    answering.map(|e| (e.ip, e.port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use serde_json::{Value, json};

    const SERVICE: &str = "dns";

    fn service(name: &str, change: impl Fn(&mut Value)) -> k8s_openapi::api::core::v1::Service {
        let mut value = json!({"metadata": {"namespace": "d", "name": name}, "spec": {"clusterIPs": ["10.43.0.10", "fd43::10"], "type": "NodePort",
            "externalIPs": ["192.0.2.9"],
            "ports": [{"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 80, "protocol": "TCP", "name": "web"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}});
        value["spec"]["type"] = json!("LoadBalancer");
        change(&mut value);
        serde_json::from_value(value).expect("service")
    }

    /// Endpoints: an address, and what its conditions are if not ready.
    fn slice(state: &mut State, endpoints: &[(&str, &str)]) {
        for (kind, colon) in [("IPv4", false), ("IPv6", true)] {
            let mine = endpoints.iter().filter(|(a, _)| a.contains(':') == colon);
            let list = mine.map(|(address, is)| {
                let going = is.contains('t');
                json!({"addresses": [address], "conditions": {"ready": is.is_empty(), "serving": is.is_empty() || is.contains('s'), "terminating": going}})
            });
            let list: Vec<Value> = list.collect();
            let slice = json!({"metadata": {"namespace": "d", "name": kind, "labels": {"kubernetes.io/service-name": SERVICE}},
                "addressType": kind, "ports": [{"name": "u", "port": 5353, "protocol": "UDP"}, {"name": "web", "port": 80}], "endpoints": list});
            let slice = serde_json::from_value(slice).expect("slice");
            state.set_slice(&slice, &"me".into());
        }
    }

    fn end(text: &str) -> (IpAddr, u16) {
        let address: std::net::SocketAddr = text.parse().expect("address");
        (address.ip(), address.port())
    }

    fn is_stale(wanted: &Wanted, destination: &str, answerer: &str) -> bool {
        let flow = Flow {
            destination: end(destination),
            answerer: end(answerer),
        };
        let own = ["192.168.0.1", "fd00::1"].map(|a| a.parse::<IpAddr>().expect("address"));
        wanted.is_stale(&flow, |ip| own.contains(ip))
    }

    fn take(state: &mut State) -> Wanted {
        let mut wanted = Wanted::default();
        wanted.add(&state.take_changes());
        wanted
    }

    #[test]
    fn flows_without_their_endpoint_are_stale() {
        let mut state = State::default();
        state.set_service(&service(SERVICE, |_| ()));
        slice(&mut state, &[("10.42.0.2", ""), ("fd42::2", "")]);
        let with = take(&mut state);
        slice(&mut state, &[]);
        let without = take(&mut state);
        state.remove_service("d", SERVICE);
        let gone = take(&mut state);
        let (right, right6) = ("10.42.0.2:5353", "[fd42::2]:5353");
        let (left, left6) = ("10.42.0.9:5353", "[fd42::9]:5353");
        // Stale with an endpoint; without one, or without the service.
        let cases = [
            ("right", "10.43.0.10:53", right, false, true),
            ("gone", "10.43.0.10:53", left, true, true),
            ("its other port", "10.43.0.10:53", "10.42.0.2:1", true, true),
            ("IPv6, right", "[fd43::10]:53", right6, false, true),
            ("IPv6, gone", "[fd43::10]:53", left6, true, true),
            (
                "never translated",
                "10.43.0.10:53",
                "10.43.0.10:53",
                true,
                false,
            ),
            ("external", "192.0.2.9:53", right, false, true),
            ("external, gone", "192.0.2.9:53", left, true, true),
            (
                "external, never",
                "192.0.2.9:53",
                "192.0.2.9:53",
                true,
                false,
            ),
            ("balancer", "192.0.2.7:53", right, false, true),
            ("balancer, gone", "192.0.2.7:53", left, true, true),
            ("node port, right", "192.168.0.1:30053", right, false, true),
            ("node port, gone", "192.168.0.1:30053", left, true, true),
            ("node port, IPv6", "[fd00::1]:30053", left6, true, true),
            (
                "node port, never",
                "192.168.0.1:30053",
                "192.168.0.1:30053",
                true,
                false,
            ),
            (
                "its number elsewhere",
                "8.8.8.8:30053",
                "8.8.8.8:30053",
                false,
                false,
            ),
            (
                "its number at a service",
                "10.43.0.99:30053",
                left,
                false,
                false,
            ),
            ("no service", "8.8.8.8:53", "8.8.8.8:53", false, false),
            (
                "TCP port's number",
                "10.43.0.10:80",
                "10.42.0.9:80",
                false,
                false,
            ),
        ];
        for (name, destination, answerer, stale_with, stale_without) in cases {
            let found = [&with, &without, &gone].map(|w| is_stale(w, destination, answerer));
            let want = [stale_with, stale_without, stale_without];
            assert_eq!(found, want, "{name}");
        }
    }

    #[test]
    fn flows_stay_with_what_still_answers() {
        let cases = [
            (
                "beside a ready one",
                &[("10.42.0.2", "st"), ("10.42.0.3", "")][..],
                false,
            ),
            ("alone", &[("10.42.0.2", "st")], false),
            (
                "not ready, but answering",
                &[("10.42.0.2", "s"), ("10.42.0.3", "")],
                false,
            ),
            ("neither", &[("10.42.0.2", "t"), ("10.42.0.3", "")], true),
        ];
        for (name, endpoints, want) in cases {
            let mut state = State::default();
            state.set_service(&service(SERVICE, |v| {
                v["spec"]["internalTrafficPolicy"] = json!("Local");
            }));
            slice(&mut state, endpoints);
            let wanted = take(&mut state);
            let stale = is_stale(&wanted, "10.43.0.10:53", "10.42.0.2:5353");
            assert_eq!(stale, want, "{name}");
        }
    }

    #[test]
    fn only_what_changed_is_looked_at_until_it_was() {
        let mut state = State::default();
        let other = service("other", |v| {
            v["spec"]["clusterIPs"] = json!(["10.43.0.11"]);
            v["spec"]["externalIPs"] = json!([]);
            v["spec"]["ports"] = json!([{"port": 53, "protocol": "UDP"}]);
            v["status"] = json!({});
        });
        state.set_service(&other);
        state.set_service(&service(SERVICE, |_| ()));
        slice(&mut state, &[("10.42.0.2", "")]);
        let mut wanted = take(&mut state);
        // Two cluster addresses, an external one, a balancer's and a node port; and the other's one.
        assert_eq!(wanted.fronts().len(), 6);
        slice(&mut state, &[("10.42.0.3", "")]);
        let changed = take(&mut state);
        assert_eq!(changed.fronts().len(), 5);
        assert!(is_stale(&changed, "10.43.0.10:53", "10.42.0.2:5353"));
        // Nobody looked in between: the later change counts.
        slice(&mut state, &[("10.42.0.4", "")]);
        wanted.add(&state.take_changes());
        assert_eq!(wanted.fronts().len(), 6);
        assert!(!is_stale(&wanted, "10.43.0.10:53", "10.42.0.4:5353"));
        assert!(is_stale(&wanted, "10.43.0.10:53", "10.42.0.2:5353"));
    }

    #[test]
    fn a_front_that_went_to_another_service_is_the_others() {
        let mut state = State::default();
        state.set_service(&service(SERVICE, |_| ()));
        slice(&mut state, &[("10.42.0.2", "")]);
        state.take_changes();
        // The first by name has an external address that both want.
        for (name, stale) in [("aaa", true), ("zzz", false)] {
            let mut state = state.clone();
            state.set_service(&service(name, |v| {
                v["spec"]["clusterIPs"] = json!(["10.43.0.11"]);
                v["spec"]["ports"] = json!([{"name": "u", "port": 53, "protocol": "UDP"}]);
                v["status"] = json!({});
            }));
            let wanted = take(&mut state);
            assert!(
                !is_stale(&wanted, "10.43.0.10:53", "10.42.0.2:5353"),
                "{name}"
            );
            assert_eq!(
                is_stale(&wanted, "192.0.2.9:53", "10.42.0.2:5353"),
                stale,
                "{name}"
            );
        }
    }
}
