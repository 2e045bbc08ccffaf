//! Which flag stands for which field.

use serde::Serialize;
use serde_json::Value;

use super::flags::Flags;

/// A flag, the field that it stands for, and what it says.
pub(super) struct Given {
    pub(super) flag: &'static str,
    pub(super) path: &'static str,
    pub(super) value: Value,
}

impl Flags {
    /// All that are given, in the file's terms.
    pub(super) fn given(&self) -> Vec<Given> {
        let ipvs = self.mode.as_deref() == Some("ipvs");
        let name = self.hostname_override.as_ref();
        let name = name.map(|n| n.trim().to_lowercase());
        let gates = self.feature_gates.as_ref().map(|list| gates(list));
        let vmodule = self.vmodule.as_ref().map(|list| vmodule(list));
        let all = [
            (
                "kubeconfig",
                "clientConnection.kubeconfig",
                value(&self.kubeconfig),
            ),
            ("hostname-override", "hostnameOverride", value(&name)),
            ("mode", "mode", value(&self.mode)),
            ("cluster-cidr", "clusterCIDR", value(&self.cluster_cidr)),
            ("bind-address", "bindAddress", value(&self.bind_address)),
            (
                "healthz-bind-address",
                "healthzBindAddress",
                value(&self.healthz_bind_address),
            ),
            (
                "metrics-bind-address",
                "metricsBindAddress",
                value(&self.metrics_bind_address),
            ),
            (
                "bind-address-hard-fail",
                "bindAddressHardFail",
                value(&self.bind_address_hard_fail),
            ),
            (
                "nodeport-addresses",
                "nodePortAddresses",
                value(&self.nodeport_addresses),
            ),
            (
                "masquerade-all",
                "iptables.masqueradeAll",
                value(&self.masquerade_all),
            ),
            (
                "masquerade-all",
                "nftables.masqueradeAll",
                value(&self.masquerade_all),
            ),
            (
                "iptables-masquerade-bit",
                "iptables.masqueradeBit",
                value(&self.iptables_masquerade_bit),
            ),
            (
                "iptables-localhost-nodeports",
                "iptables.localhostNodePorts",
                value(&self.iptables_localhost_nodeports),
            ),
            (
                "iptables-sync-period",
                "iptables.syncPeriod",
                value(&self.iptables_sync_period),
            ),
            // Upstream takes it for all modes but ipvs.
            (
                "iptables-sync-period",
                "nftables.syncPeriod",
                value(&self.iptables_sync_period),
            ),
            (
                "iptables-min-sync-period",
                "iptables.minSyncPeriod",
                value(&self.iptables_min_sync_period),
            ),
            (
                "iptables-min-sync-period",
                "nftables.minSyncPeriod",
                value(&self.iptables_min_sync_period),
            ),
            (
                "ipvs-sync-period",
                "ipvs.syncPeriod",
                value(&self.ipvs_sync_period),
            ),
            (
                "ipvs-min-sync-period",
                "ipvs.minSyncPeriod",
                value(&self.ipvs_min_sync_period),
            ),
            (
                "ipvs-scheduler",
                "ipvs.scheduler",
                value(&self.ipvs_scheduler),
            ),
            (
                "ipvs-exclude-cidrs",
                "ipvs.excludeCIDRs",
                value(&self.ipvs_exclude_cidrs),
            ),
            (
                "ipvs-strict-arp",
                "ipvs.strictARP",
                value(&self.ipvs_strict_arp),
            ),
            (
                "ipvs-tcp-timeout",
                "ipvs.tcpTimeout",
                value(&self.ipvs_tcp_timeout),
            ),
            (
                "ipvs-tcpfin-timeout",
                "ipvs.tcpFinTimeout",
                value(&self.ipvs_tcpfin_timeout),
            ),
            (
                "ipvs-udp-timeout",
                "ipvs.udpTimeout",
                value(&self.ipvs_udp_timeout),
            ),
            (
                "detect-local-mode",
                "detectLocalMode",
                value(&self.detect_local_mode),
            ),
            (
                "pod-bridge-interface",
                "detectLocal.bridgeInterface",
                value(&self.pod_bridge_interface),
            ),
            (
                "pod-interface-name-prefix",
                "detectLocal.interfaceNamePrefix",
                value(&self.pod_interface_name_prefix),
            ),
            ("oom-score-adj", "oomScoreAdj", value(&self.oom_score_adj)),
            (
                "conntrack-max-per-core",
                "conntrack.maxPerCore",
                value(&self.conntrack_max_per_core),
            ),
            ("conntrack-min", "conntrack.min", value(&self.conntrack_min)),
            (
                "conntrack-tcp-timeout-established",
                "conntrack.tcpEstablishedTimeout",
                value(&self.conntrack_tcp_timeout_established),
            ),
            (
                "conntrack-tcp-timeout-close-wait",
                "conntrack.tcpCloseWaitTimeout",
                value(&self.conntrack_tcp_timeout_close_wait),
            ),
            (
                "conntrack-tcp-be-liberal",
                "conntrack.tcpBeLiberal",
                value(&self.conntrack_tcp_be_liberal),
            ),
            (
                "conntrack-udp-timeout",
                "conntrack.udpTimeout",
                value(&self.conntrack_udp_timeout),
            ),
            (
                "conntrack-udp-timeout-stream",
                "conntrack.udpStreamTimeout",
                value(&self.conntrack_udp_timeout_stream),
            ),
            (
                "proxy-port-range",
                "portRange",
                value(&self.proxy_port_range),
            ),
            ("udp-timeout", "udpIdleTimeout", value(&self.udp_timeout)),
            ("v", "logging.verbosity", value(&self.v)),
            (
                "logging-format",
                "logging.format",
                value(&self.logging_format),
            ),
            (
                "log-flush-frequency",
                "logging.flushFrequency",
                value(&self.log_flush_frequency),
            ),
            ("vmodule", "logging.vmodule", vmodule),
            (
                "config-sync-period",
                "configSyncPeriod",
                value(&self.config_sync_period),
            ),
            ("feature-gates", "featureGates", gates),
            (
                "kube-api-content-type",
                "clientConnection.contentType",
                value(&self.kube_api_content_type),
            ),
            (
                "kube-api-qps",
                "clientConnection.qps",
                value(&self.kube_api_qps),
            ),
            (
                "kube-api-burst",
                "clientConnection.burst",
                value(&self.kube_api_burst),
            ),
            ("profiling", "enableProfiling", value(&self.profiling)),
            (
                "show-hidden-metrics-for-version",
                "showHiddenMetricsForVersion",
                value(&self.show_hidden_metrics_for_version),
            ),
        ];
        let given = all.into_iter().filter_map(|(flag, path, value)| {
            let value = value?;
            Some(Given { flag, path, value })
        });
        // As upstream: --iptables-* periods say nothing in the ipvs mode.
        given
            .filter(|g| {
                !(ipvs && g.flag.starts_with("iptables-") && g.path.starts_with("nftables."))
            })
            .collect()
    }
}

fn value<T: Serialize>(flag: &Option<T>) -> Option<Value> {
    serde_json::to_value(flag.as_ref()?).ok()
}

/// `A=true,B=false`; what isn't so is kept as it is, to be refused with its name.
fn gates(list: &[String]) -> Value {
    let pair = |gate: &String| {
        let (name, on) = gate.split_once('=').unwrap_or((gate, ""));
        let on = on.parse::<bool>().map_or_else(|_| on.into(), Value::Bool);
        (name.to_owned(), on)
    };
    list.iter()
        .map(pair)
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// `FILE=3,OTHER=4`, likewise.
fn vmodule(list: &[String]) -> Value {
    let pair = |of: &String| {
        let (file, level) = of.split_once('=').unwrap_or((of, ""));
        let level = level
            .parse()
            .map_or_else(|_| level.into(), |n: u32| n.into());
        let fields: [(&str, Value); 2] = [("filePattern", file.into()), ("verbosity", level)];
        Value::from_iter(fields)
    };
    list.iter().map(pair).collect()
}
