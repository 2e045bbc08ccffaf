//! What NetworkPolicies do with a connection: the live table, walked, and the policies' names, which the table doesn't
//! have, as the API's policies decide.

use std::net::IpAddr;
use std::rc::Rc;

use super::Names;
use crate::model::Protocol;
use crate::nft::table::{Place, Table};
use crate::nft::walk::{Forwarded, sent_on};
use crate::packet;
use crate::policy::decide::{Lack, Outcome, explain, why};
use crate::policy::model::{Direction, Host, Name, Packet, Transport};
use crate::policy::state::State;

/// A connection as the pods' nodes see it: after translation of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who began it.
    pub source: IpAddr,
    /// Whom other nodes see: the same, or this node.
    pub seen: IpAddr,
    /// Who is reached.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port that is reached.
    pub port: u16,
    /// Whether an end is this node.
    pub host: Host,
}

/// What is known of policies.
pub struct Policies<'a> {
    /// This node's name.
    pub node: &'a str,
    /// The API's policies as seen from a node.
    pub of: &'a dyn Fn(&str) -> Rc<State>,
    /// The live table.
    pub live: Option<&'a Table>,
    /// The hook by which packets go: forward, or, what IPVS hands on, output.
    pub place: Place,
    /// Whose the addresses are.
    pub names: &'a Names,
}

/// What policies say of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For people.
    pub lines: Vec<String>,
    /// This node's live table drops it.
    pub dropped: bool,
}

impl Policies<'_> {
    /// What policies say of a connection, at both its ends.
    pub fn say(&self, flow: &Flow) -> Said {
        let mut said = Said::default();
        let here = (self.of)(self.node);
        let packet = Packet {
            source: flow.source,
            destination: flow.destination,
            transport: Transport::Port(flow.protocol, flow.port),
            host: flow.host,
        };
        let mut refused = false;
        for direction in Direction::BOTH {
            let address = match direction {
                Direction::Egress => flow.source,
                Direction::Ingress => flow.destination,
            };
            let (Some(pod), Some(node)) =
                (self.names.of.get(&address), self.names.nodes.get(&address))
            else {
                continue;
            };
            let what = format!("{direction} of {pod}");
            if *node == self.node {
                let words = words(&here, &packet, direction);
                refused |= matches!(outcome(&here, &packet, direction), Outcome::Denied(_));
                said.lines.push(format!("{what}: {words}"));
            } else {
                let there = (self.of)(node);
                let source = flow.seen;
                let host = Host::Neither;
                let packet = Packet {
                    source,
                    host,
                    ..packet
                };
                let words = words(&there, &packet, direction);
                said.lines.push(format!(
                    "{what}: node {node}'s own rules decide; by the policies of the API: {words}"
                ));
            }
        }
        self.live(flow, refused, &mut said);
        said
    }

    /// What the live table does, where it is asked.
    fn live(&self, flow: &Flow, refused: bool, said: &mut Said) {
        let Some(table) = self.live else {
            if refused {
                let line =
                    "but no table keelson-policy is live on this node: nothing enforces that";
                said.lines.push(line.into());
            }
            return;
        };
        if flow.host != Host::Neither || flow.source == flow.destination {
            return;
        }
        let hooks = table.chains.values().filter_map(|c| c.hook);
        if !hooks.into_iter().any(|h| h.place == self.place) {
            said.lines.push(format!(
                "table {} is not asked: it has no chain where the packet goes by",
                table.name
            ));
            return;
        }
        let packet = Forwarded {
            source: flow.source,
            destination: flow.destination,
            protocol: flow.protocol.number(),
            port: flow.port,
            tracked: true,
        };
        let way = sent_on(table, &packet, self.place);
        said.dropped = way.outcome == packet::Outcome::Dropped;
        let name = table.name;
        said.lines.push(match said.dropped {
            true => format!("table {name}: dropped"),
            false => format!("table {name}: passes"),
        });
        let steps = way.steps.iter();
        let steps = steps.map(|s| format!("  {}: {}", s.chain, s.rule));
        said.lines.extend(steps);
        if said.dropped != refused {
            said.lines.push(
                "the live table does not do what the API's policies say: keelson proxy diff shows what differs"
                    .into(),
            );
        }
    }
}

fn outcome(state: &State, packet: &Packet, direction: Direction) -> Outcome {
    let decision = explain(state, packet);
    match direction {
        Direction::Egress => decision.egress,
        Direction::Ingress => decision.ingress,
    }
}

fn words(state: &State, packet: &Packet, direction: Direction) -> String {
    match outcome(state, packet, direction) {
        Outcome::NotHere => "it is not known there".into(),
        Outcome::Exempt => "no policy keeps a pod from itself or its node".into(),
        Outcome::Open => "allowed, no policy is for it".into(),
        Outcome::Allowed(names) => format!("allowed by {}", policies(names.iter(), |_| None)),
        Outcome::Denied(names) => {
            let (what, peer) = match direction {
                Direction::Egress => ("to", packet.destination),
                Direction::Ingress => ("from", packet.source),
            };
            let Transport::Port(protocol, port) = packet.transport else {
                return format!("refused by {}", policies(names.iter(), |_| None));
            };
            let port = format!("{} port {port}", protocol.name());
            let lack = |name: &Name| {
                Some(match why(state, packet, direction, name)? {
                    Lack::Rules => format!("allows nobody {what} here"),
                    Lack::Peer => format!("allows {port}, but not {what} {peer}"),
                    Lack::Port => format!("allows {peer}, but not {port}"),
                    Lack::Both => format!("allows neither {peer} nor {port}"),
                })
            };
            format!("refused by {}", policies(names.iter(), lack))
        }
    }
}

fn policies<'a>(
    names: impl Iterator<Item = &'a Name>,
    why: impl Fn(&Name) -> Option<String>,
) -> String {
    let told = names.map(|name| match why(name) {
        Some(why) => format!("{name} ({why})"),
        None => name.to_string(),
    });
    let told: Vec<String> = told.collect();
    let kind = if told.len() == 1 {
        "policy"
    } else {
        "policies"
    };
    format!("{kind} {}", told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::nft::policies::{judge_ipvs, table};
    use serde_json::{Value, json};

    fn state(node: &str, policies: &[(&str, Value)]) -> State {
        let mut state = State::new(node);
        state.set_namespace(
            &serde_json::from_value(json!({"metadata": {"name": "d"}})).expect("namespace"),
        );
        for (name, on, last) in [("ask", "me", 2), ("web", "me", 3), ("far", "other", 4)] {
            let pod = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "labels": {"app": name}},
                "spec": {"nodeName": on, "containers": []},
                "status": {"phase": "Running", "podIPs": [{"ip": format!("10.42.0.{last}")}]}});
            state.set_pod(&serde_json::from_value(pod).expect("pod"));
        }
        for (name, spec) in policies {
            let policy = json!({"metadata": {"namespace": "d", "name": name}, "spec": spec});
            state.set_policy(&serde_json::from_value(policy).expect("policy"));
        }
        state.sync();
        state
    }

    fn names() -> Names {
        let mut names = Names::default();
        for (name, on, last) in [("ask", "me", 2), ("web", "me", 3), ("far", "other", 4)] {
            let ip = IpAddr::from([10, 42, 0, last]);
            names.of.insert(ip, format!("pod d/{name}"));
            names.nodes.insert(ip, on.into());
        }
        names
    }

    #[test]
    fn the_live_table_and_the_names_of_policies() {
        let isolate = json!({"policyTypes": ["Ingress"]});
        let some = json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "ask"}}}], "ports": [{"port": 443}]}]});
        let out = json!({"policyTypes": ["Egress"], "podSelector": {"matchLabels": {"app": "ask"}},
            "egress": [{"to": [{"podSelector": {}}]}]});
        let all = [("deny", isolate), ("tls", some), ("out", out)];
        let names = names();
        let flow = |to: u8, port| Flow {
            source: [10, 42, 0, 2].into(),
            seen: [10, 42, 0, 2].into(),
            destination: [10, 42, 0, to].into(),
            protocol: Protocol::Tcp,
            port,
            host: Host::Neither,
        };
        let here = state("me", &all);
        let live = table(here.compiled(), Family::V4);
        let say = |live: Option<&Table>, place, flow| {
            Policies {
                node: "me",
                of: &|node| Rc::new(state(node, &all)),
                live,
                place,
                names: &names,
            }
            .say(&flow)
        };
        let said = say(Some(&live), Place::Forward, flow(3, 80));
        assert!(said.dropped);
        let refused = "ingress of pod d/web: refused by policies d/deny (allows nobody from here), d/tls (allows 10.42.0.2, but not tcp port 80)";
        assert_eq!(
            said.lines[0],
            "egress of pod d/ask: allowed by policy d/out"
        );
        assert_eq!(said.lines[1], refused);
        assert_eq!(said.lines[2], "table keelson-policy: dropped");
        assert!(said.lines.iter().any(|l| l == "  refuse: drop"), "{said:?}");

        let said = say(Some(&live), Place::Forward, flow(3, 443));
        assert!(!said.dropped);
        assert_eq!(
            said.lines[1],
            "ingress of pod d/web: allowed by policy d/tls"
        );
        assert_eq!(said.lines[2], "table keelson-policy: passes");

        // The other node's rules decide, and this one's pass.
        let said = say(Some(&live), Place::Forward, flow(4, 80));
        assert!(!said.dropped);
        let far = "ingress of pod d/far: node other's own rules decide; by the policies of the API: refused by policies d/deny (";
        assert!(said.lines[1].starts_with(far), "{said:?}");

        let said = say(None, Place::Forward, flow(3, 80));
        assert!(said.lines[2].contains("nothing enforces that"), "{said:?}");
        // What IPVS hands on: only a table that looks there drops it.
        let said = say(Some(&live), Place::Output, flow(3, 80));
        let line = "table keelson-policy is not asked: it has no chain where the packet goes by";
        assert_eq!((said.dropped, said.lines[2].as_str()), (false, line));
        let mut both = live.clone();
        judge_ipvs(&mut both);
        let said = say(Some(&both), Place::Output, flow(3, 80));
        assert!(said.dropped, "{said:?}");
        assert_eq!(said.lines[2], "table keelson-policy: dropped");
        assert!(!say(Some(&both), Place::Output, flow(3, 443)).dropped);

        let old = state("me", &[]);
        let old = table(old.compiled(), Family::V4);
        let said = say(Some(&old), Place::Forward, flow(3, 80));
        assert!(!said.dropped);
        assert!(
            said.lines.iter().any(|l| l.contains("keelson proxy diff")),
            "{said:?}"
        );
    }
}
