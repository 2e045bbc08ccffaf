//! Results, in the form of every version asked for (specification, "ADD Success", and its older editions).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::alloc::Choice;
use crate::config::{NetConf, Route};

/// What ADD made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Success {
    /// Bridge, host link, container link, in this order.
    pub interfaces: Vec<Interface>,
    /// Addresses of the container's link.
    pub addresses: Vec<Choice>,
    /// Routes in the container.
    pub routes: Vec<Route>,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// MAC address, lower case with colons.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Path of the namespace; `None`: the host's.
    pub sandbox: Option<String>,
}

/// The container's routes: those of the configuration, each through the gateway of its family.
/// A route whose family has neither its own next hop nor an address here is left out.
pub fn routes(conf: &NetConf, addresses: &[Choice]) -> Vec<Route> {
    let gateway = |v4: bool| {
        addresses
            .iter()
            .find(|a| a.address.is_ipv4() == v4)
            .map(|a| a.gateway)
    };
    let routes = conf.ipam.routes.iter().filter_map(|r| {
        let gw = r.gw.or_else(|| gateway(r.dst.addr().is_ipv4()))?;
        Some(Route {
            dst: r.dst,
            gw: Some(gw),
        })
    });
    routes.collect()
}

impl Success {
    /// The result in a version's form.
    pub fn render(&self, version: &str) -> Value {
        match version {
            "0.1.0" | "0.2.0" => self.render_by_family(version),
            _ => self.render_list(version),
        }
    }

    fn render_list(&self, version: &str) -> Value {
        let old = version.starts_with("0.");
        let interfaces = self.interfaces.iter().map(|i| {
            let mut v = json!({"name": i.name, "mac": i.mac});
            if let Some(s) = &i.sandbox {
                v["sandbox"] = json!(s);
            }
            if version == "1.1.0" {
                v["mtu"] = json!(i.mtu);
            }
            v
        });
        let container = self.interfaces.len().saturating_sub(1);
        let ips = self.addresses.iter().map(|a| {
            let mut v = json!({"interface": container, "address": cidr(a), "gateway": a.gateway.to_string()});
            if old {
                v["version"] = json!(if a.address.is_ipv4() { "4" } else { "6" });
            }
            v
        });
        json!({
            "cniVersion": version,
            "interfaces": interfaces.collect::<Vec<_>>(),
            "ips": ips.collect::<Vec<_>>(),
            "routes": self.routes.iter().map(route).collect::<Vec<_>>(),
            "dns": {},
        })
    }

    fn render_by_family(&self, version: &str) -> Value {
        let mut v = json!({"cniVersion": version, "dns": {}});
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            if let Some(a) = self.addresses.iter().find(|a| a.address.is_ipv4() == v4) {
                let routes = self
                    .routes
                    .iter()
                    .filter(|r| r.dst.addr().is_ipv4() == v4)
                    .map(route);
                v[key] = json!({"ip": cidr(a), "gateway": a.gateway.to_string(), "routes": routes.collect::<Vec<_>>()});
            }
        }
        v
    }
}

fn cidr(a: &Choice) -> String {
    format!("{}/{}", a.address, a.prefix)
}

fn route(r: &Route) -> Value {
    match r.gw {
        Some(gw) => json!({"dst": r.dst.to_string(), "gw": gw.to_string()}),
        None => json!({"dst": r.dst.to_string()}),
    }
}

/// Addresses of the container's link in a result of any version, as CHECK gets it.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let list = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ip| &ip["address"]);
    let old = ["ip4", "ip6"].into_iter().map(|k| &result[k]["ip"]);
    let text = list.chain(old).filter_map(Value::as_str);
    text.filter_map(|t| t.split('/').next()?.parse().ok())
        .collect()
}

/// The addresses, with their networks, that a result of any version gives an interface of a container: those that name
/// it, and those that name none.
pub fn own_addresses(result: &Value, ifname: &str) -> Vec<IpNet> {
    let interfaces = result["interfaces"].as_array();
    let own = |ip: &&Value| {
        let index = ip["interface"]
            .as_u64()
            .and_then(|i| usize::try_from(i).ok());
        let named = index.and_then(|i| interfaces?.get(i));
        named.is_none_or(|i| {
            let sandbox = i["sandbox"].as_str().unwrap_or_default();
            i["name"] == ifname && !sandbox.is_empty()
        })
    };
    let list = result["ips"].as_array().into_iter().flatten();
    let list = list.filter(own).map(|ip| &ip["address"]);
    let old = ["ip4", "ip6"].into_iter().map(|k| &result[k]["ip"]);
    let text = list.chain(old).filter_map(Value::as_str);
    text.filter_map(|t| t.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::VERSIONS;

    #[test]
    fn every_version_tells_the_same_addresses() {
        let ip = |t: &str| t.parse::<IpAddr>().expect("ip");
        let success = Success {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "0a:00:00:00:00:01".into(),
                mtu: 1500,
                sandbox: Some("/n".into()),
            }],
            addresses: vec![
                Choice {
                    address: ip("10.0.0.2"),
                    prefix: 24,
                    gateway: ip("10.0.0.1"),
                },
                Choice {
                    address: ip("fd00::2"),
                    prefix: 64,
                    gateway: ip("fd00::1"),
                },
            ],
            routes: vec![Route {
                dst: "0.0.0.0/0".parse().expect("cidr"),
                gw: Some(ip("10.0.0.1")),
            }],
        };
        for version in VERSIONS {
            let v = success.render(version);
            assert_eq!(v["cniVersion"], *version);
            assert_eq!(addresses(&v), [ip("10.0.0.2"), ip("fd00::2")], "{version}");
        }
        assert_eq!(success.render("0.4.0")["ips"][1]["version"], "6");
        assert!(success.render("1.0.0")["ips"][0].get("version").is_none());
        assert!(
            success.render("1.0.0")["interfaces"][0]
                .get("mtu")
                .is_none()
        );
        assert_eq!(success.render("1.1.0")["interfaces"][0]["mtu"], 1500);
        assert_eq!(
            success.render("0.2.0")["ip4"]["routes"][0]["dst"],
            "0.0.0.0/0"
        );
    }
}
