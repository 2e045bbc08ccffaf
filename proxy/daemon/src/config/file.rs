//! The file: KubeProxyConfiguration of `kubeproxy.config.k8s.io/v1alpha1` as it is written, with the fields of
//! Kubernetes 1.34 to 1.37, and those of the userspace mode, which went with it in 1.26. All are optional, as there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A file's group and version.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// A file's kind.
pub const KIND: &str = "KubeProxyConfiguration";

macro_rules! wire {
    ($(#[$about:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        pub struct $name {
            $(
                #[allow(missing_docs)]
                #[serde(skip_serializing_if = "Option::is_none")]
                $(#[$attribute])*
                pub $field: Option<$kind>,
            )*
        }
    };
}

wire! {
    /// All of it.
    File {
        api_version: String,
        kind: String,
        feature_gates: BTreeMap<String, bool>,
        client_connection: ClientConnection,
        logging: Logging,
        hostname_override: String,
        bind_address: String,
        healthz_bind_address: String,
        metrics_bind_address: String,
        bind_address_hard_fail: bool,
        enable_profiling: bool,
        show_hidden_metrics_for_version: String,
        mode: String,
        iptables: Iptables,
        ipvs: Ipvs,
        nftables: Nftables,
        winkernel: Winkernel,
        detect_local_mode: String,
        detect_local: DetectLocal,
        #[serde(rename = "clusterCIDR")]
        cluster_cidr: String,
        node_port_addresses: Vec<String>,
        oom_score_adj: i32,
        conntrack: Conntrack,
        config_sync_period: String,
        port_range: String,
        windows_run_as_service: bool,
        udp_idle_timeout: String,
    }
}

wire! {
    /// How the API server is spoken to.
    ClientConnection {
        kubeconfig: String,
        accept_content_types: String,
        content_type: String,
        qps: f32,
        burst: i32,
    }
}

wire! {
    /// What is logged.
    Logging {
        format: String,
        flush_frequency: Value,
        verbosity: u32,
        vmodule: Vec<Vmodule>,
        options: LoggingOptions,
    }
}

wire! {
    /// The verbosity of one file.
    Vmodule {
        file_pattern: String,
        verbosity: u32,
    }
}

wire! {
    /// What a format of log lines has beside.
    LoggingOptions {
        text: FormatOptions,
        json: FormatOptions,
    }
}

wire! {
    /// Where log lines go.
    FormatOptions {
        split_stream: bool,
        info_buffer_size: Value,
    }
}

wire! {
    /// Windows.
    Winkernel {
        network_name: String,
        source_vip: String,
        #[serde(rename = "enableDSR")]
        enable_dsr: bool,
        root_hns_endpoint_name: String,
        forward_health_check_vip: bool,
    }
}

wire! {
    /// The iptables mode.
    Iptables {
        masquerade_bit: i32,
        masquerade_all: bool,
        localhost_node_ports: bool,
        #[serde(rename = "snatNodeInternalIP")]
        snat_node_internal_ip: bool,
        sync_period: String,
        min_sync_period: String,
    }
}

wire! {
    /// The IPVS mode.
    Ipvs {
        sync_period: String,
        min_sync_period: String,
        scheduler: String,
        #[serde(rename = "excludeCIDRs")]
        exclude_cidrs: Vec<String>,
        #[serde(rename = "strictARP")]
        strict_arp: bool,
        tcp_timeout: String,
        tcp_fin_timeout: String,
        udp_timeout: String,
    }
}

wire! {
    /// The nftables mode.
    Nftables {
        masquerade_bit: i32,
        masquerade_all: bool,
        sync_period: String,
        min_sync_period: String,
    }
}

wire! {
    /// How local traffic is known.
    DetectLocal {
        bridge_interface: String,
        interface_name_prefix: String,
    }
}

wire! {
    /// The connection table.
    Conntrack {
        max_per_core: i32,
        min: i32,
        tcp_established_timeout: String,
        tcp_close_wait_timeout: String,
        tcp_be_liberal: bool,
        udp_timeout: String,
        udp_stream_timeout: String,
    }
}

impl File {
    /// Fills what is not set, or zero, as kube-proxy does (`SetDefaults_KubeProxyConfiguration`). Not
    /// `minSyncPeriod`: kube-proxy gathers changes for a second, keelson writes them at once.
    pub(super) fn fill(&mut self) {
        fill(&mut self.api_version, API_VERSION);
        fill(&mut self.kind, KIND);
        let bind = text(&mut self.bind_address, "0.0.0.0");
        let v6 = bind.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_ipv6());
        let (all, own) = if v6 {
            ("[::]", "[::1]")
        } else {
            ("0.0.0.0", "127.0.0.1")
        };
        for (address, host, port) in [
            (&mut self.healthz_bind_address, all, 10_256),
            (&mut self.metrics_bind_address, own, 10_249),
        ] {
            let address = text(address, &format!("{host}:{port}"));
            if let Ok(ip) = address.parse::<std::net::IpAddr>() {
                *address = std::net::SocketAddr::new(ip, port).to_string();
            }
        }
        self.oom_score_adj.get_or_insert(-999);
        let client = self.client_connection.get_or_insert_default();
        client.qps = client.qps.filter(|q| *q != 0.0).or(Some(5.0));
        client.burst = client.burst.filter(|b| *b != 0).or(Some(10));
        let iptables = self.iptables.get_or_insert_default();
        iptables.masquerade_bit.get_or_insert(14);
        iptables.localhost_node_ports.get_or_insert(true);
        period(&mut iptables.sync_period, "30s");
        period(&mut self.ipvs.get_or_insert_default().sync_period, "30s");
        let nftables = self.nftables.get_or_insert_default();
        nftables.masquerade_bit.get_or_insert(14);
        period(&mut nftables.sync_period, "30s");
        let conntrack = self.conntrack.get_or_insert_default();
        conntrack.max_per_core.get_or_insert(32 * 1024);
        conntrack.min.get_or_insert(128 * 1024);
        fill(&mut conntrack.tcp_established_timeout, "24h0m0s");
        fill(&mut conntrack.tcp_close_wait_timeout, "1h0m0s");
        period(&mut self.config_sync_period, "15m0s");
        period(&mut self.udp_idle_timeout, "250ms");
    }
}

fn fill(field: &mut Option<String>, default: &str) {
    field.get_or_insert_with(|| default.to_owned());
}

fn text<'a>(field: &'a mut Option<String>, default: &str) -> &'a mut String {
    let text = field.get_or_insert_default();
    if text.is_empty() {
        default.clone_into(text);
    }
    text
}

/// Also where it is written as no time at all.
fn period(field: &mut Option<String>, default: &str) {
    let none = |text: &String| super::duration::parse(text).is_some_and(|d| d.is_zero());
    if field.as_ref().is_none_or(none) {
        *field = Some(default.to_owned());
    }
}
