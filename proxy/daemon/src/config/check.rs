//! Checks of single fields. What is wrong is gathered, so that all of it is told at once.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::duration;
use super::file::{self, File};
use super::settings::{Conntrack, DetectLocal, Ipvs, Logging, Mode, NodePortAddress, Periods};

/// What a field says, if it is not empty.
pub(super) fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|t| !t.is_empty())
}

/// What is wrong so far.
#[derive(Default)]
pub(super) struct Check(pub(super) Vec<String>);

impl Check {
    pub(super) fn wrong(&mut self, path: &str, why: &str) {
        self.0.push(format!("{path}: {why}"));
    }

    pub(super) fn parse<T: std::str::FromStr>(
        &mut self,
        path: &str,
        text: &str,
        what: &str,
    ) -> Option<T> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.wrong(path, &format!("{text:?} is not {what}"));
        }
        parsed
    }

    pub(super) fn ip(&mut self, path: &str, field: &Option<String>) -> Option<IpAddr> {
        self.parse(path, text(field)?, "an IP address")
    }

    pub(super) fn cidr(&mut self, path: &str, text: &str) -> Option<IpNet> {
        let parsed: Option<IpNet> = self.parse(path, text, "a range, as 10.0.0.0/8 or fd00::/48");
        parsed.map(|c| c.trunc())
    }

    pub(super) fn cidrs(&mut self, path: &str, list: &[String]) -> Vec<IpNet> {
        let each = list.iter().enumerate();
        each.filter_map(|(i, t)| self.cidr(&format!("{path}[{i}]"), t))
            .collect()
    }

    pub(super) fn address(&mut self, path: &str, field: &Option<String>) -> Option<SocketAddr> {
        let address: SocketAddr = self.parse(path, text(field)?, "an address with a port")?;
        if address.port() == 0 {
            self.wrong(path, "port 0 is none");
        }
        Some(address)
    }

    pub(super) fn duration(&mut self, path: &str, field: &Option<String>) -> Duration {
        let Some(text) = text(field) else {
            return Duration::ZERO;
        };
        duration::parse(text).unwrap_or_else(|| {
            let why = format!("{text:?} is not a duration, as 30s or 1h30m, or it is negative");
            self.wrong(path, &why);
            Duration::ZERO
        })
    }

    pub(super) fn periods(
        &mut self,
        section: &str,
        sync: &Option<String>,
        min: &Option<String>,
    ) -> Periods {
        let resync = self.duration(&format!("{section}.syncPeriod"), sync);
        let min = self.duration(&format!("{section}.minSyncPeriod"), min);
        if min > resync {
            self.wrong(
                &format!("{section}.syncPeriod"),
                "must not be less than minSyncPeriod",
            );
        }
        Periods { resync, min }
    }

    pub(super) fn bit(&mut self, path: &str, bit: Option<i32>) -> u8 {
        let bit = u8::try_from(bit.unwrap_or(14)).ok().filter(|b| *b < 32);
        bit.unwrap_or_else(|| {
            self.wrong(path, "must be from 0 to 31");
            0
        })
    }

    pub(super) fn count(&mut self, path: &str, count: Option<i32>) -> u32 {
        u32::try_from(count.unwrap_or_default()).unwrap_or_else(|_| {
            self.wrong(path, "must not be negative");
            0
        })
    }

    pub(super) fn mode(&mut self, field: &Option<String>) -> Mode {
        let Some(name) = text(field) else {
            return Mode::Auto;
        };
        let found = Mode::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, mode)| *mode).unwrap_or_else(|| {
            let known = Mode::ALL.map(|(known, _)| known).join(", ");
            let linux = if name == "kernelspace" {
                " (that is Windows')"
            } else {
                ""
            };
            self.wrong("mode", &format!("is {name:?}{linux}, known are {known}"));
            Mode::Auto
        })
    }

    pub(super) fn ipvs(&mut self, ipvs: &file::Ipvs) -> Ipvs {
        let scheduler = text(&ipvs.scheduler).unwrap_or("rr").to_owned();
        // The kernel knows which there are; a name is all it can be (`IP_VS_SCHEDNAME_MAXLEN` is 16).
        if scheduler.len() > 15
            || !scheduler
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            self.wrong(
                "ipvs.scheduler",
                &format!("{scheduler:?} is not the name of one"),
            );
        }
        let exclude = ipvs.exclude_cidrs.as_deref().unwrap_or_default();
        Ipvs {
            scheduler,
            exclude_cidrs: self.cidrs("ipvs.excludeCIDRs", exclude),
            strict_arp: ipvs.strict_arp == Some(true),
            tcp_timeout: self.duration("ipvs.tcpTimeout", &ipvs.tcp_timeout),
            tcp_fin_timeout: self.duration("ipvs.tcpFinTimeout", &ipvs.tcp_fin_timeout),
            udp_timeout: self.duration("ipvs.udpTimeout", &ipvs.udp_timeout),
            periods: self.periods("ipvs", &ipvs.sync_period, &ipvs.min_sync_period),
        }
    }

    pub(super) fn conntrack(&mut self, c: &file::Conntrack) -> Conntrack {
        let at = |name: &str| format!("conntrack.{name}");
        Conntrack {
            max_per_core: self.count(&at("maxPerCore"), c.max_per_core),
            min: self.count(&at("min"), c.min),
            tcp_established_timeout: self
                .duration(&at("tcpEstablishedTimeout"), &c.tcp_established_timeout),
            tcp_close_wait_timeout: self
                .duration(&at("tcpCloseWaitTimeout"), &c.tcp_close_wait_timeout),
            tcp_be_liberal: c.tcp_be_liberal == Some(true),
            udp_timeout: self.duration(&at("udpTimeout"), &c.udp_timeout),
            udp_stream_timeout: self.duration(&at("udpStreamTimeout"), &c.udp_stream_timeout),
        }
    }

    pub(super) fn detect_local(&mut self, file: &File) -> DetectLocal {
        let links = file.detect_local.clone().unwrap_or_default();
        let cidrs = text(&file.cluster_cidr).map(|t| t.split(',').map(str::to_owned).collect());
        let cidrs: Vec<String> = cidrs.unwrap_or_default();
        let ranges = self.cidrs("clusterCIDR", &cidrs);
        let families = ranges.iter().filter(|c| c.addr().is_ipv4()).count();
        if cidrs.len() > 2 || (ranges.len() == 2 && families != 1) {
            self.wrong("clusterCIDR", "must be one range, or one of each family");
        }
        let mut named = |field: &Option<String>, path: &str| {
            text(field).map(str::to_owned).unwrap_or_else(|| {
                self.wrong(path, "must not be empty in this detectLocalMode");
                String::new()
            })
        };
        match text(&file.detect_local_mode).unwrap_or("ClusterCIDR") {
            "ClusterCIDR" => DetectLocal::ClusterCidr(ranges),
            "NodeCIDR" => DetectLocal::NodeCidr,
            "BridgeInterface" => DetectLocal::BridgeInterface(named(
                &links.bridge_interface,
                "detectLocal.bridgeInterface",
            )),
            "InterfaceNamePrefix" => DetectLocal::InterfaceNamePrefix(named(
                &links.interface_name_prefix,
                "detectLocal.interfaceNamePrefix",
            )),
            other => {
                self.wrong("detectLocalMode", &format!("is {other:?}, known are ClusterCIDR, NodeCIDR, BridgeInterface and InterfaceNamePrefix"));
                DetectLocal::ClusterCidr(ranges)
            }
        }
    }

    pub(super) fn node_port_addresses(&mut self, file: &File) -> Vec<NodePortAddress> {
        let list = file.node_port_addresses.as_deref().unwrap_or_default();
        let each = list.iter().enumerate().filter_map(|(i, name)| {
            Some(match name.as_str() {
                "primary" => NodePortAddress::Primary,
                "localhost" => NodePortAddress::Localhost,
                "all" => NodePortAddress::All,
                range => {
                    NodePortAddress::Range(self.cidr(&format!("nodePortAddresses[{i}]"), range)?)
                }
            })
        });
        each.collect()
    }

    /// `FIRST-LAST`, `FIRST+MORE` or one port; `0-0`, `0` and nothing are any.
    pub(super) fn port_range(&mut self, field: &Option<String>) -> Option<RangeInclusive<u16>> {
        let range = text(field)?;
        let number = |t: &str| t.trim().parse::<u16>().ok();
        let ends = if let Some((first, last)) = range.split_once('-') {
            number(first).zip(number(last))
        } else if let Some((first, more)) = range.split_once('+') {
            let first = number(first);
            let last = first.zip(number(more)).and_then(|(f, m)| f.checked_add(m));
            first.zip(last)
        } else {
            number(range).map(|port| (port, port))
        };
        match ends {
            Some((0, 0)) => None,
            Some((first, last)) if first > 0 && first <= last => Some(first..=last),
            _ => {
                self.wrong(
                    "portRange",
                    &format!("{range:?} is not a range of ports, as 40000-49999"),
                );
                None
            }
        }
    }

    pub(super) fn version(&mut self, field: &Option<String>) {
        let Some(version) = text(field) else { return };
        let number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        if !version
            .split_once('.')
            .is_some_and(|(a, b)| number(a) && number(b))
        {
            let path = "showHiddenMetricsForVersion";
            self.wrong(path, &format!("{version:?} is not a version, as 1.35"));
        }
    }

    pub(super) fn logging(&mut self, file: &File) -> Logging {
        let logging = file.logging.clone().unwrap_or_default();
        let format = text(&logging.format).unwrap_or("text");
        if format != "text" && format != "json" {
            self.wrong(
                "logging.format",
                &format!("is {format:?}, known are text and json"),
            );
        }
        Logging {
            json: format == "json",
            verbosity: logging.verbosity.unwrap_or_default(),
        }
    }
}
