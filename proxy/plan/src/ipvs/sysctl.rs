//! Kernel parameters that IPVS needs, as a table.

/// A kernel's version: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl Kernel {
    /// From `uname -r`: `6.1.0-56-cloud-amd64`.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some(Self(next()?, next()?))
    }
}

/// A parameter and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Dotted name.
    pub name: &'static str,
    /// Value.
    pub value: u32,
}

struct Rule {
    sysctl: Sysctl,
    /// On which kernels: from the first, before the second.
    from: Kernel,
    before: Kernel,
    /// Only where the user wants ARP to be strict.
    strict_arp: bool,
}

const ALWAYS: Kernel = Kernel(0, 0);
const FOREVER: Kernel = Kernel(u32::MAX, 0);

const fn rule(name: &'static str, value: u32) -> Rule {
    Rule {
        sysctl: Sysctl { name, value },
        from: ALWAYS,
        before: FOREVER,
        strict_arp: false,
    }
}

/// Kube-proxy sets the same, each for the reason given (`pkg/proxy/ipvs/proxier.go`, the kernel's `ipvs-sysctl.rst`).
const RULES: &[Rule] = &[
    // Conntrack knows the connections, without which nothing can be masqueraded.
    rule("net.ipv4.vs.conntrack", 1),
    // A UDP destination goes at once: its flows must find another with the next packet, not wait for nobody.
    rule("net.ipv4.vs.expire_nodest_conn", 1),
    // A client with affinity to a destination that takes no more connections goes to another.
    rule("net.ipv4.vs.expire_quiescent_template", 1),
    // Packets go on to pods.
    rule("net.ipv4.ip_forward", 1),
    // With 1 and conntrack, kernels before 5.9 drop the first SYN of a client's port used again: a second's delay
    // (kubernetes/kubernetes#81775, torvalds/linux 35dfb013149f). Before 4.1 there is no such parameter.
    Rule {
        from: Kernel(4, 1),
        before: Kernel(5, 9),
        ..rule("net.ipv4.vs.conn_reuse_mode", 0)
    },
    // Answer ARP on the link that has the address only, and ask with that link's: else a node tells everybody that it
    // has the load balancers' addresses, which stand on a link of ours (kube-proxy's `ipvs.strictARP`).
    Rule {
        strict_arp: true,
        ..rule("net.ipv4.conf.all.arp_ignore", 1)
    },
    Rule {
        strict_arp: true,
        ..rule("net.ipv4.conf.all.arp_announce", 2)
    },
];

/// What a kernel needs.
pub fn sysctls(kernel: Kernel, strict_arp: bool) -> impl Iterator<Item = Sysctl> {
    let fits =
        move |r: &&Rule| r.from <= kernel && kernel < r.before && (strict_arp || !r.strict_arp);
    RULES.iter().filter(fits).map(|r| r.sysctl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_and_choices_differ() {
        let cases = [
            (
                "3.10.0-1160.el7",
                false,
                "net.ipv4.vs.conn_reuse_mode",
                None,
            ),
            (
                "4.19.0-27-amd64",
                false,
                "net.ipv4.vs.conn_reuse_mode",
                Some(0),
            ),
            ("5.10.0", false, "net.ipv4.vs.conn_reuse_mode", None),
            (
                "6.1.0-56-cloud-amd64",
                false,
                "net.ipv4.vs.conntrack",
                Some(1),
            ),
            ("6.1.0", false, "net.ipv4.conf.all.arp_announce", None),
            ("6.1.0", true, "net.ipv4.conf.all.arp_announce", Some(2)),
        ];
        for (release, strict, name, want) in cases {
            let kernel = Kernel::parse(release).expect("version");
            let found = sysctls(kernel, strict)
                .find(|s| s.name == name)
                .map(|s| s.value);
            assert_eq!(found, want, "{name} on {release}");
        }
        assert_eq!(Kernel::parse("no version"), None);
    }
}
