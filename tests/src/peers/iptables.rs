//! The iptables shape: a chain a service, a chain an endpoint, one long chain that finds the service. Since 1.27 a change
//! writes the top chains whole (`KUBE-SERVICES` with a rule a service among them), of the others only those of services
//! that changed.

use std::fmt::Write;
use std::net::SocketAddrV4;

use super::{Change, Frame, Service, hash};

/// From so many endpoints on, comments are left out, and chains out of use are not looked for at each change (upstream's
/// `largeClusterEndpointsThreshold`).
const LARGE: usize = 1000;

/// Chains that are written each time: filter, nat.
const FILTER: [&str; 6] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FORWARD",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-FIREWALL",
    "KUBE-FIREWALL",
];
const NAT: [&str; 4] = [
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
];

/// Jumps from the kernel's chains: table, from, to, only new connections, comment. Upstream makes them one by one when it
/// starts; they are no part of a load here.
const JUMPS: [(&str, &str, &str, bool, &str); 14] = [
    (
        "filter",
        "INPUT",
        "KUBE-EXTERNAL-SERVICES",
        true,
        "kubernetes externally-visible service portals",
    ),
    (
        "filter",
        "FORWARD",
        "KUBE-EXTERNAL-SERVICES",
        true,
        "kubernetes externally-visible service portals",
    ),
    (
        "filter",
        "INPUT",
        "KUBE-NODEPORTS",
        false,
        "kubernetes health check service ports",
    ),
    (
        "filter",
        "FORWARD",
        "KUBE-SERVICES",
        true,
        "kubernetes service portals",
    ),
    (
        "filter",
        "OUTPUT",
        "KUBE-SERVICES",
        true,
        "kubernetes service portals",
    ),
    (
        "filter",
        "FORWARD",
        "KUBE-FORWARD",
        false,
        "kubernetes forwarding rules",
    ),
    (
        "filter",
        "INPUT",
        "KUBE-PROXY-FIREWALL",
        true,
        "kubernetes load balancer firewall",
    ),
    (
        "filter",
        "OUTPUT",
        "KUBE-PROXY-FIREWALL",
        true,
        "kubernetes load balancer firewall",
    ),
    (
        "filter",
        "FORWARD",
        "KUBE-PROXY-FIREWALL",
        true,
        "kubernetes load balancer firewall",
    ),
    (
        "nat",
        "OUTPUT",
        "KUBE-SERVICES",
        false,
        "kubernetes service portals",
    ),
    (
        "nat",
        "PREROUTING",
        "KUBE-SERVICES",
        false,
        "kubernetes service portals",
    ),
    (
        "nat",
        "POSTROUTING",
        "KUBE-POSTROUTING",
        false,
        "kubernetes postrouting rules",
    ),
    ("filter", "INPUT", "KUBE-FIREWALL", false, ""),
    ("filter", "OUTPUT", "KUBE-FIREWALL", false, ""),
];

/// The jumps from the kernel's chains, for an empty table.
pub fn jumps() -> String {
    let mut text = String::new();
    for (table, chains) in [("filter", &FILTER[..]), ("nat", &NAT[..])] {
        text += &format!("*{table}\n");
        chains.iter().for_each(|chain| text += &declared(chain));
        // Each is put before those that are there.
        for (_, from, to, new, comment) in JUMPS.iter().filter(|jump| jump.0 == table) {
            let new = if *new {
                " -m conntrack --ctstate NEW"
            } else {
                ""
            };
            let comment = match *comment {
                "" => String::new(),
                comment => format!(" -m comment --comment \"{comment}\""),
            };
            text += &format!("-I {from}{new}{comment} -j {to}\n");
        }
        text += "COMMIT\n";
    }
    text
}

/// All rules of all services.
pub fn full(services: &[Service], frame: &Frame) -> String {
    restore(services, services, &[], frame)
}

/// What is written for one change; `services` are those after it.
pub fn change(services: &[Service], change: &Change<'_>, frame: &Frame) -> String {
    let mut stale = Vec::new();
    if !is_large(services) {
        let (service, endpoints) = change.gone();
        stale.extend(endpoints.iter().map(|e| endpoint_chain(service, *e)));
        if let Change::Removed(service) = change {
            stale.push(service_chain(service));
        }
    }
    let written = match *change {
        Change::Added(service) | Change::Replaced { after: service, .. } => {
            std::slice::from_ref(service)
        }
        Change::Removed(_) => &[],
    };
    restore(services, written, &stale, frame)
}

/// The whole of `KUBE-SERVICES`, the chains of some services, and chains to be deleted.
fn restore(services: &[Service], written: &[Service], stale: &[String], frame: &Frame) -> String {
    let mut chains = String::new();
    let mut rules = String::from(
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    NAT.iter().for_each(|chain| chains += &declared(chain));
    for service in services {
        line(
            &mut rules,
            format_args!(
                "-A KUBE-SERVICES {} -j {}",
                matches(service),
                service_chain(service)
            ),
        );
    }
    let large = is_large(services);
    written
        .iter()
        .for_each(|service| own(service, large, frame, &mut chains, &mut rules));
    for chain in stale {
        chains += &declared(chain);
        line(&mut rules, format_args!("-X {chain}"));
    }
    rules += "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in \
              this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
    format!("{}*nat\n{chains}{rules}COMMIT\n", filter())
}

/// The chains of one service.
fn own(service: &Service, large: bool, frame: &Frame, chains: &mut String, rules: &mut String) {
    let (chain, cidr) = (service_chain(service), &frame.cluster_cidr);
    line(
        rules,
        format_args!(
            "-A {chain} {} ! -s {cidr} -j KUBE-MARK-MASQ",
            matches(service)
        ),
    );
    *chains += &declared(&chain);
    let comment = |text: String| match large {
        true => String::new(),
        false => format!(" -m comment --comment {text}"),
    };
    let name = port_name(service);
    for (place, endpoint) in service.endpoints.iter().enumerate() {
        let left = service.endpoints.len() - place;
        let chance = match left {
            1 => String::new(),
            left => format!(
                " -m statistic --mode random --probability {:.10}",
                1.0 / left as f64
            ),
        };
        let about = comment(format!("\"{name} -> {endpoint}\""));
        line(
            rules,
            format_args!(
                "-A {chain}{about}{chance} -j {}",
                endpoint_chain(service, *endpoint)
            ),
        );
    }
    for endpoint in &service.endpoints {
        let chain = endpoint_chain(service, *endpoint);
        *chains += &declared(&chain);
        let about = comment(name.clone());
        line(
            rules,
            format_args!("-A {chain}{about} -s {} -j KUBE-MARK-MASQ", endpoint.ip()),
        );
        line(
            rules,
            format_args!("-A {chain}{about} -m tcp -p tcp -j DNAT --to-destination {endpoint}"),
        );
    }
}

/// The filter table: nothing in it depends on services that have endpoints.
fn filter() -> String {
    let chains: String = FILTER.iter().map(|chain| declared(chain)).collect();
    format!(
        "*filter\n{chains}\
         -A KUBE-FIREWALL -m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 \
         -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" \
         -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n"
    )
}

fn matches(service: &Service) -> String {
    let (name, address) = (port_name(service), service.address);
    format!(
        "-m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d {} --dport {}",
        address.ip(),
        address.port()
    )
}

fn declared(chain: &str) -> String {
    format!(":{chain} - [0:0]\n")
}

fn line(text: &mut String, rule: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = writeln!(text, "{rule}");
}

fn is_large(services: &[Service]) -> bool {
    services.iter().map(|s| s.endpoints.len()).sum::<usize>() > LARGE
}

fn port_name(service: &Service) -> String {
    format!(
        "{}/{}:{}",
        service.namespace, service.name, service.port_name
    )
}

fn service_chain(service: &Service) -> String {
    format!(
        "KUBE-SVC-{}",
        hash(&format!("{}tcp", port_name(service)), 16)
    )
}

fn endpoint_chain(service: &Service, endpoint: SocketAddrV4) -> String {
    format!(
        "KUBE-SEP-{}",
        hash(&format!("{}tcp{endpoint}", port_name(service)), 16)
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{frame, service};
    use super::*;

    fn nat(text: &str) -> Vec<&str> {
        let lines = text.lines().skip_while(|l| *l != "*nat").skip(1);
        lines.take_while(|l| *l != "COMMIT").collect()
    }

    /// Without what is there each time.
    fn own_lines(text: &str) -> Vec<&str> {
        let always = |l: &&str| {
            NAT.iter()
                .any(|c| l.starts_with(&format!(":{c} ")) || l.starts_with(&format!("-A {c} ")))
        };
        nat(text).into_iter().filter(|l| !always(l)).collect()
    }

    fn dispatched(text: &str) -> usize {
        nat(text)
            .iter()
            .filter(|l| l.starts_with("-A KUBE-SERVICES") && l.contains("cluster IP"))
            .count()
    }

    #[test]
    fn two_endpoints_as_upstream_writes_them() {
        let services = [service(1, &["10.180.0.1:80", "10.180.2.1:80"])];
        let text = full(&services, &frame());
        assert!(nat(&text).contains(
            &"-A KUBE-SERVICES -m comment --comment \"ns1/svc1:p80 cluster IP\" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O"
        ));
        assert_eq!(
            own_lines(&text),
            [
                ":KUBE-SVC-XPGD46QRK7WJZT7O - [0:0]",
                ":KUBE-SEP-SXIVWICOYRO3J4NJ - [0:0]",
                ":KUBE-SEP-ZX7GRIZKSNUQ3LAJ - [0:0]",
                "-A KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment \"ns1/svc1:p80 cluster IP\" -m tcp -p tcp -d 172.30.0.41 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ",
                "-A KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment \"ns1/svc1:p80 -> 10.180.0.1:80\" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-SXIVWICOYRO3J4NJ",
                "-A KUBE-SVC-XPGD46QRK7WJZT7O -m comment --comment \"ns1/svc1:p80 -> 10.180.2.1:80\" -j KUBE-SEP-ZX7GRIZKSNUQ3LAJ",
                "-A KUBE-SEP-SXIVWICOYRO3J4NJ -m comment --comment ns1/svc1:p80 -s 10.180.0.1 -j KUBE-MARK-MASQ",
                "-A KUBE-SEP-SXIVWICOYRO3J4NJ -m comment --comment ns1/svc1:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.0.1:80",
                "-A KUBE-SEP-ZX7GRIZKSNUQ3LAJ -m comment --comment ns1/svc1:p80 -s 10.180.2.1 -j KUBE-MARK-MASQ",
                "-A KUBE-SEP-ZX7GRIZKSNUQ3LAJ -m comment --comment ns1/svc1:p80 -m tcp -p tcp -j DNAT --to-destination 10.180.2.1:80",
            ]
        );
    }

    #[test]
    fn a_change_writes_the_long_chain_and_one_service() {
        let (one, two) = (service(1, &["10.0.1.1:80"]), service(2, &["10.0.2.1:80"]));
        let (before, after) = (service(3, &["10.0.3.1:80"]), service(3, &["10.0.3.2:80"]));
        let kept = vec![one, two];
        let with = |last: &Service| [kept.clone(), vec![last.clone()]].concat();
        let replaced = Change::Replaced {
            before: &before,
            after: &after,
        };
        // Name, all services, what changed, services in the long chain, lines of its own.
        let cases = [
            ("added", with(&before), Change::Added(&before), 3, 2 + 2 + 2),
            ("replaced", with(&after), replaced, 3, 2 + 2 + 2 + 2),
            ("removed", kept.clone(), Change::Removed(&before), 2, 4),
        ];
        for (name, services, changed, long, lines) in cases {
            let text = change(&services, &changed, &frame());
            assert_eq!(dispatched(&text), long, "{name}");
            assert_eq!(own_lines(&text).len(), lines, "{name}\n{text}");
            assert!(
                !text.contains("-A KUBE-SEP-SNQ3ZNILQDEJNDQO"),
                "{name}: another service's chain"
            );
        }
        let text = change(&with(&after), &replaced, &frame());
        for line in [
            ":KUBE-SEP-BSWRHOQ77KEXZLNL - [0:0]",
            "-X KUBE-SEP-BSWRHOQ77KEXZLNL",
            ":KUBE-SEP-DKCFIS26GWF2WLWC - [0:0]",
        ] {
            assert!(own_lines(&text).contains(&line), "{line}");
        }
    }

    #[test]
    fn large_clusters_have_no_comments_and_keep_stale_chains() {
        let before = service(1, &["10.0.1.1:80", "10.0.1.2:80"]);
        let after = service(1, &["10.0.1.1:80"]);
        let replaced = Change::Replaced {
            before: &before,
            after: &after,
        };
        for (copies, large) in [(1000, false), (1001, true)] {
            let services = vec![after.clone(); copies];
            let text = change(&services, &replaced, &frame());
            assert_eq!(text.contains("-X "), !large, "{copies}");
            assert_eq!(text.contains("->"), !large, "{copies}");
        }
    }

    #[test]
    fn jumps_are_in_both_tables() {
        let text = jumps();
        assert_eq!(text.matches("-I ").count(), JUMPS.len());
        assert_eq!(text.matches("COMMIT").count(), 2);
        assert!(text.contains(
            "-I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n"
        ));
        assert!(text.contains("-I INPUT -j KUBE-FIREWALL\n"));
    }
}
