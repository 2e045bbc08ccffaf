//! Masquerade in the words of iptables, as text in the form of its `-save` and `-restore`.

use std::fmt::Write;

use ipnet::IpNet;

use crate::names;

/// An address family's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family's program: `iptables` and what comes after it.
    pub fn program(self, suffix: &str) -> String {
        match self {
            Self::V4 => format!("iptables{suffix}"),
            Self::V6 => format!("ip6tables{suffix}"),
        }
    }

    /// Whether an address is of the family.
    pub fn has(self, address: &IpNet) -> bool {
        address.addr().is_ipv4() == (self == Self::V4)
    }
}

/// Rules that lead an attachment's packets to its chain, as they were saved: chain, tag, and the rule.
fn leading(saved: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    saved.lines().filter_map(|line| {
        let rule = line.strip_prefix("-A POSTROUTING ")?;
        let chain = rule.rsplit_once("-j ")?.1.trim();
        let tag = rule.split('"').nth(1)?;
        (chain.starts_with(names::LINK) && tag.starts_with(chain)).then_some((chain, tag, rule))
    })
}

/// What sets the rules of an attachment, and takes away what an earlier call left.
pub fn add(saved: &str, network: &str, link: &str, addresses: &[IpNet]) -> String {
    let mut text = String::from("*nat\n");
    // A chain that is declared is emptied.
    let _ = writeln!(text, ":{link} - [0:0]");
    for (_, _, rule) in leading(saved).filter(|(chain, ..)| *chain == link) {
        let _ = writeln!(text, "-D POSTROUTING {rule}");
    }
    let tag = names::tag(network, link);
    for address in addresses {
        let groups = match address {
            IpNet::V4(_) => "224.0.0.0/4",
            IpNet::V6(_) => "ff00::/8",
        };
        let (ip, net) = (address.addr(), address.trunc());
        let _ = writeln!(text, "-A {link} -s {ip} -d {net} -j ACCEPT");
        let _ = writeln!(text, "-A {link} -s {ip} ! -d {groups} -j MASQUERADE");
        let _ = writeln!(
            text,
            "-A POSTROUTING -s {ip} -m comment --comment \"{tag}\" -j {link}"
        );
    }
    text + "COMMIT\n"
}

/// What takes away the rules of the attachments that are chosen by chain and tag; none if there are none. A chain that
/// nothing leads to any more has no tag.
pub fn remove(saved: &str, gone: impl Fn(&str, Option<&str>) -> bool) -> Option<String> {
    let mut rules = String::new();
    let leading: Vec<_> = leading(saved).collect();
    for (_, _, rule) in leading.iter().filter(|(c, tag, _)| gone(c, Some(tag))) {
        let _ = writeln!(rules, "-D POSTROUTING {rule}");
    }
    let declared = saved
        .lines()
        .filter_map(|l| l.strip_prefix(':')?.split(' ').next());
    for chain in declared.filter(|c| c.starts_with(names::LINK)) {
        let tag = leading.iter().find(|(c, ..)| *c == chain).map(|l| l.1);
        if gone(chain, tag) {
            let _ = write!(rules, "-F {chain}\n-X {chain}\n");
        }
    }
    (!rules.is_empty()).then(|| format!("*nat\n{rules}COMMIT\n"))
}

/// Whether an address is led to the attachment's chain.
pub fn has(saved: &str, link: &str, address: &IpNet) -> bool {
    let source = format!("-s {}/", address.addr());
    leading(saved).any(|(chain, _, rule)| chain == link && rule.contains(&source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "ksn0123456789ab";
    const OTHER: &str = "ksnba9876543210";
    const ALONE: &str = "ksn000000000000";

    fn saved() -> String {
        format!(
            "*nat\n:POSTROUTING ACCEPT [0:0]\n:{LINK} - [0:0]\n:{OTHER} - [0:0]\n:{ALONE} - [0:0]\n\
            -A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE\n\
            -A POSTROUTING -s 10.0.0.2/32 -m comment --comment \"{LINK} pods\" -j {LINK}\n\
            -A POSTROUTING -s 10.0.0.3/32 -m comment --comment \"{OTHER} others\" -j {OTHER}\n\
            -A POSTROUTING -s 10.0.0.4/32 -m comment --comment \"mine\" -j {OTHER}\n\
            -A {LINK} -d 10.0.0.0/24 -j ACCEPT\nCOMMIT\n"
        )
    }

    #[test]
    fn an_attachment_has_its_rules_once() {
        let address: IpNet = "10.0.0.9/24".parse().expect("cidr");
        let text = add(&saved(), "pods", LINK, &[address]);
        let want = format!(
            "*nat\n:{LINK} - [0:0]\n\
            -D POSTROUTING -s 10.0.0.2/32 -m comment --comment \"{LINK} pods\" -j {LINK}\n\
            -A {LINK} -s 10.0.0.9 -d 10.0.0.0/24 -j ACCEPT\n\
            -A {LINK} -s 10.0.0.9 ! -d 224.0.0.0/4 -j MASQUERADE\n\
            -A POSTROUTING -s 10.0.0.9 -m comment --comment \"{LINK} pods\" -j {LINK}\nCOMMIT\n"
        );
        assert_eq!(text, want);
    }

    #[test]
    fn only_what_is_chosen_and_ours_goes() {
        let of_others = |_: &str, tag: Option<&str>| tag.is_some_and(|t| t.ends_with("others"));
        let want = format!(
            "*nat\n-D POSTROUTING -s 10.0.0.3/32 -m comment --comment \"{OTHER} others\" -j {OTHER}\n\
            -F {OTHER}\n-X {OTHER}\nCOMMIT\n"
        );
        assert_eq!(remove(&saved(), of_others), Some(want));
        let alone = format!("*nat\n-F {ALONE}\n-X {ALONE}\nCOMMIT\n");
        assert_eq!(remove(&saved(), |_, tag| tag.is_none()), Some(alone));
        assert_eq!(remove(&saved(), |_, tag| tag == Some("mine")), None);
    }

    #[test]
    fn addresses_are_found() {
        let of = |a: &str| has(&saved(), LINK, &a.parse().expect("cidr"));
        assert!(of("10.0.0.2/24"));
        assert!(!of("10.0.0.3/24") && !of("10.0.0.20/24"));
    }
}
