//! The nftables backend: a Service's change is a handful of elements; the whole table is compared with the kernel's
//! only at the start, after an error, and when somebody else changed rules.

use std::sync::Arc;

use keelson_proxy_kernel::{Error, sysctl};
use keelson_proxy_plan::model::{Change, Entry, Family};
use keelson_proxy_plan::nft::services::{Live, TABLE, stale, table};
use keelson_proxy_plan::nft::table::Table;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options::Options;
use keelson_proxy_plan::state::State;

use crate::Config;
use crate::tables::{self, Tables};

/// One family's table.
struct Side {
    live: Live,
    /// The table without services: the forms of its sets.
    frame: Arc<Table>,
}

pub(crate) struct Nftables {
    tables: Tables,
    options: Options,
    sides: Vec<Side>,
    /// The kernel's table is ours as far as we know.
    synced: bool,
}

impl Nftables {
    /// Connects to the kernel.
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let options = &config.rules;
        let side = |family| Side {
            live: Live::new(family, options.clone()),
            frame: Arc::new(table(std::iter::empty(), family, options)),
        };
        Ok(Self {
            tables: Tables::new(&config.ruleset)?,
            options: options.clone(),
            sides: tables::families().map(side).collect(),
            synced: false,
        })
    }

    /// The kernel is read back at the next sync.
    pub(crate) fn forget_applied(&mut self) {
        self.synced = false;
    }

    /// Whether somebody else changed rules since we looked last.
    pub(crate) fn drifted(&mut self) -> bool {
        self.tables.drifted()
    }

    /// Writes what the changes mean, or, if the kernel's table may not be ours any more, all that differs.
    pub(crate) async fn sync(&mut self, state: &State, changes: &[Change]) -> Result<(), Error> {
        if std::mem::take(&mut self.synced) {
            for side in &mut self.sides {
                let transaction = side.live.update(changes);
                self.tables.write(transaction, side.frame.clone()).await?;
            }
        } else {
            self.whole(state).await?;
        }
        self.synced = true;
        Ok(())
    }

    async fn whole(&mut self, state: &State) -> Result<(), Error> {
        if self.options.node_ports_on_loopback(Family::V4) {
            sysctl::enable(sysctl::ROUTE_LOCALNET)?;
        }
        self.tables.look()?;
        let entries: Arc<Vec<Entry>> = Arc::new(state.all().flatten().collect());
        for side in &mut self.sides {
            side.live.reset(entries.iter());
            let (entries, family) = (entries.clone(), side.live.family());
            let options = self.options.clone();
            let compare = self.tables.read(move |kernel| {
                let have = kernel.read(TABLE, family)?;
                let want = table(entries.iter(), family, &options);
                let mut transaction = Transaction::between(have.as_ref(), &want);
                if have.is_some() && !transaction.anew {
                    transaction.forget = stale(kernel.clients(family)?, &entries, family, &options);
                }
                Ok(transaction)
            });
            let transaction = compare.await?;
            self.tables.write(transaction, side.frame.clone()).await?;
        }
        Ok(())
    }
}
