//! Host ports: what comes to a port of the node goes to a container. The options are those of the reference's
//! `portmap`; what they ask for becomes [`Forward`]s, which [`nft`] and [`iptables`] bring into their own forms.

pub mod iptables;
pub mod nft;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::config::Attachment;
use crate::names;
use crate::nft::Family;
use crate::protocol::{Error, code, valid_container};
use crate::result;

/// A configuration of the type, with the fields of the reference's.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conf {
    /// The network's name.
    pub name: String,
    /// Which rules are used; by default nftables, and iptables where it is missing or an option speaks its language.
    #[serde(default)]
    backend: Option<Backend>,
    /// What could not find its way back is masqueraded. On unless said otherwise.
    #[serde(default)]
    snat: Option<bool>,
    /// All that comes in is.
    #[serde(default)]
    masq_all: bool,
    /// The bit of the packet mark that says so, 0 to 31.
    #[serde(default)]
    mark_masq_bit: Option<u8>,
    /// A chain of somebody else's that sets a mark for it, instead.
    #[serde(default)]
    external_set_mark_chain: Option<String>,
    /// Further conditions, arguments of `iptables`.
    #[serde(default, rename = "conditionsV4")]
    conditions_v4: Option<Vec<String>>,
    /// The same for IPv6.
    #[serde(default, rename = "conditionsV6")]
    conditions_v6: Option<Vec<String>>,
    #[serde(default)]
    runtime_config: Runtime,
    /// The result of the plugin before.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// GC: the attachments that live.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Runtime {
    #[serde(default, rename = "portMappings")]
    mappings: Option<Vec<Mapping>>,
}

/// A host port, as the runtime gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

/// Which of the kernel's packet filters holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// nftables, over netlink.
    Nftables,
    /// iptables, by its programs.
    Iptables,
}

/// Protocols with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// What comes to a port and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The address it comes to; `None`: any of the node's.
    pub host: Option<IpAddr>,
    /// The port it comes to.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it goes.
    pub to: (IpAddr, u16),
}

/// How packets get the node's address as their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// By this bit of their mark, and rules of ours that look at it.
    Bit(u8),
    /// By somebody else's chain.
    Chain(String),
}

/// What is to be for an attachment in an address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The family.
    pub family: Family,
    /// What goes where.
    pub forwards: Vec<Forward>,
    /// Whose packets get the node's address: their answers would not come back through the node.
    pub sources: Vec<IpNet>,
    /// How they get it.
    pub mark: Mark,
    /// Further conditions, in iptables' language.
    pub conditions: Vec<String>,
}

/// The reference's default; Kubernetes uses bits 14 and 15.
const DEFAULT_BIT: u8 = 13;
const LOOPBACK: &str = "127.0.0.1/32";

fn bad(field: &str, why: impl std::fmt::Display) -> Error {
    Error::new(code::INVALID_CONFIG, format!("invalid {field}"), why)
}

impl Conf {
    /// Parses and checks a configuration.
    pub fn parse(input: &[u8]) -> Result<Self, Error> {
        let read: Result<Self, _> = serde_json::from_slice(input);
        let conf = read.map_err(|e| {
            let what = "network configuration can't be read";
            Error::new(code::DECODE_FAILURE, what, e)
        })?;
        conf.check()?;
        Ok(conf)
    }

    fn check(&self) -> Result<(), Error> {
        if !valid_container(&self.name) {
            let why = "letters, digits, '_', '.', '-', first a letter or digit";
            return Err(bad("name", format!("{:?}: {why}", self.name)));
        }
        if let Some(bit) = self.mark_masq_bit.filter(|b| *b > 31) {
            return Err(bad("markMasqBit", format!("{bit}: allowed are 0 to 31")));
        }
        if let Some(chain) = &self.external_set_mark_chain {
            if self.mark_masq_bit.is_some() {
                let why = "only one of it and markMasqBit may be given";
                return Err(bad("externalSetMarkChain", why));
            }
            if !iptables::valid_chain(chain) {
                let why = format!("{chain:?}: 1 to 28 letters, digits, '_', '-' and ':'");
                return Err(bad("externalSetMarkChain", why));
            }
        }
        for (field, conditions) in self.conditions() {
            let odd = |c: &&String| c.chars().any(char::is_control);
            if let Some(condition) = conditions.iter().find(odd) {
                return Err(bad(field, format!("{condition:?} has control characters")));
            }
            let iptables = |first: &String| first.starts_with(['-', '!']);
            if conditions.first().is_some_and(|first| !iptables(first)) {
                let why = "conditions in nftables' language are not supported; allowed are arguments of iptables";
                return Err(Error::new(code::UNSUPPORTED_FIELD, field, why));
            }
        }
        if self.backend == Some(Backend::Nftables) && self.needs_iptables() {
            let why = "externalSetMarkChain and conditions are iptables'; backend says nftables";
            return Err(bad("backend", why));
        }
        self.ports().map(|_| ())
    }

    fn conditions(&self) -> [(&'static str, &[String]); 2] {
        let v4 = self.conditions_v4.as_deref().unwrap_or_default();
        let v6 = self.conditions_v6.as_deref().unwrap_or_default();
        [("conditionsV4", v4), ("conditionsV6", v6)]
    }

    fn needs_iptables(&self) -> bool {
        let conditions = self.conditions().iter().any(|(_, c)| !c.is_empty());
        conditions || self.external_set_mark_chain.is_some()
    }

    /// Which rules it must be; `None`: whichever there are.
    pub fn backend(&self) -> Option<Backend> {
        let implied = self.needs_iptables().then_some(Backend::Iptables);
        self.backend.or(implied)
    }

    /// Whether the attachment has host ports.
    pub fn has_ports(&self) -> bool {
        self.runtime_config.mappings.iter().flatten().count() > 0
    }

    /// The host ports.
    ///
    /// # Errors
    /// When one can't be a port, naming it.
    pub fn ports(&self) -> Result<Vec<Port>, Error> {
        let mappings = self.runtime_config.mappings.iter().flatten();
        mappings.map(Mapping::check).collect()
    }

    /// What there is to be for the container's addresses: those that the result before gives the interface.
    ///
    /// # Errors
    /// When there is no result before.
    pub fn wanted(&self, ifname: &str) -> Result<Vec<Wanted>, Error> {
        let previous = self.prev_result.as_ref().ok_or_else(|| {
            let why = "host ports are done after another plugin gave the container addresses";
            bad("prevResult", why)
        })?;
        let ports = self.ports()?;
        let addresses = result::own_addresses(previous, ifname);
        let first = |family| addresses.iter().find(|a| Family::of(a.addr()) == family);
        let each = Family::ALL.into_iter().filter_map(|family| {
            let own = *first(family)?;
            let concerned = ports.iter().filter(|p| p.concerns(family));
            Some(Wanted {
                family,
                forwards: concerned.map(|p| p.forward(own.addr())).collect(),
                sources: self.sources(own),
                mark: self.mark(),
                conditions: self.conditions()[usize::from(family == Family::V6)]
                    .1
                    .to_vec(),
            })
        });
        Ok(each.filter(|w| !w.forwards.is_empty()).collect())
    }

    /// The container's own network answers it without asking the node, so the node must be in between; and nobody
    /// can answer the loopback address of another.
    fn sources(&self, own: IpNet) -> Vec<IpNet> {
        let text = match (self.snat.unwrap_or(true), self.masq_all, own) {
            (false, ..) => return Vec::new(),
            (true, false, _) => LOOPBACK,
            (true, true, IpNet::V4(_)) => "0.0.0.0/0",
            (true, true, IpNet::V6(_)) => "::/0",
        };
        let own = Some(own.trunc()).filter(|_| !self.masq_all);
        let other: Option<IpNet> = text.parse().ok();
        let other = other.filter(|o| self.masq_all || own.is_some_and(|n| same_family(n, *o)));
        own.into_iter().chain(other).collect()
    }

    fn mark(&self) -> Mark {
        match &self.external_set_mark_chain {
            Some(chain) => Mark::Chain(chain.clone()),
            None => Mark::Bit(self.mark_masq_bit.unwrap_or(DEFAULT_BIT)),
        }
    }
}

fn same_family(a: IpNet, b: IpNet) -> bool {
    a.addr().is_ipv4() == b.addr().is_ipv4()
}

/// A host port, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The address it is for, an unspecified one for all of its family; `None`: any.
    host: Option<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub port: u16,
    container_port: u16,
}

impl Port {
    fn concerns(&self, family: Family) -> bool {
        self.host.is_none_or(|host| Family::of(host) == family)
    }

    fn forward(&self, container: IpAddr) -> Forward {
        Forward {
            host: self.host.filter(|host| !host.is_unspecified()),
            port: self.port,
            protocol: self.protocol,
            to: (container, self.container_port),
        }
    }
}

impl Mapping {
    fn check(&self) -> Result<Port, Error> {
        let port = |field: &str, value: i64| {
            let port = u16::try_from(value).ok().filter(|p| *p != 0);
            let field = format!("portMappings {field}");
            port.ok_or_else(|| bad(&field, format!("{value}: allowed are 1 to 65535")))
        };
        // One that says nothing means TCP, as in a pod.
        let name = Some(self.protocol.to_lowercase()).filter(|name| !name.is_empty());
        let protocol = match &name {
            None => Some(Protocol::Tcp),
            Some(name) => Protocol::ALL.into_iter().find(|p| p.name() == name),
        };
        let host = match self.host_ip.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                let why = format!("{text:?} is no IP address");
                bad("portMappings hostIP", why)
            })?),
        };
        Ok(Port {
            host,
            protocol: protocol.ok_or_else(|| {
                let why = format!("{:?}: allowed are tcp, udp and sctp", self.protocol);
                bad("portMappings protocol", why)
            })?,
            port: port("hostPort", self.host_port)?,
            container_port: port("containerPort", self.container_port)?,
        })
    }
}

/// Whose rules they are: a hash of the network, one of the attachment, both of fixed length, so that any names fit.
pub fn owner(network: &str, attachment: &Attachment) -> String {
    let own = names::short_hash(&[network, &attachment.container, &attachment.ifname]);
    format!("{}-{own}", names::short_hash(&[network]))
}

/// Whether the owner of rules is one of a network that is not among the valid ones.
pub fn is_stale(network: &str, valid: &[Attachment], tag: &str) -> bool {
    tag.starts_with(&format!("{}-", names::short_hash(&[network])))
        && !valid.iter().any(|v| owner(network, v) == tag)
}

#[cfg(test)]
mod tests;
