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
use crate::iptables::{Ruleset, service_chain};
use crate::model::{Family, PortName, Protocol};
use crate::options::{Options, Pods};

/// New packets to service addresses, before IPVS.
const ACCESS: &str = "KUBE-IPVS-FILTER";
/// This node's own packets to services, behind IPVS.
const OUT: &str = "KUBE-IPVS-OUT-FILTER";
/// Drops what comes from neither a pod nor this node.
const OUTSIDE: &str = "KUBE-IPVS-OUTSIDE";
/// Masks what comes from no pod.
const NOT_PODS: &str = "KUBE-IPVS-MASQ";

/// The whole ruleset of a family.
pub fn ruleset(rules: &Rules, family: Family, options: &Options) -> Ruleset {
    let mut set = Ruleset::default();
    let of_family = |a: &IpAddr| Family::of(a) == family;
    let hairpin = rules.hairpin.iter().filter(|(_, at)| of_family(&at.ip()));
    for (protocol, at) in hairpin {
        let (host, to) = (IpNet::from(at.ip()), to(*protocol, *at));
        set.rule(
            Nat,
            "KUBE-POSTROUTING",
            format!("-s {host} {to} -j MASQUERADE"),
        );
    }
    let pods = pods(family, options);
    frame(&mut set, options, &pods);
    for (key, treatment) in rules.keys.iter().filter(|(f, _)| of_family(&f.address)) {
        let to = to(key.protocol, SocketAddr::new(key.address, key.port));
        write(&mut set, key, treatment, &to);
        if let Some(cluster) = treatment.short_way {
            write_short_way(&mut set, key, treatment, (&to, cluster), &pods);
        }
        if rules.bound.contains(&key.address) {
            set.rule(Filter, ACCESS, format!("{to} -j RETURN"));
        }
    }
    let unreachable = if family == Family::V4 {
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
fn frame(set: &mut Ruleset, options: &Options, pods: &[String]) {
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
    for pods in pods {
        for (table, chain) in [(Filter, OUTSIDE), (Nat, NOT_PODS)] {
            set.rule(table, chain, format!("{pods} -j RETURN"));
        }
    }
    set.rule(Filter, OUTSIDE, "-m addrtype --src-type LOCAL -j RETURN");
    set.rule(Filter, OUTSIDE, "-j DROP");
    set.rule(Nat, NOT_PODS, "-j KUBE-MARK-MASQ");
    let mark = format!("{0:#x}/{0:#x}", options.masquerade_mark);
    set.rule(Nat, "KUBE-MARK-MASQ", format!("-j MARK --set-xmark {mark}"));
    set.rule(
        Nat,
        "KUBE-POSTROUTING",
        format!("-m mark ! --mark {mark} -j RETURN"),
    );
    // Cleared, so that a packet that comes by again (a tunnel) is not masked twice.
    let cleared = format!("-j MARK --set-xmark {:#x}/0x0", options.masquerade_mark);
    set.rule(Nat, "KUBE-POSTROUTING", cleared);
    set.rule(
        Nat,
        "KUBE-POSTROUTING",
        format!(
            "{COMMENT} \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully"
        ),
    );
}

/// Matches, each of which a pod's packet may meet.
fn pods(family: Family, options: &Options) -> Vec<String> {
    match &options.pods {
        Pods::Unknown => Vec::new(),
        Pods::Within(_) => {
            let nets = options.pod_nets(family);
            nets.iter().map(|n| format!("-s {n}")).collect()
        }
        Pods::Behind(name) => vec![match name.strip_suffix('*') {
            Some(begin) => format!("-i {begin}+"),
            None => format!("-i {name}"),
        }],
    }
}

fn write(set: &mut Ruleset, key: &ServerKey, treatment: &Treatment, to: &str) {
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
        write_sources(set, key, to, sources);
    }
}

/// Those from inside go to the cluster address. What is refused is so by the filter table, which sees only where a
/// packet goes then: those who may not go to this address stay with it.
fn write_short_way(
    set: &mut Ruleset,
    key: &ServerKey,
    treatment: &Treatment,
    (to, cluster): (&str, SocketAddr),
    pods: &[String],
) {
    let proto = key.protocol.name();
    let chain = chain("KUBE-EXT-", key);
    let own = "-p {proto} -m addrtype --src-type LOCAL".replace("{proto}", proto);
    let insiders = pods.iter().map(|p| format!("{p} -p {proto}")).chain([own]);
    for insider in insiders {
        set.rule(
            Nat,
            &chain,
            format!("{insider} -j DNAT --to-destination {cluster}"),
        );
    }
    match &treatment.sources {
        None => set.rule(Nat, "KUBE-SERVICES", format!("{to} -j {chain}")),
        Some(sources) => {
            for source in sources {
                let from = from(source);
                set.rule(Nat, "KUBE-SERVICES", format!("{from}{to} -j {chain}"));
            }
        }
    }
}

/// The name of a chain for one address and port.
fn chain(prefix: &str, key: &ServerKey) -> String {
    let name = PortName {
        namespace: key.address.to_string().into(),
        service: key.port.to_string().into(),
        port: "".into(),
    };
    service_chain(prefix, &name, key.protocol)
}

/// Matches a source network, as `iptables-save` prints it.
fn from(source: &IpNet) -> String {
    if source.prefix_len() == 0 {
        String::new()
    } else {
        format!("-s {} ", source.trunc())
    }
}

fn write_sources(set: &mut Ruleset, key: &ServerKey, to: &str, sources: &[IpNet]) {
    let chain = chain("KUBE-FW-", key);
    for source in sources {
        set.rule(Filter, &chain, format!("{}-j RETURN", from(source)));
    }
    set.rule(Filter, &chain, "-j DROP");
    set.rule(Filter, ACCESS, format!("{to} -j {chain}"));
    if !sources.iter().any(|s| s.contains(&key.address)) {
        let number = key.protocol.number();
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
    use crate::ipvs::rules::tests::{example, options};

    #[test]
    fn every_rule_has_its_place() {
        insta::assert_snapshot!(ruleset(&example(), Family::V4, &options()).render());
    }
}
