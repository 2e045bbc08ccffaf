//! What carries services' traffic: one of several, after which flows that outlived their endpoint end.

mod conntrack;
mod iptables;
mod nftables;

use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_plan::state::State;

use crate::{Config, Mode};
use iptables::Iptables;
use nftables::Nftables;

enum Kind {
    Nftables(Nftables),
    Iptables(Iptables),
}

pub(crate) struct Backend {
    kind: Kind,
    config: Config,
    synced: bool,
    /// Flows could not be looked at; they must be.
    flows_due: bool,
}

impl Backend {
    /// As configured; where nothing is said, nftables if this kernel has it.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let iptables = || Kind::Iptables(Iptables::new(&config.rules));
        let kind = match config.mode {
            Mode::Iptables => iptables(),
            Mode::Nftables => Kind::Nftables(Nftables::new(&config.rules)?),
            Mode::Auto => match Nftables::new(&config.rules) {
                Ok(nftables) => Kind::Nftables(nftables),
                Err(error) => {
                    tracing::warn!(%error, "no nftables in this kernel: services go by iptables");
                    iptables()
                }
            },
        };
        Ok(Self {
            kind,
            config: config.clone(),
            synced: false,
            flows_due: true,
        })
    }

    /// Its name, as `mode` has it.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Nftables(_) => "nftables",
            Kind::Iptables(_) => "iptables",
        }
    }

    pub(crate) fn has_synced(&self) -> bool {
        self.synced
    }

    /// The kernel is read back at the next sync.
    pub(crate) fn forget_applied(&mut self) {
        match &mut self.kind {
            Kind::Nftables(b) => b.forget_applied(),
            Kind::Iptables(b) => b.forget_applied(),
        }
    }

    /// Whether others may have changed our rules: then they are read back at the next sync.
    pub(crate) fn look_for_drift(&mut self) -> bool {
        let drifted = match &mut self.kind {
            Kind::Nftables(b) => b.drifted(),
            // Nothing tells: reading is the only way to know.
            Kind::Iptables(_) => true,
        };
        if drifted {
            self.forget_applied();
        }
        drifted
    }

    /// Writes what differs.
    pub(crate) async fn sync(&mut self, state: &mut State) -> Result<(), Error> {
        let changes = state.take_changes();
        match &mut self.kind {
            Kind::Nftables(b) => b.sync(state, &changes).await?,
            Kind::Iptables(b) => b.sync(state, &changes).await?,
        }
        if !self.synced {
            // Another mode's rules go when ours are in place: no connection is refused between.
            for error in self.cleanup_others().await {
                tracing::warn!(%error, "rules of another mode not removed");
            }
            self.synced = true;
        }
        self.flows_due |= changes.iter().any(conntrack::concerns);
        if self.flows_due {
            conntrack::clean(state).await?;
            self.flows_due = false;
        }
        Ok(())
    }

    async fn cleanup_others(&mut self) -> Vec<Error> {
        let Kind::Iptables(iptables) = &mut self.kind else {
            return iptables::cleanup(Programs::installed().into_iter()).await;
        };
        let mut errors = iptables.cleanup_other_variant().await;
        if let Ok(nftables) = Nftables::new(&self.config.rules) {
            errors.extend(nftables.cleanup());
        }
        errors
    }

    /// Removes all that any mode puts into the kernel.
    pub(crate) async fn cleanup(config: &Config) -> Vec<Error> {
        let mut errors = match Nftables::new(&config.rules) {
            Ok(nftables) => nftables.cleanup(),
            Err(error) => vec![error],
        };
        errors.extend(iptables::cleanup(Programs::installed().into_iter()).await);
        errors
    }
}
