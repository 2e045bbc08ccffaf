//! Trust anchors for pods, from ClusterTrustBundles.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use kube::core::Selector;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::Error;

/// Characters in a line of PEM (RFC 7468, section 2).
const LINE: usize = 64;

/// Which ClusterTrustBundles a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bundles {
    /// One, by name.
    Named(String),
    /// Those of a signer.
    Signed {
        /// Its name.
        signer: String,
        /// A label selector as a list takes it; none matches nothing, an empty one everything.
        labels: Option<String>,
    },
}

impl Bundles {
    /// What a projection asks for; one that the API server lets through names either.
    pub fn of(projection: &ClusterTrustBundleProjection) -> Self {
        let signer = projection.signer_name.clone().unwrap_or_default();
        if signer.is_empty() {
            return Self::Named(projection.name.clone().unwrap_or_default());
        }
        let selector = projection.label_selector.clone();
        let labels = selector.and_then(|s| Some(Selector::try_from(s).ok()?.to_string()));
        Self::Signed { signer, labels }
    }

    /// The field and the label selector that list and watch take; `None`: nothing is asked for.
    pub fn selectors(&self) -> Option<(String, &str)> {
        match self {
            Self::Named(name) => Some((format!("metadata.name={name}"), "")),
            Self::Signed { signer, labels } => {
                Some((format!("spec.signerName={signer}"), labels.as_deref()?))
            }
        }
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Named(name) => name.clone(),
            Self::Signed { signer, labels } => {
                format!("of signer {signer} with labels {labels:?}")
            }
        }
    }
}

/// The certificates of all bundles, each once, in the order they come in.
pub(super) fn merged(bundles: &[String]) -> Result<Vec<u8>, Error> {
    let mut seen = BTreeSet::new();
    let mut text = String::new();
    for bundle in bundles {
        for der in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            let der = der.map_err(|e| Error::Malformed {
                kind: "clustertrustbundle",
                why: e.to_string(),
            })?;
            if seen.insert(der.to_vec()) {
                block(&mut text, &der);
            }
        }
    }
    Ok(text.into_bytes())
}

fn block(text: &mut String, der: &[u8]) {
    let body = STANDARD.encode(der);
    text.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END CERTIFICATE-----\n");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_for() {
        let of = |v| Bundles::of(&serde_json::from_value(v).expect("a projection"));
        let signed = |labels: Option<&str>| Bundles::Signed {
            signer: "example.com/s".into(),
            labels: labels.map(str::to_owned),
        };
        let signer = "spec.signerName=example.com/s";
        let rows = [
            (
                json!({"path": "p", "name": "a"}),
                Bundles::Named("a".into()),
                Some(("metadata.name=a", "")),
            ),
            (
                json!({"path": "p", "signerName": "example.com/s"}),
                signed(None),
                None,
            ),
            (
                json!({"path": "p", "signerName": "example.com/s", "labelSelector": {}}),
                signed(Some("")),
                Some((signer, "")),
            ),
            (
                json!({"path": "p", "signerName": "example.com/s",
                    "labelSelector": {"matchLabels": {"live": "yes"}}}),
                signed(Some("live=yes")),
                Some((signer, "live=yes")),
            ),
        ];
        for (projection, want, selectors) in rows {
            let found = of(projection);
            assert_eq!(found, want);
            let got = found.selectors();
            let got = got
                .as_ref()
                .map(|(fields, labels)| (fields.as_str(), *labels));
            assert_eq!(got, selectors);
        }
    }

    #[test]
    fn certificates_come_once() {
        let pem = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new([name.to_owned()]).expect("parameters");
            params.self_signed(&key).expect("signed").pem()
        };
        let (a, b) = (pem("a"), pem("b"));
        let unix = |s: &str| s.replace("\r\n", "\n");
        let text = merged(&[format!("words\n{a}"), format!("{b}{a}")]).expect("merged");
        let want = format!("{}{}", unix(&a), unix(&b));
        assert_eq!(String::from_utf8(text).expect("text"), want);
        assert_eq!(merged(&[]).expect("nothing"), Vec::<u8>::new());
        assert!(
            merged(&["-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----".into()]).is_err()
        );
    }
}
