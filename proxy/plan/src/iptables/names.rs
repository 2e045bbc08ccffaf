//! Chain names, the same that kube-proxy gives, so that tools and eyes that know them find them.

use sha2::{Digest, Sha256};

use crate::model::{PortName, Protocol};

/// `KUBE-SVC-<hash>` and its kin (`KUBE-EXT-`, `KUBE-SVL-`, `KUBE-FW-`) for a service port.
pub fn service_chain(prefix: &str, name: &PortName, protocol: Protocol) -> String {
    format!("{prefix}{}", hash(&[&name.to_string(), protocol.name()]))
}

/// `KUBE-SEP-<hash>` for an endpoint (`address:port`) of a service port.
pub fn endpoint_chain(name: &PortName, protocol: Protocol, endpoint: &str) -> String {
    format!(
        "KUBE-SEP-{}",
        hash(&[&name.to_string(), protocol.name(), endpoint])
    )
}

/// First 16 letters of the base32 (RFC 4648) of a SHA-256.
fn hash(parts: &[&str]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut sha = Sha256::new();
    parts.iter().for_each(|p| sha.update(p));
    // 16 letters of 5 bits are 80 bits: ten bytes, in two groups of 40 bits.
    let digest = sha.finalize();
    let group = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let letters = digest[..10]
        .chunks(5)
        .map(group)
        .flat_map(|n| (0..8).rev().map(move |i| n >> (i * 5) & 31));
    letters
        .filter_map(|i| ALPHABET.get(i as usize))
        .map(|b| char::from(*b))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_every_cluster() {
        let name = |ns: &str, s: &str, p: &str| PortName {
            namespace: ns.into(),
            service: s.into(),
            port: p.into(),
        };
        let cases = [
            (
                name("default", "kubernetes", "https"),
                Protocol::Tcp,
                "KUBE-SVC-NPX46M4PTMTKRN6Y",
            ),
            (
                name("kube-system", "kube-dns", "dns-tcp"),
                Protocol::Tcp,
                "KUBE-SVC-ERIFXISQEP7F7OF4",
            ),
            (
                name("kube-system", "kube-dns", "dns"),
                Protocol::Udp,
                "KUBE-SVC-TCOU7JCQXEZGVUNU",
            ),
        ];
        for (name, protocol, want) in cases {
            assert_eq!(service_chain("KUBE-SVC-", &name, protocol), want);
        }
    }
}
