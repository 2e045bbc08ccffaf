//! What becomes of a connection, in words: which service it is for, which endpoints it may go to and how likely, which
//! rules lead there, and where connections that exist already go.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use crate::model::{Entry, Family, Front, Kind, Protocol, socket};
use crate::packet::{Outcome, Packet, Source};
use crate::walk::Way;

/// A connection that exists, as the connection table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub client: (IpAddr, u16),
    /// What for.
    pub destination: (IpAddr, u16),
    /// Who answers.
    pub answerer: (IpAddr, u16),
    /// Whom the answerer answers.
    pub answered: (IpAddr, u16),
}

/// What addresses are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Pods and nodes by address.
    pub of: BTreeMap<IpAddr, String>,
}

impl Names {
    fn with(&self, ip: IpAddr, text: String) -> String {
        match self.of.get(&ip) {
            Some(name) => format!("{text} ({name})"),
            None => text,
        }
    }
}

/// What a packet is for: the service port's name and how it is reached.
pub fn service(entries: &[Entry], packet: &Packet, is_node: bool) -> Option<String> {
    let address = Front::Address(packet.destination, packet.protocol, packet.port);
    let node = Front::Node(packet.protocol, packet.port);
    let fronts = entries
        .iter()
        .flat_map(|e| e.fronts.iter().map(move |f| (e, f)));
    let mut found: Vec<_> = fronts
        .filter(|(_, (front, _))| *front == address || is_node && *front == node)
        .collect();
    // An address goes before a node port.
    found.sort_by_key(|(_, (_, kind))| *kind == Kind::NodePort);
    let (entry, (_, kind)) = found.first()?;
    let kind = match kind {
        Kind::Cluster => "cluster address",
        Kind::External => "external address",
        Kind::LoadBalancer => "load balancer's address",
        Kind::NodePort => "node port",
    };
    let family = Family::of(&packet.destination);
    let count = entry.of(family).count();
    Some(format!(
        "service {}, {kind}, {count} endpoints",
        entry.port.name
    ))
}

/// The whole answer.
pub fn report(
    packet: &Packet,
    service: Option<&str>,
    ways: &[Way],
    connections: &[Connection],
    names: &Names,
) -> String {
    let mut out = String::new();
    let to = socket(packet.destination, packet.port);
    let _ = writeln!(out, "{packet}");
    let _ = writeln!(
        out,
        "  from {}",
        names.with(packet.source, packet.source.to_string())
    );
    let what = service.unwrap_or("no service has this address and port");
    let _ = writeln!(out, "  to {}: {what}", names.with(packet.destination, to));
    existing(&mut out, packet, connections, names);
    let _ = writeln!(out, "a new connection:");
    let common = common_steps(ways);
    for step in ways.iter().flat_map(|w| &w.steps).take(common) {
        let _ = writeln!(out, "  {}: {}", step.chain, step.rule);
    }
    for way in ways {
        if let Outcome::Sent(to) = &way.outcome {
            for ((ip, port), source) in to {
                let chance = 100.0 / f64::from(way.of.max(1));
                let who = names.with(*ip, socket(*ip, *port));
                let _ = writeln!(out, "  {chance:.1} %: to {who}, {}", seen(*source));
            }
        } else {
            let _ = writeln!(out, "  {}", plain(&way.outcome));
        }
        for step in way.steps.iter().skip(common) {
            let _ = writeln!(out, "    {}: {}", step.chain, step.rule);
        }
    }
    out
}

fn existing(out: &mut String, packet: &Packet, connections: &[Connection], names: &Names) {
    let same = |c: &&Connection| {
        let to = (packet.destination, packet.port);
        c.protocol == packet.protocol && c.client.0 == packet.source && c.destination == to
    };
    let found: Vec<_> = connections.iter().filter(same).collect();
    if found.is_empty() {
        return;
    }
    let _ = writeln!(out, "{} existing:", found.len());
    for c in found {
        let (ip, port) = c.answerer;
        let source = if c.answered.0 == c.client.0 {
            Source::Kept
        } else {
            Source::Masked
        };
        let _ = writeln!(
            out,
            "  from port {} to {}, {}",
            c.client.1,
            names.with(ip, socket(ip, port)),
            seen(source)
        );
    }
}

/// How many rules all ways have in common.
fn common_steps(ways: &[Way]) -> usize {
    let Some((first, others)) = ways.split_first() else {
        return 0;
    };
    let same = |i: &usize| {
        others
            .iter()
            .all(|w| w.steps.get(*i) == first.steps.get(*i))
    };
    (0..first.steps.len()).take_while(same).count()
}

fn seen(source: Source) -> &'static str {
    match source {
        Source::Kept => "which sees who asks",
        Source::Masked => "which sees this node",
    }
}

fn plain(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "goes where it is sent: no rule changes it",
        Outcome::Refused => "refused: the sender is told that nobody is there",
        Outcome::Dropped => "dropped without a word",
        Outcome::Sent(_) => "sent on",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::services::table;
    use crate::nft::walk;
    use crate::options::{Options, Pods};
    use crate::packet::Node;
    use crate::state::{Here, State};
    use serde_json::json;

    #[test]
    fn a_cluster_address_and_its_endpoints() {
        let mut state = State::default();
        let service = json!({"metadata": {"namespace": "d", "name": "web"},
            "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}]}});
        state.set_service(&serde_json::from_value(service).expect("service"));
        let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.1.2"]}]});
        let slice = serde_json::from_value(slice).expect("slice");
        state.set_slice(&slice, &Here::from("me"));
        let entries: Vec<Entry> = state.all().flatten().collect();
        let options = Options {
            pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("net")]),
            ..Options::default()
        };
        let table = table(entries.iter(), Family::V4, &options);
        let packet = Packet {
            source: [10, 42, 0, 2].into(),
            destination: [10, 43, 0, 9].into(),
            protocol: Protocol::Tcp,
            port: 80,
            interface: Some("keelson0".into()),
        };
        let ways = walk::ways(&table, &Node::default(), &packet);
        let connection = Connection {
            protocol: Protocol::Tcp,
            client: ([10, 42, 0, 2].into(), 4444),
            destination: ([10, 43, 0, 9].into(), 80),
            answerer: ([10, 42, 1, 2].into(), 8080),
            answered: ([10, 42, 0, 2].into(), 4444),
        };
        let other = Connection {
            client: ([10, 42, 0, 3].into(), 4445),
            ..connection
        };
        let names = Names {
            of: [([10, 42, 0, 2].into(), "pod d/web-a".to_owned())].into(),
        };
        let what = super::service(&entries, &packet, false);
        insta::assert_snapshot!(report(
            &packet,
            what.as_deref(),
            &ways,
            &[connection, other],
            &names
        ));
    }
}
