//! Bundles of trust anchors (`ClusterTrustBundle`).

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::{FromDer, X509Certificate};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Checks a bundle as upstream's API server does: nothing but PEM blocks of certificates without headers, each of a
/// certificate authority, none twice, at least one. The error says what is wrong.
pub fn check(pem: &str) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let mut block: Option<String> = None;
    for line in pem.lines().map(str::trim_end) {
        block = match (line, block.take()) {
            ("", None) => None,
            (BEGIN, None) => Some(String::new()),
            (END, Some(text)) => {
                let der = STANDARD.decode(text).map_err(|e| {
                    format!("entry {} is not base64 without headers: {e}", seen.len())
                })?;
                check_anchor(&der).map_err(|why| format!("entry {}: {why}", seen.len()))?;
                if !seen.insert(der) {
                    return Err("trust bundle has a certificate twice".into());
                }
                None
            }
            (_, Some(text)) => Some(text + line),
            (_, None) => {
                return Err("trust bundle has data that is no PEM block CERTIFICATE".into());
            }
        };
    }
    match (block, seen.is_empty()) {
        (Some(_), _) => Err("trust bundle ends within a PEM block".into()),
        (None, true) => Err("trust bundle has no certificate".into()),
        (None, false) => Ok(()),
    }
}

fn check_anchor(der: &[u8]) -> Result<(), &'static str> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| "is no X.509 certificate")?;
    if !rest.is_empty() {
        return Err("has data after its certificate");
    }
    if !certificate.is_ca() {
        return Err("is no certificate of an authority (basic constraints)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn certificate(is_ca: bool) -> String {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signed").pem()
    }

    #[test]
    fn only_authorities_each_once() {
        let (a, b, leaf) = (certificate(true), certificate(true), certificate(false));
        let headed = a.replacen("\n", "\nProc-Type: 4\n", 1);
        let rows = [
            ("one", a.clone(), None),
            ("two, apart", format!("{a}\n\n{b}"), None),
            ("empty", String::new(), Some("no certificate")),
            ("twice", format!("{a}{b}{a}"), Some("twice")),
            (
                "no authority",
                format!("{a}{leaf}"),
                Some("entry 1: is no certificate of an authority"),
            ),
            (
                "words between",
                format!("{a}hello\n{b}"),
                Some("no PEM block"),
            ),
            ("headers", headed, Some("base64 without headers")),
            (
                "a key",
                a.replace("CERTIFICATE", "PRIVATE KEY"),
                Some("no PEM block"),
            ),
            ("cut short", a.replace(END, ""), Some("ends within")),
            (
                "not DER",
                format!("{BEGIN}\nAAAA\n{END}\n"),
                Some("no X.509"),
            ),
        ];
        for (name, pem, want) in rows {
            match (check(&pem), want) {
                (Ok(()), None) => {}
                (Err(why), Some(want)) => assert!(why.contains(want), "{name}: {why}"),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }
}
