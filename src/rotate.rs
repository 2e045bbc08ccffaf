//! Certificates renewed while the process runs: a node's by signing requests, those that a server gives itself by itself.
//! All at 70 to 90 percent of their life, and a serving certificate when the node's addresses change.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use keelson_agent::Certs;
use keelson_agent_plan::duration;
use keelson_auth::cert;
use keelson_auth::pki::Issued;
use keelson_overlay::Moves;
use keelson_serving::until;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::join::{self, Joined};
use crate::node;
use crate::options::NodeOptions;

/// Between two looks at the node's addresses.
const LOOK: Duration = Duration::from_secs(10);
/// After a change of the machine's network, at least.
const CALM: Duration = Duration::from_millis(200);
/// Before a failed renewal is tried again, the first time and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The least and the usual life of a certificate. A shorter one would leave no time for another try.
const LEAST: Duration = Duration::from_secs(30);
const USUAL: Duration = Duration::from_secs(365 * 86_400);

/// How long certificates are valid.
pub(crate) fn lasts(text: Option<&str>) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(USUAL) };
    let read = duration::parse(text).and_then(|d| Duration::try_from(d).ok());
    let read = read.with_context(|| {
        format!("cluster-signing-duration is {text:?}, needed is a duration such as 8760h")
    })?;
    if read < LEAST {
        bail!("cluster-signing-duration is {text:?}, needed is at least 30s");
    }
    Ok(read)
}

fn due(cert_pem: &str, random: f64) -> Timestamp {
    cert::validity(cert_pem).map_or_else(Timestamp::now, |v| v.renew_at(random))
}

/// A certificate that is renewed.
struct Turn {
    what: &'static str,
    /// What gives the random part of the time: others may be asking too.
    random: fn() -> f64,
    due: Timestamp,
    retry: Duration,
}

impl Turn {
    fn new(what: &'static str, random: fn() -> f64, cert_pem: &str) -> Self {
        Self {
            what,
            random,
            due: due(cert_pem, random()),
            retry: RETRY.0,
        }
    }

    /// Notes how a renewal ended.
    fn ended(&mut self, renewed: anyhow::Result<String>) {
        let now = Timestamp::now();
        match renewed {
            Ok(cert_pem) => {
                (self.due, self.retry) = (due(&cert_pem, (self.random)()), RETRY.0);
                tracing::info!(certificate = self.what, next = %self.due, "renewed");
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(certificate = self.what, error, "not renewed");
                let wait = SignedDuration::try_from(self.retry).unwrap_or_default();
                self.due = now.checked_add(wait).unwrap_or(now);
                self.retry = (self.retry * 2).min(RETRY.1);
            }
        }
    }
}

/// Renews what this process gives itself, until shutdown: `issue` makes and uses it, and returns the certificate.
/// `changed` is another reason to.
pub(crate) async fn keep(
    what: &'static str,
    cert_pem: String,
    mut changed: watch::Receiver<Vec<IpAddr>>,
    mut issue: impl FnMut() -> anyhow::Result<String>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut turn = Turn::new(what, || 0.0, &cert_pem);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = until(turn.due) => {}
            Ok(()) = changed.changed() => {}
        }
        turn.ended(issue());
    }
}

/// Renews the certificates of a node that joined, until shutdown.
pub(crate) async fn joined(
    mut joined: Joined,
    name: String,
    (serving, certs): (Issued, Arc<Certs>),
    mut ips: watch::Receiver<Vec<IpAddr>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut client = Turn::new("client", rand::random, &joined.shown().cert_pem);
    let mut served = Turn::new("serving", rand::random, &serving.cert_pem);
    let mut serving = serving;
    loop {
        // One after the other: the serving certificate is asked for with the client's.
        let of_client = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = until(client.due) => true,
            () = until(served.due) => false,
            Ok(()) = ips.changed() => {
                if let Err(error) = joined.reconnect().await {
                    tracing::warn!(error = format!("{error:#}"), "connections stay as they are");
                }
                false
            }
        };
        let renew = async {
            if of_client {
                let renewed = joined.renew().await;
                client.ended(renewed.map(|()| joined.shown().cert_pem.clone()));
                return;
            }
            let sans = join::sans(&name, &ips.borrow_and_update());
            if served.due > Timestamp::now() && join::is_for(&serving, &sans) {
                return;
            }
            let signed = joined.new_serving(&sans).await.and_then(|signed| {
                certs.set(&signed.cert_pem, &signed.key_pem)?;
                Ok(signed)
            });
            served.ended(signed.map(|signed| {
                serving = signed;
                serving.cert_pem.clone()
            }));
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = renew => {}
        }
    }
}

/// The node's addresses, followed where they were not told. `pods` are the cluster's ranges, as soon as they are known.
pub(crate) fn addresses(
    options: &NodeOptions,
    server: Option<&str>,
    (ips, mut pods): (&[IpAddr], watch::Receiver<Vec<IpNet>>),
    shutdown: &CancellationToken,
) -> watch::Receiver<Vec<IpAddr>> {
    let (tx, rx) = watch::channel(ips.to_vec());
    if options.node_ip.as_ref().is_some_and(|ips| !ips.is_empty()) {
        return rx;
    }
    let (options, server) = (options.clone(), server.map(str::to_owned));
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        // Where the kernel tells of changes they are seen at once.
        let mut moves = Moves::listen().ok();
        loop {
            let moved = async {
                match &mut moves {
                    Some(moves) => moves.next().await,
                    None => std::future::pending().await,
                }
                tokio::time::sleep(CALM).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                () = moved => {}
                Ok(()) = pods.changed() => {}
            }
            let (options, server) = (options.clone(), server.clone());
            let pods = pods.borrow_and_update().clone();
            // A name may have to be looked up.
            let look = move || node::addresses(&options, server.as_deref(), &pods);
            let Ok(Ok(found)) = tokio::task::spawn_blocking(look).await else {
                // Without a route the addresses are what they were.
                continue;
            };
            tx.send_if_modified(|known| {
                let new = *known != found;
                if new {
                    tracing::info!(?found, "the node's addresses have changed");
                    *known = found;
                }
                new
            });
        }
    });
    rx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_of_certificates() {
        let day = 86_400;
        let rows = [
            (None, Some(365 * day)),
            (Some("8760h"), Some(365 * day)),
            (Some("30s"), Some(30)),
            (Some("29s"), None),
            (Some("0"), None),
            (Some("a year"), None),
        ];
        for (text, want) in rows {
            let got = lasts(text).ok().map(|d| d.as_secs());
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn a_failed_renewal_is_tried_later_and_later() {
        let mut turn = Turn::new("x", || 0.0, "none");
        assert!(turn.due <= Timestamp::now(), "no certificate is due");
        for seconds in [1, 2, 4, 8] {
            let before = Timestamp::now();
            turn.ended(Err(anyhow::anyhow!("no")));
            let wait = turn.due.duration_since(before).as_secs();
            assert!((seconds..=seconds + 1).contains(&wait), "{wait}");
        }
        for _ in 0..20 {
            turn.ended(Err(anyhow::anyhow!("no")));
        }
        assert_eq!(turn.retry, RETRY.1);
    }
}
