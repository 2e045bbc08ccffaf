//! Certificate signing requests of nodes: made on the node, checked here before they are approved and signed.
//! The checks and their words are those of the `kubernetes.io/kube-apiserver-client-kubelet` and
//! `kubernetes.io/kubelet-serving` signers.

use rcgen::KeyPair;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::{User, pki};

/// Why a request is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a PEM `CERTIFICATE REQUEST`, or not signed by its own key.
    #[error("PEM block type must be CERTIFICATE REQUEST with a valid signature")]
    Malformed,
    /// The organizations are not `system:nodes` alone.
    #[error("subject organization is not system:nodes")]
    Organization,
    /// The common name is no node's.
    #[error("subject common name does not begin with system:node:")]
    CommonName,
    /// Alternative names of this kind are not allowed.
    #[error("{0} subjectAltNames are not allowed")]
    Names(&'static str),
    /// A serving certificate needs names.
    #[error("DNS or IP subjectAltName is required")]
    NoNames,
    /// Other usages are asked for than the signer gives.
    #[error("usages did not match {0:?}")]
    Usages(&'static [&'static str]),
    /// A serving certificate is asked for by somebody else than the node.
    #[error("subject common name is not the requestor's name")]
    Requestor,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Common name.
    pub common_name: String,
    /// Organizations, in order.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ips: Vec<std::net::IpAddr>,
    /// Kinds of other alternative names: `Email`, `URI`, `other`.
    pub other: Vec<&'static str>,
    /// The subject's DER.
    pub subject: Vec<u8>,
    /// The whole request's DER.
    pub der: Vec<u8>,
}

/// A node's request that may be approved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The node asks for itself (`selfnodeclient`), rather than somebody for it (`nodeclient`).
    pub own: bool,
    /// The request.
    pub asked: Asked,
}

/// Makes a key and a request for it: on a node, at join and at renewal. `sans` are DNS names and IP addresses.
/// Returns key and request in PEM.
pub fn new(
    common_name: &str,
    organizations: &[&str],
    sans: &[String],
) -> Result<(String, String), pki::Error> {
    let key = KeyPair::generate()?;
    let request = pki::request(&key, common_name, organizations, sans)?;
    Ok((key.serialize_pem(), request))
}

/// Reads a request (PEM) and checks that its own key signed it.
pub fn parse(csr_pem: &str) -> Result<Asked, Error> {
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes());
    let der = der.map_err(|_| Error::Malformed)?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|_| Error::Malformed)?;
    request.verify_signature().map_err(|_| Error::Malformed)?;
    let subject = &request.certification_request_info.subject;
    let mut asked = Asked {
        common_name: subject
            .iter_common_name()
            .filter_map(|n| n.as_str().ok())
            .collect(),
        organizations: subject
            .iter_organization()
            .map(|o| o.as_str().map(str::to_owned).map_err(|_| Error::Malformed))
            .collect::<Result<_, _>>()?,
        subject: subject.as_raw().to_vec(),
        der: der.to_vec(),
        ..Asked::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            names.general_names.iter().for_each(|name| asked.add(name));
        }
    }
    Ok(asked)
}

impl Asked {
    fn add(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns.push((*name).to_owned()),
            GeneralName::IPAddress(octets) => {
                match (<[u8; 4]>::try_from(*octets), <[u8; 16]>::try_from(*octets)) {
                    (Ok(v4), _) => self.ips.push(v4.into()),
                    (_, Ok(v6)) => self.ips.push(v6.into()),
                    _ => self.other.push("malformed IP"),
                }
            }
            GeneralName::RFC822Name(_) => self.other.push("Email"),
            GeneralName::URI(_) => self.other.push("URI"),
            _ => self.other.push("other"),
        }
    }
}

/// Usages of a client certificate; `key encipherment` may be left out.
const CLIENT: &[&str] = &["key encipherment", "digital signature", "client auth"];
/// Usages of a serving certificate; `key encipherment` may be left out.
const SERVING: &[&str] = &["key encipherment", "digital signature", "server auth"];

/// Whether a request (PEM) with the usages of its object's `spec.usages` may become a node's client certificate.
/// The approver asks RBAC next: `create` on `certificatesigningrequests/selfnodeclient` or `/nodeclient`.
pub fn check_client(csr_pem: &str, usages: &[String], requestor: &User) -> Result<Node, Error> {
    let node = check_node(csr_pem, usages, CLIENT, requestor)?;
    match (node.asked.dns.is_empty(), node.asked.ips.is_empty()) {
        (false, _) => Err(Error::Names("DNS")),
        (_, false) => Err(Error::Names("IP")),
        (true, true) => Ok(node),
    }
}

/// Whether a request may become a node's serving certificate: only the node itself may ask. Whether its names are the
/// node's addresses is the approver's to compare.
pub fn check_serving(csr_pem: &str, usages: &[String], requestor: &User) -> Result<Node, Error> {
    let node = check_node(csr_pem, usages, SERVING, requestor)?;
    if node.asked.dns.is_empty() && node.asked.ips.is_empty() {
        return Err(Error::NoNames);
    }
    if node.own {
        Ok(node)
    } else {
        Err(Error::Requestor)
    }
}

fn check_node(
    csr_pem: &str,
    usages: &[String],
    expected: &'static [&'static str],
    requestor: &User,
) -> Result<Node, Error> {
    let asked = parse(csr_pem)?;
    if asked.organizations != ["system:nodes"] {
        return Err(Error::Organization);
    }
    let name = asked
        .common_name
        .strip_prefix("system:node:")
        .filter(|n| !n.is_empty());
    let name = name.ok_or(Error::CommonName)?.to_owned();
    if let Some(kind) = asked.other.first() {
        return Err(Error::Names(kind));
    }
    let required = expected.iter().filter(|u| **u != "key encipherment");
    let enough = required
        .into_iter()
        .all(|u| usages.iter().any(|have| have == u));
    if !enough || !usages.iter().all(|u| expected.contains(&u.as_str())) {
        return Err(Error::Usages(expected));
    }
    Ok(Node {
        own: asked.common_name == requestor.name,
        name,
        asked,
    })
}
