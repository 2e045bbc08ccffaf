//! Where packets come from and on which addresses node ports are reached, as words of rules.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Family;
use crate::options::{Options, Pods, loopback};

/// Matches what comes from pods: one rule for each of these; none where pods aren't known.
pub(super) fn insiders(options: &Options, family: Family) -> Vec<String> {
    match &options.pods {
        Pods::Unknown => Vec::new(),
        Pods::Within(_) => options.pod_nets(family).iter().map(source).collect(),
        Pods::Behind(name) => vec![format!("-i {} ", interface(name))],
    }
}

/// Matches what comes from elsewhere, or says that it takes a chain to know.
pub(super) enum Outsiders {
    /// Nobody can be told apart.
    Nobody,
    /// These words match them.
    Are(String),
    /// Those that are not within any of several networks: `! -s` takes one.
    OutsideOf(Vec<IpNet>),
}

pub(super) fn outsiders(options: &Options, family: Family) -> Outsiders {
    match &options.pods {
        Pods::Unknown => Outsiders::Nobody,
        Pods::Behind(name) => Outsiders::Are(format!("! -i {} ", interface(name))),
        Pods::Within(_) => match options.pod_nets(family).as_slice() {
            // Pods have no address of this family: all come from elsewhere.
            [] => Outsiders::Are(String::new()),
            [all] if all.prefix_len() == 0 => Outsiders::Nobody,
            [net] => Outsiders::Are(format!("! -s {net} ")),
            nets => Outsiders::OutsideOf(nets.to_vec()),
        },
    }
}

/// Iptables' sign for all whose names begin so.
fn interface(name: &str) -> String {
    match name.strip_suffix('*') {
        Some(prefix) => format!("{prefix}+"),
        None => name.to_owned(),
    }
}

/// `-s CIDR `, or nothing for all addresses, as `iptables-save` prints it.
pub(super) fn source(net: &IpNet) -> String {
    if net.prefix_len() == 0 {
        String::new()
    } else {
        format!("-s {} ", net.trunc())
    }
}

/// Matches destinations on which node ports are reached, beside that they are the node's own: one rule for each of
/// these.
pub(super) fn node_port_destinations(options: &Options, family: Family) -> Vec<String> {
    let shut = (!options.node_ports_on_loopback(family)).then(|| loopback(family));
    let nets = options.node_port_nets(family);
    let all = options.node_port_nets.is_empty() || nets.iter().any(|n| n.prefix_len() == 0);
    if all {
        return vec![shut.map_or_else(String::new, |lo| format!("! -d {lo} "))];
    }
    let nets = IpNet::aggregate(&nets).into_iter();
    nets.flat_map(|n| shut.map_or_else(|| vec![n], |lo| without(n, &lo)))
        .map(|n| format!("-d {n} "))
        .collect()
}

/// A network but for a part of it.
fn without(net: IpNet, hole: &IpNet) -> Vec<IpNet> {
    if hole.contains(&net) {
        return Vec::new();
    }
    if !net.contains(hole) {
        return vec![net];
    }
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, hole)).collect()
}

/// The smallest network that holds both addresses, which are of one family.
pub(super) fn cover(first: IpAddr, last: IpAddr) -> IpNet {
    let mut net = IpNet::from(first);
    while !net.contains(&last) {
        match net.supernet() {
            Some(wider) => net = wider,
            None => break,
        }
    }
    net
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ports_are_reached_on_loopback_where_that_is_asked_for() {
        let cases: &[(&[&str], bool, &[&str])] = &[
            (&[], true, &[""]),
            (&[], false, &["! -d 127.0.0.0/8 "]),
            (&["0.0.0.0/0"], true, &[""]),
            (&["0.0.0.0/0"], false, &["! -d 127.0.0.0/8 "]),
            (&["127.0.0.0/8"], true, &["-d 127.0.0.0/8 "]),
            (&["127.0.0.0/8"], false, &[]),
            (&["127.0.0.1/32"], true, &[]),
            (&["fd00::/8"], true, &[]),
            (&["10.0.0.0/8", "10.1.0.0/16"], true, &["-d 10.0.0.0/8 "]),
            (&["126.0.0.0/7"], true, &["-d 126.0.0.0/7 "]),
            (&["126.0.0.0/7"], false, &["-d 126.0.0.0/8 "]),
        ];
        for (nets, localhost_node_ports, want) in cases {
            let options = Options {
                node_port_nets: nets.iter().map(|n| n.parse().expect("net")).collect(),
                localhost_node_ports: *localhost_node_ports,
                ..Options::default()
            };
            assert_eq!(
                node_port_destinations(&options, Family::V4),
                *want,
                "{nets:?}"
            );
        }
    }

    #[test]
    fn a_cover_holds_both_ends() {
        let cases = [
            ("10.43.0.1", "10.43.0.1", "10.43.0.1/32"),
            ("10.43.0.1", "10.43.0.10", "10.43.0.0/28"),
            ("0.0.0.1", "255.0.0.1", "0.0.0.0/0"),
            ("fd43::1", "fd43::ffff", "fd43::/112"),
        ];
        for (first, last, want) in cases {
            let net = cover(first.parse().expect("ip"), last.parse().expect("ip"));
            assert_eq!(net.trunc().to_string(), want);
        }
    }
}
