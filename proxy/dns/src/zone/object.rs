//! Services and EndpointSlices as the zone needs them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::answer::{Host, dashed, undash};
use crate::name::{self, MAX_LABEL};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// `clusterIP` of a headless service.
const HEADLESS: &str = "None";

/// What a service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its own addresses.
    Cluster(Option<Ipv4Addr>, Option<Ipv6Addr>),
    /// Those of its endpoints.
    Headless,
    /// Another name, as on the wire.
    External(Box<[u8]>),
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) kind: Kind,
    pub(super) ports: Box<[Port]>,
}

/// A port of a service or of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// Empty for one without a name.
    name: Box<str>,
    /// Its label in DNS, without the underscore.
    protocol: &'static str,
    pub(super) number: u16,
}

/// What one slice says: its ready endpoints, those of one family, in the order of their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) ports: Box<[Port]>,
    addresses: Addresses,
    /// Host names, one for each address; empty where no endpoint has one.
    hosts: Box<[Option<Box<str>>]>,
    /// Places of those that have a host name, in the order of the names.
    by_host: Box<[u16]>,
}

/// Addresses of one family: four bytes for each of most.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Addresses {
    V4(Box<[Ipv4Addr]>),
    V6(Box<[Ipv6Addr]>),
}

impl Service {
    /// `None` where there is nothing to tell yet, or never.
    pub(super) fn parse(service: &ServiceObject) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let ports = spec.ports.iter().flatten();
        let ports = ports
            .filter_map(|p| Port::parse(p.name.as_deref(), p.protocol.as_deref(), Some(p.port)))
            .collect();
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref()?;
            // An address is no name, however it is written: the name made of its digits does not exist.
            let is_name = target.parse::<IpAddr>().is_err();
            let kind = Kind::External(name::parse(target).filter(|n| is_name && n.len() > 1)?);
            return Some(Self { kind, ports });
        }
        let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let (mut v4, mut v6) = (None, None);
        for address in all {
            match address.parse() {
                Ok(IpAddr::V4(ip)) => _ = v4.get_or_insert(ip),
                Ok(IpAddr::V6(ip)) => _ = v6.get_or_insert(ip),
                Err(_) if address == HEADLESS => {
                    return Some(Self {
                        kind: Kind::Headless,
                        ports,
                    });
                }
                Err(_) => {}
            }
        }
        let kind = Kind::Cluster(v4, v6);
        (v4.is_some() || v6.is_some()).then_some(Self { kind, ports })
    }

    /// Its own addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (v4, v6) = match self.kind {
            Kind::Cluster(v4, v6) => (v4, v6),
            Kind::Headless | Kind::External(_) => (None, None),
        };
        v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
    }
}

impl Port {
    fn parse(name: Option<&str>, protocol: Option<&str>, number: Option<i32>) -> Option<Self> {
        let number = u16::try_from(number?).ok().filter(|n| *n > 0)?;
        let name = name.unwrap_or_default().to_ascii_lowercase();
        let protocol = match protocol.unwrap_or("TCP") {
            "TCP" => "tcp",
            "UDP" => "udp",
            "SCTP" => "sctp",
            _ => return None,
        };
        (name.len() < MAX_LABEL).then(|| Self {
            name: name.into(),
            protocol,
            number,
        })
    }

    /// It is the one of `_port._protocol`.
    pub(super) fn is(&self, port: &[u8], protocol: &[u8]) -> bool {
        !self.name.is_empty()
            && port.strip_prefix(b"_") == Some(self.name.as_bytes())
            && self.is_below(protocol)
    }

    /// There is a name of it below `_protocol`.
    pub(super) fn is_below(&self, protocol: &[u8]) -> bool {
        !self.name.is_empty() && protocol.strip_prefix(b"_") == Some(self.protocol.as_bytes())
    }
}

/// The slice's service, of the same namespace.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get(SERVICE_NAME).map(String::as_str)
}

impl Slice {
    /// `None` for a slice of neither family.
    pub(super) fn parse(slice: &EndpointSlice) -> Option<Self> {
        let v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let mut all = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            // Unknown counts as ready, says the API. Those of `publishNotReadyAddresses` are marked ready by whoever
            // writes the slice.
            if !conditions.and_then(|c| c.ready).unwrap_or(true) {
                continue;
            }
            let host = endpoint
                .hostname
                .as_deref()
                .filter(|h| (1..=MAX_LABEL).contains(&h.len()) && !h.contains('.'));
            let host = host.map(|h| Box::<str>::from(h.to_ascii_lowercase()));
            let ips = endpoint
                .addresses
                .iter()
                .filter_map(|a| a.parse::<IpAddr>().ok());
            all.extend(
                ips.filter(|ip| ip.is_ipv4() == v4)
                    .map(|ip| (ip, host.clone())),
            );
        }
        all.sort_unstable();
        all.dedup();
        // The API allows a thousand endpoints with a hundred addresses each; nobody writes that.
        all.truncate(usize::from(u16::MAX));
        let ports = slice.ports.iter().flatten();
        let ports = ports
            .filter_map(|p| Port::parse(p.name.as_deref(), p.protocol.as_deref(), p.port))
            .collect();
        Some(Self::new(ports, v4, all))
    }

    fn new(ports: Box<[Port]>, v4: bool, all: Vec<(IpAddr, Option<Box<str>>)>) -> Self {
        let ips = || all.iter().map(|(ip, _)| *ip);
        let addresses = if v4 {
            Addresses::V4(
                ips()
                    .filter_map(|ip| {
                        if let IpAddr::V4(ip) = ip {
                            Some(ip)
                        } else {
                            None
                        }
                    })
                    .collect(),
            )
        } else {
            Addresses::V6(
                ips()
                    .filter_map(|ip| {
                        if let IpAddr::V6(ip) = ip {
                            Some(ip)
                        } else {
                            None
                        }
                    })
                    .collect(),
            )
        };
        if all.iter().all(|(_, host)| host.is_none()) {
            return Self {
                ports,
                addresses,
                hosts: Box::default(),
                by_host: Box::default(),
            };
        }
        let hosts: Box<[_]> = all.into_iter().map(|(_, host)| host).collect();
        let mut by_host: Vec<u16> = (0..)
            .zip(&*hosts)
            .filter(|(_, h)| h.is_some())
            .map(|(i, _)| i)
            .collect();
        by_host.sort_by_key(|i| hosts.get(usize::from(*i)).cloned().flatten());
        Self {
            ports,
            addresses,
            hosts,
            by_host: by_host.into(),
        }
    }

    /// How many addresses it has.
    pub(super) fn len(&self) -> usize {
        match &self.addresses {
            Addresses::V4(all) => all.len(),
            Addresses::V6(all) => all.len(),
        }
    }

    /// All its addresses are of the older family.
    pub(super) fn is_v4(&self) -> bool {
        matches!(self.addresses, Addresses::V4(_))
    }

    /// The address at a place.
    pub(super) fn address(&self, at: usize) -> Option<IpAddr> {
        match &self.addresses {
            Addresses::V4(all) => all.get(at).copied().map(IpAddr::V4),
            Addresses::V6(all) => all.get(at).copied().map(IpAddr::V6),
        }
    }

    /// An endpoint here has the address.
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        match (&self.addresses, ip) {
            (Addresses::V4(all), IpAddr::V4(ip)) => all.binary_search(&ip).is_ok(),
            (Addresses::V6(all), IpAddr::V6(ip)) => all.binary_search(&ip).is_ok(),
            _ => false,
        }
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        (0..self.len()).filter_map(|at| self.address(at))
    }

    /// All endpoints: the first label of their names, and their addresses.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (Host<'_>, IpAddr)> {
        (0..self.len()).filter_map(|at| {
            let ip = self.address(at)?;
            let host = self.hosts.get(at).and_then(Option::as_deref);
            Some((host.map_or(Host::Dashed(ip), Host::Named), ip))
        })
    }

    /// The endpoints that a label names.
    pub(super) fn named(&self, label: &[u8]) -> impl Iterator<Item = (Host<'_>, IpAddr)> {
        let host = |at: u16| self.hosts.get(usize::from(at)).and_then(Option::as_deref);
        let is = move |at: &u16| host(*at).map(str::as_bytes).cmp(&Some(label));
        let from = self.by_host.partition_point(|at| is(at).is_lt());
        let hosts = self
            .by_host
            .get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(move |at| is(at).is_eq());
        let hosts = hosts
            .filter_map(move |at| Some((Host::Named(host(*at)?), self.address(usize::from(*at))?)));
        let plain = undash(label).filter(|ip| self.has(*ip) && dashed(*ip).as_bytes() == label);
        // One with a host name is not known by its address.
        let plain = plain.filter(|ip| self.endpoints().any(|e| e == (Host::Dashed(*ip), *ip)));
        hosts.chain(plain.map(|ip| (Host::Dashed(ip), ip)))
    }
}
