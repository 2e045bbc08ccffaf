//! Results, read from and written in the form of every version (specification, "ADD Success", and its older editions).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::or_default;
use crate::protocol::{Error, VERSIONS, code};

/// What an ADD made, or was told by the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Success {
    /// Links, the host's and the container's.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<Ip>,
    /// Routes in the container.
    pub routes: Vec<Route>,
    /// The container's DNS settings.
    pub dns: Dns,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// MAC address, lower case with colons.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU in bytes; 0: not told. Since 1.1.0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: u32,
    /// Path of the namespace; `None`: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Path of a socket that stands for the link. Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// PCI address of a device. Since 1.1.0.
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// Index of its link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address and its network.
    pub address: IpNet,
    /// The network's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route. All but destination and next hop exist since 1.1.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; by default the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// TCP's maximal segment to advertise, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Lower goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table; by default the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// How far the destination is, as the kernel numbers it (0: anywhere, 253: on this link, 254: this host).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

/// DNS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers' addresses, the preferred first.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub nameservers: Vec<String>,
    /// The container's own domain.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub domain: String,
    /// Domains in which short names are looked up.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub options: Vec<String>,
}

/// The form since 0.3.0. What a version does not have is left out when it is written.
#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "or_default")]
    interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "or_default")]
    ips: Vec<Ip>,
    #[serde(default, deserialize_with = "or_default")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "or_default")]
    dns: Dns,
}

/// The form before 0.3.0: one address of each family.
#[derive(Deserialize)]
struct ByFamily {
    ip4: Option<Family>,
    ip6: Option<Family>,
    #[serde(default, deserialize_with = "or_default")]
    dns: Dns,
}

#[derive(Deserialize)]
struct Family {
    ip: IpNet,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    routes: Vec<Route>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Versions whose results have one address of each family.
fn by_family(version: &str) -> bool {
    ["0.1.0", "0.2.0"].contains(&version)
}

impl Route {
    /// A route and nothing special about it.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    /// Without what exists since 1.1.0.
    fn bare(&self) -> Self {
        Self::new(self.dst, self.gw)
    }
}

impl Success {
    /// Reads a result in the version that it names, else in `version`.
    pub fn parse(result: &Value, version: &str) -> Result<Self, Error> {
        let unreadable =
            |e: &dyn std::fmt::Display| Error::new(code::DECODE_FAILURE, "result can't be read", e);
        let named = result.get("cniVersion").and_then(Value::as_str);
        let version = named.filter(|v| !v.is_empty()).unwrap_or(version);
        if !VERSIONS.contains(&version) {
            return Err(unreadable(&format!("it is in version {version:?}")));
        }
        if !by_family(version) {
            let list = List::deserialize(result).map_err(|e| unreadable(&e))?;
            return Ok(Self {
                interfaces: list.interfaces,
                ips: list.ips,
                routes: list.routes,
                dns: list.dns,
            });
        }
        let old = ByFamily::deserialize(result).map_err(|e| unreadable(&e))?;
        let mut success = Self {
            dns: old.dns,
            ..Self::default()
        };
        for family in [old.ip4, old.ip6].into_iter().flatten() {
            success.ips.push(Ip {
                interface: None,
                address: family.ip,
                gateway: family.gateway,
            });
            success.routes.extend(family.routes);
        }
        Ok(success)
    }

    /// The result in a version's form.
    pub fn render(&self, version: &str) -> Value {
        if by_family(version) {
            self.render_by_family(version)
        } else {
            self.render_list(version)
        }
    }

    fn render_list(&self, version: &str) -> Value {
        let newest = version == "1.1.0";
        let interfaces = self.interfaces.iter().map(|i| match newest {
            true => i.clone(),
            false => Interface {
                mtu: 0,
                socket_path: None,
                pci_id: None,
                ..i.clone()
            },
        });
        let ips = self.ips.iter().map(|ip| {
            let mut v = json!(ip);
            if version.starts_with("0.") {
                v["version"] = json!(if ip.address.addr().is_ipv4() {
                    "4"
                } else {
                    "6"
                });
            }
            v
        });
        let routes = self
            .routes
            .iter()
            .map(|r| if newest { r.clone() } else { r.bare() });
        let mut all = Map::new();
        all.insert("cniVersion".into(), json!(version));
        let interfaces: Vec<Interface> = interfaces.collect();
        if !interfaces.is_empty() {
            all.insert("interfaces".into(), json!(interfaces));
        }
        all.insert("ips".into(), ips.collect());
        all.insert("routes".into(), json!(routes.collect::<Vec<_>>()));
        all.insert("dns".into(), json!(self.dns));
        Value::Object(all)
    }

    fn render_by_family(&self, version: &str) -> Value {
        let mut v = json!({"cniVersion": version, "dns": self.dns});
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let of_family = |net: &IpNet| net.addr().is_ipv4() == v4;
            if let Some(ip) = self.ips.iter().find(|ip| of_family(&ip.address)) {
                let routes = self.routes.iter().filter(|r| of_family(&r.dst));
                let routes: Vec<Route> = routes.map(Route::bare).collect();
                v[key] = json!({"ip": ip.address, "routes": routes});
                if let Some(gateway) = ip.gateway {
                    v[key]["gateway"] = json!(gateway);
                }
            }
        }
        v
    }

    /// The addresses that are on the link `ifname` in `sandbox`, as far as links are told.
    pub fn addresses_of(&self, ifname: &str) -> Vec<IpNet> {
        let on = |ip: &&Ip| match ip.interface {
            None => true,
            Some(i) => {
                let link = self.interfaces.get(i);
                link.is_some_and(|l| l.name == ifname && l.sandbox.is_some())
            }
        };
        self.ips.iter().filter(on).map(|ip| ip.address).collect()
    }

    /// Gives routes without a next hop the gateway of their family. One whose family has no gateway here stays
    /// without: it leads onto the link.
    pub fn fill_gateways(&mut self) {
        for route in self.routes.iter_mut().filter(|r| r.gw.is_none()) {
            let same = |ip: &&Ip| ip.address.addr().is_ipv4() == route.dst.addr().is_ipv4();
            route.gw = self.ips.iter().find(same).and_then(|ip| ip.gateway);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Success {
        let link = |name: &str, sandbox: Option<&str>| Interface {
            name: name.into(),
            mac: "0a:00:00:00:00:01".into(),
            mtu: 1500,
            sandbox: sandbox.map(Into::into),
            socket_path: Some("/s".into()),
            pci_id: Some("0000:00:1f.6".into()),
        };
        let ip = |address: &str, gateway: &str| Ip {
            interface: Some(1),
            address: address.parse().expect("cidr"),
            gateway: gateway.parse().ok(),
        };
        let dst = |t: &str| t.parse().expect("cidr");
        Success {
            interfaces: vec![link("br0", None), link("eth0", Some("/n"))],
            ips: vec![ip("10.0.0.2/24", "10.0.0.1"), ip("fd00::2/64", "fd00::1")],
            routes: vec![
                Route::new(dst("0.0.0.0/0"), "10.0.0.1".parse().ok()),
                Route {
                    mtu: Some(1400),
                    advmss: Some(1360),
                    priority: Some(7),
                    table: Some(100),
                    scope: Some(0),
                    ..Route::new(dst("fd01::/64"), None)
                },
            ],
            dns: Dns {
                nameservers: vec!["10.0.0.53".into()],
                ..Dns::default()
            },
        }
    }

    #[test]
    fn every_version_tells_the_same_and_is_read_back() {
        let full = full();
        for version in VERSIONS {
            let v = full.render(version);
            assert_eq!(v["cniVersion"], *version);
            let back = Success::parse(&v, "7.7.7").expect(version);
            let bare = |s: &Success| {
                let ips: Vec<_> = s.ips.iter().map(|i| (i.address, i.gateway)).collect();
                let routes: Vec<_> = s.routes.iter().map(Route::bare).collect();
                (ips, routes, s.dns.clone())
            };
            assert_eq!(bare(&back), bare(&full), "{version}");
            assert_eq!(back == full, *version == "1.1.0", "{version}");
        }
    }

    #[test]
    fn each_version_has_its_own_fields() {
        let (full, at) = (full(), |v: &Value, path: &str| v.pointer(path).cloned());
        // Path, and the versions in which something is there.
        let rows: &[(&str, &[&str])] = &[
            ("/ip4/routes/0/dst", &["0.1.0", "0.2.0"]),
            ("/ip6/gateway", &["0.1.0", "0.2.0"]),
            ("/ips/1/version", &["0.3.0", "0.3.1", "0.4.0"]),
            (
                "/ips/0/interface",
                &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            ),
            (
                "/interfaces/1/sandbox",
                &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
            ),
            ("/interfaces/0/mtu", &["1.1.0"]),
            ("/interfaces/0/socketPath", &["1.1.0"]),
            ("/interfaces/0/pciID", &["1.1.0"]),
            ("/routes/1/mtu", &["1.1.0"]),
            ("/routes/1/advmss", &["1.1.0"]),
            ("/routes/1/priority", &["1.1.0"]),
            ("/routes/1/table", &["1.1.0"]),
            ("/routes/1/scope", &["1.1.0"]),
            ("/dns/nameservers/0", VERSIONS),
        ];
        for (path, versions) in rows {
            for version in VERSIONS {
                let there = at(&full.render(version), path).is_some();
                assert_eq!(there, versions.contains(version), "{path} in {version}");
            }
        }
        let bare = Success::default().render("1.1.0");
        assert_eq!(bare.get("interfaces"), None, "address management has none");
    }

    #[test]
    fn odd_results_are_refused_or_read() {
        let parse = |v: Value| Success::parse(&v, "1.0.0");
        for wrong in [
            json!("text"),
            json!({"ips": [{"address": "10.0.0.2"}]}),
            json!({"cniVersion": "9.9.9"}),
            json!({"cniVersion": "0.2.0", "ip4": {}}),
            json!({"ips": [{"address": "10.0.0.2/24", "interface": -1}]}),
        ] {
            let e = parse(wrong.clone()).expect_err("wrong");
            assert_eq!(e.code, code::DECODE_FAILURE, "{wrong}");
        }
        let odd = json!({"ips": [{"address": "10.0.0.2/24", "interface": 9}], "interfaces": null});
        let odd = parse(odd).expect("read");
        assert_eq!(odd.addresses_of("eth0"), []);
    }

    #[test]
    fn routes_get_the_gateway_of_their_family() {
        let mut s = full();
        s.routes
            .push(Route::new("10.1.0.0/16".parse().expect("cidr"), None));
        s.fill_gateways();
        let hops: Vec<_> = s
            .routes
            .iter()
            .map(|r| r.gw.map(|g| g.to_string()))
            .collect();
        let some = |t: &str| Some(t.to_owned());
        assert_eq!(hops, [some("10.0.0.1"), some("fd00::1"), some("10.0.0.1")]);
        s.ips.clear();
        s.routes = vec![Route::new("10.1.0.0/16".parse().expect("cidr"), None)];
        s.fill_gateways();
        assert_eq!(s.routes[0].gw, None);
    }
}
