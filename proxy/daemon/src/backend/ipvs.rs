//! The IPVS backend: virtual servers of the kernel's own load balancer, and the few rules around them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::ipvs::Ipvs as Servers;
use keelson_proxy_kernel::nft::Nftables as Rules;
use keelson_proxy_kernel::node::has_ipv6;
use keelson_proxy_plan::ipvs::{Options, Scheduler, Timeouts, Wanted, table, wanted};
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
        let draining = tables::blocking(move || {
            let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
            let done = write(&mut kernel, &entries, common, &config);
            if done.is_err() {
                // Perhaps it was not set up to its end: begin anew.
                *kernel = None;
            }
            done
        })
        .await?;
        tracing::debug!(draining, "virtual servers written");
        Ok(())
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

/// Rules come before servers: nothing is reached that they would have kept.
fn write(
    kernel: &mut Option<Kernel>,
    entries: &[Entry],
    common: options::Options,
    config: &Config,
) -> Result<usize, Error> {
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
    for family in tables::families() {
        let want = table(&wanted.rules, family, &options.common);
        let have = kernel.rules.read(TABLE, family)?;
        let transaction = Transaction::between(have.as_ref(), &want);
        if !transaction.is_empty() {
            kernel
                .rules
                .apply(&transaction, have.as_ref().unwrap_or(&want))?;
        }
    }
    Ok(kernel.servers.sync(&wanted)?.draining)
}
