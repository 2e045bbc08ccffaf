//! Services to rules. For each service port: who is caught (`KUBE-SERVICES`, `KUBE-NODEPORTS`), which source is
//! masked (`KUBE-EXT-*`, first rules of `KUBE-SVC-*`), which endpoint is chosen (`KUBE-SVC-*`, `KUBE-SVL-*`) and
//! where it goes (`KUBE-SEP-*`).

use std::net::IpAddr;

use ipnet::IpNet;

use super::names::{endpoint_chain, service_chain};
use super::ruleset::Ruleset;
use super::ruleset::Table::{Filter, Nat};
use crate::model::{Endpoint, Family, Policy, Served, ServicePort, socket};
use crate::select::usable;

/// What rules depend on beside the services.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rules for which IP version.
    pub family: Family,
    /// All pods' addresses: what comes from elsewhere to a cluster address is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Node ports answer on 127.0.0.1 too (IPv4; needs `route_localnet`).
    pub localhost_node_ports: bool,
}

/// Mark of packets that are to be masqueraded: kube-proxy's default bit 14.
const MASQUERADE: &str = "0x4000/0x4000";

/// The whole ruleset of a family.
pub fn ruleset(served: &[Served<'_>], options: &Options) -> Ruleset {
    let mut set = Ruleset::default();
    frame(&mut set, options);
    for s in served {
        let writer = Writer::new(s, options);
        writer.write(&mut set);
    }
    // Last in its chain: a cluster address must win over a node's own.
    set.rule(Nat, "KUBE-SERVICES", format!(
        "{}-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
        if options.localhost_node_ports || options.family == Family::V6 { "" } else { "! -d 127.0.0.0/8 " }
    ));
    set
}

/// Chains and jumps that are there whatever the services are.
fn frame(set: &mut Ruleset, options: &Options) {
    const NEW: &str = "-m conntrack --ctstate NEW -m comment --comment";
    for (chain, target, comment) in [
        (
            "INPUT",
            "KUBE-PROXY-FIREWALL",
            "kubernetes load balancer firewall",
        ),
        (
            "INPUT",
            "KUBE-EXTERNAL-SERVICES",
            "kubernetes externally-visible service portals",
        ),
        (
            "FORWARD",
            "KUBE-PROXY-FIREWALL",
            "kubernetes load balancer firewall",
        ),
        ("FORWARD", "KUBE-SERVICES", "kubernetes service portals"),
        (
            "FORWARD",
            "KUBE-EXTERNAL-SERVICES",
            "kubernetes externally-visible service portals",
        ),
        (
            "OUTPUT",
            "KUBE-PROXY-FIREWALL",
            "kubernetes load balancer firewall",
        ),
        ("OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
    ] {
        set.jump(Filter, chain, format!("{NEW} \"{comment}\" -j {target}"));
    }
    set.jump(
        Filter,
        "FORWARD",
        "-m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD",
    );
    for chain in ["PREROUTING", "OUTPUT"] {
        set.jump(
            Nat,
            chain,
            "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
        );
    }
    set.jump(
        Nat,
        "POSTROUTING",
        "-m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING",
    );
    for chain in [
        "KUBE-SERVICES",
        "KUBE-EXTERNAL-SERVICES",
        "KUBE-FORWARD",
        "KUBE-PROXY-FIREWALL",
    ] {
        set.chain(Filter, chain);
    }
    for chain in ["KUBE-SERVICES", "KUBE-NODEPORTS"] {
        set.chain(Nat, chain);
    }
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
    set.rule(Nat, "KUBE-POSTROUTING",
        "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully");
    // A packet that conntrack can't place would reach the client untranslated and reset its connection.
    set.rule(
        Filter,
        "KUBE-FORWARD",
        "-m conntrack --ctstate INVALID -j DROP",
    );
    set.rule(Filter, "KUBE-FORWARD",
        format!("-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {MASQUERADE} -j ACCEPT"));
    set.rule(Filter, "KUBE-FORWARD",
        "-m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    if options.localhost_node_ports && options.family == Family::V4 {
        // route_localnet opens 127.0.0.0/8 to the network segment (CVE-2020-8558): shut it again.
        for chain in ["INPUT", "OUTPUT"] {
            set.jump(Filter, chain, "-j KUBE-FIREWALL");
        }
        set.rule(Filter, "KUBE-FIREWALL",
            "! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP");
    }
}

/// Writes one service port's rules.
struct Writer<'a> {
    port: &'a ServicePort,
    options: &'a Options,
    /// What the internal policy leaves: chain `KUBE-SVC-*` or `KUBE-SVL-*`.
    internal: Vec<Endpoint>,
    /// What the external policy leaves.
    external: Vec<Endpoint>,
    /// All that can be used anywhere: none means refuse, else drop what a policy leaves without.
    all: Vec<Endpoint>,
    name: String,
}

impl<'a> Writer<'a> {
    fn new(served: &'a Served<'a>, options: &'a Options) -> Self {
        Self {
            port: served.port,
            options,
            internal: usable(&served.endpoints, served.port.internal_policy),
            external: usable(&served.endpoints, served.port.external_policy),
            all: usable(&served.endpoints, Policy::Cluster),
            name: served.port.name.to_string(),
        }
    }

    fn chain(&self, prefix: &str) -> String {
        service_chain(prefix, &self.port.name, self.port.protocol)
    }

    /// The chain that balances over the endpoints of a policy.
    fn policy_chain(&self, policy: Policy) -> String {
        self.chain(if policy == Policy::Local {
            "KUBE-SVL-"
        } else {
            "KUBE-SVC-"
        })
    }

    fn of_family<'b>(&self, addresses: &'b [IpAddr]) -> impl Iterator<Item = &'b IpAddr> {
        let family = self.options.family;
        addresses.iter().filter(move |a| Family::of(a) == family)
    }

    /// Matches packets to an address of the service: `-d A -p tcp -m comment --comment "..." -m tcp --dport P`.
    fn to(&self, address: &IpAddr, what: &str) -> String {
        let proto = self.port.protocol.name();
        format!(
            "-d {} -p {proto} -m comment --comment \"{} {what}\" -m {proto} --dport {}",
            host(address),
            self.name,
            self.port.port
        )
    }

    fn write(&self, set: &mut Ruleset) {
        let external: Vec<(&IpAddr, &str)> = self
            .of_family(&self.port.external_ips)
            .map(|a| (a, "external IP"))
            .chain(
                self.of_family(&self.port.load_balancer_ips)
                    .map(|a| (a, "loadbalancer IP")),
            )
            .collect();
        let exposed = !external.is_empty() || self.port.node_port.is_some();
        self.write_cluster_ips(set);
        if exposed {
            self.write_external(set, &external);
        }
        // With policy Local, traffic from this node and its pods still may go anywhere.
        let short_way = exposed && self.port.external_policy == Policy::Local;
        for (needed, policy, endpoints) in [
            (true, self.port.internal_policy, &self.internal),
            (exposed, self.port.external_policy, &self.external),
            (short_way, Policy::Cluster, &self.all),
        ] {
            if needed && !endpoints.is_empty() {
                self.write_balancer(set, policy, endpoints);
            }
        }
    }

    fn write_cluster_ips(&self, set: &mut Ruleset) {
        for ip in self.of_family(&self.port.cluster_ips) {
            if self.internal.is_empty() {
                self.write_refusal(
                    set,
                    "KUBE-SERVICES",
                    &self.to(ip, self.why_none(self.port.internal_policy)),
                    !self.all.is_empty(),
                );
            } else {
                let target = self.policy_chain(self.port.internal_policy);
                set.rule(
                    Nat,
                    "KUBE-SERVICES",
                    format!("{} -j {target}", self.to(ip, "cluster IP")),
                );
            }
        }
    }

    fn why_none(&self, policy: Policy) -> &'static str {
        if policy == Policy::Local && !self.all.is_empty() {
            "has no local endpoints"
        } else {
            "has no endpoints"
        }
    }

    /// No endpoint at all: refuse, so that the client learns at once. Endpoints only elsewhere (policy Local): drop,
    /// so that a load balancer's retry can go to a node that has one.
    fn write_refusal(&self, set: &mut Ruleset, chain: &str, matching: &str, elsewhere: bool) {
        let unreachable = if self.options.family == Family::V4 {
            "icmp-port-unreachable"
        } else {
            "icmp6-port-unreachable"
        };
        let verdict = if elsewhere {
            "DROP".to_owned()
        } else {
            format!("REJECT --reject-with {unreachable}")
        };
        set.rule(Filter, chain, format!("{matching} -j {verdict}"));
    }

    fn write_external(&self, set: &mut Ruleset, addresses: &[(&IpAddr, &str)]) {
        let proto = self.port.protocol.name();
        let why = self.why_none(self.port.external_policy);
        let node_port = |what: &str, extra: &str| {
            self.port.node_port.map(|p| {
                format!(
                    "-p {proto} -m comment --comment \"{}{what}\" {extra}-m {proto} --dport {p}",
                    self.name
                )
            })
        };
        // Traffic from this node and from pods may use any endpoint: the service has a way as long as it has one.
        if self.external.is_empty() {
            for (ip, _) in addresses {
                self.write_refusal(
                    set,
                    "KUBE-EXTERNAL-SERVICES",
                    &self.to(ip, why),
                    !self.all.is_empty(),
                );
            }
            if let Some(matching) = node_port(&format!(" {why}"), "-m addrtype --dst-type LOCAL ") {
                self.write_refusal(
                    set,
                    "KUBE-EXTERNAL-SERVICES",
                    &matching,
                    !self.all.is_empty(),
                );
            }
        }
        if self.all.is_empty() {
            return;
        }
        let ext = self.chain("KUBE-EXT-");
        for (ip, what) in addresses {
            let limited = *what == "loadbalancer IP" && !self.port.source_ranges.is_empty();
            let target = if limited {
                self.chain("KUBE-FW-")
            } else {
                ext.clone()
            };
            set.rule(
                Nat,
                "KUBE-SERVICES",
                format!("{} -j {target}", self.to(ip, what)),
            );
            if limited {
                // What the chain does not send on is not translated, and so still has this address here.
                let refused = self.to(ip, &format!("traffic not accepted by {target}"));
                set.rule(Filter, "KUBE-PROXY-FIREWALL", format!("{refused} -j DROP"));
                self.write_source_ranges(set, &target, &ext);
            }
        }
        if let Some(matching) = node_port("", "") {
            set.rule(Nat, "KUBE-NODEPORTS", format!("{matching} -j {ext}"));
        }
        self.write_external_chain(set, &ext);
    }

    fn write_source_ranges(&self, set: &mut Ruleset, chain: &str, ext: &str) {
        if set.rules(Nat, chain).is_some() {
            return;
        }
        let comment = format!("-m comment --comment \"{} loadbalancer IP\"", self.name);
        set.chain(Nat, chain);
        for range in self
            .port
            .source_ranges
            .iter()
            .filter(|r| Family::of(&r.addr()) == self.options.family)
        {
            set.rule(Nat, chain, format!("{}{comment} -j {ext}", source(range)));
        }
    }

    /// `KUBE-EXT-*`: all of it is masqueraded when any endpoint may answer; with policy Local the client's address
    /// stays, and only traffic from inside takes the short way to all endpoints.
    fn write_external_chain(&self, set: &mut Ruleset, ext: &str) {
        let comment = |what: &str| {
            format!(
                "-m comment --comment \"{what} {} external destinations\"",
                self.name
            )
        };
        let balancer = self.policy_chain(self.port.external_policy);
        if self.port.external_policy == Policy::Cluster {
            set.rule(
                Nat,
                ext,
                format!("{} -j KUBE-MARK-MASQ", comment("masquerade traffic for")),
            );
        } else {
            let all = self.chain("KUBE-SVC-");
            for cidr in self
                .options
                .cluster_cidrs
                .iter()
                .filter(|c| Family::of(&c.addr()) == self.options.family)
            {
                set.rule(
                    Nat,
                    ext,
                    format!("{}{} -j {all}", source(cidr), comment("pod traffic for")),
                );
            }
            set.rule(
                Nat,
                ext,
                format!(
                    "{} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
                    comment("masquerade LOCAL traffic for")
                ),
            );
            set.rule(
                Nat,
                ext,
                format!(
                    "{} -m addrtype --src-type LOCAL -j {all}",
                    comment("route LOCAL traffic for")
                ),
            );
        }
        if !self.external.is_empty() {
            set.rule(Nat, ext, format!("-j {balancer}"));
        }
    }

    fn write_balancer(&self, set: &mut Ruleset, policy: Policy, endpoints: &[Endpoint]) {
        let chain = self.policy_chain(policy);
        if set.rules(Nat, &chain).is_some_and(|r| !r.is_empty()) {
            return;
        }
        let mut rules = self.masquerade_rules(&chain);
        let sep = |e: &Endpoint| {
            endpoint_chain(&self.port.name, self.port.protocol, &socket(e.ip, e.port))
        };
        let comment = |e: &Endpoint| {
            format!(
                "-m comment --comment \"{} -> {}\"",
                self.name,
                socket(e.ip, e.port)
            )
        };
        if let Some(seconds) = self.port.affinity {
            rules.extend(endpoints.iter().map(|e| format!(
                "{} -m recent --rcheck --seconds {seconds} --reap --name {} --mask {} --rsource -j {}",
                comment(e), sep(e), self.full_mask(), sep(e)
            )));
        }
        for (i, e) in endpoints.iter().enumerate() {
            let left = endpoints.len() - i;
            let chance = if left > 1 {
                format!(
                    " -m statistic --mode random --probability {}",
                    probability(left)
                )
            } else {
                String::new()
            };
            rules.push(format!("{}{chance} -j {}", comment(e), sep(e)));
            self.write_endpoint(set, &sep(e), e);
        }
        set.chain(Nat, chain).extend(rules);
    }

    /// What comes from outside of the pods' addresses to a cluster address answers by way of this node.
    fn masquerade_rules(&self, chain: &str) -> Vec<String> {
        let cidrs: Vec<_> = self
            .options
            .cluster_cidrs
            .iter()
            .filter(|c| Family::of(&c.addr()) == self.options.family)
            .collect();
        // `! -s` takes one CIDR: with several of a family none can be told apart by one rule, and nothing is masked.
        let ([cidr], true) = (
            cidrs.as_slice(),
            chain == self.policy_chain(self.port.internal_policy),
        ) else {
            return Vec::new();
        };
        let rules = self.of_family(&self.port.cluster_ips).map(|ip| {
            format!(
                "! -s {} {} -j KUBE-MARK-MASQ",
                cidr.trunc(),
                self.to(ip, "cluster IP")
            )
        });
        rules.collect()
    }

    fn write_endpoint(&self, set: &mut Ruleset, chain: &str, e: &Endpoint) {
        if set.rules(Nat, chain).is_some() {
            return;
        }
        let (proto, name) = (self.port.protocol.name(), &self.name);
        // A pod that reaches itself by way of the service must see another source, or it answers itself directly.
        set.rule(
            Nat,
            chain,
            format!(
                "-s {} -m comment --comment \"{name}\" -j KUBE-MARK-MASQ",
                host(&e.ip)
            ),
        );
        let remember = match self.port.affinity {
            Some(_) => format!(
                "-m recent --set --name {chain} --mask {} --rsource ",
                self.full_mask()
            ),
            None => String::new(),
        };
        set.rule(Nat, chain, format!(
            "-p {proto} -m comment --comment \"{name}\" {remember}-m {proto} -j DNAT --to-destination {}", socket(e.ip, e.port)
        ));
    }

    fn full_mask(&self) -> &'static str {
        if self.options.family == Family::V4 {
            "255.255.255.255"
        } else {
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        }
    }
}

fn host(address: &IpAddr) -> IpNet {
    IpNet::from(*address)
}

/// `-s CIDR `, or nothing for all addresses, as `iptables-save` prints it.
fn source(cidr: &IpNet) -> String {
    if cidr.prefix_len() == 0 {
        String::new()
    } else {
        format!("-s {} ", cidr.trunc())
    }
}

/// One in `n`, in the kernel's 31 bits, as `iptables-save` prints them back.
fn probability(n: usize) -> String {
    const UNIT: f64 = 2_147_483_648.0;
    format!("{:.11}", (UNIT / n as f64).round() / UNIT)
}

#[cfg(test)]
mod tests;
