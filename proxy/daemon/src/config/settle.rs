//! A file becomes settings: upstream's checks (`pkg/proxy/apis/config/validation`), and a word on what has no effect.

use std::net::SocketAddr;

use serde_json::Value;

use super::Invalid;
use super::check::{Check, text};
use super::file::File;
use super::flags::Flags;
use super::settings::{Masquerade, Mode, Settings};

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
            "must be false or left out: what is masqueraded has the address of the link that it leaves by",
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
