//! kube-proxy's flags. Each stands for a field of the file; one that is given wins over the file.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

/// Flags of `keelson proxy`: kube-proxy's names and meanings.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Flags {
    /// A KubeProxyConfiguration file; unknown fields are refused. A flag wins over it.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Writes the file that stands for the flags (and --config), all defaults filled in, and ends.
    #[arg(long)]
    pub write_config_to: Option<PathBuf>,
    /// Removes all rules of all modes, and ends.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub cleanup: bool,
    /// How the API server is reached [default: the service account of the pod that this runs in].
    #[arg(long)]
    pub kubeconfig: Option<String>,
    /// The API server, whatever the kubeconfig says.
    #[arg(long)]
    pub master: Option<String>,
    /// This node's name [default: the host's name].
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Who does the work: nftables, iptables, ipvs, userspace or auto [default: auto, the best the kernel has].
    #[arg(long = "mode", alias = "proxy-mode")]
    pub mode: Option<String>,
    /// Pods' addresses, one range a family.
    #[arg(long)]
    pub cluster_cidr: Option<String>,
    /// This node's first address, where it is not that of the Node object. Nothing is bound to it.
    #[arg(long)]
    pub bind_address: Option<String>,
    /// Where /healthz and /livez answer; empty: nowhere [default: 0.0.0.0:10256].
    #[arg(long)]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics, /proxyMode and /configz answer; empty: nowhere [default: 127.0.0.1:10249].
    #[arg(long)]
    pub metrics_bind_address: Option<String>,
    /// Port of /healthz; 0: nowhere. Use --healthz-bind-address.
    #[arg(long, hide = true)]
    pub healthz_port: Option<u16>,
    /// Port of /metrics; 0: nowhere. Use --metrics-bind-address.
    #[arg(long, hide = true)]
    pub metrics_port: Option<u16>,
    /// Ends when one of these ports can't be had.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub bind_address_hard_fail: Option<bool>,
    /// Node addresses with node ports: ranges, `primary`, `localhost` or `all`.
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<String>>,
    /// Masquerades all that goes to cluster addresses.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub masquerade_all: Option<bool>,
    /// The bit of the mark for packets to masquerade, 0 to 31 (iptables, ipvs) [default: 14].
    #[arg(long)]
    pub iptables_masquerade_bit: Option<i32>,
    /// Node ports answer on 127.0.0.1 (iptables, userspace) [default: true].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub iptables_localhost_nodeports: Option<bool>,
    /// How often rules are read back and mended [default: 30s].
    #[arg(long)]
    pub iptables_sync_period: Option<String>,
    /// Least time between two changes of the rules [default: none].
    #[arg(long)]
    pub iptables_min_sync_period: Option<String>,
    /// The same for ipvs.
    #[arg(long)]
    pub ipvs_sync_period: Option<String>,
    /// The same for ipvs.
    #[arg(long)]
    pub ipvs_min_sync_period: Option<String>,
    /// How ipvs chooses an endpoint [default: rr].
    #[arg(long)]
    pub ipvs_scheduler: Option<String>,
    /// Ranges whose virtual servers are not touched.
    #[arg(long, value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Option<Vec<String>>,
    /// Answers ARP only where an address is (arp_ignore 1, arp_announce 2).
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipvs_strict_arp: Option<bool>,
    /// Idle time of ipvs's TCP connections; 0: as it is.
    #[arg(long)]
    pub ipvs_tcp_timeout: Option<String>,
    /// The same after a FIN.
    #[arg(long)]
    pub ipvs_tcpfin_timeout: Option<String>,
    /// Idle time of ipvs's UDP flows; 0: as it is.
    #[arg(long)]
    pub ipvs_udp_timeout: Option<String>,
    /// How traffic of this node's pods is known: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix
    /// [default: ClusterCIDR].
    #[arg(long)]
    pub detect_local_mode: Option<String>,
    /// The bridge, for BridgeInterface.
    #[arg(long)]
    pub pod_bridge_interface: Option<String>,
    /// How pods' links begin, for InterfaceNamePrefix.
    #[arg(long)]
    pub pod_interface_name_prefix: Option<String>,
    /// How readily the kernel kills this process, -1000 to 1000 [default: -999].
    #[arg(long, allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// Connections to track for each core; 0: as it is [default: 32768].
    #[arg(long)]
    pub conntrack_max_per_core: Option<i32>,
    /// Connections to track at least [default: 131072].
    #[arg(long)]
    pub conntrack_min: Option<i32>,
    /// Idle time of TCP connections in the table; 0: as it is [default: 24h].
    #[arg(long)]
    pub conntrack_tcp_timeout_established: Option<String>,
    /// The same in CLOSE_WAIT [default: 1h].
    #[arg(long)]
    pub conntrack_tcp_timeout_close_wait: Option<String>,
    /// Packets out of a connection's window are not invalid.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub conntrack_tcp_be_liberal: Option<bool>,
    /// Idle time of UDP flows without an answer; 0: as it is.
    #[arg(long)]
    pub conntrack_udp_timeout: Option<String>,
    /// The same of those with answers.
    #[arg(long)]
    pub conntrack_udp_timeout_stream: Option<String>,
    /// Ports to listen on, as FIRST-LAST (userspace) [default: any].
    #[arg(long)]
    pub proxy_port_range: Option<String>,
    /// How long a UDP client without traffic keeps its endpoint (userspace) [default: 250ms].
    #[arg(long)]
    pub udp_timeout: Option<String>,
    /// Log lines at all: 0 to 3 what matters, 4 and 5 details, from 6 all.
    #[arg(short = 'v', long = "v")]
    pub v: Option<u32>,
    /// How log lines look: text or json.
    #[arg(long)]
    pub logging_format: Option<String>,
    #[arg(long, hide = true)]
    log_flush_frequency: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    vmodule: Option<Vec<String>>,
    #[arg(long, hide = true)]
    config_sync_period: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    feature_gates: Option<Vec<String>>,
    #[arg(long, hide = true)]
    kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    kube_api_qps: Option<f32>,
    #[arg(long, hide = true)]
    kube_api_burst: Option<i32>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    profiling: Option<bool>,
    #[arg(long, hide = true)]
    show_hidden_metrics_for_version: Option<String>,
}

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
        let gates = self.feature_gates.as_ref().map(gates);
        let vmodule = self.vmodule.as_ref().map(vmodule);
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
fn gates(list: &Vec<String>) -> Value {
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
fn vmodule(list: &Vec<String>) -> Value {
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
