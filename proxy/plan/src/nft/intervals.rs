//! Networks as intervals that don't overlap: the kernel's sets take no others.

use std::net::IpAddr;

use ipnet::IpNet;

use super::table::{Words, Writer};

/// The first and last address of each interval, one after the other; networks within others, or beside them, become one.
pub fn intervals<'a>(nets: impl Iterator<Item = &'a IpNet>) -> Vec<Words> {
    let all: Vec<IpNet> = nets.copied().collect();
    let ends = IpNet::aggregate(&all)
        .into_iter()
        .map(|n| (n.network(), n.broadcast()));
    let mut ends: Vec<(IpAddr, IpAddr)> = ends.collect();
    ends.sort_unstable();
    let mut joined: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in ends {
        match joined.last_mut() {
            Some((_, end)) if follows(*end, first) => *end = last,
            _ => joined.push((first, last)),
        }
    }
    let words = joined
        .into_iter()
        .map(|(a, b)| Writer::default().address(a).address(b).words());
    words.collect()
}

fn follows(end: IpAddr, first: IpAddr) -> bool {
    match (end, first) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u32::from(a).checked_add(1) == Some(b.into()),
        (IpAddr::V6(a), IpAddr::V6(b)) => u128::from(a).checked_add(1) == Some(b.into()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_become_intervals_without_overlap() {
        type Ends = (&'static str, &'static str);
        let cases: &[(&[&str], &[Ends])] = &[
            (&[], &[]),
            (
                &["10.0.0.0/8", "10.1.0.0/16"],
                &[("10.0.0.0", "10.255.255.255")],
            ),
            (
                &["10.0.1.0/24", "10.0.0.0/24", "10.0.2.0/24"],
                &[("10.0.0.0", "10.0.2.255")],
            ),
            (
                &["10.0.0.1/32", "10.0.0.3/32"],
                &[("10.0.0.1", "10.0.0.1"), ("10.0.0.3", "10.0.0.3")],
            ),
            (&["0.0.0.0/0"], &[("0.0.0.0", "255.255.255.255")]),
            (
                &["fd00::/64", "fd00:0:0:1::/64"],
                &[("fd00::", "fd00::1:ffff:ffff:ffff:ffff")],
            ),
        ];
        for (nets, want) in cases {
            let nets: Vec<IpNet> = nets.iter().map(|n| n.parse().expect("net")).collect();
            let words = |(a, b): &Ends| {
                let ip = |t: &str| t.parse().expect("ip");
                Writer::default().address(ip(a)).address(ip(b)).words()
            };
            let want: Vec<Words> = want.iter().map(words).collect();
            assert_eq!(intervals(nets.iter()), want, "{nets:?}");
        }
    }
}
