//! The server's own certificates: what it serves with, and what it shows agents. Made at every start, and again before
//! they end; connections that are open keep theirs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use keelson_auth::cert;
use keelson_auth::pki::Pki;
use keelson_serving::Certs;

use crate::state::Server;
use crate::{Config, Error};

/// Before a failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// New certificates.
pub(crate) struct Fresh {
    /// Chain and key of the serving one.
    pub(crate) serving: (String, String),
    /// What agents are called with.
    pub(crate) client: Arc<rustls::ClientConfig>,
    /// When the next are due.
    pub(crate) due: Timestamp,
}

/// Issues both.
pub(crate) fn issue(config: &Config, pki: &Pki) -> Result<Fresh, Error> {
    let lasts = config.certificates_last;
    let serving = pki.issue_server("kube-apiserver", &config.names(), lasts)?;
    let client = pki.issue_client("kube-apiserver-kubelet-client", &["system:masters"], lasts)?;
    let identity = Some((client.cert_pem.as_str(), client.key_pem.as_str()));
    let now = Timestamp::now();
    let due = cert::validity(&serving.cert_pem).map_or(now, |v| v.renew_at(0.0));
    Ok(Fresh {
        client: keelson_serving::client_config(pki.ca_pem(), identity)?,
        serving: (serving.cert_pem, serving.key_pem),
        due,
    })
}

/// A serving certificate that can be swapped.
pub(crate) fn certs(fresh: &Fresh) -> Result<Arc<Certs>, Error> {
    let (cert, key) = &fresh.serving;
    Ok(Arc::new(Certs::new(cert, key)?))
}

/// Renews them until the server stops.
pub(crate) async fn keep(server: Arc<Server>, mut due: Timestamp) {
    loop {
        tokio::select! {
            () = server.stopping.cancelled() => return,
            () = keelson_serving::until(due) => {}
        }
        due = match renew(&server) {
            Ok(due) => {
                tracing::info!(next = %due, "the API server's certificates are renewed");
                due
            }
            Err(error) => {
                tracing::warn!(%error, "the API server's certificates are not renewed");
                Timestamp::now() + RETRY
            }
        };
    }
}

fn renew(server: &Server) -> Result<Timestamp, Error> {
    let fresh = issue(&server.config, &server.pki)?;
    server.certs.set(&fresh.serving.0, &fresh.serving.1)?;
    server.dialer.set(&fresh.client);
    Ok(fresh.due)
}
