//! What rules of others do on a packet's way.

use std::net::IpAddr;

use super::Live;
use crate::nft::parts::DSTNAT;
use crate::nft::table::Place;
use crate::others::{Finding, Judged, Seen, Stage, Table, judge};
use crate::packet::{Node, Packet};

/// By which interface packets come that a node sends to itself.
const LOOPBACK: &str = "lo";

/// A packet, and where it goes after translation, if anything translates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course<'a> {
    /// The packet as it was sent.
    pub packet: &'a Packet,
    /// Where it goes in the end.
    pub to: (IpAddr, u16),
    /// By which interface; none: it stays.
    pub output: Option<String>,
    /// By what services' traffic goes here.
    pub mode: Live,
    /// The address that this node's own packets have, where a process of its own sends it on.
    pub own: Option<IpAddr>,
}

impl Course<'_> {
    /// The hooks that it passes, and how it looks there.
    pub fn stages(&self, node: &Node) -> Vec<Stage> {
        let translated = self.to != (self.packet.destination, self.packet.port);
        let sent = self.seen(false, None);
        let moved = Seen {
            output: None,
            ..self.seen(translated, None)
        };
        let leaves = self.seen(translated, self.output.clone());
        let own = self.packet.interface.is_none();
        let before = if translated { DSTNAT - 1 } else { i32::MAX };
        match (self.mode, translated) {
            (Live::Ipvs, true) => {
                // IPVS takes what is for one of the node's addresses, and sends it on as the node does.
                let first = match own {
                    true => vec![whole(Place::Output, sent)],
                    false => vec![
                        whole(Place::Prerouting, sent.clone()),
                        whole(Place::Input, sent),
                    ],
                };
                let then = match own {
                    true => vec![whole(Place::Postrouting, leaves)],
                    false => vec![
                        whole(Place::Output, leaves.clone()),
                        whole(Place::Postrouting, leaves),
                    ],
                };
                [first, then].concat()
            }
            (Live::Userspace(_), true) => {
                let proxy = Seen {
                    source: self.own.unwrap_or(self.packet.source),
                    input: None,
                    translated: false,
                    ..leaves
                };
                let to_proxy = match own {
                    true => vec![],
                    false => vec![stage(Place::Prerouting, i32::MIN, before, sent)],
                };
                let then = [Place::Output, Place::Postrouting];
                let then = then.map(|place| whole(place, proxy.clone()));
                [to_proxy, then.into()].concat()
            }
            _ if own => {
                let mut stages = vec![
                    stage(Place::Output, i32::MIN, before, sent),
                    stage(Place::Output, DSTNAT, i32::MAX, leaves.clone()),
                    whole(Place::Postrouting, leaves),
                ];
                if !translated {
                    stages.remove(1);
                }
                if node.has(&self.to.0) {
                    let input = Some(LOOPBACK.to_owned());
                    stages.push(whole(Place::Input, Seen { input, ..moved }));
                }
                stages
            }
            _ => {
                let mut stages = vec![stage(Place::Prerouting, i32::MIN, before, sent)];
                if translated {
                    stages.push(stage(Place::Prerouting, DSTNAT, i32::MAX, moved.clone()));
                }
                if node.has(&self.to.0) {
                    stages.push(whole(Place::Input, moved));
                } else {
                    stages.push(whole(Place::Forward, leaves.clone()));
                    stages.push(whole(Place::Postrouting, leaves));
                }
                stages
            }
        }
    }

    fn seen(&self, translated: bool, output: Option<String>) -> Seen {
        let packet = self.packet;
        let (destination, port) = match translated {
            true => self.to,
            false => (packet.destination, packet.port),
        };
        Seen {
            source: packet.source,
            destination,
            protocol: packet.protocol,
            port,
            input: packet.interface.clone(),
            output,
            translated,
        }
    }
}

fn stage(place: Place, from: i32, to: i32, seen: Seen) -> Stage {
    Stage {
        place,
        from,
        to,
        seen,
    }
}

fn whole(place: Place, seen: Seen) -> Stage {
    stage(place, i32::MIN, i32::MAX, seen)
}

/// What others' rules do, and whether one of them turns the packet away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For people.
    pub lines: Vec<String>,
    /// It is dropped or refused.
    pub ends: bool,
}

/// What others' rules do on a packet's way.
pub fn say(tables: &[Table], node: &Node, course: &Course<'_>) -> Said {
    let findings = judge(tables, node, &course.stages(node));
    let mut said = Said::default();
    let mut passed = Vec::new();
    for Finding {
        chain,
        judged,
        unjudged,
    } in findings
    {
        let what = match &judged {
            Judged::Passes if unjudged.is_empty() => {
                passed.push(chain);
                continue;
            }
            Judged::Passes => format!("{chain}: what is understood of it lets it pass"),
            Judged::Dropped(rule) => format!("dropped by {chain}: {rule}"),
            Judged::Refused(rule) => format!("refused by {chain}: {rule}"),
            Judged::Translated(rule) => format!("translated by {chain}: {rule}"),
        };
        said.ends =
            matches!(judged, Judged::Dropped(_) | Judged::Refused(_)) && unjudged.is_empty();
        let unless = if matches!(judged, Judged::Passes) {
            ""
        } else {
            ", unless it meets what is not judged"
        };
        let unless = if unjudged.is_empty() { "" } else { unless };
        said.lines.push(format!("{what}{unless}"));
        let rules = unjudged.into_iter();
        said.lines
            .extend(rules.map(|r| format!("  not judged: {r}")));
    }
    if !passed.is_empty() {
        said.lines.push(format!("passes {}", passed.join("; ")));
    }
    let unwalked = tables
        .iter()
        .filter_map(|t| Some((t, t.unjudged.as_ref()?)));
    let unwalked = unwalked.map(|(t, why)| format!("not judged: {}: {why}", t.name));
    said.lines.extend(unwalked);
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Protocol};
    use crate::others::iptables;

    const SAVED: &str = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -d 10.43.0.9/32 -p tcp -m tcp --dport 81 -j DROP\n-A OUTPUT -d 10.43.0.9/32 -p tcp -m tcp --dport 81 -j DROP\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.1\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i eth0 -j DROP\n-A FORWARD -d 10.42.0.2/32 -o keelson0 -m set --match-set a src -j DROP\n-A FORWARD -d 10.42.0.3/32 -o keelson0 -j DROP\n-A OUTPUT -d 10.42.0.3/32 -o keelson0 -j DROP\nCOMMIT\n";

    #[test]
    fn each_hook_sees_the_packet_as_it_is_there() {
        let tables = iptables::tables(SAVED, Family::V4, "iptables");
        let node = Node {
            addresses: vec![[192, 168, 9, 1].into()],
        };
        let packet = |port, interface: Option<&str>| Packet {
            source: [10, 42, 0, 9].into(),
            destination: [10, 43, 0, 9].into(),
            protocol: Protocol::Tcp,
            port,
            interface: interface.map(str::to_owned),
        };
        let drop3 = "FORWARD: -d 10.42.0.3/32 -o keelson0 -j DROP";
        let out3 = "OUTPUT: -d 10.42.0.3/32 -o keelson0 -j DROP";
        let nft = Live::Nftables;
        let cases = [
            // By what it was sent to, before that is translated.
            (
                packet(81, Some("eth0")),
                3,
                nft,
                true,
                "PREROUTING: -d 10.43.0.9/32",
            ),
            (packet(81, None), 3, nft, true, "OUTPUT: -d 10.43.0.9/32"),
            // By what it was translated to; nobody translates it again.
            (packet(80, Some("eth0")), 3, nft, true, drop3),
            (packet(80, None), 3, nft, true, out3),
            (
                packet(80, Some("eth0")),
                2,
                nft,
                false,
                "not judged: FORWARD: -d 10.42.0.2/32 -o keelson0 -m set",
            ),
            // IPVS takes it in the input hook, and it leaves by the output hook.
            (
                packet(80, Some("eth0")),
                3,
                Live::Ipvs,
                true,
                "INPUT: -i eth0 -j DROP",
            ),
            (packet(80, Some("eth1")), 3, Live::Ipvs, true, out3),
            (
                packet(80, Some("eth1")),
                3,
                Live::Userspace(None),
                true,
                out3,
            ),
        ];
        for (packet, last, mode, ends, want) in cases {
            let course = Course {
                packet: &packet,
                to: ([10, 42, 0, last].into(), 8080),
                output: Some("keelson0".into()),
                mode,
                own: None,
            };
            let said = say(&tables, &node, &course);
            assert_eq!(said.ends, ends, "{packet} {mode}: {said:?}");
            assert!(
                said.lines.iter().any(|l| l.contains(want)),
                "{packet} {mode}: {said:?}"
            );
        }
    }
}
