//! The nftables shape: a table `ip kube-proxy`, maps from address, protocol and port to a chain a service, in it an
//! anonymous map to a chain an endpoint. A change writes the chains of the service whole, and single elements.

use std::fmt::{self, Write};
use std::net::SocketAddrV4;

use super::{Change, Frame, Service, hash};

/// Name, type, hook, priority.
const BASES: [(&str, &str, &str, i32); 8] = [
    ("filter-prerouting-pre-dnat", "filter", "prerouting", -110),
    ("filter-output-pre-dnat", "filter", "output", -110),
    ("filter-input", "filter", "input", 0),
    ("filter-forward", "filter", "forward", 0),
    ("filter-output", "filter", "output", 0),
    ("nat-prerouting", "nat", "prerouting", -100),
    ("nat-output", "nat", "output", -100),
    ("nat-postrouting", "nat", "postrouting", 100),
];

/// From which base chain to which other, and for what.
const JUMPS: [(&str, &str, &str); 11] = [
    ("filter-input", "nodeport-endpoints-check", "ct state new "),
    ("filter-input", "service-endpoints-check", "ct state new "),
    ("filter-forward", "service-endpoints-check", "ct state new "),
    ("filter-output", "service-endpoints-check", "ct state new "),
    (
        "filter-prerouting-pre-dnat",
        "firewall-check",
        "ct state new ",
    ),
    ("filter-output-pre-dnat", "firewall-check", "ct state new "),
    ("nat-output", "services", ""),
    ("nat-prerouting", "services", ""),
    ("nat-postrouting", "masquerading", ""),
    ("filter-forward", "cluster-ips-check", "ct state new "),
    ("filter-output", "cluster-ips-check", "ct state new "),
];

/// Chains that are always there beside the base chains.
const CHAINS: [&str; 8] = [
    "nodeport-endpoints-check",
    "service-endpoints-check",
    "firewall-check",
    "services",
    "masquerading",
    "cluster-ips-check",
    "mark-for-masquerade",
    "reject-chain",
];

const ADDRESS_PORT: &str = "ipv4_addr . inet_proto . inet_service : verdict";
const PORT: &str = "inet_proto . inet_service : verdict";
/// Kind, name, type.
const SETS: [(&str, &str, &str); 7] = [
    ("set", "cluster-ips", "ipv4_addr"),
    ("set", "nodeport-ips", "ipv4_addr"),
    ("map", "no-endpoint-services", ADDRESS_PORT),
    ("map", "no-endpoint-nodeports", PORT),
    ("map", "firewall-ips", ADDRESS_PORT),
    ("map", "service-ips", ADDRESS_PORT),
    ("map", "service-nodeports", PORT),
];

/// Chain and rule; what depends on the cluster's addresses comes later.
const RULES: [(&str, &str); 11] = [
    ("mark-for-masquerade", "mark set mark or 0x4000"),
    ("masquerading", "mark and 0x4000 == 0 return"),
    ("masquerading", "mark set mark xor 0x4000"),
    ("masquerading", "masquerade fully-random"),
    (
        "cluster-ips-check",
        "ip daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\"",
    ),
    ("reject-chain", "reject"),
    (
        "service-endpoints-check",
        "ip daddr . meta l4proto . th dport vmap @no-endpoint-services",
    ),
    (
        "nodeport-endpoints-check",
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",
    ),
    (
        "firewall-check",
        "ip daddr . meta l4proto . th dport vmap @firewall-ips",
    ),
    (
        "services",
        "ip daddr . meta l4proto . th dport vmap @service-ips",
    ),
    (
        "services",
        "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
    ),
];

/// A transaction, a command a line.
#[derive(Default)]
struct Transaction(String);

impl Transaction {
    fn line(&mut self, command: fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = writeln!(self.0, "{command}");
    }

    fn rule(&mut self, chain: &str, rule: fmt::Arguments<'_>) {
        self.line(format_args!("add rule ip kube-proxy {chain} {rule}"));
    }

    /// There, and empty.
    fn empty(&mut self, chain: &str) {
        self.line(format_args!("add chain ip kube-proxy {chain}"));
        self.line(format_args!("flush chain ip kube-proxy {chain}"));
    }

    fn elements(&mut self, verb: &str, service: &Service) {
        let (ip, port, chain) = (
            service.address.ip(),
            service.address.port(),
            service_chain(service),
        );
        let key = format!("{ip} . tcp . {port}");
        self.line(format_args!(
            "{verb} element ip kube-proxy cluster-ips {{ {ip} }}"
        ));
        match verb {
            "add" => self.line(format_args!(
                "add element ip kube-proxy service-ips {{ {key} : goto {chain} }}"
            )),
            _ => self.line(format_args!(
                "{verb} element ip kube-proxy service-ips {{ {key} }}"
            )),
        }
    }

    /// The chains of one service, and its elements where they are new.
    fn service(&mut self, service: &Service, new: bool, frame: &Frame) {
        let endpoints: Vec<_> = service
            .endpoints
            .iter()
            .map(|e| (*e, endpoint_chain(service, *e)))
            .collect();
        let chain = service_chain(service);
        endpoints.iter().for_each(|(_, chain)| self.empty(chain));
        self.empty(&chain);
        if new {
            self.elements("add", service);
        }
        let (ip, cidr) = (service.address.ip(), &frame.cluster_cidr);
        self.rule(
            &chain,
            format_args!("ip daddr {ip} ip saddr != {cidr} jump mark-for-masquerade"),
        );
        let choice = endpoints
            .iter()
            .enumerate()
            .map(|(place, (_, chain))| format!("{place} : goto {chain}"));
        let choice = choice.collect::<Vec<_>>().join(" , ");
        self.rule(
            &chain,
            format_args!("numgen random mod {} vmap {{ {choice} }}", endpoints.len()),
        );
        for (endpoint, chain) in &endpoints {
            self.rule(
                chain,
                format_args!("ip saddr {} jump mark-for-masquerade", endpoint.ip()),
            );
            self.rule(chain, format_args!("meta l4proto tcp dnat to {endpoint}"));
        }
    }

    /// What is there without any service.
    fn frame(&mut self, frame: &Frame) {
        self.line(format_args!(
            "add table ip kube-proxy {{ comment \"rules for kube-proxy\" ; }}"
        ));
        for (name, kind, hook, priority) in BASES {
            self.line(format_args!(
                "add chain ip kube-proxy {name} {{ type {kind} hook {hook} priority {priority} ; }}"
            ));
            self.line(format_args!("flush chain ip kube-proxy {name}"));
        }
        CHAINS.iter().for_each(|chain| self.empty(chain));
        for (kind, name, of) in SETS {
            self.line(format_args!(
                "add {kind} ip kube-proxy {name} {{ type {of} ; }}"
            ));
            self.line(format_args!("flush {kind} ip kube-proxy {name}"));
        }
        JUMPS
            .iter()
            .for_each(|(from, to, new)| self.rule(from, format_args!("{new}jump {to}")));
        RULES
            .iter()
            .for_each(|(chain, rule)| self.rule(chain, format_args!("{rule}")));
        let Frame {
            node, service_cidr, ..
        } = frame;
        self.rule(
            "cluster-ips-check",
            format_args!("ip daddr {{ {service_cidr} }} drop"),
        );
        self.line(format_args!(
            "add element ip kube-proxy nodeport-ips {{ {node} }}"
        ));
    }
}

/// All rules of all services.
pub fn full(services: &[Service], frame: &Frame) -> String {
    let mut all = Transaction::default();
    all.frame(frame);
    services
        .iter()
        .for_each(|service| all.service(service, true, frame));
    all.0
}

/// What is written for one change. Chains out of use are emptied; upstream deletes them with a later change.
pub fn change(change: &Change<'_>, frame: &Frame) -> String {
    let mut one = Transaction::default();
    match *change {
        Change::Added(service) => one.service(service, true, frame),
        Change::Replaced { after, .. } => one.service(after, false, frame),
        Change::Removed(_) => {}
    }
    let (service, endpoints) = change.gone();
    let mut stale: Vec<_> = endpoints
        .iter()
        .map(|e| endpoint_chain(service, *e))
        .collect();
    if let Change::Removed(service) = change {
        stale.push(service_chain(service));
    }
    stale
        .iter()
        .for_each(|chain| one.line(format_args!("flush chain ip kube-proxy {chain}")));
    if let Change::Removed(service) = change {
        one.elements("delete", service);
    }
    one.0
}

fn port_name(service: &Service) -> String {
    format!(
        "{}/{}/tcp/{}",
        service.namespace, service.name, service.port_name
    )
}

fn service_chain(service: &Service) -> String {
    let name = port_name(service);
    format!("service-{}-{name}", hash(&name, 8))
}

fn endpoint_chain(service: &Service, endpoint: SocketAddrV4) -> String {
    let name = format!(
        "{}__{}/{}",
        port_name(service),
        endpoint.ip(),
        endpoint.port()
    );
    format!("endpoint-{}-{name}", hash(&name, 8))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{frame, service};
    use super::*;

    const SERVICE: &str = "service-ULMVA6XW-ns1/svc1/tcp/p80";
    const ENDPOINT: &str = "endpoint-5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80";

    /// With short names for the chains that upstream's own tests name.
    fn lines(text: &str) -> Vec<String> {
        let text = text
            .replace(SERVICE, "S")
            .replace(ENDPOINT, "E")
            .replace(" ip kube-proxy", "");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_service_as_upstream_writes_it() {
        let one = service(1, &["10.180.0.1:80"]);
        let all = full(std::slice::from_ref(&one), &frame());
        let added = change(&Change::Added(&one), &frame());
        assert!(all.ends_with(&added), "the same as in the whole");
        assert_eq!(
            lines(&added),
            [
                "add chain E",
                "flush chain E",
                "add chain S",
                "flush chain S",
                "add element cluster-ips { 172.30.0.41 }",
                "add element service-ips { 172.30.0.41 . tcp . 80 : goto S }",
                "add rule S ip daddr 172.30.0.41 ip saddr != 10.0.0.0/8 jump mark-for-masquerade",
                "add rule S numgen random mod 1 vmap { 0 : goto E }",
                "add rule E ip saddr 10.180.0.1 jump mark-for-masquerade",
                "add rule E meta l4proto tcp dnat to 10.180.0.1:80",
            ]
        );
    }

    #[test]
    fn changes_empty_what_is_out_of_use() {
        let before = service(1, &["10.180.0.1:80"]);
        let after = service(1, &["10.180.0.2:80", "10.180.0.3:80"]);
        let replaced = lines(&change(
            &Change::Replaced {
                before: &before,
                after: &after,
            },
            &frame(),
        ));
        assert!(
            replaced.iter().all(|l| !l.contains("element ")),
            "elements stay: {replaced:?}"
        );
        assert!(
            replaced
                .iter()
                .any(|l| l.starts_with("add rule S numgen random mod 2 vmap { 0 : goto endpoint-"))
        );
        assert_eq!(replaced.last().map(String::as_str), Some("flush chain E"));
        assert_eq!(
            lines(&change(&Change::Removed(&before), &frame())),
            [
                "flush chain E",
                "flush chain S",
                "delete element cluster-ips { 172.30.0.41 }",
                "delete element service-ips { 172.30.0.41 . tcp . 80 }",
            ]
        );
    }

    #[test]
    fn each_name_in_a_rule_is_there() {
        let all = full(&[], &frame());
        for (from, to, _) in JUMPS {
            assert!(BASES.iter().any(|base| base.0 == from), "{from}");
            assert!(CHAINS.contains(&to), "{to}");
        }
        for (chain, rule) in RULES {
            assert!(CHAINS.contains(&chain), "{chain}");
            let sets = rule.split(' ').filter_map(|word| word.strip_prefix('@'));
            sets.for_each(|set| assert!(SETS.iter().any(|s| s.1 == set), "{set}"));
        }
        assert!(all.contains("add element ip kube-proxy nodeport-ips { 192.168.0.2 }\n"));
    }
}
