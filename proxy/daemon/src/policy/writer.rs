//! Writes the policies' tables: what changed, or, if the kernel's tables may not be ours any more, all that differs.

use std::sync::Arc;

use keelson_proxy_kernel::Error;
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::nft::policies::{Live, TABLE, forms, judge_ipvs, table};
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::policy::diff::Delta;
use keelson_proxy_plan::policy::state::State;

use super::Config;
use crate::bridges::Bridges;
use crate::tables::{self, Ruleset, Tables};

/// Where the kernel's tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// Nothing is known of them.
    Unknown,
    /// There are none.
    Absent,
    /// They are ours as far as we know.
    Synced,
}

pub(super) struct Writer {
    ruleset: Ruleset,
    ipvs: bool,
    tables: Option<Tables>,
    sides: Vec<Live>,
    stand: Stand,
    bridges: Bridges,
}

impl Writer {
    /// Connects to the kernel when it is needed: who has no policies may do without nftables.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            ruleset: config.ruleset.clone(),
            ipvs: config.ipvs,
            tables: None,
            sides: tables::families().map(Live::new).collect(),
            stand: Stand::Unknown,
            bridges: Bridges::default(),
        }
    }

    fn tables(&mut self) -> Result<&mut Tables, Error> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => Tables::new(&self.ruleset)?,
        };
        Ok(self.tables.insert(tables))
    }

    fn families(&self) -> Vec<Family> {
        self.sides.iter().map(Live::family).collect()
    }

    /// Whether all that was told is in the kernel.
    pub(super) fn has_synced(&self) -> bool {
        self.stand != Stand::Unknown
    }

    /// The kernel is read back at the next write.
    pub(super) fn forget_applied(&mut self) {
        self.stand = Stand::Unknown;
    }

    /// Whether others may have changed our rules: then they are read back at the next write.
    pub(super) fn look_for_drift(&mut self) -> bool {
        if self.stand != Stand::Synced {
            return false;
        }
        self.bridges.filter();
        let drifted = self.tables.as_ref().is_some_and(Tables::drifted);
        if drifted {
            self.forget_applied();
        }
        drifted
    }

    /// Writes what differs.
    pub(super) async fn sync(&mut self, state: &mut State) -> Result<(), Error> {
        let delta = state.sync();
        let before = std::mem::replace(&mut self.stand, Stand::Unknown);
        let is_written = before == Stand::Synced && self.change(&delta).await;
        if !is_written {
            self.bridges.filter();
            self.whole(state).await?;
        }
        self.stand = Stand::Synced;
        Ok(())
    }

    /// Writes what changed; false if that does not fit any more what is there.
    async fn change(&mut self, delta: &Delta) -> bool {
        let change = |live: &mut Live| (live.update(delta), forms(delta, live.family()));
        let changes: Vec<_> = self.sides.iter_mut().map(change).collect();
        for (transaction, forms) in changes {
            let Ok(tables) = self.tables() else {
                return false;
            };
            if let Err(error) = tables.write(transaction, Arc::new(forms)).await {
                tracing::info!(%error, "the policies' table was changed by others: it is read back");
                return false;
            }
        }
        true
    }

    async fn whole(&mut self, state: &State) -> Result<(), Error> {
        self.sides
            .iter_mut()
            .for_each(|live| live.reset(state.compiled()));
        self.tables()?.look()?;
        for family in self.families() {
            let mut want = table(state.compiled(), family);
            if self.ipvs {
                judge_ipvs(&mut want);
            }
            let want = Arc::new(want);
            let tables = self.tables()?;
            let wanted = want.clone();
            let compare = tables.read(move |kernel| {
                let have = kernel.read(TABLE, family)?;
                Ok(Transaction::between(have.as_ref(), &wanted))
            });
            let transaction = compare.await?;
            tables.write(transaction, want).await?;
        }
        Ok(())
    }

    /// There is no policy: packets shall not meet a table for nothing.
    pub(super) async fn clear(&mut self) -> Result<(), Error> {
        if self.stand == Stand::Absent {
            return Ok(());
        }
        self.stand = Stand::Unknown;
        for family in self.families() {
            let tables = self.tables()?;
            let have = tables.read(move |kernel| kernel.read(TABLE, family));
            if have.await?.is_some() {
                tables.remove(TABLE, family).await?;
            }
        }
        self.stand = Stand::Absent;
        Ok(())
    }
}
