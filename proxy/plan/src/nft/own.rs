//! What this node answers itself at addresses that it only holds (the cluster's DNS): whose rules ever lead local
//! addresses somewhere else, those of a pod's host port for one, these stay here. A connection that is translated to
//! where it goes anyway is not asked about again.
//!
//! ```text
//! map fronts      { address . protocol . port : address . port }
//! chain prerouting, output { translate by fronts }
//! ```

use std::net::SocketAddr;

use super::parts::DSTNAT;
use super::table::{Chain, Field, Holds, Hook, Load, Part, Place, Set, Table, Value, Writer};
use crate::model::{Family, Protocol};

/// The table, one in each family.
pub const TABLE: &str = "keelson-own";

const FRONTS: &str = "fronts";

/// A family's table for what is listened on, by UDP and TCP.
pub fn table(family: Family, listen: &[SocketAddr]) -> Table {
    let mut table = Table::new(TABLE, family);
    let mut fronts = Set::new(
        &[Field::Address, Field::Protocol, Field::Port],
        Holds::Fields(vec![Field::Address, Field::Port]),
    );
    for at in listen.iter().filter(|at| Family::of(&at.ip()) == family) {
        let to = Writer::default().address(at.ip()).port(at.port()).words();
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let front = Writer::default().address(at.ip()).protocol(protocol);
            let key = front.port(at.port()).words();
            fronts.elements.insert(key, Value::Fields(to.clone()));
        }
    }
    table.sets.insert(FRONTS.into(), fronts);
    for (name, place) in [("prerouting", Place::Prerouting), ("output", Place::Output)] {
        let rule = vec![Part::Translate {
            key: vec![Load::Destination, Load::Protocol, Load::Port],
            map: FRONTS.into(),
        }];
        let hook = Hook {
            nat: true,
            place,
            // Before all who translate destinations where they usually are.
            priority: DSTNAT - 1,
        };
        let chain = Chain {
            hook: Some(hook),
            rules: vec![rule],
        };
        table.chains.insert(name.into(), chain);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::nft::walk;
    use crate::packet::{Node, Outcome, Packet, Source};

    #[test]
    fn what_is_answered_here_stays_here() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("ip");
        let listen = ["10.43.0.10:53", "[fd43::a]:53"].map(|a| a.parse().expect("address"));
        for (own, from) in [("10.43.0.10", "10.42.0.7"), ("fd43::a", "fd42::7")] {
            let table = table(Family::of(&ip(own)), &listen);
            for (protocol, port, interface, stays) in [
                (Protocol::Udp, 53, Some("cni0"), true),
                (Protocol::Tcp, 53, None, true),
                (Protocol::Udp, 54, Some("cni0"), false),
            ] {
                let packet = Packet {
                    source: ip(from),
                    destination: ip(own),
                    protocol,
                    port,
                    interface: interface.map(str::to_owned),
                };
                let want = match stays {
                    true => Outcome::Sent([((ip(own), port), Source::Kept)].into()),
                    false => Outcome::Pass,
                };
                assert_eq!(walk::outcome(&table, &Node::default(), &packet), Ok(want));
            }
        }
    }
}
