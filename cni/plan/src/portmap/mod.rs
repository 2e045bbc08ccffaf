//! Host ports: what comes to a port of the node goes to a container. The options are those of the reference's
//! `portmap`; what they ask for becomes [`Forward`]s, which [`nft`] and [`iptables`] bring into their own forms.

pub mod iptables;
pub mod nft;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::backend::Backend;
use crate::config::{NetConf, decode, invalid, or_default};
use crate::nft::Family;
use crate::protocol::{Error, code};
use crate::result::Success;

/// A configuration of the type.
#[derive(Clone, Debug)]
pub struct Conf {
    /// What all types have.
    pub net: NetConf,
    options: Options,
    /// The attachment's host ports.
    pub ports: Vec<Port>,
}

/// Its own fields, which are the reference's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Options {
    /// Which rules are used; by default nftables, and iptables where it is missing or an option speaks its language.
    #[serde(default)]
    backend: Option<Backend>,
    /// What could not find its way back is masqueraded. On unless said otherwise.
    #[serde(default)]
    snat: Option<bool>,
    /// All that comes in is.
    #[serde(default, deserialize_with = "or_default")]
    masq_all: bool,
    /// The bit of the packet mark that says so, 0 to 31.
    #[serde(default)]
    mark_masq_bit: Option<i64>,
    /// A chain of somebody else's that sets a mark for it, instead.
    #[serde(default)]
    external_set_mark_chain: Option<String>,
    /// Further conditions, arguments of `iptables`.
    #[serde(default, rename = "conditionsV4", deserialize_with = "or_default")]
    conditions_v4: Vec<String>,
    /// The same for IPv6.
    #[serde(default, rename = "conditionsV6", deserialize_with = "or_default")]
    conditions_v6: Vec<String>,
}

/// A host port, as the runtime gives it. containerd writes the names as they are in its own language.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    #[serde(alias = "HostPort")]
    host_port: i64,
    #[serde(alias = "ContainerPort")]
    container_port: i64,
    #[serde(default, alias = "Protocol", deserialize_with = "or_default")]
    protocol: String,
    #[serde(
        default,
        rename = "hostIP",
        alias = "HostIP",
        deserialize_with = "or_default"
    )]
    host_ip: String,
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

impl Options {
    fn check(&self) -> Result<(), Error> {
        if let Some(bit) = self.mark_masq_bit.filter(|b| !(0..32).contains(b)) {
            let why = format!("{bit}: allowed are 0 to 31");
            return Err(invalid("markMasqBit", why));
        }
        if let Some(chain) = &self.external_set_mark_chain {
            if self.mark_masq_bit.is_some() {
                let why = "only one of it and markMasqBit may be given";
                return Err(invalid("externalSetMarkChain", why));
            }
            if !iptables::valid_chain(chain) {
                let why = format!("{chain:?}: 1 to 28 letters, digits, '_', '-' and ':'");
                return Err(invalid("externalSetMarkChain", why));
            }
        }
        for (field, conditions) in [
            ("conditionsV4", &self.conditions_v4),
            ("conditionsV6", &self.conditions_v6),
        ] {
            let odd = |c: &&String| c.chars().any(char::is_control);
            if let Some(condition) = conditions.iter().find(odd) {
                let why = format!("{condition:?} has control characters");
                return Err(invalid(field, why));
            }
            let first = conditions.first().filter(|c| !c.starts_with(['-', '!']));
            if let Some(first) = first {
                let why = format!(
                    "{first:?}: allowed are arguments of iptables, the first of which begins with '-' or '!', as -s, 10.0.0.0/8"
                );
                return Err(Error::new(code::UNSUPPORTED_FIELD, field, why));
            }
        }
        if self.backend == Some(Backend::Nftables) && self.needs_iptables() {
            let why = "externalSetMarkChain and conditions are iptables'; backend says nftables";
            return Err(invalid("backend", why));
        }
        Ok(())
    }

    fn conditions(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.conditions_v4,
            Family::V6 => &self.conditions_v6,
        }
    }

    fn needs_iptables(&self) -> bool {
        let conditions = [&self.conditions_v4, &self.conditions_v6];
        conditions.iter().any(|c| !c.is_empty()) || self.external_set_mark_chain.is_some()
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
        let bit = self.mark_masq_bit.and_then(|b| u8::try_from(b).ok());
        match &self.external_set_mark_chain {
            Some(chain) => Mark::Chain(chain.clone()),
            None => Mark::Bit(bit.unwrap_or(DEFAULT_BIT)),
        }
    }
}

impl Conf {
    /// Parses and checks a configuration.
    ///
    /// # Errors
    /// When a field is not what it may be, naming it.
    pub fn parse(input: &[u8]) -> Result<Self, Error> {
        let options: Options = decode(input)?;
        options.check()?;
        Self::with(NetConf::parse(input)?, options)
    }

    /// For the host ports in another type's configuration, without options.
    ///
    /// # Errors
    /// When one can't be a port.
    pub fn of(net: &NetConf) -> Result<Self, Error> {
        Self::with(net.clone(), Options::default())
    }

    fn with(net: NetConf, options: Options) -> Result<Self, Error> {
        let mappings = net.runtime_config.port_mappings.iter();
        let ports = mappings.map(Port::read);
        let ports = ports.collect::<Result<_, _>>()?;
        Ok(Self {
            net,
            options,
            ports,
        })
    }

    /// Which rules it must be; `None`: whichever there are.
    pub fn backend(&self) -> Option<Backend> {
        let implied = self.options.needs_iptables();
        let implied = implied.then_some(Backend::Iptables);
        self.options.backend.or(implied)
    }

    /// What there is to be for the container's addresses: those that the result before gives the interface.
    ///
    /// # Errors
    /// When there is no result before, or none that can be read.
    pub fn wanted(&self, ifname: &str) -> Result<Vec<Wanted>, Error> {
        let previous = self.net.prev_result.as_ref().ok_or_else(|| {
            let why = "host ports are done after another plugin gave the container addresses";
            invalid("prevResult", why)
        })?;
        let addresses = Success::parse(previous, self.net.version())?.addresses_of(ifname);
        let first = |family| addresses.iter().find(|a| Family::of(a.addr()) == family);
        let each = Family::ALL.into_iter().filter_map(|family| {
            let own = *first(family)?;
            let concerned = self.ports.iter().filter(|p| p.concerns(family));
            Some(Wanted {
                family,
                forwards: concerned.map(|p| p.forward(own.addr())).collect(),
                sources: self.options.sources(own),
                mark: self.options.mark(),
                conditions: self.options.conditions(family).to_vec(),
            })
        });
        Ok(each.filter(|w| !w.forwards.is_empty()).collect())
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

/// A number that can be a port.
fn port(field: &str, value: i64) -> Result<u16, Error> {
    let port = u16::try_from(value).ok().filter(|p| *p != 0);
    let field = format!("portMappings {field}");
    port.ok_or_else(|| invalid(&field, format!("{value}: allowed are 1 to 65535")))
}

impl Port {
    fn read(mapping: &serde_json::Value) -> Result<Self, Error> {
        let mapping = Mapping::deserialize(mapping).map_err(|e| {
            let what = "portMappings can't be read";
            Error::new(code::DECODE_FAILURE, what, e)
        })?;
        // One that says nothing means TCP, as in a pod.
        let name = mapping.protocol.to_lowercase();
        let protocol = match name.as_str() {
            "" => Some(Protocol::Tcp),
            name => Protocol::ALL.into_iter().find(|p| p.name() == name),
        };
        let host = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse::<IpAddr>().map_err(|_| {
                let why = format!("{text:?} is no IP address");
                invalid("portMappings hostIP", why)
            })?),
        };
        Ok(Self {
            host,
            protocol: protocol.ok_or_else(|| {
                let why = format!("{name:?}: allowed are tcp, udp and sctp");
                invalid("portMappings protocol", why)
            })?,
            port: port("hostPort", mapping.host_port)?,
            container_port: port("containerPort", mapping.container_port)?,
        })
    }
}

#[cfg(test)]
mod tests;
