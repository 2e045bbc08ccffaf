//! rustls configurations from PEM. The provider is ring, named in each place, so that nothing depends on a process
//! default being installed.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::{Certs, Error};

/// The protocols offered by ALPN, best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A server's configuration with a fixed certificate (chain and key in PEM). A client may show a certificate; one
/// that `client_ca` (PEM, one or several authorities) did not sign ends the handshake.
pub fn server_config(
    cert_pem: &str,
    key_pem: &str,
    client_ca: Option<&str>,
) -> Result<Arc<ServerConfig>, Error> {
    server_config_with(Arc::new(Certs::new(cert_pem, key_pem)?), client_ca)
}

/// As [`server_config`], with a certificate that can be swapped while the server runs.
pub fn server_config_with(
    certs: Arc<Certs>,
    client_ca: Option<&str>,
) -> Result<Arc<ServerConfig>, Error> {
    let tls = |e: rustls::Error| Error::Tls {
        what: "protocol versions",
        why: e.to_string(),
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(client_verifier(client_ca)?);
    let mut config = builder.with_cert_resolver(certs);
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

fn client_verifier(client_ca: Option<&str>) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let Some(ca) = client_ca else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let roots = Arc::new(roots(ca, "client authority")?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build();
    verifier.map_err(|e| Error::Tls {
        what: "client authority",
        why: e.to_string(),
    })
}

/// A client's configuration: trusts `ca_pem` and nothing else, shows a certificate (chain and key in PEM) if given.
pub fn client_config(
    ca_pem: &str,
    identity: Option<(&str, &str)>,
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Tls {
            what: "protocol versions",
            why: e.to_string(),
        })?
        .with_root_certificates(roots(ca_pem, "server authority")?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(
                chain(cert, "client certificate")?,
                private_key(key, "client key")?,
            )
            .map_err(|e| Error::Tls {
                what: "client certificate",
                why: e.to_string(),
            })?,
    };
    config.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

fn roots(pem: &str, what: &'static str) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for cert in chain(pem, what)? {
        store.add(cert).map_err(|e| Error::Tls {
            what,
            why: e.to_string(),
        })?;
    }
    Ok(store)
}

/// All certificates of a PEM text; none is an error.
pub(crate) fn chain(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(list) if list.is_empty() => Err(Error::Pem {
            what,
            why: "no certificate in it".to_owned(),
        }),
        Ok(list) => Ok(list),
        Err(e) => Err(Error::Pem {
            what,
            why: e.to_string(),
        }),
    }
}

pub(crate) fn private_key(pem: &str, what: &'static str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| Error::Pem {
        what,
        why: e.to_string(),
    })
}
