//! The serving certificate, as a thing that changes: connections made after a swap see the new one, those open
//! keep theirs.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::config::{chain, private_key, provider};

/// A serving certificate that can be swapped at run time.
#[derive(Debug)]
pub struct Certs {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certs {
    /// From a chain (leaf first) and its key, in PEM.
    pub fn new(cert_pem: &str, key_pem: &str) -> Result<Self, Error> {
        Ok(Self {
            current: RwLock::new(certified(cert_pem, key_pem)?),
        })
    }

    /// Serves another certificate from now on; on error the one before stays.
    pub fn set(&self, cert_pem: &str, key_pem: &str) -> Result<(), Error> {
        let next = certified(cert_pem, key_pem)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// The leaf that is served now, in DER.
    pub fn leaf(&self) -> Vec<u8> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.cert.first().map(|c| c.to_vec()).unwrap_or_default()
    }
}

impl ResolvesServerCert for Certs {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(
            self.current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}

fn certified(cert_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, Error> {
    let what = "serving certificate";
    let chain = chain(cert_pem, what)?;
    let key = private_key(key_pem, "serving key")?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|e| Error::Tls {
        what,
        why: e.to_string(),
    })?;
    Ok(Arc::new(key))
}

/// A certificate and key on disk, replaced by whoever renews them.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM chain, leaf first.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads both.
    pub fn load(&self) -> Result<Certs, Error> {
        let (cert, key) = self.read()?;
        Certs::new(&cert, &key)
    }

    /// Looks every `period` whether the files' contents changed and swaps them in. A pair that does not fit
    /// (one file written, the other not yet) is tried again at the next look. Returns at shutdown.
    pub async fn follow(&self, certs: &Certs, period: Duration, shutdown: CancellationToken) {
        let mut last = self.read().ok();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(period) => {}
            }
            let now = match self.read() {
                Ok(now) => now,
                Err(e) => {
                    tracing::warn!(error = %e, "serving certificate unreadable");
                    continue;
                }
            };
            if last.as_ref() == Some(&now) {
                continue;
            }
            match certs.set(&now.0, &now.1) {
                Ok(()) => {
                    tracing::info!(cert = %self.cert.display(), "serving certificate swapped");
                    last = Some(now);
                }
                Err(e) => tracing::warn!(error = %e, "serving certificate not swapped"),
            }
        }
    }

    fn read(&self) -> Result<(String, String), Error> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| Error::File {
                path: path.display().to_string(),
                source,
            })
        };
        Ok((read(&self.cert)?, read(&self.key)?))
    }
}
