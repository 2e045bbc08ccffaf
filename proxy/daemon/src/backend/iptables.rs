//! The iptables backend: wanted rules against applied ones.

use keelson_proxy_kernel::{Error, iptables, sysctl};
use keelson_proxy_plan::iptables::{Options, Ruleset, ruleset};
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::state::State;

use crate::Config;

/// Rules of one family.
struct Side {
    options: Options,
    /// What is in the kernel; `None`: it must be read.
    applied: Option<Ruleset>,
    /// The kernel, or a missing program, refuses this family.
    absent: bool,
}

pub(crate) struct Iptables {
    sides: Vec<Side>,
}

impl Iptables {
    pub(crate) fn new(config: &Config) -> Self {
        let side = |family| Side {
            options: Options {
                family,
                cluster_cidrs: config.rules.pod_nets(family),
                localhost_node_ports: config.rules.localhost_node_ports,
            },
            applied: None,
            absent: false,
        };
        Self {
            sides: vec![side(Family::V4), side(Family::V6)],
        }
    }

    /// The kernel is read back at the next sync.
    pub(crate) fn forget_applied(&mut self) {
        self.sides.iter_mut().for_each(|s| s.applied = None);
    }

    /// Writes what differs.
    pub(crate) async fn sync(&mut self, state: &State) -> Result<(), Error> {
        for side in self.sides.iter_mut().filter(|s| !s.absent) {
            let served = state.served(side.options.family);
            side.sync(ruleset(&served, &side.options)).await?;
        }
        Ok(())
    }

    pub(crate) async fn cleanup(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        for side in &mut self.sides {
            errors.extend(side.sync(Ruleset::default()).await.err());
            if !side.absent {
                errors.extend(iptables::remove_leftovers(side.options.family).await.err());
            }
        }
        errors
    }
}

impl Side {
    async fn sync(&mut self, want: Ruleset) -> Result<(), Error> {
        let family = self.options.family;
        let have = match self.applied.take() {
            Some(applied) => applied,
            None => match iptables::read(family).await {
                Ok(have) => have,
                Err(error) if family == Family::V6 => {
                    tracing::info!(%error, "no IPv6 rules on this node");
                    self.absent = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
        };
        if let Some(transaction) = want.transaction(&have) {
            if family == Family::V4
                && self.options.localhost_node_ports
                && want != Ruleset::default()
            {
                sysctl::enable(sysctl::ROUTE_LOCALNET)?;
            }
            iptables::apply(family, &transaction).await?;
            let (chains, rules) = want.size();
            tracing::debug!(
                ?family,
                chains,
                rules,
                bytes = transaction.len(),
                "service rules written"
            );
        }
        self.applied = Some(want);
        Ok(())
    }
}
