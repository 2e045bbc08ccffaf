//! kube-proxy's flags. Each stands for a field of the file; one that is given wins over the file.

use std::path::PathBuf;

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
    #[arg(long, alias = "node-name")]
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
    pub(super) log_flush_frequency: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    pub(super) vmodule: Option<Vec<String>>,
    #[arg(long, hide = true)]
    pub(super) config_sync_period: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    pub(super) feature_gates: Option<Vec<String>>,
    #[arg(long, hide = true)]
    pub(super) kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    pub(super) kube_api_qps: Option<f32>,
    #[arg(long, hide = true)]
    pub(super) kube_api_burst: Option<i32>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) profiling: Option<bool>,
    #[arg(long, hide = true)]
    pub(super) show_hidden_metrics_for_version: Option<String>,
}
