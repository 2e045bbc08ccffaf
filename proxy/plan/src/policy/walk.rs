//! What compiled rules do with a packet, in the order in which a ruleset is walked.

use std::net::IpAddr;

use super::compiled::Compiled;
use super::model::{Direction, Host, Packet, Verdict};

/// What the rules do with the first packet of a connection.
pub fn walk(compiled: &Compiled, packet: &Packet) -> Verdict {
    // A pod can't be kept from itself (a service that leads back to it), nor from its node or its node from it.
    if packet.host != Host::Neither || packet.source == packet.destination {
        return Verdict::Allow;
    }
    for direction in Direction::BOTH {
        let (pod, peer) = match direction {
            Direction::Egress => (packet.source, packet.destination),
            Direction::Ingress => (packet.destination, packet.source),
        };
        if !passes(compiled, direction, pod, peer, packet) {
            return Verdict::Deny(direction);
        }
    }
    Verdict::Allow
}

fn passes(
    compiled: &Compiled,
    direction: Direction,
    pod: IpAddr,
    peer: IpAddr,
    packet: &Packet,
) -> bool {
    let group = compiled.pods.get(&pod).and_then(|m| m.group(direction));
    let Some(id) = group else { return true };
    // A group that is named but not there would be an error of the compiler's: nothing is allowed by it.
    compiled.groups.get(&id).is_some_and(|group| {
        group.rules.iter().any(|rule| {
            rule.peer_matches(compiled, peer)
                && rule.port_matches(compiled, packet.destination, packet.transport)
        })
    })
}
