//! The ranges addresses and ports come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use rand::Rng;

/// Addresses of a range that are used at most: enough for any cluster, and few enough to look through.
const MOST: u128 = 1 << 20;

/// Service addresses and node ports.
#[derive(Clone, Debug)]
pub(crate) struct Pools {
    /// One range a family, the first is the default.
    pub(crate) cidrs: Vec<IpNet>,
    /// Node ports.
    pub(crate) ports: RangeInclusive<u16>,
}

impl Pools {
    /// The range of a family.
    pub(crate) fn family(&self, v6: bool) -> Option<IpNet> {
        self.cidrs
            .iter()
            .copied()
            .find(|net| matches!(net, IpNet::V6(_)) == v6)
    }

    /// The address of the Service `kubernetes`: the first of the default range.
    pub(crate) fn first_address(&self) -> Option<IpAddr> {
        self.cidrs.first().map(|net| first(*net))
    }
}

/// How many addresses of a range can be given away: all but the first (the network's) and, in IPv4, the last.
pub(crate) fn usable(net: IpNet) -> u128 {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let all = 1u128.checked_shl(bits).unwrap_or(u128::MAX);
    let reserved = if matches!(net, IpNet::V4(_)) { 2 } else { 1 };
    all.saturating_sub(reserved).min(MOST)
}

/// An address of a range by number; 0 is the first usable.
pub(crate) fn nth(net: IpNet, n: u128) -> IpAddr {
    match net {
        IpNet::V4(v4) => {
            let offset = u32::try_from(n).unwrap_or(u32::MAX).saturating_add(1);
            IpAddr::V4(Ipv4Addr::from_bits(
                v4.network().to_bits().saturating_add(offset),
            ))
        }
        IpNet::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(
            v6.network().to_bits().saturating_add(n).saturating_add(1),
        )),
    }
}

/// The first usable address of a range.
pub(crate) fn first(net: IpNet) -> IpAddr {
    nth(net, 0)
}

/// Whether an address can be given away.
pub(crate) fn contains(net: IpNet, ip: IpAddr) -> bool {
    net.contains(&ip)
        && ip != net.network()
        && (matches!(net, IpNet::V6(_)) || ip != net.broadcast())
}

/// How many addresses at the range's beginning are left to Services that ask for one (KEP-3070).
pub(crate) fn static_band(net: IpNet) -> u128 {
    let size = usable(net);
    if size <= 16 {
        0
    } else {
        (size / 16).clamp(16, 256).min(size - 1)
    }
}

/// A random address above the static band.
pub(crate) fn random_ip(net: IpNet, random: &mut impl Rng) -> Option<IpAddr> {
    let (low, high) = (static_band(net), usable(net));
    (low < high).then(|| nth(net, random.random_range(low..high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let net = |s: &str| s.parse::<IpNet>().expect("cidr");
        let table = [
            ("10.43.0.0/16", 65534, "10.43.0.1", 256),
            ("10.0.0.0/28", 14, "10.0.0.1", 0),
            ("fd00::/112", 65535, "fd00::1", 256),
            ("fd00::/64", 1 << 20, "fd00::1", 256),
        ];
        for (cidr, size, first, band) in table {
            let n = net(cidr);
            assert_eq!(usable(n), size, "{cidr}");
            assert_eq!(nth(n, 0).to_string(), first, "{cidr}");
            assert_eq!(static_band(n), band, "{cidr}");
            assert!(contains(n, nth(n, size - 1)), "{cidr}");
        }
        let n = net("10.0.0.0/28");
        assert!(
            !contains(n, "10.0.0.0".parse().expect("ip"))
                && !contains(n, "10.0.0.15".parse().expect("ip"))
        );
        assert!(!contains(n, "10.0.1.1".parse().expect("ip")));
    }
}
