//! Which metrics there are: kube-proxy's names, types, labels and buckets (`pkg/proxy/metrics`), the help our own.

use crate::config::Mode;

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    /// With upper bounds in seconds.
    Histogram(Bounds),
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bounds {
    /// 1 ms, doubled 14 times.
    Sync,
    /// 0.25 s and 0.5 s, each second up to 59, each 5 s up to 115, each 30 s up to 300.
    Programming,
}

/// Which modes have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Modes {
    All,
    Iptables,
    Nftables,
    /// Those that know whole syncs from small ones.
    Partial,
    /// Those with rules by `iptables-restore`.
    Restore,
}

pub(super) struct About {
    pub(super) name: String,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// It is there with its first sample only: all with labels, as upstream, and what is not counted everywhere.
    pub(super) lazy: bool,
    modes: Modes,
}

impl About {
    /// Upper bounds, of a histogram.
    pub(super) fn bounds(&self) -> Option<Vec<f64>> {
        let Kind::Histogram(bounds) = self.kind else {
            return None;
        };
        let steps = |first: u32, step: u32, count: u32| {
            (0..count).map(move |i| f64::from(first + i * step))
        };
        Some(match bounds {
            Bounds::Sync => (0..15).map(|i| 0.001 * f64::from(1 << i)).collect(),
            // Upstream's list begins with a 0 that it has by accident, and that dashboards know.
            Bounds::Programming => [0.0, 0.25, 0.5]
                .into_iter()
                .chain(steps(1, 1, 59))
                .chain(steps(60, 5, 12))
                .chain(steps(120, 30, 7))
                .collect(),
        })
    }

    pub(super) fn is_for(&self, mode: Mode) -> bool {
        match self.modes {
            Modes::All => true,
            Modes::Iptables => mode == Mode::Iptables,
            Modes::Nftables => mode == Mode::Nftables,
            Modes::Partial => matches!(mode, Mode::Iptables | Mode::Nftables),
            Modes::Restore => matches!(mode, Mode::Iptables | Mode::Ipvs | Mode::Userspace),
        }
    }
}

macro_rules! metrics {
    ($($metric:ident = $name:literal, $help:literal, $kind:expr, $lazy:literal, $modes:ident;)*) => {
        /// A metric, by what it counts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = concat!("`kubeproxy_", $name, "`: ", $help)] $metric,)*
        }

        impl Metric {
            /// All of them.
            pub(super) fn all() -> impl Iterator<Item = Self> {
                [$(Self::$metric),*].into_iter()
            }

            pub(super) fn about(self) -> About {
                match self {
                    $(Self::$metric => About {
                        name: concat!("kubeproxy_", $name).to_owned(),
                        help: $help,
                        kind: $kind,
                        lazy: $lazy,
                        modes: Modes::$modes,
                    },)*
                }
            }
        }
    };
}

use Kind::{Counter, Gauge};
const SYNC: Kind = Kind::Histogram(Bounds::Sync);
const PROGRAMMING: Kind = Kind::Histogram(Bounds::Programming);

metrics! {
    Sync = "sync_proxy_rules_duration_seconds", "Time a sync took.", SYNC, true, All;
    SyncFull = "sync_full_proxy_rules_duration_seconds", "Time a sync of everything took.", SYNC, true, Partial;
    SyncPartial = "sync_partial_proxy_rules_duration_seconds", "Time a sync of what changed took.", SYNC, true, Partial;
    LastSynced = "sync_proxy_rules_last_timestamp_seconds", "When a sync last went well.", Gauge, true, All;
    LastQueued = "sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for.", Gauge, true, All;
    NetworkProgramming = "network_programming_duration_seconds", "Time from an endpoint's change in the cluster to its rules.", PROGRAMMING, true, All;
    EndpointChangesPending = "sync_proxy_rules_endpoint_changes_pending", "Changes of endpoints not written yet.", Gauge, false, All;
    EndpointChanges = "sync_proxy_rules_endpoint_changes_total", "Changes of endpoints.", Counter, false, All;
    ServiceChangesPending = "sync_proxy_rules_service_changes_pending", "Changes of services not written yet.", Gauge, false, All;
    ServiceChanges = "sync_proxy_rules_service_changes_total", "Changes of services.", Counter, false, All;
    NoLocalEndpoints = "sync_proxy_rules_no_local_endpoints_total", "Service ports with policy Local and no endpoint here.", Gauge, true, All;
    IptablesRules = "sync_proxy_rules_iptables_total", "Rules there are.", Gauge, true, Iptables;
    IptablesRulesWritten = "sync_proxy_rules_iptables_last", "Rules the last sync wrote.", Gauge, true, Iptables;
    IptablesRestoreFailures = "sync_proxy_rules_iptables_restore_failures_total", "Transactions that iptables-restore refused.", Counter, true, Restore;
    IptablesPartialRestoreFailures = "sync_proxy_rules_iptables_partial_restore_failures_total", "Those of them that wrote only what changed.", Counter, true, Iptables;
    NftablesSyncFailures = "sync_proxy_rules_nftables_sync_failures_total", "Batches that the kernel refused.", Counter, true, Nftables;
    NftablesCleanupFailures = "sync_proxy_rules_nftables_cleanup_failures_total", "Removals that the kernel refused.", Counter, true, Nftables;
    InvalidDropped = "iptables_ct_state_invalid_dropped_packets_total", "Packets dropped as conntrack could not place them.", Counter, true, Iptables;
    LocalhostNodePorts = "iptables_localhost_nodeports_accepted_packets_total", "Packets to node ports on loopback.", Counter, true, Iptables;
    ConntrackSync = "conntrack_reconciler_sync_duration_seconds", "Time to find and remove stale flows.", SYNC, true, All;
    ConntrackDeleted = "conntrack_reconciler_deleted_entries_total", "Stale flows removed.", Counter, true, All;
    Healthz = "proxy_healthz_total", "Answers of /healthz by status.", Counter, true, All;
    Livez = "proxy_livez_total", "Answers of /livez by status.", Counter, true, All;
}
