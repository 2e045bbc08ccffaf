//! The configuration of host-local address management, in the reference's form.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use crate::config::{NetConf, decode, invalid, or_default};
use crate::protocol::{Args, Error, code};
use crate::result::Route;

/// What is needed to give and free addresses.
#[derive(Clone, Debug)]
pub struct HostLocal {
    /// The network's name: the directory below `data_dir`.
    pub network: String,
    /// A container gets one address of each set.
    pub sets: Vec<Vec<Range>>,
    /// Addresses that must be among those given.
    pub requested: Vec<IpAddr>,
    /// Routes for the container.
    pub routes: Vec<Route>,
    /// Where allocations are kept: `<dataDir>/<network>/<address>`.
    pub data_dir: PathBuf,
    /// The file in which the container's DNS settings stand, in resolv.conf's form.
    pub resolv_conf: Option<PathBuf>,
}

/// A range of addresses. (containerd's `ipRanges` have the names as they are in its own language.)
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    /// The network.
    #[serde(alias = "Subnet")]
    pub subnet: IpNet,
    /// First address to give; by default the first after the network's own.
    #[serde(default, alias = "RangeStart")]
    pub range_start: Option<IpAddr>,
    /// Last address to give; by default the last before the broadcast address.
    #[serde(default, alias = "RangeEnd")]
    pub range_end: Option<IpAddr>,
    /// The gateway; by default the subnet's first address.
    #[serde(default, alias = "Gateway")]
    pub gateway: Option<IpAddr>,
}

/// `ipam` as it is written: sets of ranges, or in the old form one range among the other fields.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    subnet: Option<IpNet>,
    #[serde(default)]
    range_start: Option<IpAddr>,
    #[serde(default)]
    range_end: Option<IpAddr>,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    ranges: Vec<Vec<Range>>,
    #[serde(default, deserialize_with = "or_default")]
    routes: Vec<Route>,
    #[serde(default)]
    data_dir: Option<PathBuf>,
    #[serde(default)]
    resolv_conf: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Outer {
    ipam: Option<Written>,
}

/// Where the reference keeps allocations, so that either plugin can take over.
const DATA_DIR: &str = "/var/lib/cni/networks";

impl HostLocal {
    /// Reads the ranges, those of the capability `ipRanges` first, and checks them.
    pub fn parse(bytes: &[u8], conf: &NetConf, args: &Args) -> Result<Self, Error> {
        let outer: Outer = decode(bytes)?;
        let missing = || invalid("ipam", "it is missing");
        let ipam = outer.ipam.ok_or_else(missing)?;
        let mut sets = conf.runtime_config.ip_ranges.clone();
        sets.extend(ipam.subnet.map(|subnet| {
            vec![Range {
                subnet,
                range_start: ipam.range_start,
                range_end: ipam.range_end,
                gateway: ipam.gateway,
            }]
        }));
        sets.extend(ipam.ranges);
        check(&sets, conf)?;
        let set = |path: &PathBuf| !path.as_os_str().is_empty();
        Ok(Self {
            network: conf.name.clone(),
            sets,
            requested: conf.requested(&args.extra.ips)?,
            routes: ipam.routes,
            data_dir: ipam.data_dir.filter(set).unwrap_or(DATA_DIR.into()),
            resolv_conf: ipam.resolv_conf.filter(set),
        })
    }
}

fn check(sets: &[Vec<Range>], conf: &NetConf) -> Result<(), Error> {
    let bad = |why: String| Err(invalid("ipam.ranges", why));
    if sets.is_empty() || sets.iter().any(Vec::is_empty) {
        return bad("at least one set of at least one range is needed".into());
    }
    let all: Vec<&Range> = sets.iter().flatten().collect();
    for (i, range) in all.iter().enumerate() {
        range.check().or_else(bad)?;
        if let Some(other) = all[..i].iter().find(|o| o.overlaps(range)) {
            return bad(format!("{} overlaps {}", range.subnet, other.subnet));
        }
    }
    let v4 = |set: &Vec<Range>| set[0].subnet.addr().is_ipv4();
    let mixed = |set: &&Vec<Range>| set.iter().any(|r| r.subnet.addr().is_ipv4() != v4(set));
    if sets.iter().find(mixed).is_some() {
        return bad("a set has ranges of one address family".into());
    }
    let fours = sets.iter().filter(|s| v4(s)).count();
    if ["0.1.0", "0.2.0"].contains(&conf.version()) && (fours > 1 || sets.len() - fours > 1) {
        let why = "versions before 0.3.0 have one address of each family";
        return Err(Error::new(code::INVALID_CONFIG, "invalid ipam.ranges", why));
    }
    Ok(())
}

impl Range {
    fn check(&self) -> Result<(), String> {
        let (len, max) = (self.subnet.prefix_len(), self.subnet.max_prefix_len());
        if self.subnet.addr() != self.subnet.network() {
            let network = self.subnet.trunc();
            return Err(format!("{} is no network, {network} is", self.subnet));
        }
        if len + 2 > max {
            let least = max - 2;
            return Err(format!(
                "{}: too small, at least a /{least} is needed",
                self.subnet
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
        let (first, last) = (self.first(), self.last());
        if first > last {
            return Err(format!("rangeStart {first} is after rangeEnd {last}"));
        }
        Ok(())
    }

    /// Whether two ranges have an address in common. Ranges of one subnet need not.
    fn overlaps(&self, other: &Self) -> bool {
        let same = self.subnet.addr().is_ipv4() == other.subnet.addr().is_ipv4();
        same && self.first() <= other.last() && other.first() <= self.last()
    }

    /// Whether an address may be given out of this range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.subnet.addr().is_ipv4()
            && (self.first()..=self.last()).contains(&address)
    }

    /// First address that may be given.
    pub fn first(&self) -> IpAddr {
        let default = || step(self.subnet.network(), 1);
        self.range_start.unwrap_or_else(default)
    }

    /// Last address that may be given: not IPv4's broadcast address.
    pub fn last(&self) -> IpAddr {
        let back = if self.subnet.addr().is_ipv4() { -1 } else { 0 };
        let default = || step(self.subnet.broadcast(), back);
        self.range_end.unwrap_or_else(default)
    }

    /// The gateway.
    pub fn gateway(&self) -> IpAddr {
        let default = || step(self.subnet.network(), 1);
        self.gateway.unwrap_or_else(default)
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
    use serde_json::{Value, json};

    fn parse(change: impl Fn(&mut Value)) -> Result<HostLocal, Error> {
        let mut v = json!({"cniVersion": "1.1.0", "name": "pods",
            "ipam": {"ranges": [[{"subnet": "10.42.0.0/24"}], [{"subnet": "fd42::/64"}]], "routes": [{"dst": "0.0.0.0/0"}]}});
        change(&mut v);
        let bytes = v.to_string();
        let conf = NetConf::parse(bytes.as_bytes())?;
        HostLocal::parse(bytes.as_bytes(), &conf, &Args::default())
    }

    #[test]
    fn defaults_are_the_references() {
        let conf = parse(|_| ()).expect("valid");
        assert_eq!(conf.data_dir, PathBuf::from(DATA_DIR));
        let range = &conf.sets[0][0];
        assert_eq!(range.gateway().to_string(), "10.42.0.1");
        let bounds = (range.first().to_string(), range.last().to_string());
        assert_eq!(bounds, ("10.42.0.1".into(), "10.42.0.254".into()));
        let last = conf.sets[1][0].last().to_string();
        assert_eq!(last, "fd42::ffff:ffff:ffff:ffff");
    }

    #[test]
    fn ranges_come_from_three_places_in_order() {
        let conf = parse(|v| {
            v["ipam"]["subnet"] = json!("10.43.0.0/24");
            v["ipam"]["rangeStart"] = json!("10.43.0.9");
            v["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.44.0.0/24"}]]});
        });
        let subnets: Vec<String> = conf
            .expect("valid")
            .sets
            .iter()
            .map(|s| s[0].first().to_string())
            .collect();
        assert_eq!(subnets, ["10.44.0.1", "10.43.0.9", "10.42.0.1", "fd42::1"]);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        type Case = (&'static str, u32, fn(&mut Value));
        let cases: &[Case] = &[
            ("no ranges", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"] = json!([])
            }),
            ("an empty set", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"] = json!([[]])
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
            ("host bits", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"] = json!([[{"subnet": "10.0.0.1/24"}]])
            }),
            ("start outside", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"][0][0]["rangeStart"] = json!("10.43.0.1")
            }),
            ("start after end", code::INVALID_CONFIG, |v| {
                v["ipam"]["ranges"][0][0] = json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"})
            }),
            (
                "two of a family in an old version",
                code::INVALID_CONFIG,
                |v| {
                    v["cniVersion"] = json!("0.2.0");
                    v["ipam"]["subnet"] = json!("10.43.0.0/24");
                },
            ),
            ("no address", code::INVALID_CONFIG, |v| {
                v["runtimeConfig"] = json!({"ips": ["a"]})
            }),
            ("unknown in a range", code::DECODE_FAILURE, |v| {
                v["ipam"]["ranges"][0][0]["rangeStrat"] = json!("10.43.0.1")
            }),
            ("no network", code::DECODE_FAILURE, |v| {
                v["ipam"]["subnet"] = json!("10.43.0.0")
            }),
            ("missing", code::INVALID_CONFIG, |v| v["ipam"] = Value::Null),
        ];
        for (name, code, change) in cases {
            assert_eq!(parse(change).expect_err(name).code, *code, "{name}");
        }
        // Two parts of one subnet are no overlap.
        let parts = parse(|v| {
            v["ipam"]["ranges"] = json!([[{"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.9"},
                {"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.20"}]])
        });
        assert!(parts.is_ok());
    }
}
