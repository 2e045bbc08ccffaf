//! The nftables backend: a Service's change is a handful of elements; the whole table is compared with the kernel's
//! only at the start, after an error, and when somebody else changed rules.

use std::path::Path;
use std::sync::Arc;

use keelson_proxy_kernel::nft::Nftables as Kernel;
use keelson_proxy_kernel::{Error, sysctl};
use keelson_proxy_plan::model::{Change, Entry, Family};
use keelson_proxy_plan::nft::services::{Live, TABLE, stale, table};
use keelson_proxy_plan::nft::table::Table;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options::Options;
use keelson_proxy_plan::state::State;

/// Is there where the kernel knows IPv6.
const IPV6: &str = "/proc/net/if_inet6";

/// One family's table.
struct Side {
    live: Live,
    /// The table without services: the forms of its sets.
    frame: Arc<Table>,
}

pub(crate) struct Nftables {
    kernel: Arc<Kernel>,
    options: Options,
    sides: Vec<Side>,
    /// The kernel's table is ours as far as we know.
    synced: bool,
    /// The ruleset's generation after our last look.
    generation: Option<u32>,
}

impl Nftables {
    /// Connects to the kernel.
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let families = [Family::V4, Family::V6];
        let here = |f: &Family| *f == Family::V4 || Path::new(IPV6).exists();
        let side = |family| Side {
            live: Live::new(family, options.clone()),
            frame: Arc::new(table(std::iter::empty(), family, options)),
        };
        Ok(Self {
            kernel: Arc::new(Kernel::open()?),
            options: options.clone(),
            sides: families.into_iter().filter(here).map(side).collect(),
            synced: false,
            generation: None,
        })
    }

    /// The kernel is read back at the next sync.
    pub(crate) fn forget_applied(&mut self) {
        self.synced = false;
    }

    /// Whether somebody else changed rules since we looked last.
    pub(crate) fn drifted(&mut self) -> bool {
        match self.kernel.generation() {
            Ok(now) => self.generation.is_some_and(|then| then != now),
            Err(_) => true,
        }
    }

    /// Writes what the changes mean, or, if the kernel's table may not be ours any more, all that differs.
    pub(crate) async fn sync(&mut self, state: &State, changes: &[Change]) -> Result<(), Error> {
        if self.synced {
            // Somebody else's change must not hide behind ours.
            let drifted = self.drifted();
            self.synced = false;
            for side in &mut self.sides {
                let transaction = side.live.update(changes);
                if !transaction.is_empty() {
                    write(&self.kernel, transaction, &side.frame).await?;
                }
            }
            if !drifted {
                self.generation = self.kernel.generation().ok();
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
        let generation = self.kernel.generation()?;
        let entries: Arc<Vec<Entry>> = Arc::new(state.all().flatten().collect());
        let mut written = false;
        for side in &mut self.sides {
            side.live.reset(entries.iter());
            let (kernel, entries) = (self.kernel.clone(), entries.clone());
            let (family, options) = (side.live.family(), self.options.clone());
            let transaction = blocking(move || {
                let have = kernel.read(TABLE, family)?;
                let want = table(entries.iter(), family, &options);
                let mut transaction = Transaction::between(have.as_ref(), &want);
                if have.is_some() && !transaction.anew {
                    transaction.forget = stale(kernel.clients(family)?, &entries, family, &options);
                }
                Ok(transaction)
            })
            .await?;
            if !transaction.is_empty() {
                write(&self.kernel, transaction, &side.frame).await?;
                written = true;
            }
        }
        self.generation = if written {
            self.kernel.generation().ok()
        } else {
            Some(generation)
        };
        Ok(())
    }

    /// Removes our tables.
    pub(crate) fn cleanup(&self) -> Vec<Error> {
        let removed = self
            .sides
            .iter()
            .map(|s| self.kernel.remove(TABLE, s.live.family()));
        removed.filter_map(Result::err).collect()
    }
}

async fn write(
    kernel: &Arc<Kernel>,
    transaction: Transaction,
    frame: &Arc<Table>,
) -> Result<(), Error> {
    let (family, (added, deleted, chains)) = (transaction.family, transaction.size());
    let (kernel, frame) = (kernel.clone(), frame.clone());
    blocking(move || kernel.apply(&transaction, &frame)).await?;
    tracing::debug!(?family, added, deleted, chains, "service rules written");
    Ok(())
}

/// Where the kernel may take its time: a table of ten thousands of elements, clients to be looked through.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(f).await;
    done.map_err(|e| Error::Netlink {
        action: "write nftables",
        source: e.into(),
    })?
}
