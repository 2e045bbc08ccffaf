//! What live redirect rules say of a proxy that runs: which listener a packet goes to, and at which ports it listens.

use std::collections::BTreeMap;

use super::portals::{Behind, Listener, listeners};
use super::rules::{Options, ruleset};
use crate::iptables::Ruleset;
use crate::iptables::walk::Rules;
use crate::model::Served;
use crate::packet::{Node, Outcome, Packet};

/// What a redirect ends with.
const TO: &str = "--to-ports ";

/// The listener that a packet is meant for, by the services; `None`: for none.
pub fn meant_for(
    served: &[Served<'_>],
    options: &Options,
    node: &Node,
    packet: &Packet,
) -> Option<(Listener, Behind)> {
    let all = listeners(served, options);
    let open = numbered(&all);
    let rules = Rules::new(&ruleset(served, options, &open)).ok()?;
    let Ok(Outcome::Sent(to)) = rules.outcome(node, packet) else {
        return None;
    };
    let ((_, port), _) = to.first_key_value()?;
    let (listener, _) = open.iter().find(|(_, p)| *p == port)?;
    let behind = all.get(listener)?;
    Some((listener.clone(), behind.clone()))
}

/// The ports at which the proxy listens, as far as live rules send somebody there.
pub fn ports(live: &Ruleset, served: &[Served<'_>], options: &Options) -> BTreeMap<Listener, u16> {
    let all = listeners(served, options);
    let open = numbered(&all);
    let want = ruleset(served, options, &open);
    let mut there = BTreeMap::new();
    for (table, chain, rules) in live.all() {
        for (rule, port) in rules.iter().filter_map(|r| redirect(r)) {
            there.insert((table, chain, rule), port);
        }
    }
    let mut found = BTreeMap::new();
    for (table, chain, rules) in want.all() {
        for (rule, number) in rules.iter().filter_map(|r| redirect(r)) {
            let listener = open.iter().find(|(_, p)| **p == number);
            if let (Some((listener, _)), Some(port)) = (listener, there.get(&(table, chain, rule)))
            {
                // Where rules name two, one of them is wrong, and differs.
                found.entry(listener.clone()).or_insert(*port);
            }
        }
    }
    found
}

/// A number each, as if it were a port.
fn numbered(all: &BTreeMap<Listener, Behind>) -> BTreeMap<Listener, u16> {
    all.keys().cloned().zip(1..=u16::MAX).collect()
}

/// A redirect without its port, and the port.
fn redirect(rule: &str) -> Option<(&str, u16)> {
    let (rule, port) = rule.rsplit_once(TO)?;
    Some((rule, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Protocol};
    use crate::state::{Here, State};
    use serde_json::json;

    #[test]
    fn listeners_are_found_in_live_rules() {
        let mut state = State::default();
        let service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"clusterIP": "10.43.0.9", "type": "NodePort",
            "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}});
        state.set_service(&serde_json::from_value(service).expect("service"));
        let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.1.2"]}]});
        let slice = serde_json::from_value(slice).expect("slice");
        state.set_slice(&slice, &Here::from("me"));
        let served = state.served(Family::V4);
        let options = Options {
            family: Family::V4,
            cluster_cidrs: Vec::new(),
            node_port_addresses: Vec::new(),
            localhost_node_ports: true,
        };
        let all = listeners(&served, &options);
        let open: BTreeMap<Listener, u16> = all.keys().cloned().zip(40_000..).collect();
        assert_eq!(open.len(), 2, "{open:?}");
        let live = ruleset(&served, &options, &open);
        assert_eq!(ports(&live, &served, &options), open);
        assert!(ports(&Ruleset::default(), &served, &options).is_empty());

        let node = Node {
            addresses: vec![[192, 168, 9, 1].into()],
        };
        let mut packet = Packet {
            source: [192, 168, 9, 7].into(),
            destination: [192, 168, 9, 1].into(),
            protocol: Protocol::Tcp,
            port: 30080,
            interface: Some("eth0".into()),
        };
        let (listener, behind) = meant_for(&served, &options, &node, &packet).expect("a listener");
        assert!(listener.local_only);
        assert_eq!(
            behind.endpoints,
            ["10.42.0.2:8080".parse().expect("socket")]
        );
        packet.interface = None;
        let (listener, behind) = meant_for(&served, &options, &node, &packet).expect("a listener");
        assert_eq!((listener.local_only, behind.endpoints.len()), (false, 2));
        assert_eq!(behind.affinity, Some(10800));
        packet.port = 30081;
        assert_eq!(meant_for(&served, &options, &node, &packet), None);
    }
}
