//! The options of type `ptp`, and the routes that make a link of two ends out of a network's address.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::bridge::check_mtu;
use crate::config::{decode, or_default};
use crate::host_local::step;
use crate::masquerade::Masquerade;
use crate::protocol::Error;
use crate::result::{Ip, Route};

/// What a configuration says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ptp {
    /// Masquerade.
    #[serde(flatten)]
    pub masquerade: Masquerade,
    /// The links' MTU in bytes; 0: the kernel's default.
    #[serde(default, deserialize_with = "or_default")]
    pub mtu: u32,
}

impl Ptp {
    /// Parses and checks the options.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let conf: Self = decode(bytes)?;
        conf.masquerade.backend()?;
        check_mtu(conf.mtu)?;
        Ok(conf)
    }
}

/// The gateway of an address: what address management says, else the first of its network.
pub fn gateway(ip: &Ip) -> IpAddr {
    ip.gateway.unwrap_or_else(|| step(ip.address.network(), 1))
}

/// The container's way to its network: all of it through the gateway, and that on the link.
pub fn container_routes(ip: &Ip) -> [Route; 2] {
    let gateway = gateway(ip);
    [
        Route::new(IpNet::from(gateway), None),
        Route::new(ip.address.trunc(), Some(gateway)),
    ]
}

/// The host's way to the container.
pub fn host_route(ip: &Ip) -> Route {
    Route::new(IpNet::from(ip.address.addr()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_goes_through_the_gateway() {
        let rows = [
            (
                "10.0.0.9/24",
                None,
                "10.0.0.1/32 -, 10.0.0.0/24 10.0.0.1",
                "10.0.0.9/32",
            ),
            (
                "fd00::9/64",
                Some("fd00::5"),
                "fd00::5/128 -, fd00::/64 fd00::5",
                "fd00::9/128",
            ),
        ];
        for (address, gateway, container, host) in rows {
            let ip = Ip {
                interface: None,
                address: address.parse().expect("cidr"),
                gateway: gateway.and_then(|g| g.parse().ok()),
            };
            let hop = |r: &Route| r.gw.map_or("-".to_owned(), |g| g.to_string());
            let told = container_routes(&ip).map(|r| format!("{} {}", r.dst, hop(&r)));
            assert_eq!(told.join(", "), container);
            assert_eq!(host_route(&ip).dst.to_string(), host);
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        assert!(Ptp::parse(b"{}").is_ok());
        assert!(Ptp::parse(br#"{"mtu": 70000}"#).is_err());
        assert!(Ptp::parse(br#"{"ipMasqBackend": "x"}"#).is_err());
    }
}
