//! What one service port puts into the rules.

use std::net::IpAddr;

use ipnet::IpNet;

use super::frame::{
    CAUGHT, FIREWALL, MARK, MARK_OUTSIDERS, NODE_PORTS, REFUSED, REFUSED_EXTERNAL, Shared, reject,
};
use super::reach::{self, Outsiders};
use crate::iptables::names::{endpoint_chain, service_chain};
use crate::iptables::ruleset::Line;
use crate::model::{Endpoint, Entry, Family, Front, Kind, Policy, ServicePort, socket};
use crate::options::Options;
use crate::select::usable;

/// A service port's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// Rules in chains that it shares.
    pub shared: Vec<(Shared, Line)>,
    /// Chains of its own, all in the nat table.
    pub own: Vec<(String, Vec<Line>)>,
    /// Its cluster addresses.
    pub cluster_ips: Vec<IpAddr>,
}

/// All that a service port puts into the rules of a family.
pub(super) fn part(entry: &Entry, family: Family, options: &Options) -> Part {
    let port = &*entry.port;
    let mine = |ip: &IpAddr| Family::of(ip) == family;
    // A Service without a cluster address of the family is not of this family, whatever its node ports.
    if !port.cluster_ips.iter().any(mine) {
        return Part::default();
    }
    let endpoints: Vec<Endpoint> = entry.of(family).copied().collect();
    let writer = Writer {
        port,
        family,
        options,
        name: port.name.to_string(),
        local: usable(&endpoints, Policy::Local),
        cluster: usable(&endpoints, Policy::Cluster),
        part: Part::default(),
    };
    writer.write(entry)
}

struct Writer<'a> {
    port: &'a ServicePort,
    family: Family,
    options: &'a Options,
    name: String,
    /// What policy Local leaves.
    local: Vec<Endpoint>,
    /// What policy Cluster leaves. None means refuse, else what a policy leaves without is dropped.
    cluster: Vec<Endpoint>,
    part: Part,
}

impl Writer<'_> {
    fn write(mut self, entry: &Entry) -> Part {
        let (mut inside, mut outside) = (Vec::new(), false);
        for (front, kind) in &entry.fronts {
            match (front, kind) {
                (Front::Address(ip, ..), _) if Family::of(ip) != self.family => {}
                (Front::Address(ip, ..), Kind::Cluster) => inside.push(*ip),
                (Front::Address(ip, ..), kind) => {
                    outside = true;
                    self.external_address(ip, *kind);
                }
                (Front::Node(_, number), _) => {
                    outside = true;
                    self.node_port(*number);
                }
            }
        }
        inside.iter().for_each(|ip| self.cluster_ip(ip));
        let (internal, external) = (self.port.internal_policy, self.port.external_policy);
        let reached = |policy| {
            // Who is inside may go to all endpoints by an external front too.
            let out = outside && (policy == external || policy == Policy::Cluster);
            out || !inside.is_empty() && policy == internal
        };
        if outside && !self.cluster.is_empty() {
            self.external_chain();
        }
        let policies = [Policy::Cluster, Policy::Local].map(|p| (p, reached(p)));
        for (policy, _) in policies.into_iter().filter(|(_, reached)| *reached) {
            let masked: &[IpAddr] = if policy == internal { &inside } else { &[] };
            self.balancer(policy, masked);
        }
        self.part.cluster_ips = inside;
        self.part
    }

    fn endpoints(&self, policy: Policy) -> &[Endpoint] {
        match policy {
            Policy::Local => &self.local,
            Policy::Cluster => &self.cluster,
        }
    }

    fn chain(&self, prefix: &str) -> String {
        service_chain(prefix, &self.port.name, self.port.protocol)
    }

    /// The chain that balances over the endpoints of a policy.
    fn policy_chain(&self, policy: Policy) -> String {
        self.chain(match policy {
            Policy::Local => "KUBE-SVL-",
            Policy::Cluster => "KUBE-SVC-",
        })
    }

    fn put(&mut self, chain: Shared, rule: String) {
        self.part.shared.push((chain, rule.into()));
    }

    /// Matches packets to an address of the service: `-d A -p tcp -m comment --comment "..." -m tcp --dport P`.
    fn to(&self, address: &IpAddr, what: &str) -> String {
        let (proto, to) = (self.port.protocol.name(), IpNet::from(*address));
        let (name, port) = (&self.name, self.port.port);
        format!(
            "-d {to} -p {proto} -m comment --comment \"{name} {what}\" -m {proto} --dport {port}"
        )
    }

    /// What becomes of packets that a policy leaves without an endpoint, and why. No endpoint at all: refused, so
    /// that the client learns at once. Endpoints only elsewhere: dropped, so that a load balancer's next try can go
    /// to a node that has one.
    fn without(&self, policy: Policy) -> Option<(&'static str, &'static str)> {
        if self.cluster.is_empty() {
            Some(("has no endpoints", reject(self.family)))
        } else if self.endpoints(policy).is_empty() {
            Some(("has no local endpoints", "DROP"))
        } else {
            None
        }
    }

    fn cluster_ip(&mut self, ip: &IpAddr) {
        let policy = self.port.internal_policy;
        if let Some((why, verdict)) = self.without(policy) {
            let rule = format!("{} -j {verdict}", self.to(ip, why));
            return self.put(REFUSED, rule);
        }
        let target = self.policy_chain(policy);
        let rule = format!("{} -j {target}", self.to(ip, "cluster IP"));
        self.put(CAUGHT, rule);
    }

    fn external_address(&mut self, ip: &IpAddr, kind: Kind) {
        let limited = kind == Kind::LoadBalancer && !self.port.source_ranges.is_empty();
        let what = match kind {
            Kind::LoadBalancer => "loadbalancer IP",
            _ => "external IP",
        };
        let without = self.without(self.port.external_policy);
        if let Some((why, verdict)) = without.filter(|_| !limited) {
            let rule = format!("{} -j {verdict}", self.to(ip, why));
            self.put(REFUSED_EXTERNAL, rule);
        }
        if limited {
            self.firewall(ip);
        }
        if !self.cluster.is_empty() {
            let target = self.chain(if limited { "KUBE-FW-" } else { "KUBE-EXT-" });
            let rule = format!("{} -j {target}", self.to(ip, what));
            self.put(CAUGHT, rule);
        }
    }

    /// Of this service port's source ranges, those of the family.
    fn ranges(&self) -> Vec<String> {
        let mine = |n: &&IpNet| Family::of(&n.addr()) == self.family;
        self.port
            .source_ranges
            .iter()
            .filter(mine)
            .map(reach::source)
            .collect()
    }

    /// What `KUBE-FW-*` does not send on is not translated, and so still has this address in the filter table.
    fn firewall(&mut self, ip: &IpAddr) {
        let chain = self.chain("KUBE-FW-");
        if self.cluster.is_empty() {
            // Those within the ranges learn that there is nobody; the others learn nothing.
            for range in self.ranges() {
                let rule = format!(
                    "{range}{} -j {}",
                    self.to(ip, "has no endpoints"),
                    reject(self.family)
                );
                self.put(FIREWALL, rule);
            }
        } else if self.part.own.iter().all(|(name, _)| *name != chain) {
            let (comment, ext) = (
                format!("-m comment --comment \"{} loadbalancer IP\"", self.name),
                self.chain("KUBE-EXT-"),
            );
            let ranges = self.ranges().into_iter();
            let mut rules: Vec<Line> = ranges
                .map(|r| format!("{r}{comment} -j {ext}").into())
                .collect();
            let note = format!(
                "other traffic to {} will be dropped by KUBE-PROXY-FIREWALL",
                self.name
            );
            rules.push(format!("-m comment --comment \"{note}\"").into());
            self.part.own.push((chain.clone(), rules));
        }
        let refused = self.to(ip, &format!("traffic not accepted by {chain}"));
        self.put(FIREWALL, format!("{refused} -j DROP"));
    }

    fn node_port(&mut self, number: u16) {
        let (proto, name) = (self.port.protocol.name(), self.name.clone());
        if let Some((why, verdict)) = self.without(self.port.external_policy) {
            for to in reach::node_port_destinations(self.options, self.family) {
                self.put(REFUSED_EXTERNAL, format!(
                    "{to}-p {proto} -m comment --comment \"{name} {why}\" -m addrtype --dst-type LOCAL -m {proto} --dport {number} -j {verdict}"
                ));
            }
        }
        if !self.cluster.is_empty() {
            let ext = self.chain("KUBE-EXT-");
            self.put(NODE_PORTS, format!(
                "-p {proto} -m comment --comment \"{name}\" -m {proto} --dport {number} -j {ext}"
            ));
        }
    }

    /// `KUBE-EXT-*`: all of it is masqueraded when any endpoint may answer; with policy Local the client's address
    /// stays, and only traffic from inside takes the short way to all endpoints.
    fn external_chain(&mut self) {
        let comment = |what: &str| {
            format!(
                "-m comment --comment \"{what} {} external destinations\"",
                self.name
            )
        };
        let mut rules: Vec<Line> = Vec::new();
        if self.port.external_policy == Policy::Cluster {
            rules.push(format!("{} -j {MARK}", comment("masquerade traffic for")).into());
        } else {
            let all = self.chain("KUBE-SVC-");
            for from in reach::insiders(self.options, self.family) {
                rules.push(format!("{from}{} -j {all}", comment("pod traffic for")).into());
            }
            for (what, target) in [("masquerade", MARK), ("route", &all)] {
                let comment = comment(&format!("{what} LOCAL traffic for"));
                rules.push(format!("{comment} -m addrtype --src-type LOCAL -j {target}").into());
            }
        }
        let policy = self.port.external_policy;
        if !self.endpoints(policy).is_empty() {
            rules.push(format!("-j {}", self.policy_chain(policy)).into());
        }
        self.part.own.push((self.chain("KUBE-EXT-"), rules));
    }

    /// `KUBE-SVC-*` or `KUBE-SVL-*`: masks who comes from elsewhere to a cluster address, then chooses an endpoint.
    fn balancer(&mut self, policy: Policy, masked: &[IpAddr]) {
        let endpoints = self.endpoints(policy).to_vec();
        if endpoints.is_empty() {
            return;
        }
        let mut rules: Vec<Line> = masked.iter().filter_map(|ip| self.masquerade(ip)).collect();
        let seps: Vec<(String, String)> =
            endpoints.iter().map(|e| self.endpoint_names(e)).collect();
        if let Some(seconds) = self.port.affinity {
            let mask = self.full_mask();
            rules.extend(seps.iter().map(|(sep, comment)| Line::from(format!(
                "{comment} -m recent --rcheck --seconds {seconds} --reap --name {sep} --mask {mask} --rsource -j {sep}"
            ))));
        }
        for (i, (sep, comment)) in seps.iter().enumerate() {
            let chance = match endpoints.len() - i {
                1 => String::new(),
                left => format!(
                    " -m statistic --mode random --probability {}",
                    probability(left)
                ),
            };
            rules.push(format!("{comment}{chance} -j {sep}").into());
        }
        self.part.own.push((self.policy_chain(policy), rules));
        for (e, (sep, _)) in endpoints.iter().zip(seps) {
            self.endpoint(e, sep);
        }
    }

    /// What comes from outside of the pods to a cluster address answers by way of this node.
    fn masquerade(&self, ip: &IpAddr) -> Option<Line> {
        let to = self.to(ip, "cluster IP");
        if self.options.masquerade_all {
            return Some(format!("{to} -j {MARK}").into());
        }
        match reach::outsiders(self.options, self.family) {
            Outsiders::Nobody => None,
            Outsiders::Are(words) => Some(from_and_to(&words, &to, MARK)),
            Outsiders::OutsideOf(_) => Some(format!("{to} -j {MARK_OUTSIDERS}").into()),
        }
    }

    /// An endpoint's chain, and the comment of rules that lead to it.
    fn endpoint_names(&self, e: &Endpoint) -> (String, String) {
        let to = socket(e.ip, e.port);
        let sep = endpoint_chain(&self.port.name, self.port.protocol, &to);
        (
            sep,
            format!("-m comment --comment \"{} -> {to}\"", self.name),
        )
    }

    fn endpoint(&mut self, e: &Endpoint, chain: String) {
        // Both policies may choose it.
        if self.part.own.iter().any(|(name, _)| *name == chain) {
            return;
        }
        let (proto, name, to) = (self.port.protocol.name(), &self.name, socket(e.ip, e.port));
        let remember = match self.port.affinity {
            Some(_) => format!(
                "-m recent --set --name {chain} --mask {} --rsource ",
                self.full_mask()
            ),
            None => String::new(),
        };
        let own = IpNet::from(e.ip);
        let rules = vec![
            // A pod that reaches itself by way of the service must see another source, or it answers itself directly.
            format!("-s {own} -m comment --comment \"{name}\" -j {MARK}").into(),
            format!("-p {proto} -m comment --comment \"{name}\" {remember}-m {proto} -j DNAT --to-destination {to}").into(),
        ];
        self.part.own.push((chain, rules));
    }

    fn full_mask(&self) -> &'static str {
        match self.family {
            Family::V4 => "255.255.255.255",
            Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        }
    }
}

/// In the order of `iptables-save`: source, destination, interface.
fn from_and_to(from: &str, to: &str, target: &str) -> Line {
    match (from.contains("-i "), to.split_once(" -p ")) {
        (true, Some((destination, rest))) => {
            format!("{destination} {from}-p {rest} -j {target}").into()
        }
        _ => format!("{from}{to} -j {target}").into(),
    }
}

/// One in `n`, in the kernel's 31 bits, as `iptables-save` prints them back.
pub(super) fn probability(n: usize) -> String {
    const UNIT: f64 = 2_147_483_648.0;
    format!("{:.11}", (UNIT / n as f64).round() / UNIT)
}
