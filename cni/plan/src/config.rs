//! The network configuration, as it comes on standard input.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::protocol::{Error, VERSIONS, code, valid_container, valid_ifname};

/// A configuration for this plugin. Fields carry the names of the reference bridge plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version of the specification that the configuration is in.
    #[serde(default)]
    pub cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub name: String,
    /// The bridge's name.
    #[serde(default = "default_bridge")]
    pub bridge: String,
    /// The links' MTU in bytes; 0: the kernel's default.
    #[serde(default)]
    pub mtu: u32,
    /// A container may reach itself through the bridge (a service whose only endpoint it is).
    #[serde(default)]
    pub hairpin_mode: bool,
    /// The bridge carries the ranges' gateway addresses. On unless said otherwise.
    #[serde(default = "yes")]
    pub is_gateway: bool,
    /// Where addresses come from.
    pub ipam: Ipam,
    /// The result of the plugin before, or of ADD in CHECK and DEL.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// What the runtime gives for the capabilities that the configuration declares.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// GC: the attachments that live.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// All else: refused if it asks for what this plugin does not do.
    #[serde(flatten)]
    other: serde_json::Map<String, Value>,
}

/// Capability arguments. Others than these were not asked for, and are passed over.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// `portMappings`: host ports, in the form of the reference plugin that does them.
    #[serde(default)]
    pub port_mappings: Vec<Value>,
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

/// Address ranges and routes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ipam {
    /// Must be `host-local` or absent: allocation is built in, in the reference's on-disk layout.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// A container gets one address of each set.
    #[serde(default)]
    pub ranges: Vec<Vec<Range>>,
    /// Routes for the container; the gateway is that of the range of the same family.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Where allocations are kept: `<dataDir>/<network>/<address>`.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
}

/// A range of addresses.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    /// The network.
    pub subnet: IpNet,
    /// First address to give; by default the first after the network's own.
    #[serde(default)]
    pub range_start: Option<IpAddr>,
    /// Last address to give; by default the last before the broadcast address.
    #[serde(default)]
    pub range_end: Option<IpAddr>,
    /// The gateway; by default the subnet's first address.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// A route.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; by default the gateway.
    #[serde(default)]
    pub gw: Option<IpAddr>,
}

fn default_bridge() -> String {
    "keelson0".into()
}

fn default_data_dir() -> PathBuf {
    "/var/lib/keelson/cni".into()
}

fn yes() -> bool {
    true
}

/// Options of the reference plugin that mean nothing when false, zero or empty; else they are refused.
const REFUSED: &[&str] = &[
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "portIsolation",
];

impl NetConf {
    /// Parses and checks a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let conf: Self = serde_json::from_slice(bytes).map_err(|e| {
            Error::new(
                code::DECODE_FAILURE,
                "network configuration can't be read",
                e,
            )
        })?;
        let bad = |field: &str, why: String| {
            Error::new(code::INVALID_CONFIG, format!("invalid {field}"), why)
        };
        let version = conf.version();
        if !VERSIONS.contains(&version) {
            let why = format!("{version:?}; understood are {}", VERSIONS.join(", "));
            return Err(Error::new(
                code::INCOMPATIBLE_VERSION,
                "incompatible CNI version",
                why,
            ));
        }
        if !valid_container(&conf.name) {
            return Err(bad(
                "name",
                format!(
                    "{:?}: letters, digits, '_', '.', '-', first a letter or digit",
                    conf.name
                ),
            ));
        }
        if !valid_ifname(&conf.bridge) {
            return Err(bad(
                "bridge",
                format!("{:?} is no link name (1 to 15 characters)", conf.bridge),
            ));
        }
        if conf.mtu > 65_535 {
            return Err(bad("mtu", format!("{}: at most 65535", conf.mtu)));
        }
        let asks =
            |v: &Value| !matches!(v, Value::Null | Value::Bool(false)) && v.as_u64() != Some(0);
        if let Some(field) = REFUSED
            .iter()
            .find(|f| conf.other.get(**f).is_some_and(asks))
        {
            return Err(Error::new(
                code::UNSUPPORTED_FIELD,
                "unsupported field",
                field,
            ));
        }
        conf.ipam.check()?;
        Ok(conf)
    }

    /// The version of the configuration; without one it is of the oldest.
    pub fn version(&self) -> &str {
        if self.cni_version.is_empty() {
            "0.1.0"
        } else {
            &self.cni_version
        }
    }
}

impl Ipam {
    fn check(&self) -> Result<(), Error> {
        let bad = |field: &str, why: String| {
            Error::new(code::INVALID_CONFIG, format!("invalid {field}"), why)
        };
        if let Some(kind) = self.kind.as_deref().filter(|k| *k != "host-local") {
            return Err(bad(
                "ipam.type",
                format!("{kind:?}: allowed is host-local (built in)"),
            ));
        }
        if self.ranges.is_empty() || self.ranges.iter().any(Vec::is_empty) {
            return Err(bad(
                "ipam.ranges",
                "at least one set of at least one range is needed".into(),
            ));
        }
        let all: Vec<&Range> = self.ranges.iter().flatten().collect();
        for (i, range) in all.iter().enumerate() {
            range.check().map_err(|why| bad("ipam.ranges", why))?;
            if let Some(other) = all[..i].iter().find(|o| overlap(o.subnet, range.subnet)) {
                return Err(bad(
                    "ipam.ranges",
                    format!("{} overlaps {}", range.subnet, other.subnet),
                ));
            }
        }
        for set in &self.ranges {
            if set
                .iter()
                .any(|r| r.subnet.addr().is_ipv4() != set[0].subnet.addr().is_ipv4())
            {
                return Err(bad(
                    "ipam.ranges",
                    "a set has ranges of one address family".into(),
                ));
            }
        }
        Ok(())
    }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

impl Range {
    fn check(&self) -> Result<(), String> {
        let (len, max) = (self.subnet.prefix_len(), self.subnet.max_prefix_len());
        if len + 2 > max {
            return Err(format!(
                "{}: too small, at least a /{} is needed",
                self.subnet,
                max - 2
            ));
        }
        for (name, address) in [
            ("rangeStart", self.range_start),
            ("rangeEnd", self.range_end),
            ("gateway", self.gateway),
        ] {
            if let Some(address) = address.filter(|a| !self.subnet.contains(a)) {
                return Err(format!("{name} {address} is not in {}", self.subnet));
            }
        }
        if self.first() > self.last() {
            return Err(format!(
                "rangeStart {} is after rangeEnd {}",
                self.first(),
                self.last()
            ));
        }
        Ok(())
    }

    /// First address that may be given.
    pub fn first(&self) -> IpAddr {
        self.range_start
            .unwrap_or_else(|| step(self.subnet.network(), 1))
    }

    /// Last address that may be given: not IPv4's broadcast address.
    pub fn last(&self) -> IpAddr {
        let back = if self.subnet.addr().is_ipv4() { -1 } else { 0 };
        self.range_end
            .unwrap_or_else(|| step(self.subnet.broadcast(), back))
    }

    /// The gateway.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
            .unwrap_or_else(|| step(self.subnet.network(), 1))
    }
}

/// The address `by` steps on; stays where the family ends.
pub fn step(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(a.to_bits().saturating_add_signed(i32::from(by)).into()),
        IpAddr::V6(a) => IpAddr::V6(a.to_bits().saturating_add_signed(i128::from(by)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: impl Fn(&mut Value)) -> Result<NetConf, Error> {
        let mut v = json!({"cniVersion": "1.1.0", "name": "pods", "type": "keelson-cni",
            "ipam": {"ranges": [[{"subnet": "10.42.0.0/24"}], [{"subnet": "fd42::/64"}]], "routes": [{"dst": "0.0.0.0/0"}]}});
        change(&mut v);
        NetConf::parse(v.to_string().as_bytes())
    }

    #[test]
    fn defaults() {
        let conf = parse(|_| ()).expect("valid");
        assert_eq!(
            (conf.bridge.as_str(), conf.mtu, conf.is_gateway),
            ("keelson0", 0, true)
        );
        let range = &conf.ipam.ranges[0][0];
        assert_eq!(range.gateway().to_string(), "10.42.0.1");
        assert_eq!(
            (range.first().to_string(), range.last().to_string()),
            ("10.42.0.1".into(), "10.42.0.254".into())
        );
        assert_eq!(
            conf.ipam.ranges[1][0].last().to_string(),
            "fd42::ffff:ffff:ffff:ffff"
        );
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_code() {
        type Case = (&'static str, u32, fn(&mut Value));
        let cases: &[Case] = &[
            ("future version", code::INCOMPATIBLE_VERSION, |v| {
                v["cniVersion"] = json!("9.0.0")
            }),
            ("path as name", code::INVALID_CONFIG, |v| {
                v["name"] = json!("../etc")
            }),
            ("path as bridge", code::INVALID_CONFIG, |v| {
                v["bridge"] = json!("a/b")
            }),
            ("huge mtu", code::INVALID_CONFIG, |v| {
                v["mtu"] = json!(70_000)
            }),
            ("mtu beyond a number", code::DECODE_FAILURE, |v| {
                v["mtu"] = json!(1u64 << 40)
            }),
            ("foreign ipam", code::INVALID_CONFIG, |v| {
                v["ipam"]["type"] = json!("dhcp")
            }),
            ("no ranges", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"] = json!([])
            }),
            (
                "overlap",
                code::INVALID_CONFIG,
                |v| {
                    v["ipam"]["ranges"] =
                        json!([[{"subnet": "10.0.0.0/8"}], [{"subnet": "10.1.0.0/16"}]])
                },
            ),
            ("mixed families", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"] = json!([[{"subnet": "10.0.0.0/8"}, {"subnet": "fd00::/64"}]])
            }),
            ("too small", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"] = json!([[{"subnet": "10.0.0.0/31"}]])
            }),
            ("start outside", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"][0][0]["rangeStart"] = json!("10.43.0.1")
            }),
            ("unknown in ipam", code::DECODE_FAILURE, |v| {
                v["ipam"]["rangs"] = json!([])
            }),
            ("option not done", code::UNSUPPORTED_FIELD, |v| {
                v["ipMasq"] = json!(true)
            }),
        ];
        for (name, code, change) in cases {
            assert_eq!(parse(change).expect_err(name).code, *code, "{name}");
        }
        assert!(parse(|v| v["ipMasq"] = json!(false)).is_ok());
        assert_eq!(
            NetConf::parse(b"nonsense").expect_err("text").code,
            code::DECODE_FAILURE
        );
    }
}
