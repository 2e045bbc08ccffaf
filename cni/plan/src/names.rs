//! Names that follow from what they stand for, so that every step can be repeated and DEL needs no memory.

use ipnet::IpNet;

use crate::config::Attachment;

/// What the names of all links on the host's side begin with.
pub const LINK: &str = "ksn";

/// The tables of masquerade and of hardware addresses in nftables, one in each family.
pub const TABLE: &str = "keelson-cni";

/// The host end of a container's link: `ksn` and 48 bits of a hash of container and interface.
pub fn host_link(container: &str, ifname: &str) -> String {
    format!("{LINK}{}", short_hash(&[container, ifname]))
}

/// A MAC address for the bridge, locally administered and fixed: a bridge without one takes its lowest port's,
/// and changes it whenever ports come and go, which breaks every neighbour entry.
pub fn bridge_mac(bridge: &str, gateway: &str) -> [u8; 6] {
    let h = hash(&[bridge, gateway]).to_be_bytes();
    [0x0a, 0x58, h[4], h[5], h[6], h[7]]
}

/// What a link's alias says (`ip link` shows it): the network, the container and its interface. A link takes 255 bytes.
pub fn alias(network: &str, container: &str, ifname: &str) -> String {
    let mut alias = format!("keelson {network} {container} {ifname}");
    alias.truncate(255);
    alias
}

/// Whether a link is one of a network's and no valid attachment has it.
pub fn is_stale_link(link: &str, alias_now: &str, network: &str, valid: &[Attachment]) -> bool {
    link.starts_with(LINK)
        && alias_now.starts_with("keelson ")
        && alias_now.split(' ').nth(1) == alias(network, "", "").split(' ').nth(1)
        && !is_valid(link, valid)
}

fn is_valid(link: &str, valid: &[Attachment]) -> bool {
    let mut links = valid.iter().map(|a| host_link(&a.container, &a.ifname));
    links.any(|l| l == link)
}

/// The most that a tag has; programs that list rules cut longer comments.
const TAG: usize = 120;

/// What rules of an attachment are marked with: its link on the host, and the network.
pub fn tag(network: &str, link: &str) -> String {
    let mut tag = format!("{link} {network}");
    tag.truncate(TAG);
    tag
}

/// Whether a tag is one of a network's and no valid attachment has it.
pub fn is_stale_tag(text: &str, network: &str, valid: &[Attachment]) -> bool {
    let link = text.split(' ').next().unwrap_or_default();
    text == tag(network, link) && !is_valid(link, valid)
}

/// The chain that decides for all addresses of a network.
pub fn network_chain(network: &IpNet) -> String {
    format!("net-{network}").replace(['/', ':', '.'], "-")
}

/// The port of a bridge's link into a VLAN.
pub fn vlan_port(bridge: &str, vlan: u16) -> String {
    host_link(bridge, &format!("vlan {vlan}"))
}

/// Twelve digits for names of any length.
pub(crate) fn short_hash(parts: &[&str]) -> String {
    format!("{:012x}", hash(parts) & 0xffff_ffff_ffff)
}

/// FNV-1a, 64 bits: stable over versions of the compiler, unlike the standard library's hasher.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|p| p.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_is_what_no_valid_attachment_has() {
        let valid = [Attachment {
            container: "a".into(),
            ifname: "eth0".into(),
        }];
        let (a, b) = (host_link("a", "eth0"), host_link("b", "eth0"));
        let long = "n".repeat(250);
        for network in ["pods", long.as_str()] {
            let stale = |link: &str, container: &str| {
                let by_tag = is_stale_tag(&tag(network, link), network, &valid);
                let alias = alias(network, container, "eth0");
                assert!(alias.len() <= 255);
                assert_eq!(is_stale_link(link, &alias, network, &valid), by_tag);
                by_tag
            };
            assert!(!stale(&a, "a") && stale(&b, "b"));
        }
        assert!(!is_stale_tag(&tag("pods2", &b), "pods", &valid));
        assert!(!is_stale_link(
            &b,
            &alias("pods2", "b", "eth0"),
            "pods",
            &valid
        ));
        assert!(!is_stale_link(
            "veth0",
            &alias("pods", "b", "eth0"),
            "pods",
            &valid
        ));
        assert!(!is_stale_link(&b, "", "pods", &valid));
    }

    #[test]
    fn host_links_fit_and_differ() {
        let names = [
            host_link("a", "eth0"),
            host_link("a", "eth1"),
            host_link("b", "eth0"),
            host_link("ae", "th0"),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|n| crate::protocol::valid_ifname(n)));
        // Fixed for ever: a newer plugin must find the links of an older one.
        assert_eq!(host_link("a", "eth0"), host_link("a", "eth0"));
    }
}
