//! Ends UDP flows.

use keelson_proxy_kernel::{Error, conntrack};
use keelson_proxy_plan::conntrack::Flow;

/// Looks through the connection table and removes the flows that are stale.
pub(crate) async fn end(stale: impl Fn(&Flow) -> bool + Send + 'static) -> Result<(), Error> {
    let done = tokio::task::spawn_blocking(move || conntrack::clean(stale)).await;
    // A panic there would be a bug; the next sync tries again.
    let removed = done.map_err(|e| Error::Netlink {
        action: "clean conntrack",
        source: e.into(),
    })??;
    if removed > 0 {
        tracing::info!(removed, "stale UDP flows removed");
    }
    Ok(())
}
