//! What every plugin's configuration has, as it comes on standard input.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::host_local::Range;
use crate::protocol::{Error, VERSIONS, code, valid_container};
use crate::result::Dns;

/// The part of a configuration that is the same for all types.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version of the specification that the configuration is in.
    #[serde(default, deserialize_with = "or_default")]
    pub cni_version: String,
    /// The network's name.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// Where addresses come from.
    #[serde(default, deserialize_with = "or_default")]
    pub ipam: IpamKind,
    /// Goes into the result in place of what address management says.
    #[serde(default, deserialize_with = "or_default")]
    pub dns: Dns,
    /// The result of the plugin before, or of ADD in CHECK and DEL.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// What the runtime gives for the capabilities that the configuration declares.
    #[serde(default, deserialize_with = "or_default")]
    pub runtime_config: RuntimeConfig,
    /// The older way to give the same.
    #[serde(default, deserialize_with = "or_default")]
    pub args: ConfArgs,
    /// GC: the attachments that live.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    /// The same by the name that edition 1.1.0 of the specification has in one place by mistake; runtimes give both.
    #[serde(default, rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

/// Who manages addresses.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct IpamKind {
    /// A plugin's name; none: the container gets no address.
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    kind: String,
    /// Ranges without a type are host-local's.
    #[serde(default)]
    ranges: Option<Value>,
}

/// What manages the addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipam<'a> {
    /// Nobody: the container gets a link and no address.
    None,
    /// We do, in host-local's ledger.
    HostLocal,
    /// A plugin by this name.
    Delegate(&'a str),
}

/// Capability arguments. Others than these were not asked for, and are passed over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// `portMappings`: host ports, in the form of the reference plugin that does them.
    #[serde(default, deserialize_with = "or_default")]
    pub port_mappings: Vec<Value>,
    /// `ips`: addresses to give, with or without a prefix.
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<String>,
    /// `mac`: the hardware address to give.
    #[serde(default)]
    pub mac: Option<String>,
    /// `ipRanges`: sets of ranges before those of the configuration.
    #[serde(default, deserialize_with = "or_default")]
    pub ip_ranges: Vec<Vec<Range>>,
    /// `dns`: servers and search domains for this attachment.
    #[serde(default, deserialize_with = "or_default")]
    pub dns: RuntimeDns,
}

/// The capability `dns`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RuntimeDns {
    /// Name servers. (containerd writes both names as they are in its own language.)
    #[serde(default, alias = "Servers", deserialize_with = "or_default")]
    pub servers: Vec<String>,
    /// Search domains.
    #[serde(default, alias = "Searches", deserialize_with = "or_default")]
    pub searches: Vec<String>,
}

/// `args` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ConfArgs {
    /// The part that is for plugins.
    #[serde(default, deserialize_with = "or_default")]
    pub cni: CniArgs,
}

/// `args.cni`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct CniArgs {
    /// Addresses to give.
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<String>,
    /// The hardware address to give.
    #[serde(default)]
    pub mac: Option<String>,
}

/// An attachment that GC must leave alone.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Its interface.
    pub ifname: String,
}

/// `null` is as good as nothing, as it is for programs written in Go.
pub(crate) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// An error about a field's value.
pub fn invalid(field: &str, why: impl std::fmt::Display) -> Error {
    Error::new(code::INVALID_CONFIG, format!("invalid {field}"), why)
}

/// Reads a part of a configuration.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    let unreadable = "network configuration can't be read";
    serde_json::from_slice(bytes).map_err(|e| Error::new(code::DECODE_FAILURE, unreadable, e))
}

impl NetConf {
    /// Parses and checks what all configurations have.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let conf: Self = decode(bytes)?;
        if !valid_container(&conf.name) {
            let allowed = "letters, digits, '_', '.', '-', first a letter or digit";
            return Err(invalid("name", format!("{:?}: {allowed}", conf.name)));
        }
        Ok(conf)
    }

    /// The version of the configuration; without one it is of the oldest.
    pub fn version(&self) -> &str {
        if self.cni_version.is_empty() {
            VERSIONS[0]
        } else {
            &self.cni_version
        }
    }

    /// Who manages addresses.
    pub fn ipam(&self) -> Ipam<'_> {
        match self.ipam.kind.as_str() {
            "" if self.ipam.ranges.is_none() => Ipam::None,
            "" | "host-local" | "keelson-host-local" => Ipam::HostLocal,
            other => Ipam::Delegate(other),
        }
    }

    /// GC: the attachments that live.
    pub fn valid_attachments(&self) -> Result<&[Attachment], Error> {
        let given = self.valid_attachments.as_deref();
        given.or(self.attachments.as_deref()).ok_or_else(|| {
            invalid(
                "cni.dev/valid-attachments",
                "GC needs the list of valid attachments",
            )
        })
    }

    /// The hardware address asked for: by capability, `args.cni` or `CNI_ARGS`, the first of them.
    pub fn mac(&self, extra: Option<&String>) -> Result<Option<String>, Error> {
        let given = [
            self.runtime_config.mac.as_ref(),
            self.args.cni.mac.as_ref(),
            extra,
        ];
        let Some(text) = given.into_iter().flatten().find(|m| !m.is_empty()) else {
            return Ok(None);
        };
        let bad = || invalid("mac", format!("{text:?} is no Ethernet address"));
        valid_mac(text).map(Some).ok_or_else(bad)
    }

    /// The addresses asked for, by all ways in which it can be done.
    pub fn requested(&self, extra: &[IpAddr]) -> Result<Vec<IpAddr>, Error> {
        let texts = self.args.cni.ips.iter().chain(&self.runtime_config.ips);
        let parsed = texts.map(|t| address(t).ok_or_else(|| invalid("ips", format!("{t:?}"))));
        let mut all = extra.to_vec();
        for address in parsed {
            let address = address?;
            if !all.contains(&address) {
                all.push(address);
            }
        }
        Ok(all)
    }

    /// What the result says of DNS, given what address management says.
    pub fn resolver(&self, managed: Dns) -> Dns {
        let mut dns = if self.dns == Dns::default() {
            managed
        } else {
            self.dns.clone()
        };
        let given = &self.runtime_config.dns;
        if !given.servers.is_empty() {
            dns.nameservers.clone_from(&given.servers);
        }
        if !given.searches.is_empty() {
            dns.search.clone_from(&given.searches);
        }
        dns
    }
}

/// An address, with or without a prefix.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    let net = text.parse::<IpNet>().map(|n| n.addr());
    net.or_else(|_| text.parse()).ok()
}

/// A hardware address in lower case with colons, if the text is one that a link may have.
pub fn valid_mac(text: &str) -> Option<String> {
    let bytes = mac_bytes(text)?;
    // A group's address can't be a link's, nor can none.
    if bytes[0] & 1 == 1 || bytes == [0; 6] {
        return None;
    }
    Some(mac_text(&bytes))
}

/// The bytes of a hardware address.
pub fn mac_bytes(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// A hardware address in lower case with colons.
pub fn mac_text(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    parts.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: impl Fn(&mut Value)) -> Result<NetConf, Error> {
        let mut v = json!({"cniVersion": "1.1.0", "name": "pods", "type": "bridge"});
        change(&mut v);
        NetConf::parse(v.to_string().as_bytes())
    }

    #[test]
    fn names_are_checked_and_nulls_are_nothing() {
        for name in ["", "../etc", "a/b", ".a"] {
            let e = parse(|v| v["name"] = json!(name)).expect_err(name);
            assert_eq!(e.code, code::INVALID_CONFIG, "{name}");
        }
        let conf = parse(|v| {
            for key in ["ipam", "dns", "prevResult", "runtimeConfig", "args"] {
                v[key] = Value::Null;
            }
        });
        let conf = conf.expect("nulls");
        assert_eq!(conf.ipam(), Ipam::None);
        assert!(conf.valid_attachments().is_err());
        let e = NetConf::parse(b"nonsense").expect_err("text");
        assert_eq!(e.code, code::DECODE_FAILURE);
    }

    #[test]
    fn who_manages_addresses() {
        let rows = [
            (json!({}), Ipam::None),
            (json!({"type": "host-local"}), Ipam::HostLocal),
            (json!({"ranges": []}), Ipam::HostLocal),
            (
                json!({"type": "dhcp", "ranges": []}),
                Ipam::Delegate("dhcp"),
            ),
        ];
        for (ipam, want) in rows {
            let conf = parse(|v| v["ipam"] = ipam.clone()).expect("valid");
            assert_eq!(conf.ipam(), want, "{ipam}");
        }
    }

    #[test]
    fn what_is_asked_for_comes_from_several_places() {
        let conf = parse(|v| {
            v["args"] = json!({"cni": {"ips": ["10.0.0.2"], "mac": "0a:00:00:00:00:02"}});
            v["runtimeConfig"] = json!({"ips": ["10.0.0.3/24", "fd00::3", "10.0.0.2"],
                "infinibandGUID": "x", "dns": {"servers": ["10.0.0.53"]}});
            v["dns"] = json!({"nameservers": ["1.1.1.1"], "domain": "a"});
        });
        let conf = conf.expect("valid");
        let asked = conf
            .requested(&["10.0.0.1".parse().expect("ip")])
            .expect("addresses");
        let asked: Vec<String> = asked.iter().map(IpAddr::to_string).collect();
        assert_eq!(asked, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::3"]);
        let mac = conf.mac(Some(&"0a:00:00:00:00:01".to_owned()));
        assert_eq!(mac.expect("mac").as_deref(), Some("0a:00:00:00:00:02"));
        let dns = conf.resolver(Dns::default());
        assert_eq!(
            (dns.nameservers, dns.domain),
            (vec!["10.0.0.53".into()], "a".into())
        );
        let bad = parse(|v| v["runtimeConfig"] = json!({"ips": ["x"], "mac": "ff:ff:ff:ff:ff:ff"}));
        let bad = bad.expect("read");
        assert_eq!(
            bad.requested(&[]).expect_err("ips").code,
            code::INVALID_CONFIG
        );
        assert_eq!(bad.mac(None).expect_err("mac").code, code::INVALID_CONFIG);
    }

    #[test]
    fn both_names_of_the_valid_attachments() {
        let list = json!([{"containerID": "a", "ifname": "eth0"}]);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let conf = parse(|v| v[key] = list.clone()).expect("valid");
            assert_eq!(conf.valid_attachments().map(<[_]>::len), Ok(1), "{key}");
        }
    }
}
