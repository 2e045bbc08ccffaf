//! What carries services' traffic: one of several, after which flows that outlived their endpoint end.

mod iptables;
mod ipvs;
mod nftables;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_plan::conntrack::{Flow, Wanted};
use keelson_proxy_plan::model::Change;
use keelson_proxy_plan::nft::services::TABLE;
use keelson_proxy_plan::options::Options;
use keelson_proxy_plan::state::State;

use crate::flows;
use crate::userspace::{self, Userspace};
use crate::{Config, Mode, programs, tables};
use iptables::Iptables;
pub use ipvs::Config as IpvsConfig;
use ipvs::Ipvs;
pub(crate) use ipvs::THERE as IPVS_IS_THERE;
use nftables::Nftables;

enum Kind {
    Nftables(Nftables),
    Iptables(Iptables),
    Userspace(Box<Userspace>),
    Ipvs(Ipvs),
}

pub(crate) struct Backend {
    kind: Kind,
    synced: bool,
    /// Rules of other modes were removed.
    alone: bool,
    /// Networks on whose addresses node ports are reached; none: all.
    node_port_nets: Vec<IpNet>,
    /// Where flows may go that were not looked through yet.
    flows: Wanted,
    /// No virtual server of another mode is left.
    ipvs_left: bool,
}

impl Backend {
    /// As configured; where nothing is said, nftables if this kernel has it.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let iptables = || Kind::Iptables(Iptables::new(&config.rules));
        let kind = match config.mode {
            Mode::Iptables => iptables(),
            Mode::Nftables => Kind::Nftables(Nftables::new(config)?),
            Mode::Ipvs => Kind::Ipvs(Ipvs::new(&config.rules, &config.ipvs)),
            Mode::Userspace => {
                let of_all = userspace::Config::from(&config.rules);
                let own = config.userspace.clone();
                Kind::Userspace(Box::new(Userspace::new(userspace::Config {
                    ports: own.ports,
                    udp_idle: own.udp_idle,
                    connections: own.connections,
                    ..of_all
                })))
            }
            Mode::Auto => match Nftables::new(config) {
                Ok(nftables) => Kind::Nftables(nftables),
                Err(error) => {
                    tracing::warn!(%error, "no nftables in this kernel: services go by iptables");
                    iptables()
                }
            },
        };
        Ok(Self {
            kind,
            synced: false,
            alone: false,
            node_port_nets: config.rules.node_port_nets.clone(),
            flows: Wanted::default(),
            ipvs_left: false,
        })
    }

    /// Which one it is.
    pub(crate) fn mode(&self) -> Mode {
        match self.kind {
            Kind::Nftables(_) => Mode::Nftables,
            Kind::Iptables(_) => Mode::Iptables,
            Kind::Userspace(_) => Mode::Userspace,
            Kind::Ipvs(_) => Mode::Ipvs,
        }
    }

    /// How often it is looked whether others changed our rules: often where that costs nothing.
    pub(crate) fn resync(&self) -> Duration {
        Duration::from_secs(match self.kind {
            Kind::Nftables(_) => 10,
            _ => 30,
        })
    }

    pub(crate) fn has_synced(&self) -> bool {
        self.synced
    }

    /// The kernel is read back at the next sync.
    pub(crate) fn forget_applied(&mut self) {
        match &mut self.kind {
            Kind::Nftables(b) => b.forget_applied(),
            Kind::Iptables(b) => b.forget_applied(),
            Kind::Userspace(b) => b.forget_applied(),
            Kind::Ipvs(b) => b.forget_applied(),
        }
    }

    /// Whether others may have changed our rules: then they are read back at the next sync.
    pub(crate) async fn look_for_drift(&mut self) -> bool {
        self.leave_ipvs().await;
        let drifted = match &mut self.kind {
            Kind::Nftables(b) => b.drifted(),
            // Nothing tells: reading is the only way to know.
            _ => true,
        };
        if drifted {
            self.forget_applied();
        }
        drifted
    }

    /// Writes what differs.
    pub(crate) async fn sync(&mut self, state: &mut State) -> anyhow::Result<()> {
        let changes = state.take_changes();
        // Before anything can fail: what changed is told only once.
        self.flows.add(&changes);
        match &mut self.kind {
            Kind::Nftables(b) => b.sync(state, &changes).await?,
            Kind::Iptables(b) => b.sync(state, &changes).await?,
            Kind::Userspace(b) => b.sync(state).await?,
            Kind::Ipvs(b) => b.sync(state).await?,
        }
        self.synced = true;
        if let Kind::Userspace(_) = self.kind {
            // Flows go to ports of its own: it ends those that are stale itself.
            self.flows = Wanted::default();
        }
        self.end_flows().await
    }

    /// Another mode's rules go when ours are in place: no connection is refused between.
    pub(crate) async fn replace_others(&mut self) {
        if !self.synced || std::mem::replace(&mut self.alone, true) {
            return;
        }
        for error in self.cleanup_others().await {
            tracing::warn!(%error, "rules of another mode not removed");
        }
        self.leave_ipvs().await;
    }

    /// What only this process carries is left to the kernel: rules that lead to it would refuse whom they lead. Ends flows
    /// that go through it.
    pub(crate) async fn leave(&mut self, state: &State, options: &Options) -> anyhow::Result<()> {
        let Kind::Userspace(b) = &self.kind else {
            return Ok(());
        };
        if self.synced {
            let mut kernel = Iptables::with(options, b.programs().clone());
            kernel.sync(state, &[]).await?;
            let all = state.all().map(|after| Change {
                before: Vec::new(),
                after,
            });
            self.flows.add(&all.collect::<Vec<_>>());
            self.end_flows().await?;
        }
        Ok(())
    }

    /// Ends flows that outlived their endpoint: looks for those that a change can have left, and again after an error.
    async fn end_flows(&mut self) -> anyhow::Result<()> {
        if !self.flows.is_empty() {
            let wanted = self.flows.clone();
            let fronts = wanted.fronts().copied().collect();
            let stale =
                move |flow: &Flow, own: &dyn Fn(&IpAddr) -> bool| wanted.is_stale(flow, own);
            flows::end(fronts, &self.node_port_nets, stale).await?;
            self.flows = Wanted::default();
        }
        Ok(())
    }

    /// What IPVS still carries when another mode has taken over ends by itself: it is looked at again and again.
    async fn leave_ipvs(&mut self) {
        if self.ipvs_left || !self.synced || matches!(self.kind, Kind::Ipvs(_)) {
            return;
        }
        match Ipvs::leave().await {
            Ok(draining) => self.ipvs_left = draining == 0,
            Err(error) => tracing::warn!(%error, "virtual servers of another mode not removed"),
        }
    }

    /// Modes that have the same table, or the same chains, made their own rules out of the other's.
    async fn cleanup_others(&mut self) -> Vec<Error> {
        let chosen = match &self.kind {
            Kind::Nftables(_) | Kind::Ipvs(_) => {
                return programs::cleanup(Programs::installed().into_iter()).await;
            }
            Kind::Iptables(b) => b.programs(),
            Kind::Userspace(b) => b.programs(),
        };
        let mut errors = programs::cleanup(chosen.others()).await;
        errors.extend(tables::remove(TABLE));
        errors
    }

    /// Removes all that any mode puts into the kernel.
    pub(crate) async fn cleanup() -> Vec<Error> {
        let mut errors = tables::remove(TABLE);
        errors.extend(programs::cleanup(Programs::installed().into_iter()).await);
        errors.extend(keelson_proxy_kernel::ipvs::cleanup());
        errors
    }
}
