//! Which address a container gets: the next free one after the last given, as the reference's
//! host-local does, so that an address comes back as late as possible.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::{Range, step};

/// An address out of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// The range's gateway.
    pub gateway: IpAddr,
}

impl Choice {
    fn of(address: IpAddr, range: &Range) -> Self {
        Self {
            address,
            prefix: range.subnet.prefix_len(),
            gateway: range.gateway(),
        }
    }
}

/// The range of a set that an address is in.
pub fn locate(set: &[Range], address: IpAddr) -> Option<Choice> {
    set.iter()
        .find(|r| r.subnet.contains(&address))
        .map(|r| Choice::of(address, r))
}

/// The first free address after `last`, going round; `None` when all are taken.
pub fn choose(set: &[Range], taken: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<Choice> {
    let start = last.and_then(|l| set.iter().position(|r| r.subnet.contains(&l)));
    let after = start.and_then(|i| {
        let range = &set[i];
        let from = last
            .filter(|l| *l >= range.first() && *l < range.last())
            .map(|l| step(l, 1))?;
        free(range, from, taken)
    });
    let next = start.map_or(0, |i| i + 1);
    after.or_else(|| {
        (0..set.len()).find_map(|k| {
            let range = &set[(next + k) % set.len()];
            free(range, range.first(), taken)
        })
    })
}

fn free(range: &Range, from: IpAddr, taken: &BTreeSet<IpAddr>) -> Option<Choice> {
    let (mut address, last, gateway) = (from, range.last(), range.gateway());
    // Runs over at most `taken` addresses and the gateway: a /64 is never walked.
    while address <= last {
        if address != gateway && address != range.subnet.network() && !taken.contains(&address) {
            return Some(Choice::of(address, range));
        }
        if address == last {
            break;
        }
        address = step(address, 1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(subnet: &str) -> Range {
        Range {
            subnet: subnet.parse().expect("cidr"),
            range_start: None,
            range_end: None,
            gateway: None,
        }
    }

    fn pick(set: &[Range], taken: &[&str], last: Option<&str>) -> Option<String> {
        let taken = taken.iter().map(|a| a.parse().expect("ip")).collect();
        choose(set, &taken, last.map(|l| l.parse().expect("ip"))).map(|c| c.address.to_string())
    }

    #[test]
    fn next_after_the_last_and_round() {
        let set = [range("10.0.0.0/29")];
        let cases: &[(&[&str], Option<&str>, Option<&str>)] = &[
            (&[], None, Some("10.0.0.2")),
            (&[], Some("10.0.0.2"), Some("10.0.0.3")),
            (&["10.0.0.3"], Some("10.0.0.2"), Some("10.0.0.4")),
            (&[], Some("10.0.0.6"), Some("10.0.0.2")),
            (&["10.0.0.2"], Some("10.0.0.6"), Some("10.0.0.3")),
            (
                &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
                Some("10.0.0.4"),
                None,
            ),
            (&[], Some("192.168.0.1"), Some("10.0.0.2")),
        ];
        for (taken, last, want) in cases {
            assert_eq!(
                pick(&set, taken, *last).as_deref(),
                *want,
                "{taken:?} {last:?}"
            );
        }
        let two = [range("10.0.0.0/30"), range("10.0.1.0/30")];
        assert_eq!(
            pick(&two, &[], Some("10.0.0.2")).as_deref(),
            Some("10.0.1.2")
        );
        assert_eq!(
            pick(&two, &[], Some("10.0.1.2")).as_deref(),
            Some("10.0.0.2")
        );
    }

    proptest! {
        #[test]
        fn never_taken_never_the_gateway_and_every_address_is_used(len in 24u8..=29, mut last in any::<Option<u8>>()) {
            let set = [range(&format!("10.0.0.0/{len}"))];
            let mut taken = BTreeSet::new();
            while let Some(c) = choose(&set, &taken, last.map(|l| IpAddr::from([10, 0, 0, l]))) {
                prop_assert!(set[0].subnet.contains(&c.address) && c.address != c.gateway);
                prop_assert!(taken.insert(c.address));
                last = None;
            }
            // All but network, broadcast and gateway.
            prop_assert_eq!(taken.len(), (1usize << (32 - len)) - 3);
        }
    }
}
