//! The cluster's certificate authority and the key of its ServiceAccount tokens: made at the first start, reused after.

mod der;
mod files;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

pub use files::{private_dir, write_private};

use crate::{csr, token};

/// How long the authority lives, in days.
const CA_DAYS: u32 = 3650;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Certificates are valid from a little before they are made, for nodes whose clock is behind; short-lived ones from no
/// more than a tenth of their life, or they would be due for renewal when they are made.
const SKEW: Duration = Duration::from_secs(300);

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{action} {path}")]
    File {
        /// `read`, `write`, `make directory`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Only one of `ca.crt` and `ca.key` is there: to make the other anew would break every node.
    #[error("read the certificate authority: {0} is missing while its counterpart exists")]
    Half(PathBuf),
    /// A file is not what it should be, or a certificate cannot be made.
    #[error("make or read a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A certificate or request is not well-formed DER.
    #[error("{0}: malformed DER")]
    Der(&'static str),
    /// The ServiceAccount key cannot sign tokens.
    #[error("load the service account key")]
    Token(#[from] token::Error),
    /// A request asks for what it must not have.
    #[error("sign the request")]
    Csr(#[from] csr::Error),
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf, then the authority.
    pub cert_pem: String,
    /// PKCS #8.
    pub key_pem: String,
}

/// What a signed request will be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsrUsage {
    /// `kubernetes.io/kube-apiserver-client-kubelet`: client authentication.
    Client,
    /// `kubernetes.io/kubelet-serving`: server authentication.
    Serving,
}

/// The authority and the token key.
pub struct Pki {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    token_keys: token::Keys,
}

impl Pki {
    /// Reads `ca.crt`, `ca.key` and `service-account.key` from a directory, and makes what is missing there.
    pub fn load_or_create(dir: &Path) -> Result<Self, Error> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File {
                action,
                path,
                source,
            }
        };
        private_dir(dir).map_err(failed("make directory", dir))?;
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let (ca_pem, ca_key) = match (read(&cert_path)?, read(&key_path)?) {
            (Some(cert), Some(key)) => (cert, key),
            // The key is written first: alone it is what a crash at the first start left behind.
            (None, _) => {
                let (cert, key) = new_ca()?;
                write_private(&key_path, key.as_bytes()).map_err(failed("write", &key_path))?;
                write_private(&cert_path, cert.as_bytes()).map_err(failed("write", &cert_path))?;
                (cert, key)
            }
            (Some(_), None) => return Err(Error::Half(key_path)),
        };
        let path = dir.join("service-account.key");
        let account_key = match read(&path)? {
            Some(key) => key,
            None => {
                let key = KeyPair::generate()?.serialize_pem();
                write_private(&path, key.as_bytes()).map_err(failed("write", &path))?;
                key
            }
        };
        Self::from_pem(ca_pem, &ca_key, &account_key)
    }

    /// From PEM texts.
    pub fn from_pem(ca_pem: String, ca_key: &str, account_key: &str) -> Result<Self, Error> {
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|_| Error::Der("read the authority's certificate"))?;
        let issuer = Issuer::from_ca_cert_der(&ca_der, KeyPair::from_pem(ca_key)?)?;
        let token_keys = token::Keys::new(account_key)?;
        Ok(Self {
            ca_pem,
            ca_der,
            issuer,
            token_keys,
        })
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Hex SHA-256 of the authority's certificate (DER), as join tokens carry it.
    pub fn ca_hash(&self) -> String {
        ca_hash(&self.ca_der)
    }

    /// Keys of ServiceAccount tokens.
    pub fn token_keys(&self) -> &token::Keys {
        &self.token_keys
    }

    /// A client certificate for so long from now: a user and any number of groups.
    pub fn issue_client(
        &self,
        user: &str,
        groups: &[&str],
        lasts: Duration,
    ) -> Result<Issued, Error> {
        let key = KeyPair::generate()?;
        let subject = der::name(user, groups);
        let cert_pem = self.sign(&key, &subject, &[], Purpose::ClientAuth, lasts)?;
        Ok(Issued {
            cert_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// A server certificate for so long from now, for DNS names and IP addresses; `name` is its common name.
    pub fn issue_server(
        &self,
        name: &str,
        sans: &[String],
        lasts: Duration,
    ) -> Result<Issued, Error> {
        let key = KeyPair::generate()?;
        let sans = CertificateParams::new(sans)?.subject_alt_names;
        let subject = der::name::<&str>(name, &[]);
        let cert_pem = self.sign(&key, &subject, &sans, Purpose::ServerAuth, lasts)?;
        Ok(Issued {
            cert_pem,
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs a request (PEM) whose signature is right, with its own subject and, for serving, its own alternative
    /// names, valid for so long from now; gives PEM, leaf then authority. Who may have it is decided before
    /// ([`csr::check_client`]).
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        usage: CsrUsage,
        lasts: Duration,
    ) -> Result<String, Error> {
        let request = csr::parse(csr_pem)?;
        let params = CertificateSigningRequestParams::from_der(&request.der.as_slice().into())?;
        let (sans, purpose) = match usage {
            CsrUsage::Client => (&[][..], Purpose::ClientAuth),
            CsrUsage::Serving => (
                params.params.subject_alt_names.as_slice(),
                Purpose::ServerAuth,
            ),
        };
        self.sign(&params.public_key, &request.subject, sans, purpose, lasts)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        subject: &[u8],
        sans: &[SanType],
        purpose: Purpose,
        lasts: Duration,
    ) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        let stand_in = placeholder(&mut params);
        (params.not_before, params.not_after) = validity(lasts);
        params.subject_alt_names = sans.to_vec();
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.serial_number = Some(rand::random::<[u8; 16]>().to_vec().into());
        let cert = params.signed_by(key, &self.issuer)?;
        let der = der::rename(cert.der(), &stand_in, subject, self.issuer.key())?;
        Ok(pem("CERTIFICATE", &der) + &self.ca_pem)
    }
}

/// Hex SHA-256 of a certificate (DER).
pub fn ca_hash(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

/// Gives the parameters a subject that occurs nowhere else, and returns its DER.
fn placeholder(params: &mut CertificateParams) -> Vec<u8> {
    let unique = hex::encode(rand::random::<[u8; 16]>());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, unique.as_str());
    der::name::<&str>(&unique, &[])
}

/// A request (PEM) for a key, with any number of organizations.
pub(crate) fn request<S: AsRef<str>>(
    key: &KeyPair,
    common_name: &str,
    organizations: &[S],
    sans: &[String],
) -> Result<String, Error> {
    let mut params = CertificateParams::new(sans)?;
    let stand_in = placeholder(&mut params);
    let request = params.serialize_request(key)?;
    let subject = der::name(common_name, organizations);
    let der = der::rename(request.der(), &stand_in, &subject, key)?;
    Ok(pem("CERTIFICATE REQUEST", &der))
}

fn new_ca() -> Result<(String, String), Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "keelson-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    (params.not_before, params.not_after) = validity(DAY * CA_DAYS);
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// From a little before now, for so long; the type is rcgen's.
fn validity<T: From<SystemTime>>(lasts: Duration) -> (T, T) {
    let now = SystemTime::now();
    let skew = SKEW.min(lasts / 10);
    ((now - skew).into(), (now + lasts).into())
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    // base64 is ASCII: cutting at any byte is cutting at a character.
    let lines: String = text
        .as_bytes()
        .chunks(64)
        .map(|l| format!("{}\n", String::from_utf8_lossy(l)))
        .collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// A file's text; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}
