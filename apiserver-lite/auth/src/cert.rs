//! What a certificate says: the user it stands for, and how long.

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::User;

/// The user a verified client certificate stands for: its common name, its organizations as groups, and
/// `system:authenticated`. `None` without a common name.
pub fn user_from_cert(der: &[u8]) -> Option<User> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let name = cert.subject().iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups: Vec<&str> = cert
        .subject()
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .collect();
    Some(User::component(name, &groups))
}

/// When the first certificate of a PEM text ends; `None` when it is not a certificate.
pub fn not_after(cert_pem: &str) -> Option<Timestamp> {
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    Timestamp::from_second(cert.validity().not_after.timestamp()).ok()
}

/// Whether a certificate (PEM) ends within `left` from `now`, or is not one: then a new one is due.
pub fn expires_within(cert_pem: &str, left: Duration, now: Timestamp) -> bool {
    let soon = i64::try_from(left.as_secs()).map(|left| now.as_second().saturating_add(left));
    match (not_after(cert_pem), soon) {
        (Some(end), Ok(soon)) => end.as_second() <= soon,
        _ => true,
    }
}
