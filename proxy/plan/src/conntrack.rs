//! Which UDP flows outlived their endpoint. A TCP client notices and connects anew; a UDP client goes on
//! sending, and its conntrack entry goes on translating to an address that nobody has any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Family, Protocol, Served};
use crate::select::usable;

/// A flow as conntrack knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Where the client sends to.
    pub destination: (IpAddr, u16),
    /// Who answers: the endpoint when the flow is translated, else the destination itself.
    pub answerer: (IpAddr, u16),
}

/// Where UDP flows to services may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    by_address: BTreeMap<(IpAddr, u16), BTreeSet<(IpAddr, u16)>>,
    by_node_port: BTreeMap<u16, BTreeSet<(IpAddr, u16)>>,
}

impl Wanted {
    /// From all service ports of both families.
    pub fn new(families: &[(Family, Vec<Served<'_>>)]) -> Self {
        let mut wanted = Self::default();
        for (family, served) in families {
            for s in served.iter().filter(|s| s.port.protocol == Protocol::Udp) {
                let to = |policy| {
                    usable(&s.endpoints, policy)
                        .iter()
                        .map(|e| (e.ip, e.port))
                        .collect::<BTreeSet<_>>()
                };
                // Traffic from inside may use any usable endpoint of an external address too: allow both.
                let any = &to(s.port.internal_policy) | &to(s.port.external_policy);
                let addresses = s
                    .port
                    .cluster_ips
                    .iter()
                    .chain(&s.port.external_ips)
                    .chain(&s.port.load_balancer_ips);
                for ip in addresses.filter(|ip| Family::of(ip) == *family) {
                    wanted
                        .by_address
                        .entry((*ip, s.port.port))
                        .or_default()
                        .extend(&any);
                }
                if let Some(port) = s.port.node_port {
                    wanted.by_node_port.entry(port).or_default().extend(&any);
                }
            }
        }
        wanted
    }

    /// Whether there is anything that a flow could outlive.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    /// Whether a flow must be removed: it goes to a service and is answered by none of its endpoints.
    /// A service without endpoints keeps its flows: its packets are refused by a rule, and removing them would
    /// not end sooner; but a flow that was never translated (it began before there was an endpoint) goes once there is one.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let translated = flow.answerer != flow.destination;
        if let Some(endpoints) = self.by_address.get(&flow.destination) {
            return if translated {
                !endpoints.contains(&flow.answerer)
            } else {
                !endpoints.is_empty()
            };
        }
        // Any local address may be the destination: only a translated flow is known to be a node port's.
        let node_port = self.by_node_port.get(&flow.destination.1);
        node_port.is_some_and(|endpoints| translated && !endpoints.contains(&flow.answerer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use serde_json::json;

    #[test]
    fn flows_without_their_endpoint_are_stale() {
        let mut state = State::default();
        let service = json!({"metadata": {"namespace": "d", "name": "dns"}, "spec": {"clusterIP": "10.43.0.10", "type": "NodePort",
            "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 80, "protocol": "TCP", "name": "web"}]}});
        state.set_service(&serde_json::from_value(service).expect("service"));
        let slice = |endpoints: serde_json::Value| {
            serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "dns-1", "labels": {"kubernetes.io/service-name": "dns"}},
                "addressType": "IPv4", "ports": [{"port": 5353, "protocol": "UDP"}], "endpoints": endpoints})).expect("slice")
        };
        state.set_slice(&slice(json!([{"addresses": ["10.42.0.2"]}])), &"me".into());
        let with = Wanted::new(&[(Family::V4, state.served(Family::V4))]);
        state.set_slice(&slice(json!([])), &"me".into());
        let without = Wanted::new(&[(Family::V4, state.served(Family::V4))]);
        let at = |t: &str| {
            let a: std::net::SocketAddr = t.parse().expect("address");
            (a.ip(), a.port())
        };
        let cases = [
            (
                "right endpoint",
                "10.43.0.10:53",
                "10.42.0.2:5353",
                false,
                true,
            ),
            (
                "gone endpoint",
                "10.43.0.10:53",
                "10.42.0.9:5353",
                true,
                true,
            ),
            (
                "never translated",
                "10.43.0.10:53",
                "10.43.0.10:53",
                true,
                false,
            ),
            (
                "node port, right",
                "192.168.0.1:30053",
                "10.42.0.2:5353",
                false,
                true,
            ),
            (
                "node port, gone",
                "192.168.0.1:30053",
                "10.42.0.9:5353",
                true,
                true,
            ),
            (
                "node port's number elsewhere",
                "8.8.8.8:30053",
                "8.8.8.8:30053",
                false,
                false,
            ),
            ("not a service", "8.8.8.8:53", "8.8.8.8:53", false, false),
            (
                "TCP port's number",
                "10.43.0.10:80",
                "10.42.0.9:80",
                false,
                false,
            ),
        ];
        for (name, destination, answerer, stale_with, stale_without) in cases {
            let flow = Flow {
                destination: at(destination),
                answerer: at(answerer),
            };
            assert_eq!(
                (with.is_stale(&flow), without.is_stale(&flow)),
                (stale_with, stale_without),
                "{name}"
            );
        }
    }
}
