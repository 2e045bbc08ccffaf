//! The rules beside IPVS as iptables chains: for machines where nothing better is there, and for people's eyes. A new
//! connection is compared with one rule a service, which sets (nftables, ipset) would spare.
//!
//! A packet to a service passes `PREROUTING`, `INPUT` (where IPVS takes it behind the filter table), `OUTPUT` and
//! `POSTROUTING`; one from this node begins in `OUTPUT`, where IPVS takes it before the filter table. Answers pass
//! `FORWARD`.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::rules::{Dropped, Masquerade, Rules, Treatment};
use super::server::ServerKey;
use crate::iptables::Table::{Filter, Nat};
use crate::iptables::{Options, Ruleset, service_chain};
use crate::model::{Family, PortName, Protocol};

/// Kube-proxy's default bit 14.
const MASQUERADE: &str = "0x4000/0x4000";
/// New packets to service addresses, before IPVS.
const ACCESS: &str = "KUBE-IPVS-FILTER";
/// This node's own packets to services, behind IPVS.
const OUT: &str = "KUBE-IPVS-OUT-FILTER";
/// Drops what comes from neither a pod nor this node.
const OUTSIDE: &str = "KUBE-IPVS-OUTSIDE";
/// Masks what comes from no pod.
const NOT_PODS: &str = "KUBE-IPVS-MASQ";

/// The whole ruleset of a family.
pub fn ruleset(rules: &Rules, options: &Options) -> Ruleset {
    let mut set = Ruleset::default();
    let of_family = |a: &IpAddr| Family::of(a) == options.family;
    let hairpin = rules.hairpin.iter().filter(|(_, at)| of_family(&at.ip()));
    for (protocol, at) in hairpin {
        let (host, to) = (IpNet::from(at.ip()), to(*protocol, *at));
        set.rule(
            Nat,
            "KUBE-POSTROUTING",
            format!("-s {host} {to} -j MASQUERADE"),
        );
    }
    frame(&mut set, options);
    for (key, treatment) in rules.keys.iter().filter(|(f, _)| of_family(&f.address)) {
        let bound = rules.bound.contains(&key.address);
        write(&mut set, key, treatment, bound);
    }
    let unreachable = if options.family == Family::V4 {
        "icmp-port-unreachable"
    } else {
        "icmp6-port-unreachable"
    };
    for address in rules.bound.iter().filter(|a| of_family(a)) {
        set.rule(
            Filter,
            ACCESS,
            format!(
                "-d {} -j REJECT --reject-with {unreachable}",
                IpNet::from(*address)
            ),
        );
    }
    set
}

/// What is there whatever the services are.
fn frame(set: &mut Ruleset, options: &Options) {
    const COMMENT: &str = "-m comment --comment";
    set.jump(
        Filter,
        "INPUT",
        format!(
            "-m conntrack --ctstate NEW {COMMENT} \"kubernetes ipvs access filter\" -j {ACCESS}"
        ),
    );
    set.jump(
        Filter,
        "OUTPUT",
        format!("{COMMENT} \"kubernetes ipvs access filter\" -j {OUT}"),
    );
    set.jump(
        Filter,
        "FORWARD",
        format!("{COMMENT} \"kubernetes forwarding rules\" -j KUBE-FORWARD"),
    );
    for (chain, target, comment) in [
        ("PREROUTING", "KUBE-SERVICES", "kubernetes service portals"),
        ("OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
        (
            "POSTROUTING",
            "KUBE-POSTROUTING",
            "kubernetes postrouting rules",
        ),
    ] {
        set.jump(Nat, chain, format!("{COMMENT} \"{comment}\" -j {target}"));
    }
    for (table, chain) in [(Filter, ACCESS), (Filter, OUT), (Nat, "KUBE-SERVICES")] {
        set.chain(table, chain);
    }
    set.rule(Filter, "KUBE-FORWARD",
        format!("{COMMENT} \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
    for cidr in options
        .cluster_cidrs
        .iter()
        .filter(|c| Family::of(&c.addr()) == options.family)
    {
        for (table, chain) in [(Filter, OUTSIDE), (Nat, NOT_PODS)] {
            set.rule(table, chain, format!("-s {} -j RETURN", cidr.trunc()));
        }
    }
    set.rule(Filter, OUTSIDE, "-m addrtype --src-type LOCAL -j RETURN");
    set.rule(Filter, OUTSIDE, "-j DROP");
    set.rule(Nat, NOT_PODS, "-j KUBE-MARK-MASQ");
    set.rule(
        Nat,
        "KUBE-MARK-MASQ",
        format!("-j MARK --set-xmark {MASQUERADE}"),
    );
    set.rule(
        Nat,
        "KUBE-POSTROUTING",
        format!("-m mark ! --mark {MASQUERADE} -j RETURN"),
    );
    // Cleared, so that a packet that comes by again (a tunnel) is not masked twice.
    set.rule(Nat, "KUBE-POSTROUTING", "-j MARK --set-xmark 0x4000/0x0");
    set.rule(
        Nat,
        "KUBE-POSTROUTING",
        format!(
            "{COMMENT} \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully"
        ),
    );
}

fn write(set: &mut Ruleset, key: &ServerKey, treatment: &Treatment, bound: bool) {
    let to = to(key.protocol, SocketAddr::new(key.address, key.port));
    let mark = match treatment.masquerade {
        Masquerade::All => "-j KUBE-MARK-MASQ".to_owned(),
        Masquerade::NotPods => format!("-j {NOT_PODS}"),
        Masquerade::Node => "-m addrtype --src-type LOCAL -j KUBE-MARK-MASQ".to_owned(),
    };
    set.rule(Nat, "KUBE-SERVICES", format!("{to} {mark}"));
    match treatment.dropped {
        Dropped::Nobody => {}
        Dropped::Outside => set.rule(Filter, ACCESS, format!("{to} -j {OUTSIDE}")),
        Dropped::Everybody => set.rule(Filter, ACCESS, format!("{to} -j DROP")),
    }
    if let Some(sources) = &treatment.sources {
        write_sources(set, key, &to, sources);
    }
    if bound {
        set.rule(Filter, ACCESS, format!("{to} -j RETURN"));
    }
}

fn write_sources(set: &mut Ruleset, key: &ServerKey, to: &str, sources: &[IpNet]) {
    let name = PortName {
        namespace: key.address.to_string().into(),
        service: key.port.to_string().into(),
        port: "".into(),
    };
    let chain = service_chain("KUBE-FW-", &name, key.protocol);
    for source in sources {
        let from = if source.prefix_len() == 0 {
            String::new()
        } else {
            format!("-s {} ", source.trunc())
        };
        set.rule(Filter, &chain, format!("{from}-j RETURN"));
    }
    set.rule(Filter, &chain, "-j DROP");
    set.rule(Filter, ACCESS, format!("{to} -j {chain}"));
    if !sources.iter().any(|s| s.contains(&key.address)) {
        let number = key.protocol_number();
        set.rule(Filter, OUT, format!(
            "-m addrtype --src-type LOCAL -m ipvs --vproto {number} --vaddr {} --vport {} -j DROP",
            key.address, key.port
        ));
    }
}

/// Matches packets to an address and port.
fn to(protocol: Protocol, at: SocketAddr) -> String {
    let proto = protocol.name();
    format!(
        "-d {} -p {proto} -m {proto} --dport {}",
        IpNet::from(at.ip()),
        at.port()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_place() {
        let key = |address: &str, port| ServerKey {
            address: address.parse().expect("address"),
            protocol: Protocol::Tcp,
            port,
        };
        let treatment = |masquerade, dropped, sources: Option<&[&str]>| Treatment {
            masquerade,
            dropped,
            sources: sources.map(|s| s.iter().map(|r| r.parse().expect("range")).collect()),
        };
        let mut rules = Rules::default();
        rules.keys.insert(
            key("10.43.0.9", 80),
            treatment(Masquerade::NotPods, Dropped::Nobody, None),
        );
        rules.keys.insert(
            key("10.43.0.10", 80),
            treatment(Masquerade::NotPods, Dropped::Everybody, None),
        );
        rules.keys.insert(
            key("192.0.2.7", 80),
            treatment(
                Masquerade::Node,
                Dropped::Outside,
                Some(&["203.0.113.0/24"]),
            ),
        );
        rules.keys.insert(
            key("192.168.9.1", 30080),
            treatment(Masquerade::All, Dropped::Nobody, None),
        );
        rules.keys.insert(
            key("fd43::9", 80),
            treatment(Masquerade::NotPods, Dropped::Nobody, None),
        );
        rules
            .hairpin
            .insert((Protocol::Tcp, "10.42.0.2:8080".parse().expect("socket")));
        rules.bound = ["10.43.0.9", "10.43.0.10", "192.0.2.7", "fd43::9"]
            .map(|a| a.parse().expect("address"))
            .into();
        let options = Options {
            family: Family::V4,
            cluster_cidrs: vec!["10.42.0.0/16".parse().expect("cidr")],
            localhost_node_ports: false,
        };
        insta::assert_snapshot!(ruleset(&rules, &options).render());
    }
}
