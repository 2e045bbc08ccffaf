//! A file becomes settings: upstream's checks (`pkg/proxy/apis/config/validation`), and a word on what has no effect.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

use super::file::{self, File};
use super::flags::Flags;
use super::settings::{
    Conntrack, DetectLocal, Ipvs, Logging, Masquerade, Mode, NodePortAddress, Periods, Settings,
};
use super::{Invalid, duration};

/// Checks all of a file that has its defaults.
pub(super) fn settle(
    file: &File,
    flags: &Flags,
    warnings: &mut Vec<String>,
) -> Result<Settings, Invalid> {
    let mut check = Check::default();
    let none = Default::default();
    let iptables = file.iptables.as_ref().unwrap_or(&none);
    let none = Default::default();
    let nftables = file.nftables.as_ref().unwrap_or(&none);
    let none = Default::default();
    let client = file.client_connection.as_ref().unwrap_or(&none);
    let bind = check.ip("bindAddress", &file.bind_address);
    let ports = [
        (
            flags.healthz_port,
            &flags.healthz_bind_address,
            &file.healthz_bind_address,
            "healthzBindAddress",
        ),
        (
            flags.metrics_port,
            &flags.metrics_bind_address,
            &file.metrics_bind_address,
            "metricsBindAddress",
        ),
    ];
    let [healthz, metrics] = ports.map(|(port, flag, address, path)| {
        let off = port == Some(0) || flag.as_deref() == Some("");
        let address = (!off).then(|| check.address(path, address)).flatten()?;
        // The old flags say the port only where no address is given.
        let port = port.filter(|_| flag.is_none()).unwrap_or(address.port());
        Some(SocketAddr::new(address.ip(), port))
    });
    let masquerade = Masquerade {
        bit: check.bit("iptables.masqueradeBit", iptables.masquerade_bit),
        all: iptables.masquerade_all == Some(true),
    };
    let nftables_masquerade = Masquerade {
        bit: check.bit("nftables.masqueradeBit", nftables.masquerade_bit),
        all: nftables.masquerade_all == Some(true),
    };
    if iptables.snat_node_internal_ip == Some(true) {
        check.wrong(
            "iptables.snatNodeInternalIP",
            "is not supported: what is masqueraded has the address of the link it leaves by",
        );
    }
    if client.burst.is_some_and(|b| b < 0) {
        check.wrong("clientConnection.burst", "must not be negative");
    }
    let oom_score_adj = file.oom_score_adj.unwrap_or_default();
    if !(-1000..=1000).contains(&oom_score_adj) {
        check.wrong("oomScoreAdj", "must be from -1000 to 1000");
    }
    check.duration("configSyncPeriod", &file.config_sync_period);
    check.version(&file.show_hidden_metrics_for_version);
    let settings = Settings {
        node_name: text(&file.hostname_override).map(|n| n.trim().to_lowercase()),
        kubeconfig: text(&client.kubeconfig).map(Into::into),
        master: flags.master.clone().filter(|m| !m.is_empty()),
        mode: check.mode(&file.mode),
        node_ip: bind.filter(|ip| !ip.is_unspecified()),
        healthz,
        metrics,
        bind_hard_fail: file.bind_address_hard_fail == Some(true),
        masquerade,
        nftables_masquerade,
        localhost_node_ports: iptables.localhost_node_ports != Some(false),
        periods: check.periods("iptables", &iptables.sync_period, &iptables.min_sync_period),
        nftables_periods: check.periods(
            "nftables",
            &nftables.sync_period,
            &nftables.min_sync_period,
        ),
        ipvs: check.ipvs(&file.ipvs.clone().unwrap_or_default()),
        detect_local: check.detect_local(file),
        node_port_addresses: check.node_port_addresses(file),
        oom_score_adj,
        conntrack: check.conntrack(&file.conntrack.clone().unwrap_or_default()),
        ports: check.port_range(&file.port_range),
        udp_idle: check.duration("udpIdleTimeout", &file.udp_idle_timeout),
        logging: check.logging(file),
    };
    if !check.0.is_empty() {
        return Err(Invalid(check.0));
    }
    no_effect(file, &settings, warnings);
    Ok(settings)
}

/// Names what is set and does nothing here.
fn no_effect(file: &File, settings: &Settings, warnings: &mut Vec<String>) {
    let client = file.client_connection.clone().unwrap_or_default();
    let logging = file.logging.clone().unwrap_or_default();
    let set = |value: Option<Value>| value.as_ref().is_some_and(set);
    let windows = set(serde_json::to_value(&file.winkernel).ok());
    let options = set(serde_json::to_value(&logging.options).ok());
    let gates: Vec<&str> = file
        .feature_gates
        .iter()
        .flatten()
        .map(|(n, _)| n.as_str())
        .collect();
    let gates = format!("featureGates ({}): there are none here", gates.join(", "));
    let rates = client.qps.is_some_and(|q| q != 5.0) || client.burst.is_some_and(|b| b != 10);
    let json = |t: &&str| !t.is_empty() && *t != "application/json";
    let protobuf = [
        client.content_type.as_deref(),
        client.accept_content_types.as_deref(),
    ];
    let rows: [(bool, &str); 11] = [
        (file.feature_gates.iter().flatten().next().is_some(), &gates),
        (
            protobuf.into_iter().flatten().any(|t| json(&t)),
            "clientConnection.contentType: the API is spoken to in JSON",
        ),
        (
            rates,
            "clientConnection.qps and burst: the proxy watches, and asks nothing else that could be limited",
        ),
        (
            file.config_sync_period.as_deref() != Some("15m0s"),
            "configSyncPeriod: what a watch brought is not gone over again",
        ),
        (
            file.enable_profiling == Some(true),
            "enableProfiling: there is no /debug/pprof",
        ),
        (
            text(&file.show_hidden_metrics_for_version).is_some(),
            "showHiddenMetricsForVersion: no metric is hidden",
        ),
        (
            windows || file.windows_run_as_service == Some(true),
            "winkernel and windowsRunAsService: this is Linux",
        ),
        (
            logging.vmodule.is_some_and(|v| !v.is_empty()),
            "logging.vmodule: use RUST_LOG",
        ),
        (
            set(logging.flush_frequency),
            "logging.flushFrequency: lines are written at once",
        ),
        (
            options,
            "logging.options: all lines go to standard error, unbuffered",
        ),
        (
            settings.ports.is_some() && settings.mode != Mode::Userspace,
            "portRange: only the userspace mode has ports of its own",
        ),
    ];
    let said = rows.into_iter().filter(|(is, _)| *is);
    warnings.extend(said.map(|(_, what)| format!("no effect: {what}")));
}

/// Whether there is anything that is not the default or zero; 5 s is how often klog flushes.
fn set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::String(text) => !["", "0", "0s", "5s"].contains(&text.as_str()),
        Value::Number(n) => n.as_i64() != Some(0) && n.as_i64() != Some(5_000_000_000),
        Value::Array(list) => list.iter().any(set),
        Value::Object(fields) => fields.values().any(set),
    }
}

fn text(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|t| !t.is_empty())
}

/// What is wrong so far.
#[derive(Default)]
struct Check(Vec<String>);

impl Check {
    fn wrong(&mut self, path: &str, why: &str) {
        self.0.push(format!("{path}: {why}"));
    }

    fn parse<T: std::str::FromStr>(&mut self, path: &str, text: &str, what: &str) -> Option<T> {
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.wrong(path, &format!("{text:?} is not {what}"));
        }
        parsed
    }

    fn ip(&mut self, path: &str, field: &Option<String>) -> Option<IpAddr> {
        self.parse(path, text(field)?, "an IP address")
    }

    fn cidr(&mut self, path: &str, text: &str) -> Option<IpNet> {
        let parsed: Option<IpNet> = self.parse(path, text, "a range, as 10.0.0.0/8 or fd00::/48");
        parsed.map(|c| c.trunc())
    }

    fn cidrs(&mut self, path: &str, list: &[String]) -> Vec<IpNet> {
        let each = list.iter().enumerate();
        each.filter_map(|(i, t)| self.cidr(&format!("{path}[{i}]"), t))
            .collect()
    }

    fn address(&mut self, path: &str, field: &Option<String>) -> Option<SocketAddr> {
        let address: SocketAddr = self.parse(path, text(field)?, "an address with a port")?;
        if address.port() == 0 {
            self.wrong(path, "port 0 is none");
        }
        Some(address)
    }

    fn duration(&mut self, path: &str, field: &Option<String>) -> Duration {
        let Some(text) = text(field) else {
            return Duration::ZERO;
        };
        duration::parse(text).unwrap_or_else(|| {
            let why = format!("{text:?} is not a duration, as 30s or 1h30m, or it is negative");
            self.wrong(path, &why);
            Duration::ZERO
        })
    }

    fn periods(&mut self, section: &str, sync: &Option<String>, min: &Option<String>) -> Periods {
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

    fn bit(&mut self, path: &str, bit: Option<i32>) -> u8 {
        let bit = u8::try_from(bit.unwrap_or(14)).ok().filter(|b| *b < 32);
        bit.unwrap_or_else(|| {
            self.wrong(path, "must be from 0 to 31");
            0
        })
    }

    fn count(&mut self, path: &str, count: Option<i32>) -> u32 {
        u32::try_from(count.unwrap_or_default()).unwrap_or_else(|_| {
            self.wrong(path, "must not be negative");
            0
        })
    }

    fn mode(&mut self, field: &Option<String>) -> Mode {
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

    fn ipvs(&mut self, ipvs: &file::Ipvs) -> Ipvs {
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

    fn conntrack(&mut self, c: &file::Conntrack) -> Conntrack {
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

    fn detect_local(&mut self, file: &File) -> DetectLocal {
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

    fn node_port_addresses(&mut self, file: &File) -> Vec<NodePortAddress> {
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
    fn port_range(&mut self, field: &Option<String>) -> Option<RangeInclusive<u16>> {
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

    fn version(&mut self, field: &Option<String>) {
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

    fn logging(&mut self, file: &File) -> Logging {
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
