//! What is there whatever the services are: chains, jumps to them, and the ends of chains that services share.

use std::net::IpAddr;

use super::reach::{self, Outsiders};
use crate::iptables::ruleset::Table::{self, Filter, Nat};
use crate::iptables::ruleset::{Line, Ruleset};
use crate::model::Family;
use crate::options::{Options, loopback};

/// A chain of a table that services share.
pub(super) type Shared = (Table, &'static str);

/// Cluster addresses, and services whose endpoints are there: to be translated.
pub(super) const CAUGHT: Shared = (Nat, "KUBE-SERVICES");
/// Ports of the node's addresses.
pub(super) const NODE_PORTS: Shared = (Nat, "KUBE-NODEPORTS");
/// Cluster addresses' ports without an endpoint.
pub(super) const REFUSED: Shared = (Filter, "KUBE-SERVICES");
/// The same of external addresses and node ports.
pub(super) const REFUSED_EXTERNAL: Shared = (Filter, "KUBE-EXTERNAL-SERVICES");
/// Who is in no source range.
pub(super) const FIREWALL: Shared = (Filter, "KUBE-PROXY-FIREWALL");
/// Cluster addresses. Kube-proxy's iptables mode has no such chain: it lets pass what is sent to a port of a cluster
/// address that no service has, as its nftables mode and the model do not.
pub(super) const CLUSTER_IPS: Shared = (Filter, "KUBE-CLUSTER-IPS");

/// All of them.
pub(super) const SHARED: [Shared; 6] = [
    CAUGHT,
    NODE_PORTS,
    REFUSED,
    REFUSED_EXTERNAL,
    FIREWALL,
    CLUSTER_IPS,
];

/// Marks a packet that is to be masqueraded.
pub(super) const MARK: &str = "KUBE-MARK-MASQ";
/// The same if it comes from none of several networks.
pub(super) const MARK_OUTSIDERS: &str = "KUBE-MARK-OUTSIDERS";

/// Jumps of the filter table; they come before what others appended, in this order.
const FILTER_JUMPS: &[(&str, &str, &str)] = &[
    ("INPUT", FIREWALL.1, "kubernetes load balancer firewall"),
    (
        "INPUT",
        REFUSED_EXTERNAL.1,
        "kubernetes externally-visible service portals",
    ),
    ("FORWARD", FIREWALL.1, "kubernetes load balancer firewall"),
    ("FORWARD", REFUSED.1, "kubernetes service portals"),
    (
        "FORWARD",
        REFUSED_EXTERNAL.1,
        "kubernetes externally-visible service portals",
    ),
    ("OUTPUT", FIREWALL.1, "kubernetes load balancer firewall"),
    ("OUTPUT", REFUSED.1, "kubernetes service portals"),
    (
        "OUTPUT",
        REFUSED_EXTERNAL.1,
        "kubernetes externally-visible service portals",
    ),
];

/// The ruleset without any service; chains that services share are empty.
pub(super) fn frame(family: Family, options: &Options) -> Ruleset {
    let mut set = Ruleset::default();
    for (table, chain) in SHARED {
        set.chain(table, chain);
    }
    localnet(&mut set, family, options);
    for (chain, target, comment) in FILTER_JUMPS {
        let new = "-m conntrack --ctstate NEW -m comment --comment";
        set.jump(Filter, chain, format!("{new} \"{comment}\" -j {target}"));
    }
    let jump = |comment: &str, to: &str| format!("-m comment --comment \"{comment}\" -j {to}");
    set.jump(
        Filter,
        "FORWARD",
        jump("kubernetes forwarding rules", "KUBE-FORWARD"),
    );
    for chain in ["PREROUTING", "OUTPUT"] {
        set.jump(Nat, chain, jump("kubernetes service portals", CAUGHT.1));
    }
    set.jump(
        Nat,
        "POSTROUTING",
        jump("kubernetes postrouting rules", "KUBE-POSTROUTING"),
    );
    masquerade(&mut set, family, options);
    forward(&mut set, options);
    set
}

fn bit(options: &Options) -> String {
    format!("{:#x}/{0:#x}", options.masquerade_mark)
}

fn masquerade(set: &mut Ruleset, family: Family, options: &Options) {
    let (bit, mark) = (bit(options), options.masquerade_mark);
    set.rule(Nat, MARK, format!("-j MARK --set-xmark {bit}"));
    if let Outsiders::OutsideOf(nets) = reach::outsiders(options, family) {
        for net in nets {
            set.rule(Nat, MARK_OUTSIDERS, format!("-s {net} -j RETURN"));
        }
        set.rule(Nat, MARK_OUTSIDERS, format!("-j {MARK}"));
    }
    let chain = "KUBE-POSTROUTING";
    set.rule(Nat, chain, format!("-m mark ! --mark {bit} -j RETURN"));
    // Cleared, so that a packet that comes by again (a tunnel) is not masked twice.
    set.rule(Nat, chain, format!("-j MARK --set-xmark {mark:#x}/0x0"));
    let why = "kubernetes service traffic requiring SNAT";
    set.rule(
        Nat,
        chain,
        format!("-m comment --comment \"{why}\" -j MASQUERADE --random-fully"),
    );
}

fn forward(set: &mut Ruleset, options: &Options) {
    let chain = "KUBE-FORWARD";
    // A packet that conntrack can't place would reach the client untranslated and reset its connection.
    set.rule(Filter, chain, "-m conntrack --ctstate INVALID -j DROP");
    let bit = bit(options);
    set.rule(
        Filter,
        chain,
        format!(
            "-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {bit} -j ACCEPT"
        ),
    );
    let known = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    set.rule(
        Filter,
        chain,
        format!("-m comment --comment \"kubernetes forwarding conntrack rule\" {known}"),
    );
}

/// Node ports on 127.0.0.1 need `route_localnet`, which opens 127.0.0.0/8 to the network segment (CVE-2020-8558):
/// it is shut again, before anything else is looked at. What this node sends to itself comes in by `lo`.
fn localnet(set: &mut Ruleset, family: Family, options: &Options) {
    if !options.node_ports_on_loopback(family) {
        return;
    }
    let net = loopback(family);
    set.jump(Filter, "INPUT", "-j KUBE-FIREWALL");
    set.rule(Filter, "KUBE-FIREWALL", format!(
        "! -s {net} -d {net} ! -i lo -m comment --comment \"block incoming localnet connections\" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
    ));
}

/// Last rules of [`CAUGHT`]: a service's address must win over a node's own.
pub(super) fn node_ports(family: Family, options: &Options) -> Vec<Line> {
    let note = "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\"";
    let mut rules = Vec::new();
    if options.node_ports_on_loopback(family) {
        let net = loopback(family);
        let why =
            "-m comment --comment \"kubernetes service nodeports on loopback are for this node\"";
        rules.push(format!("-d {net} {why} -m addrtype ! --src-type LOCAL -j RETURN").into());
    }
    let reached = reach::node_port_destinations(options, family).into_iter();
    rules.extend(reached.map(|to| {
        Line::from(format!(
            "{to}{note} -m addrtype --dst-type LOCAL -j {}",
            NODE_PORTS.1
        ))
    }));
    rules
}

/// Last rule of [`REFUSED_EXTERNAL`]: what is still for a cluster address there is for none of its services. Other
/// packets pass by [`CLUSTER_IPS`]: all cluster addresses are within one network.
pub(super) fn unserved(first: IpAddr, last: IpAddr) -> Line {
    let net = reach::cover(first, last);
    let to = if net.prefix_len() == 0 {
        String::new()
    } else {
        format!("-d {} ", net.trunc())
    };
    format!(
        "{to}-m comment --comment \"kubernetes cluster IPs\" -j {}",
        CLUSTER_IPS.1
    )
    .into()
}

/// How a sender learns that there is nobody.
pub(super) fn reject(family: Family) -> &'static str {
    match family {
        Family::V4 => "REJECT --reject-with icmp-port-unreachable",
        Family::V6 => "REJECT --reject-with icmp6-port-unreachable",
    }
}
