//! What a proxy is told to do, typed.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Who does the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The best that the kernel has. (kube-proxy's empty mode is iptables.)
    #[default]
    Auto,
    /// nftables.
    Nftables,
    /// iptables.
    Iptables,
    /// IPVS.
    Ipvs,
    /// A proxy of our own behind redirect rules.
    Userspace,
}

impl Mode {
    /// All of them by name.
    pub const ALL: [(&str, Self); 5] = [
        ("auto", Self::Auto),
        ("nftables", Self::Nftables),
        ("iptables", Self::Iptables),
        ("ipvs", Self::Ipvs),
        ("userspace", Self::Userspace),
    ];

    /// As it is written, and as `/proxyMode` answers.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, mode)| *mode == self);
        found.map_or("auto", |(name, _)| name)
    }
}

/// Addresses of the node with node ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// Those of the Node object, the first of each family.
    Primary,
    /// Loopback.
    Localhost,
    /// All.
    All,
    /// Those in a range.
    Range(IpNet),
}

/// How traffic that comes from this node's pods is known: all else is masqueraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// By source; no ranges: nothing is known to be local.
    ClusterCidr(Vec<IpNet>),
    /// By source in the Node object's `spec.podCIDRs`.
    NodeCidr,
    /// It comes from this bridge.
    BridgeInterface(String),
    /// It comes from a link whose name begins so.
    InterfaceNamePrefix(String),
}

/// How packets are masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// The bit of the mark, 0 to 31.
    pub bit: u8,
    /// All that goes to cluster addresses.
    pub all: bool,
}

/// How often rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// They are read back and mended.
    pub resync: Duration,
    /// Least time between two changes; zero: at once.
    pub min: Duration,
}

/// The IPVS mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipvs {
    /// The kernel's name of a scheduler.
    pub scheduler: String,
    /// Virtual servers in these are not touched.
    pub exclude_cidrs: Vec<IpNet>,
    /// `arp_ignore` 1 and `arp_announce` 2.
    pub strict_arp: bool,
    /// Idle time of TCP connections; zero: as it is.
    pub tcp_timeout: Duration,
    /// The same after a FIN.
    pub tcp_fin_timeout: Duration,
    /// Idle time of UDP flows; zero: as it is.
    pub udp_timeout: Duration,
    /// How often rules are written.
    pub periods: Periods,
}

/// The connection table's sysctls. Zero: as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries for each core.
    pub max_per_core: u32,
    /// Entries at least.
    pub min: u32,
    /// `nf_conntrack_tcp_timeout_established`.
    pub tcp_established_timeout: Duration,
    /// `nf_conntrack_tcp_timeout_close_wait`.
    pub tcp_close_wait_timeout: Duration,
    /// `nf_conntrack_tcp_be_liberal`.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_udp_timeout`.
    pub udp_timeout: Duration,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_stream_timeout: Duration,
}

impl Conntrack {
    /// What `nf_conntrack_max` is to be on a machine with so many cores; `None`: as it is. (Upstream's
    /// `getConntrackMax`.)
    pub fn max(&self, cores: u32) -> Option<u32> {
        let max = self.max_per_core.saturating_mul(cores).max(self.min);
        (self.max_per_core > 0).then_some(max)
    }

    /// The sysctls to set on such a machine.
    pub fn sysctls(&self, cores: u32) -> Vec<(&'static str, u64)> {
        let seconds = |d: Duration| Some(d.as_secs()).filter(|s| *s > 0);
        let all = [
            ("nf_conntrack_max", self.max(cores).map(u64::from)),
            (
                "nf_conntrack_tcp_timeout_established",
                seconds(self.tcp_established_timeout),
            ),
            (
                "nf_conntrack_tcp_timeout_close_wait",
                seconds(self.tcp_close_wait_timeout),
            ),
            (
                "nf_conntrack_tcp_be_liberal",
                self.tcp_be_liberal.then_some(1),
            ),
            ("nf_conntrack_udp_timeout", seconds(self.udp_timeout)),
            (
                "nf_conntrack_udp_timeout_stream",
                seconds(self.udp_stream_timeout),
            ),
        ];
        let set = all.into_iter();
        set.filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// One JSON object a line.
    pub json: bool,
    /// klog's verbosity.
    pub verbosity: u32,
}

impl Logging {
    /// The level that is nearest to klog's verbosity.
    pub fn level(&self) -> &'static str {
        match self.verbosity {
            0..=3 => "info",
            4..=5 => "debug",
            _ => "trace",
        }
    }
}

/// All that a proxy is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// This node's name; `None`: the host's.
    pub node_name: Option<String>,
    /// How the API server is reached; `None`: as a pod does.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's URL, whatever the kubeconfig says.
    pub master: Option<String>,
    /// Who does the work.
    pub mode: Mode,
    /// This node's first address; `None`: the Node object's.
    pub node_ip: Option<IpAddr>,
    /// Where `/healthz` answers.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` answers.
    pub metrics: Option<SocketAddr>,
    /// Ends when one of these can't be had.
    pub bind_hard_fail: bool,
    /// In the iptables, ipvs and userspace modes.
    pub masquerade: Masquerade,
    /// In the nftables mode.
    pub nftables_masquerade: Masquerade,
    /// Node ports answer on 127.0.0.1 in the iptables and userspace modes.
    pub localhost_node_ports: bool,
    /// In the iptables and userspace modes.
    pub periods: Periods,
    /// In the nftables mode.
    pub nftables_periods: Periods,
    /// The IPVS mode.
    pub ipvs: Ipvs,
    /// How local traffic is known.
    pub detect_local: DetectLocal,
    /// Which addresses have node ports; empty: what is usual for the mode.
    pub node_port_addresses: Vec<NodePortAddress>,
    /// `oom_score_adj` of the process.
    pub oom_score_adj: i32,
    /// The connection table.
    pub conntrack: Conntrack,
    /// Ports of the userspace mode; `None`: any.
    pub ports: Option<RangeInclusive<u16>>,
    /// Idle time of UDP clients in the userspace mode.
    pub udp_idle: Duration,
    /// What is logged.
    pub logging: Logging,
}

impl Settings {
    /// How packets are masqueraded in a mode.
    pub fn masquerade(&self, mode: Mode) -> Masquerade {
        if mode == Mode::Nftables {
            self.nftables_masquerade
        } else {
            self.masquerade
        }
    }

    /// How often rules are written in a mode.
    pub fn periods(&self, mode: Mode) -> Periods {
        match mode {
            Mode::Nftables => self.nftables_periods,
            Mode::Ipvs => self.ipvs.periods,
            _ => self.periods,
        }
    }

    /// Which addresses have node ports in a mode: unset, upstream has all in the iptables and ipvs modes, and the
    /// primary ones in the nftables mode.
    pub fn node_port_addresses(&self, mode: Mode) -> Vec<NodePortAddress> {
        match (self.node_port_addresses.is_empty(), mode) {
            (false, _) => self.node_port_addresses.clone(),
            (true, Mode::Nftables) => vec![NodePortAddress::Primary],
            (true, _) => vec![NodePortAddress::All],
        }
    }

    /// After how long without a sync the proxy is not healthy: upstream's twice the period.
    pub fn health_timeout(&self, mode: Mode) -> Duration {
        self.periods(mode).resync * 2
    }
}
