//! What live redirect rules say of a proxy that runs: which listener a packet goes to, and at which ports it listens.

use std::collections::BTreeMap;

use super::portals::{Behind, Listener, listeners};
use super::rules::{Options, guarded, ruleset};
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

/// How live rules differ from what is wanted, by the ports of the proxy that runs; and the listeners whose port no live
/// rule tells: for it stands `PORT`.
pub fn differences(
    live: &Ruleset,
    served: &[Served<'_>],
    options: &Options,
) -> (String, Vec<Listener>) {
    let all = listeners(served, options);
    let mut open = ports(live, &all, served, options);
    let needed = all.iter().filter(|(_, b)| !b.endpoints.is_empty());
    let unknown = needed.map(|(l, _)| l).filter(|l| !open.contains_key(l));
    let unknown: Vec<Listener> = unknown.cloned().collect();
    open.extend(unknown.iter().map(|l| (l.clone(), 0)));
    let text = ruleset(served, options, &open).differences(live);
    let text = text.replace("--to-ports 0\n", "--to-ports PORT\n");
    (text.replace("--dport 0 ", "--dport PORT "), unknown)
}

/// The ports at which the proxy listens, as far as live rules tell.
fn ports(
    live: &Ruleset,
    all: &BTreeMap<Listener, Behind>,
    served: &[Served<'_>],
    options: &Options,
) -> BTreeMap<Listener, u16> {
    let open = numbered(all);
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
    // One whose endpoints have all gone stays open, though nobody is sent there.
    for (listener, _) in all.iter().filter(|(_, b)| b.endpoints.is_empty()) {
        let taken: Vec<u16> = found.values().copied().collect();
        let port = guarded(live, listener)
            .into_iter()
            .find(|p| !taken.contains(p));
        found.extend(port.map(|p| (listener.clone(), p)));
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
        let web = serde_json::from_value(service).expect("service");
        state.set_service(&web);
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
        assert_eq!(ports(&live, &all, &served, &options), open);
        let none = Ruleset::default();
        assert!(ports(&none, &all, &served, &options).is_empty());
        let same = differences(&live, &served, &options);
        assert_eq!(same, (String::new(), Vec::new()));
        let (text, unknown) = differences(&none, &served, &options);
        assert_eq!(unknown.len(), 2);
        assert!(
            text.contains("-t nat -A KUBE-PORTALS-HOST -d 10.43.0.9/32 -p tcp"),
            "{text}"
        );
        assert!(
            text.contains("--to-ports PORT\n") && text.contains("--dport PORT -j ACCEPT\n"),
            "{text}"
        );
        // Without endpoints it stays open: that is no difference.
        let mut alone = State::default();
        alone.set_service(&web);
        let alone = alone.served(Family::V4);
        let open_still = ruleset(&alone, &options, &open);
        let same = differences(&open_still, &alone, &options);
        assert_eq!(same, (String::new(), Vec::new()));

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
