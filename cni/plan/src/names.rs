//! Names that follow from what they stand for, so that every step can be repeated and DEL needs no memory.

/// The host end of a container's link: `ksn` and 48 bits of a hash of container and interface.
pub fn host_link(container: &str, ifname: &str) -> String {
    format!("ksn{:012x}", hash(&[container, ifname]) & 0xffff_ffff_ffff)
}

/// A MAC address for the bridge, locally administered and fixed: a bridge without one takes its lowest port's,
/// and changes it whenever ports come and go, which breaks every neighbour entry.
pub fn bridge_mac(bridge: &str, gateway: &str) -> [u8; 6] {
    let h = hash(&[bridge, gateway]).to_be_bytes();
    [0x0a, 0x58, h[4], h[5], h[6], h[7]]
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
