//! What kube-proxy writes for many services, replayed as text for the tools it calls: its iptables shape for
//! `iptables-restore`, its nftables shape for `nft`. The shapes are those of kubernetes/kubernetes
//! `pkg/proxy/{iptables,nftables}/proxier.go` (the second as of commit 81810de6): ClusterIP services of one TCP port,
//! cluster CIDR as the detector of local traffic, no session affinity.

pub mod iptables;
pub mod nftables;

use std::net::{Ipv4Addr, SocketAddrV4};

use sha2::{Digest, Sha256};

/// A service of one TCP port, and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its port's name.
    pub port_name: String,
    /// Cluster address and port.
    pub address: SocketAddrV4,
    /// Where it leads to.
    pub endpoints: Vec<SocketAddrV4>,
}

/// What the rules depend on beside the services.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The node's address, on which node ports would answer.
    pub node: Ipv4Addr,
    /// All pods' addresses.
    pub cluster_cidr: String,
    /// All services' addresses.
    pub service_cidr: String,
}

/// One change that is written.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A service, with endpoints, is new.
    Added(&'a Service),
    /// A service has other endpoints than before.
    Replaced {
        /// As it was.
        before: &'a Service,
        /// As it is.
        after: &'a Service,
    },
    /// A service is gone.
    Removed(&'a Service),
}

impl Change<'_> {
    /// Endpoints that are no longer in use, and whose.
    fn gone(&self) -> (&Service, Vec<SocketAddrV4>) {
        match self {
            Change::Added(service) => (service, Vec::new()),
            Change::Removed(service) => (service, service.endpoints.clone()),
            Change::Replaced { before, after } => {
                let gone = |e: &&SocketAddrV4| !after.endpoints.contains(e);
                (
                    before,
                    before.endpoints.iter().filter(gone).copied().collect(),
                )
            }
        }
    }
}

/// The first letters of the base32 (RFC 4648) of a SHA-256; at most 16.
fn hash(text: &str, letters: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha256::digest(text);
    let bits = digest
        .iter()
        .take(10)
        .fold(0u128, |n, byte| n << 8 | u128::from(*byte));
    let letter = |place: usize| ALPHABET[(bits >> (75 - 5 * place) & 31) as usize];
    (0..letters.min(16))
        .map(|place| char::from(letter(place)))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Services as upstream's own tests have them.
    pub(crate) fn service(n: u8, endpoints: &[&str]) -> Service {
        Service {
            namespace: format!("ns{n}"),
            name: format!("svc{n}"),
            port_name: "p80".into(),
            address: SocketAddrV4::new(Ipv4Addr::new(172, 30, 0, 40 + n), 80),
            endpoints: endpoints
                .iter()
                .map(|e| e.parse().expect("an endpoint"))
                .collect(),
        }
    }

    pub(crate) fn frame() -> Frame {
        Frame {
            node: Ipv4Addr::new(192, 168, 0, 2),
            cluster_cidr: "10.0.0.0/8".into(),
            service_cidr: "172.30.0.0/16".into(),
        }
    }

    #[test]
    fn gone_is_what_nothing_leads_to_any_more() {
        let before = service(1, &["10.0.1.1:80", "10.0.1.2:80"]);
        let after = service(1, &["10.0.1.1:80", "10.0.1.3:80"]);
        let (before, after) = (&before, &after);
        let cases = [
            ("added", Change::Added(after), vec![]),
            (
                "replaced",
                Change::Replaced { before, after },
                vec!["10.0.1.2:80"],
            ),
            (
                "removed",
                Change::Removed(before),
                vec!["10.0.1.1:80", "10.0.1.2:80"],
            ),
        ];
        for (name, change, want) in cases {
            let gone: Vec<String> = change.gone().1.iter().map(ToString::to_string).collect();
            assert_eq!(gone, want, "{name}");
        }
    }
}
