//! What a certificate says: the user it stands for, for whom it is, and how long.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::User;

/// The user a verified client certificate stands for: its common name, its organizations as groups, and
/// `system:authenticated`. `None` without a common name, and when it has ended: a connection outlives the handshake
/// that verified it.
pub fn user_from_cert(der: &[u8], now: Timestamp) -> Option<User> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    if Validity::of(&cert)?.is_over(now) {
        return None;
    }
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

/// How long a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: Timestamp,
    /// To.
    pub not_after: Timestamp,
}

impl Validity {
    fn of(cert: &X509Certificate<'_>) -> Option<Self> {
        let validity = cert.validity();
        let read = |seconds| Timestamp::from_second(seconds).ok();
        Some(Self {
            not_before: read(validity.not_before.timestamp())?,
            not_after: read(validity.not_after.timestamp())?,
        })
    }

    /// Whether it has ended.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.not_after <= now
    }

    /// When the next one is to be asked for: at 70 to 90 percent of its life, as the kubelet does; `random`, 0 to 1, says
    /// where between, so that nodes that joined together do not ask together ever after.
    pub fn renew_at(&self, random: f64) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        let part = 0.7 + 0.2 * random.clamp(0.0, 1.0);
        let spent = SignedDuration::try_from_secs_f64(life.as_secs_f64() * part);
        let due = spent.ok().and_then(|s| self.not_before.checked_add(s).ok());
        due.unwrap_or(self.not_after)
    }
}

/// Reads the first certificate of a PEM text.
fn first<T>(cert_pem: &str, read: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    read(&cert)
}

/// How long the first certificate of a PEM text is valid; `None` when it is not a certificate.
pub fn validity(cert_pem: &str) -> Option<Validity> {
    first(cert_pem, Validity::of)
}

/// When the first certificate of a PEM text ends; `None` when it is not a certificate.
pub fn not_after(cert_pem: &str) -> Option<Timestamp> {
    validity(cert_pem).map(|v| v.not_after)
}

/// DNS names and addresses that the first certificate of a PEM text is for; none when it is not a certificate.
pub fn names(cert_pem: &str) -> BTreeSet<String> {
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(octets) => address(octets).map(|ip| ip.to_string()),
        _ => None,
    };
    let read = |cert: &X509Certificate<'_>| {
        let names = cert.subject_alternative_name().ok()??;
        Some(names.value.general_names.iter().filter_map(text).collect())
    };
    first(cert_pem, read).unwrap_or_default()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_at_70_to_90_percent_of_the_life() {
        let at = |seconds| Timestamp::from_second(seconds).expect("time");
        let rows = [
            (1000, 2000, 0.0, 1700),
            (1000, 2000, 0.5, 1800),
            (1000, 2000, 1.0, 1900),
            (1000, 2000, -1.0, 1700),
            (1000, 2000, 7.0, 1900),
            (0, 365 * 86_400, 0.0, 365 * 86_400 / 10 * 7),
            (1000, 1000, 0.5, 1000),
        ];
        for (not_before, not_after, random, want) in rows {
            let validity = Validity {
                not_before: at(not_before),
                not_after: at(not_after),
            };
            assert_eq!(
                validity.renew_at(random).as_second(),
                want,
                "{not_before} to {not_after}, {random}"
            );
        }
    }
}
