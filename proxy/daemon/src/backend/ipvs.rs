//! The IPVS backend: virtual servers of the kernel's own load balancer, and the few rules around them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::ipvs::Ipvs as Servers;
use keelson_proxy_kernel::nft::Nftables as Rules;
use keelson_proxy_kernel::node::has_ipv6;
use keelson_proxy_plan::ipvs::{Options, Scheduler, Timeouts, Wanted, is_beside, table, wanted};
use keelson_proxy_plan::model::Entry;
use keelson_proxy_plan::nft::services::TABLE;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options;
use keelson_proxy_plan::state::State;

use crate::tables;

/// Is there where this network namespace has IPVS; asking IPVS itself would load it.
pub(crate) const THERE: &str = "/proc/thread-self/net/ip_vs";

/// What only this mode needs.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// How endpoints are chosen.
    pub scheduler: Scheduler,
    /// The node answers ARP only for addresses of the link that is asked on.
    pub strict_arp: bool,
    /// How long connections without a packet are kept; 0: as the kernel has it.
    pub timeouts: Timeouts,
}

pub(crate) struct Ipvs {
    common: options::Options,
    config: Config,
    kernel: Arc<Mutex<Option<Kernel>>>,
}

struct Kernel {
    servers: Servers,
    rules: Rules,
}

impl Ipvs {
    pub(crate) fn new(common: &options::Options, config: &Config) -> Self {
        Self {
            common: common.clone(),
            config: config.clone(),
            kernel: Arc::default(),
        }
    }

    /// The kernel is read back at the next sync.
    pub(crate) fn forget_applied(&mut self) {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernel.as_mut() {
            kernel.servers.forget();
        }
    }

    /// Writes what differs.
    pub(crate) async fn sync(&mut self, state: &State) -> Result<(), Error> {
        let entries: Vec<Entry> = state.all().flatten().collect();
        let (common, config, kernel) = (
            self.common.clone(),
            self.config.clone(),
            self.kernel.clone(),
        );
        tables::blocking(move || {
            let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let done = write(&mut kernel, &entries, common, &config);
            if done.is_err() {
                // Perhaps it was not set up to its end: begin anew.
                *kernel = None;
            }
            done
        })
        .await
    }

    /// Another mode carries new connections: servers go when their last connection has ended. Gives how many wait.
    pub(crate) async fn leave() -> Result<usize, Error> {
        if !Path::new(THERE).exists() {
            return Ok(0);
        }
        let leave = || Ok(Servers::open()?.sync(&Wanted::default())?.draining);
        tables::blocking(leave).await
    }
}

/// Rules come before servers: nothing is reached that they would have kept. Only where they take the place of another
/// mode's rules, which carry new connections to their end, servers are to be there when those go.
fn write(
    kernel: &mut Option<Kernel>,
    entries: &[Entry],
    common: options::Options,
    config: &Config,
) -> Result<(), Error> {
    let kernel = match kernel {
        Some(kernel) => kernel,
        None => {
            let mut servers = Servers::open()?;
            servers.prepare(config.strict_arp, &config.timeouts)?;
            let rules = Rules::open()?;
            kernel.insert(Kernel { servers, rules })
        }
    };
    let options = Options {
        common,
        scheduler: config.scheduler.clone(),
        own_addresses: kernel.servers.own_addresses()?,
        no_ipv6: !has_ipv6(),
    };
    let mut wanted = wanted(entries, &options);
    wanted.rules.bound.extend(kernel.servers.bound()?);
    let mut changes = Vec::new();
    let mut takes_over = false;
    for family in tables::families() {
        let want = table(&wanted.rules, family, &options.common);
        let have = kernel.rules.read(TABLE, family)?;
        takes_over |= have.as_ref().is_some_and(|h| !is_beside(h));
        let transaction = Transaction::between(have.as_ref(), &want);
        changes.push((transaction, have.unwrap_or(want)));
    }
    let mut actions = 0;
    if takes_over {
        actions = kernel.servers.sync(&wanted)?.actions.len();
    }
    for (transaction, forms) in changes.iter().filter(|(t, _)| !t.is_empty()) {
        kernel.rules.apply(transaction, forms)?;
    }
    let synced = kernel.servers.sync(&wanted)?;
    actions += synced.actions.len();
    let draining = synced.draining;
    tracing::debug!(actions, draining, "virtual servers written");
    Ok(())
}
