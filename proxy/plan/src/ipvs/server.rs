//! Virtual servers and destinations, as the kernel knows them (`linux/ip_vs.h`).

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::model::Protocol;

/// Where a virtual server answers: what names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerKey {
    /// Address.
    pub address: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

impl ServerKey {
    /// The protocol of IANA's number; `None`: no service has it.
    pub fn protocol_of(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|p| p.number() == number)
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.protocol.name(),
            SocketAddr::new(self.address, self.port)
        )
    }
}

/// How a destination is chosen: the name of one of the kernel's `ip_vs_*` modules, which it loads by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheduler(Cow<'static, str>);

/// The schedulers that a user may choose, with the flags that each needs: kube-proxy's `ipvs.scheduler`.
const SCHEDULERS: &[(&str, Flags)] = &[
    ("rr", Flags::NONE),
    ("wrr", Flags::NONE),
    ("lc", Flags::NONE),
    ("wlc", Flags::NONE),
    ("lblc", Flags::NONE),
    ("lblcr", Flags::NONE),
    ("dh", Flags::NONE),
    ("sh", Flags::NONE),
    ("sed", Flags::NONE),
    ("nq", Flags::NONE),
    ("fo", Flags::NONE),
    ("ovf", Flags::NONE),
    // Without the port all of a client's connections would go to one endpoint.
    ("mh", Flags::HASH_PORT),
];

/// A name that no scheduler has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownScheduler(String);

impl fmt::Display for UnknownScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = SCHEDULERS.iter().map(|(n, _)| *n).collect();
        write!(
            f,
            "no IPVS scheduler {:?}: it is one of {}",
            self.0,
            names.join(", ")
        )
    }
}

impl std::error::Error for UnknownScheduler {}

impl FromStr for Scheduler {
    type Err = UnknownScheduler;

    fn from_str(name: &str) -> Result<Self, UnknownScheduler> {
        let known = SCHEDULERS.iter().find(|(n, _)| *n == name);
        known
            .map(|(n, _)| Self(Cow::Borrowed(n)))
            .ok_or_else(|| UnknownScheduler(name.to_owned()))
    }
}

impl Default for Scheduler {
    /// Round robin, as kube-proxy.
    fn default() -> Self {
        Self(Cow::Borrowed("rr"))
    }
}

impl Scheduler {
    /// One that the kernel named, be it for choice here or not.
    pub fn read(name: &str) -> Self {
        name.parse()
            .unwrap_or_else(|_| Self(Cow::Owned(name.to_owned())))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Flags that a virtual server with it needs.
    pub fn flags(&self) -> Flags {
        SCHEDULERS
            .iter()
            .find(|(n, _)| *n == self.0)
            .map_or(Flags::NONE, |(_, flags)| *flags)
    }
}

/// `IP_VS_SVC_F_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub u32);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// A client comes back to the same destination for `timeout` seconds.
    pub const PERSISTENT: Self = Self(0x1);
    /// In the kernel's table: set by the kernel, in whatever it tells of.
    pub const HASHED: Self = Self(0x2);
    /// Each datagram is a connection of its own.
    pub const ONE_PACKET: Self = Self(0x4);
    /// Schedulers `sh` and `mh` hash the client's port too (`SCHED2`).
    pub const HASH_PORT: Self = Self(0x10);
    /// `SCHED3`, which is free for a scheduler's own use and which none uses: says that a virtual server is ours.
    /// IPVS knows neither labels nor owners, and what is not ours is not to be touched.
    pub const OURS: Self = Self(0x20);

    /// Whether all of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without those.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualServer {
    /// Where it answers.
    pub key: ServerKey,
    /// How it chooses.
    pub scheduler: Scheduler,
    /// Flags, without [`Flags::HASHED`].
    pub flags: Flags,
    /// Seconds for which a client comes back to the same destination, with [`Flags::PERSISTENT`].
    pub timeout: u32,
    /// Which clients are one: a mask with IPv4 (network order, as a number), a prefix length with IPv6.
    pub netmask: u32,
}

impl VirtualServer {
    /// The mask by which each client address counts for itself.
    pub fn full_mask(address: &IpAddr) -> u32 {
        if address.is_ipv4() { u32::MAX } else { 128 }
    }

    /// Whether it was made here.
    pub fn is_ours(&self) -> bool {
        self.flags.has(Flags::OURS)
    }
}

/// How packets come to a destination (`IP_VS_CONN_F_*`). Services need translation: a pod knows nothing of the
/// service's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// The destination's address is put in place of the service's.
    #[default]
    Masquerade,
    /// Another method's number; only ever read.
    Other(u32),
}

/// A destination of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Address and port.
    pub at: SocketAddr,
    /// Share of new connections; 0: none.
    pub weight: u32,
    /// How packets get there.
    pub forwarding: Forwarding,
    /// Established connections; told by the kernel.
    pub active: u32,
    /// Other connections that are remembered (opening, closing, UDP); told by the kernel.
    pub inactive: u32,
}

impl Destination {
    /// One that takes its share of new connections.
    pub fn new(at: SocketAddr) -> Self {
        Self {
            at,
            weight: 1,
            forwarding: Forwarding::Masquerade,
            active: 0,
            inactive: 0,
        }
    }

    /// Whether no connection would miss it.
    pub fn is_idle(&self) -> bool {
        self.active == 0 && self.inactive == 0
    }
}

/// How long idle connections are remembered, in seconds; 0 leaves what is set (kube-proxy's `ipvs.tcpTimeout` and kin).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP connections (kernel: 900).
    pub tcp: u32,
    /// TCP connections after a FIN (kernel: 120).
    pub tcp_fin: u32,
    /// UDP flows (kernel: 300).
    pub udp: u32,
}
