//! The options of type `bridge`, with the reference plugin's names and defaults, and what follows from them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::config::{decode, invalid, or_default};
use crate::host_local::step;
use crate::masquerade::Masquerade;
use crate::protocol::{Error, code, valid_ifname};
use crate::result::{Route, Success};

/// What a configuration says of the bridge and its ports.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bridge {
    /// The bridge's name.
    #[serde(default, deserialize_with = "or_default")]
    pub bridge: String,
    /// The bridge carries the gateways' addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub is_gateway: bool,
    /// It does, and the containers' default routes lead to it.
    #[serde(default, deserialize_with = "or_default")]
    pub is_default_gateway: bool,
    /// Another address on the bridge is replaced instead of refused.
    #[serde(default, deserialize_with = "or_default")]
    pub force_address: bool,
    /// Masquerade.
    #[serde(flatten)]
    pub masquerade: Masquerade,
    /// The links' MTU in bytes; 0: the kernel's default.
    #[serde(default, deserialize_with = "or_default")]
    pub mtu: u32,
    /// A container may reach itself through the bridge (a service whose only endpoint it is).
    #[serde(default, deserialize_with = "or_default")]
    pub hairpin_mode: bool,
    /// The bridge takes all packets, so that a container may reach itself in another way.
    #[serde(default, deserialize_with = "or_default")]
    pub promisc_mode: bool,
    /// The VLAN of the container's untagged packets; 0: none.
    #[serde(default, deserialize_with = "or_default")]
    pub vlan: u16,
    /// VLANs that the container's packets may be tagged with.
    #[serde(default, deserialize_with = "or_default")]
    vlan_trunk: Vec<Trunk>,
    /// A port with VLANs stays in the bridge's default one too.
    #[serde(default)]
    preserve_default_vlan: Option<bool>,
    /// Packets of a container with another hardware address than its own are dropped.
    #[serde(default, deserialize_with = "or_default")]
    pub macspoofchk: bool,
    /// IPv6 addresses are used after nobody else was found to have them, instead of at once.
    #[serde(default, deserialize_with = "or_default")]
    pub enabledad: bool,
    /// Containers do not reach each other through the bridge.
    #[serde(default, deserialize_with = "or_default")]
    pub port_isolation: bool,
    /// The container's link stays down; it then has no addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub disable_container_interface: bool,
}

/// VLANs: one, or all from one to another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trunk {
    #[serde(default, rename = "minID")]
    min: Option<u16>,
    #[serde(default, rename = "maxID")]
    max: Option<u16>,
    #[serde(default)]
    id: Option<u16>,
}

/// The reference's name for a bridge that has none.
const DEFAULT_BRIDGE: &str = "cni0";
/// VLANs that exist; 0 and 4095 have other meanings (IEEE 802.1Q).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

impl Bridge {
    /// Parses and checks the options. `addresses`: the container gets some.
    pub fn parse(bytes: &[u8], addresses: bool) -> Result<Self, Error> {
        let mut conf: Self = decode(bytes)?;
        if conf.bridge.is_empty() {
            conf.bridge = DEFAULT_BRIDGE.into();
        }
        conf.is_gateway |= conf.is_default_gateway;
        if !valid_ifname(&conf.bridge) {
            let why = format!("{:?} is no link name (1 to 15 characters)", conf.bridge);
            return Err(invalid("bridge", why));
        }
        check_mtu(conf.mtu)?;
        if conf.vlan != 0 && !VLANS.contains(&conf.vlan) {
            return Err(invalid("vlan", format!("{}: at most 4094", conf.vlan)));
        }
        let trunk = conf.trunk()?;
        conf.masquerade.backend()?;
        let exclusive = [
            (
                conf.hairpin_mode && conf.promisc_mode,
                "hairpinMode and promiscMode",
            ),
            (conf.vlan != 0 && !trunk.is_empty(), "vlan and vlanTrunk"),
            (
                conf.disable_container_interface && addresses,
                "disableContainerInterface and ipam",
            ),
        ];
        match exclusive.iter().find(|(both, _)| *both) {
            Some((_, fields)) => Err(invalid(fields, "only one of them can be set")),
            None => Ok(conf),
        }
    }

    /// All VLANs that packets may be tagged with.
    pub fn trunk(&self) -> Result<BTreeSet<u16>, Error> {
        let mut all = BTreeSet::new();
        for item in &self.vlan_trunk {
            match (item.min, item.max) {
                (Some(min), Some(max)) if min <= max => all.extend(min..=max),
                (None, None) => {}
                _ => {
                    let why = "minID and maxID go together, minID is not greater";
                    return Err(invalid("vlanTrunk", why));
                }
            }
            all.extend(item.id);
        }
        match all.iter().find(|id| !VLANS.contains(id)) {
            Some(id) => Err(invalid("vlanTrunk", format!("{id}: allowed are 1 to 4094"))),
            None => Ok(all),
        }
    }

    /// Whether the bridge looks at VLANs.
    pub fn filters_vlans(&self) -> bool {
        self.vlan != 0 || !self.vlan_trunk.is_empty()
    }

    /// Whether a port with VLANs stays in the default one. As with the reference, it does.
    pub fn keeps_default_vlan(&self) -> bool {
        !self.filters_vlans() || self.preserve_default_vlan.unwrap_or(true)
    }

    /// The link with the gateway of a VLAN's containers.
    pub fn vlan_link(&self) -> Result<String, Error> {
        let name = format!("{}.{}", self.bridge, self.vlan);
        let why = || format!("{name:?}, the VLAN's link, would have more than 15 characters");
        let fits = valid_ifname(&name);
        fits.then(|| name.clone())
            .ok_or_else(|| invalid("bridge", why()))
    }

    /// Completes what address management gave: gateways where there are none, default routes where they are wanted.
    pub fn complete(&self, success: &mut Success) {
        for ip in success
            .ips
            .iter_mut()
            .filter(|ip| ip.gateway.is_none() && self.is_gateway)
        {
            ip.gateway = Some(step(ip.address.network(), 1));
        }
        if self.is_default_gateway {
            for ip in &success.ips {
                let all = default_net(ip.address.addr());
                let has = success
                    .routes
                    .iter()
                    .any(|r| r.gw.is_some() && r.dst == all);
                if !has {
                    success.routes.push(Route::new(all, ip.gateway));
                }
            }
        }
        success.fill_gateways();
    }
}

/// An MTU that a link can have.
pub fn check_mtu(mtu: u32) -> Result<(), Error> {
    match mtu {
        0..=65_535 => Ok(()),
        _ => Err(invalid("mtu", format!("{mtu}: at most 65535"))),
    }
}

/// The destination of an address family's default route.
fn default_net(family: IpAddr) -> IpNet {
    match family {
        IpAddr::V4(_) => ipnet::Ipv4Net::default().into(),
        IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
    }
}

/// What to do about a gateway's address on a link that has others: which of those to remove, and whether to add it.
/// As with the reference, IPv4 has one address, IPv6 one of each network; another is refused unless it is forced away.
pub fn gateway_change(
    link: &str,
    have: &[IpNet],
    want: IpNet,
    force: bool,
) -> Result<(Vec<IpNet>, bool), Error> {
    if have.contains(&want) {
        return Ok((Vec::new(), false));
    }
    let meets = |a: &&IpNet| match (a, &want) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (IpNet::V6(a), IpNet::V6(w)) => a.contains(&w.addr()) || w.contains(&a.addr()),
        _ => false,
    };
    let others: Vec<IpNet> = have.iter().filter(meets).copied().collect();
    match others.first() {
        Some(other) if !force => {
            let why = format!(
                "it has {other}, which is not the gateway {want} (forceAddress replaces it)"
            );
            Err(Error::new(
                code::INVALID_CONFIG,
                format!("link {link} has another address"),
                why,
            ))
        }
        _ => Ok((others, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Ip;
    use serde_json::{Value, json};

    fn parse(v: &Value, addresses: bool) -> Result<Bridge, Error> {
        Bridge::parse(v.to_string().as_bytes(), addresses)
    }

    #[test]
    fn defaults_are_the_references() {
        let conf = parse(&json!({"mtu": null}), true).expect("valid");
        assert_eq!(conf.bridge, "cni0");
        assert!(!conf.is_gateway && !conf.hairpin_mode && !conf.masquerade.ip_masq);
        assert!(conf.keeps_default_vlan() && !conf.filters_vlans());
        assert_eq!(conf.masquerade.backend(), Ok(None));
        let default = parse(&json!({"isDefaultGateway": true}), true).expect("valid");
        assert!(default.is_gateway);
        let vlan = parse(&json!({"vlan": 7, "preserveDefaultVlan": false}), true).expect("valid");
        assert!(vlan.filters_vlans() && !vlan.keeps_default_vlan());
        assert_eq!(vlan.vlan_link().as_deref(), Ok("cni0.7"));
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let rows = [
            (json!({"bridge": "a/b"}), code::INVALID_CONFIG),
            (json!({"mtu": 70_000}), code::INVALID_CONFIG),
            (json!({"mtu": 1u64 << 40}), code::DECODE_FAILURE),
            (json!({"vlan": 4095}), code::INVALID_CONFIG),
            (json!({"vlan": -1}), code::DECODE_FAILURE),
            (json!({"vlanTrunk": [{"id": 0}]}), code::INVALID_CONFIG),
            (json!({"vlanTrunk": [{"minID": 1}]}), code::INVALID_CONFIG),
            (
                json!({"vlanTrunk": [{"minID": 9, "maxID": 8}]}),
                code::INVALID_CONFIG,
            ),
            (
                json!({"vlanTrunk": [{"minID": 9, "maxID": 4095}]}),
                code::INVALID_CONFIG,
            ),
            (
                json!({"vlan": 7, "vlanTrunk": [{"id": 8}]}),
                code::INVALID_CONFIG,
            ),
            (
                json!({"hairpinMode": true, "promiscMode": true}),
                code::INVALID_CONFIG,
            ),
            (
                json!({"disableContainerInterface": true}),
                code::INVALID_CONFIG,
            ),
            (json!({"ipMasqBackend": "ebtables"}), code::INVALID_CONFIG),
            (json!({"isGateway": "yes"}), code::DECODE_FAILURE),
        ];
        for (v, code) in rows {
            assert_eq!(parse(&v, true).expect_err("refused").code, code, "{v}");
        }
        assert!(parse(&json!({"disableContainerInterface": true}), false).is_ok());
    }

    #[test]
    fn trunks_are_sets() {
        let conf = json!({"vlanTrunk": [{"id": 5}, {"minID": 2, "maxID": 4}, {"id": 3}]});
        let trunk = parse(&conf, true).and_then(|c| c.trunk());
        assert_eq!(trunk, Ok(BTreeSet::from([2, 3, 4, 5])));
    }

    #[test]
    fn gateways_and_default_routes_are_completed() {
        let ip = |address: &str, gateway: Option<&str>| Ip {
            interface: None,
            address: address.parse().expect("cidr"),
            gateway: gateway.and_then(|g| g.parse().ok()),
        };
        let given = Success {
            ips: vec![ip("10.0.0.9/24", None), ip("fd00::9/64", Some("fd00::5"))],
            routes: vec![Route::new(
                "::/0".parse().expect("cidr"),
                "fd00::7".parse().ok(),
            )],
            ..Success::default()
        };
        let told = |conf: Value| {
            let mut success = given.clone();
            parse(&conf, true).expect("valid").complete(&mut success);
            let gateways = success
                .ips
                .iter()
                .map(|i| i.gateway.map(|g| g.to_string()).unwrap_or_default());
            let routes = success.routes.iter().map(|r| {
                format!(
                    "{} {}",
                    r.dst,
                    r.gw.map(|g| g.to_string()).unwrap_or_default()
                )
            });
            gateways.chain(routes).collect::<Vec<_>>().join(", ")
        };
        let rows = [
            (json!({}), ", fd00::5, ::/0 fd00::7"),
            (
                json!({"isGateway": true}),
                "10.0.0.1, fd00::5, ::/0 fd00::7",
            ),
            (
                json!({"isDefaultGateway": true}),
                "10.0.0.1, fd00::5, ::/0 fd00::7, 0.0.0.0/0 10.0.0.1",
            ),
        ];
        for (conf, want) in rows {
            assert_eq!(told(conf.clone()), want, "{conf}");
        }
    }

    #[test]
    fn other_addresses_are_refused_or_replaced() {
        // Those there, the one wanted, whether forced; those removed and whether it is added.
        type Row<'a> = (&'a [&'a str], &'a str, bool, Option<(&'a [&'a str], bool)>);
        let rows: &[Row<'_>] = &[
            (&[], "10.0.0.1/24", false, Some((&[], true))),
            (&["10.0.0.1/24"], "10.0.0.1/24", false, Some((&[], false))),
            (&["10.0.0.1/16"], "10.0.0.1/24", false, None),
            (&["10.1.0.1/24"], "10.0.0.1/24", false, None),
            (
                &["10.1.0.1/24", "fd00::1/64"],
                "10.0.0.1/24",
                true,
                Some((&["10.1.0.1/24"], true)),
            ),
            (
                &["fd01::1/64", "10.0.0.1/24"],
                "fd00::1/64",
                false,
                Some((&[], true)),
            ),
            (&["fd00::2/64"], "fd00::1/64", false, None),
            (
                &["fd00::2/48"],
                "fd00::1/64",
                true,
                Some((&["fd00::2/48"], true)),
            ),
        ];
        let net = |t: &&str| t.parse::<IpNet>().expect("cidr");
        for (have, want, force, result) in rows {
            let have: Vec<IpNet> = have.iter().map(net).collect();
            let got = gateway_change("br0", &have, net(want), *force);
            let expected = result.map(|(r, add)| (r.iter().map(net).collect::<Vec<_>>(), add));
            assert_eq!(got.ok(), expected, "{have:?} {want} {force}");
        }
    }
}
