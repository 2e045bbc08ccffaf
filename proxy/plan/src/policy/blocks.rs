//! Address ranges: CIDRs without their exceptions, as an interval set wants them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::model::IpBlock;

/// Addresses as ranges: ordered, disjoint, not adjacent, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// IPv4.
    pub v4: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// IPv6.
    pub v6: Vec<(Ipv6Addr, Ipv6Addr)>,
}

/// Numbers of addresses, both ends included.
type Range = (u128, u128);

impl Blocks {
    /// What any of the blocks holds. A block's exceptions are taken out of that block alone.
    pub fn new<'a>(blocks: impl IntoIterator<Item = &'a IpBlock>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for block in blocks {
            let of_family = |n: &&IpNet| n.addr().is_ipv4() == block.cidr.addr().is_ipv4();
            let except = union(block.except.iter().filter(of_family).map(range).collect());
            let rest = without(range(&block.cidr), &except);
            if block.cidr.addr().is_ipv4() {
                &mut v4
            } else {
                &mut v6
            }
            .extend(rest);
        }
        // IPv4's numbers stay below 2^32 in all of this.
        let low = |n: u128| Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX));
        Self {
            v4: union(v4)
                .into_iter()
                .map(|(a, b)| (low(a), low(b)))
                .collect(),
            v6: union(v6)
                .into_iter()
                .map(|(a, b)| (a.into(), b.into()))
                .collect(),
        }
    }

    /// Whether there is no address in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => holds(&self.v4, a),
            IpAddr::V6(a) => holds(&self.v6, a),
        }
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.v4.iter().map(|(a, b)| format!("{a}-{b}"));
        let all: Vec<_> = v4
            .chain(self.v6.iter().map(|(a, b)| format!("{a}-{b}")))
            .collect();
        f.write_str(&all.join(","))
    }
}

fn holds<A: Ord>(ranges: &[(A, A)], address: A) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    let range = after.checked_sub(1).and_then(|i| ranges.get(i));
    range.is_some_and(|(_, last)| address <= *last)
}

fn range(net: &IpNet) -> Range {
    let number = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    (number(net.network()), number(net.broadcast()))
}

/// Ordered, with what overlaps or touches made one.
fn union(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// What is left of a range without others, which are ordered and disjoint.
fn without((start, last): Range, except: &[Range]) -> Vec<Range> {
    let mut out = Vec::new();
    let mut first = start;
    for (from, to) in except
        .iter()
        .filter(|(from, to)| *from <= last && *to >= start)
    {
        if *from > first {
            out.push((first, from - 1));
        }
        match to.checked_add(1).filter(|next| *next <= last) {
            Some(next) => first = next,
            None => return out,
        }
    }
    out.push((first, last));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(text: &str) -> IpBlock {
        let mut nets = text.split('!').map(|n| n.parse().expect("net"));
        IpBlock {
            cidr: nets.next().expect("cidr"),
            except: nets.collect(),
        }
    }

    #[test]
    fn ranges_of_blocks() {
        let cases: &[(&str, &[&str], &str)] = &[
            ("nothing", &[], ""),
            ("a network", &["10.0.0.0/24"], "10.0.0.0-10.0.0.255"),
            (
                "all of both families",
                &["0.0.0.0/0", "::/0"],
                "0.0.0.0-255.255.255.255,::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            ),
            (
                "an exception inside",
                &["172.17.0.0/16!172.17.1.0/24"],
                "172.17.0.0-172.17.0.255,172.17.2.0-172.17.255.255",
            ),
            (
                "exceptions at both ends",
                &["10.0.0.0/30!10.0.0.0/32!10.0.0.3/32"],
                "10.0.0.1-10.0.0.2",
            ),
            (
                "the last address taken out",
                &["::/0!ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124"],
                "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffef",
            ),
            (
                "exceptions that overlap, in any order",
                &["10.0.0.0/24!10.0.0.64/26!10.0.0.0/25"],
                "10.0.0.128-10.0.0.255",
            ),
            ("everything taken out", &["10.0.0.0/24!10.0.0.0/24"], ""),
            ("an exception around it", &["10.0.0.0/24!10.0.0.0/8"], ""),
            (
                "an exception elsewhere",
                &["10.0.0.0/24!10.0.1.0/24"],
                "10.0.0.0-10.0.0.255",
            ),
            (
                "an exception of the other family",
                &["::/64!0.0.0.0/0"],
                "::-::ffff:ffff:ffff:ffff",
            ),
            (
                "neighbours are one",
                &["10.0.1.0/24", "10.0.0.0/24"],
                "10.0.0.0-10.0.1.255",
            ),
            (
                "one block's exception is another's address",
                &["10.0.0.0/24!10.0.0.7/32", "10.0.0.7/32"],
                "10.0.0.0-10.0.0.255",
            ),
        ];
        for (name, blocks, want) in cases {
            let blocks: Vec<_> = blocks.iter().map(|b| block(b)).collect();
            assert_eq!(Blocks::new(&blocks).to_string(), *want, "{name}");
        }
    }

    fn net() -> impl Strategy<Value = IpNet> {
        // Few bits that matter, so that networks meet.
        let v4 = (any::<u8>(), 22..=32u8)
            .prop_map(|(b, p)| IpNet::new(Ipv4Addr::new(10, 0, b & 3, b).into(), p));
        let v6 = (any::<u8>(), 118..=128u8)
            .prop_map(|(b, p)| IpNet::new(Ipv6Addr::from(u128::from(b) * 5).into(), p));
        prop_oneof![v4, v6].prop_map(|n| n.expect("net").trunc())
    }

    proptest! {
        #[test]
        fn ranges_hold_what_the_blocks_do(
            blocks in prop::collection::vec((net(), prop::collection::vec(net(), 0..4)), 0..5),
            addresses in prop::collection::vec(net(), 1..20),
        ) {
            let blocks: Vec<_> = blocks.into_iter().map(|(cidr, except)| IpBlock { cidr, except }).collect();
            let ranges = Blocks::new(&blocks);
            for address in addresses.iter().flat_map(|n| [n.network(), n.broadcast()]) {
                let want = blocks.iter().any(|b| b.cidr.contains(&address) && !b.except.iter().any(|e| e.contains(&address)));
                prop_assert_eq!(ranges.contains(address), want, "{} in {}", address, ranges);
            }
            let apart = |(a, b): (u128, u128)| a + 1 < b;
            prop_assert!(ranges.v4.windows(2).all(|w| apart((u32::from(w[0].1).into(), u32::from(w[1].0).into()))));
            prop_assert!(ranges.v6.windows(2).all(|w| apart((w[0].1.into(), w[1].0.into()))));
        }
    }
}
