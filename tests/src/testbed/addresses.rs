//! Which address a machine has on a network.

use std::net::IpAddr;

use ipnet::IpNet;

/// The network's address with this number, with the network's length; none where the network is too small.
pub(super) fn nth(cidr: &IpNet, number: u32) -> Option<IpNet> {
    let cidr = cidr.trunc();
    let address: IpAddr = match cidr.addr() {
        IpAddr::V4(first) => u32::from(first)
            .checked_add(number)
            .map(|n| IpAddr::V4(n.into())),
        IpAddr::V6(first) => {
            let n = u128::from(first).checked_add(number.into());
            n.map(|n| IpAddr::V6(n.into()))
        }
    }?;
    usable(&cidr, address).then(|| within(&cidr, address))
}

/// Whether a machine may have it: of the network, and neither its first nor an IPv4 network's last address.
pub(super) fn usable(cidr: &IpNet, address: IpAddr) -> bool {
    let last = address.is_ipv4() && address == cidr.broadcast();
    cidr.contains(&address) && address != cidr.network() && !last
}

/// The address with the network's length.
pub(super) fn within(cidr: &IpNet, address: IpAddr) -> IpNet {
    // A network's length is one of its family's.
    IpNet::new(address, cidr.prefix_len()).unwrap_or_else(|_| address.into())
}

/// Whether two ranges have an address in common.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_number() {
        let table = [
            ("10.88.1.0/24", 11, Some("10.88.1.11/24")),
            ("10.88.1.7/24", 11, Some("10.88.1.11/24")),
            ("10.88.1.0/29", 6, Some("10.88.1.6/29")),
            ("10.88.1.0/29", 7, None),
            ("10.88.1.0/29", 8, None),
            ("255.255.255.0/24", 256, None),
            ("fd88:0:0:1::/64", 11, Some("fd88:0:0:1::b/64")),
            ("fd88::/126", 3, Some("fd88::3/126")),
            ("fd88::/126", 4, None),
        ];
        for (cidr, number, wanted) in table {
            let address = nth(&cidr.parse().unwrap(), number).map(|a| a.to_string());
            assert_eq!(address.as_deref(), wanted, "{cidr} {number}");
        }
    }
}
