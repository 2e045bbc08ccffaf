//! The rules that send traffic for services to the proxy's ports, in the chains that kube-proxy's userspace mode
//! had: `KUBE-PORTALS-*` for addresses of services, `KUBE-NODEPORT-*` for node ports; `-CONTAINER` for what comes
//! in, `-HOST` for what the node sends itself.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::portals::{Listener, Place, Portal, Way, listener, portals};
use crate::iptables::Ruleset;
use crate::iptables::Table::{Filter, Nat};
use crate::model::{Family, Policy, Protocol, Served, ServicePort};
use crate::select::usable;

const PORTALS_CONTAINER: &str = "KUBE-PORTALS-CONTAINER";
const PORTALS_HOST: &str = "KUBE-PORTALS-HOST";
const NODE_PORT_CONTAINER: &str = "KUBE-NODEPORT-CONTAINER";
const NODE_PORT_HOST: &str = "KUBE-NODEPORT-HOST";
/// What may reach the proxy's own ports.
const NON_LOCAL: &str = "KUBE-NODEPORT-NON-LOCAL";
/// What is still addressed to a service after translation has nowhere to go.
const REFUSED: &str = "KUBE-SERVICES";

/// What rules depend on beside the services.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rules for which IP version.
    pub family: Family,
    /// All pods' addresses: for them a node port is inside of the cluster.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses of this node that have node ports; empty: all.
    pub node_port_addresses: Vec<IpNet>,
    /// Node ports answer on loopback too.
    pub localhost_node_ports: bool,
}

impl Options {
    /// The cluster's ranges of this family.
    pub(super) fn cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.of_family(&self.cluster_cidrs)
    }

    fn of_family<'a>(&self, list: &'a [IpNet]) -> impl Iterator<Item = IpNet> + use<'a> {
        let family = self.family;
        let same = move |c: &&IpNet| Family::of(&c.addr()) == family;
        list.iter().filter(same).map(IpNet::trunc)
    }

    /// `-d CIDR ` for each range of node ports' addresses; one that is empty for all.
    fn node_destinations(&self) -> Vec<String> {
        if self.node_port_addresses.is_empty() {
            return vec![String::new()];
        }
        let ranges = self.of_family(&self.node_port_addresses);
        ranges.map(|cidr| destination(&cidr)).collect()
    }
}

/// Whether rules are of this form, and not those of services that iptables carries.
pub fn is_ruleset(set: &Ruleset) -> bool {
    set.rules(Nat, PORTALS_HOST).is_some()
}

/// The whole ruleset of a family. `open` are the ports of listeners; traffic to a service whose listener has none is
/// refused.
pub fn ruleset(
    served: &[Served<'_>],
    options: &Options,
    open: &BTreeMap<Listener, u16>,
) -> Ruleset {
    let mut set = Ruleset::default();
    frame(&mut set, options);
    for (listener, port) in open.iter().filter(|(l, _)| l.family == options.family) {
        guard(&mut set, listener, *port);
    }
    for s in served {
        let writer = Writer::new(s, options, open);
        for portal in portals(s.port, options) {
            writer.write(&mut set, &portal);
        }
    }
    set
}

/// Chains and jumps that are there whatever the services are.
fn frame(set: &mut Ruleset, options: &Options) {
    // In order: an address of a service must win over a node's own.
    for (chain, portals, node_ports) in [
        ("PREROUTING", PORTALS_CONTAINER, NODE_PORT_CONTAINER),
        ("OUTPUT", PORTALS_HOST, NODE_PORT_HOST),
    ] {
        set.chain(Nat, portals);
        set.chain(Nat, node_ports);
        set.jump(Nat, chain, format!("-m comment --comment \"handle ClusterIPs; NOTE: this must be before the NodePort rules\" -j {portals}"));
        for to in options.node_destinations() {
            set.jump(Nat, chain, format!("{to}-m addrtype --dst-type LOCAL -m comment --comment \"handle service NodePorts; NOTE: this must be the last rule in the chain\" -j {node_ports}"));
        }
    }
    if !options.localhost_node_ports {
        let loopback = if options.family == Family::V4 {
            "127.0.0.0/8"
        } else {
            "::1/128"
        };
        set.rule(Nat, NODE_PORT_HOST, format!("-d {loopback} -j RETURN"));
    }
    set.chain(Filter, NON_LOCAL);
    set.jump(
        Filter,
        "INPUT",
        format!("-m comment --comment \"Ensure that non-local NodePort traffic can flow\" -j {NON_LOCAL}"),
    );
    set.chain(Filter, REFUSED);
    for chain in ["INPUT", "FORWARD", "OUTPUT"] {
        set.jump(Filter, chain, format!("-m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j {REFUSED}"));
    }
}

/// Lets what was redirected in, also where the node's own rules would not, and nothing else: whoever talks to the
/// proxy's port itself would go round source ranges and policies.
fn guard(set: &mut Ruleset, listener: &Listener, port: u16) {
    let (proto, name) = (listener.protocol.name(), &listener.name);
    let to = format!("-p {proto} -m comment --comment \"{name}\"");
    set.rule(
        Filter,
        NON_LOCAL,
        format!("{to} -m conntrack --ctstate DNAT -m {proto} --dport {port} -j ACCEPT"),
    );
    set.rule(
        Filter,
        NON_LOCAL,
        format!(
            "{to} -m {proto} --dport {port} -j {}",
            reject(listener.family)
        ),
    );
}

/// The ports that live rules guard for a listener, or for another of the same service port.
pub(super) fn guarded(set: &Ruleset, listener: &Listener) -> Vec<u16> {
    let mut example = Ruleset::default();
    guard(&mut example, listener, 0);
    let example = example.rules(Filter, NON_LOCAL).and_then(<[_]>::first);
    let Some((before, after)) = example.and_then(|rule| rule.split_once("--dport 0")) else {
        return Vec::new();
    };
    let port = |rule: &str| {
        let rest = rule.strip_prefix(before)?.strip_prefix("--dport ")?;
        rest.strip_suffix(after)?.parse().ok()
    };
    let rules = set.rules(Filter, NON_LOCAL).unwrap_or_default();
    rules.iter().filter_map(|rule| port(rule)).collect()
}

/// Writes one service port's rules.
struct Writer<'a> {
    served: &'a Served<'a>,
    port: &'a ServicePort,
    options: &'a Options,
    open: &'a BTreeMap<Listener, u16>,
    /// Whether there is an endpoint anywhere: none means refuse, else drop what a policy leaves without.
    any: bool,
    /// Whether one is on this node.
    here: bool,
}

impl<'a> Writer<'a> {
    fn new(
        served: &'a Served<'a>,
        options: &'a Options,
        open: &'a BTreeMap<Listener, u16>,
    ) -> Self {
        Self {
            served,
            port: served.port,
            options,
            open,
            any: !usable(&served.endpoints, Policy::Cluster).is_empty(),
            here: !usable(&served.endpoints, Policy::Local).is_empty(),
        }
    }

    fn write(&self, set: &mut Ruleset, portal: &Portal) {
        let (container, host, to) = match portal.place {
            Place::Address(ip) => (
                PORTALS_CONTAINER,
                PORTALS_HOST,
                destination(&IpNet::from(ip)),
            ),
            Place::Node => (NODE_PORT_CONTAINER, NODE_PORT_HOST, String::new()),
        };
        let mut all = true;
        for (chain, ways) in [(container, &portal.pods), (host, &portal.node)] {
            let open = ways
                .iter()
                .filter_map(|way| Some((way, self.listening(way)?)));
            let open: Vec<(&Way, u16)> = open.collect();
            all &= open.iter().any(|(way, _)| way.from.is_none());
            for (way, port) in open {
                let from = way.from.as_ref().map(source).unwrap_or_default();
                let matching = self.matching(&format!("{from}{to}"), "", "", portal.port);
                // The packet goes to the first address of the interface it came by, from the node itself to loopback;
                // the proxy answers from just that one. (Upstream had a node address for the latter, as its answers
                // to UDP came from elsewhere.)
                set.rule(
                    Nat,
                    chain,
                    format!("{matching} -j REDIRECT --to-ports {port}"),
                );
            }
        }
        if !all {
            self.refuse(set, portal, &to);
        }
    }

    /// The port that takes a way's traffic; `None`: there is no endpoint, or no listener.
    fn listening(&self, way: &Way) -> Option<u16> {
        let policy = if way.local_only {
            Policy::Local
        } else {
            Policy::Cluster
        };
        let listener = listener(self.port, self.options.family, way.local_only)?;
        let port = self.open.get(&listener)?;
        (!usable(&self.served.endpoints, policy).is_empty()).then_some(*port)
    }

    /// No endpoint at all: refuse, so that the client learns at once. Endpoints only elsewhere (policy Local) or
    /// sources that are not allowed: drop, so that a load balancer's retry can go to a node that takes it.
    fn refuse(&self, set: &mut Ruleset, portal: &Portal, to: &str) {
        let sctp = self.port.protocol == Protocol::Sctp;
        let (why, verdict) = match (self.any, sctp) {
            (false, _) => (" has no endpoints", reject(self.options.family)),
            (true, true) => (" is SCTP", reject(self.options.family)),
            (true, false) if portal.local_only && !self.here => (" has no local endpoints", "DROP"),
            (true, false) => (" traffic not accepted", "DROP"),
        };
        let (destinations, local) = match portal.place {
            Place::Address(_) => (vec![to.to_owned()], ""),
            Place::Node => (
                self.options.node_destinations(),
                "-m addrtype --dst-type LOCAL ",
            ),
        };
        for to in destinations {
            let matching = self.matching(&to, why, local, portal.port);
            set.rule(Filter, REFUSED, format!("{matching} -j {verdict}"));
        }
    }

    /// `-s A -d B -p tcp -m comment --comment "..." -m tcp --dport P`, as `iptables-save` prints it.
    fn matching(&self, ends: &str, why: &str, extra: &str, port: u16) -> String {
        let (proto, name) = (self.port.protocol.name(), &self.port.name);
        format!(
            "{ends}-p {proto} -m comment --comment \"{name}{why}\" {extra}-m {proto} --dport {port}"
        )
    }
}

fn reject(family: Family) -> &'static str {
    match family {
        Family::V4 => "REJECT --reject-with icmp-port-unreachable",
        Family::V6 => "REJECT --reject-with icmp6-port-unreachable",
    }
}

/// `-s CIDR `, or nothing for all addresses, as `iptables-save` prints it.
fn source(cidr: &IpNet) -> String {
    end("-s", cidr)
}

fn destination(cidr: &IpNet) -> String {
    end("-d", cidr)
}

fn end(flag: &str, cidr: &IpNet) -> String {
    if cidr.prefix_len() == 0 {
        String::new()
    } else {
        format!("{flag} {cidr} ")
    }
}

#[cfg(test)]
mod tests;
