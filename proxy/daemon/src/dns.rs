//! The cluster's names, answered on this node: the addresses that pods ask are this node's own.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keelson_dns::{Config, Dns, Handle};
use keelson_proxy_kernel::{Error, loopback};
use keelson_proxy_plan::nft::own;
use keelson_proxy_plan::nft::transaction::Transaction;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::tables::{self, Ruleset, Tables};

/// How often it is looked whether others took the rules away.
const LOOK: Duration = Duration::from_secs(10);

/// Takes the addresses and begins to answer. What changes goes in by the handle.
pub(crate) async fn start(
    config: Config,
    ruleset: &Ruleset,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Handle> {
    let ips: Vec<IpAddr> = config.listen.iter().map(SocketAddr::ip).collect();
    if let Err(error) = loopback::hold(&ips).await {
        tracing::warn!(%error, "the cluster's DNS addresses are not this node's");
    }
    let (listen, ruleset, ends) = (config.listen.clone(), ruleset.clone(), shutdown.clone());
    tasks.spawn(async move {
        ends.run_until_cancelled(keep(&listen, &ruleset)).await;
        Ok(())
    });
    let dns = Dns::new(config)?;
    let handle = dns.handle();
    let shutdown = shutdown.clone();
    tasks.spawn(async move {
        let bound = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            bound = dns.bind_when_free() => bound,
        };
        tracing::info!(addresses = ?bound.addresses(), "the cluster's names are answered");
        Ok(bound.run(shutdown).await?)
    });
    Ok(handle)
}

/// Keeps what is asked at these addresses here, whatever others' rules do with addresses of this node; what stands in
/// the way is told once.
async fn keep(listen: &[SocketAddr], ruleset: &Ruleset) {
    let mut told = String::new();
    loop {
        let Err(error) = hold(listen, ruleset).await;
        let trouble = error.to_string();
        if trouble != told {
            tracing::warn!(%error, "a pod with the host port 53 would take the cluster's DNS on this node");
            told = trouble;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn hold(listen: &[SocketAddr], ruleset: &Ruleset) -> Result<Infallible, Error> {
    let mut tables = Tables::new(ruleset)?;
    loop {
        tables.look()?;
        for family in tables::families() {
            let want = own::table(family, listen);
            let have = tables.read(move |k| k.read(own::TABLE, family)).await?;
            let change = Transaction::between(have.as_ref(), &want);
            tables.write(change, std::sync::Arc::new(want)).await?;
        }
        while !tables.drifted() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Removes the rules.
pub(crate) fn cleanup() -> Vec<Error> {
    tables::remove(own::TABLE)
}
