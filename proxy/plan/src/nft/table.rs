//! A table of nftables as a value: sets and maps with their elements, chains of rules. What the kernel has, what is
//! wanted, what a walker walks and what people read is this one thing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{Family, Protocol};

/// Name of a set, a map or a chain.
pub type Name = Arc<str>;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name: there is one of it in each family.
    pub name: &'static str,
    /// Which packets it sees.
    pub family: Family,
    /// Sets and maps.
    pub sets: BTreeMap<Name, Set>,
    /// Chains.
    pub chains: BTreeMap<Name, Chain>,
}

/// What a field of a key or a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// An address of the table's family.
    Address,
    /// A transport protocol's number.
    Protocol,
    /// A port.
    Port,
    /// A plain number, in the machine's byte order.
    Number,
    /// A packet's class, as its priority.
    Class,
}

impl Field {
    /// Bytes in the kernel's registers, which are words of four.
    pub fn width(self, family: Family) -> usize {
        match (self, family) {
            (Self::Address, Family::V6) => 16,
            _ => 4,
        }
    }

    /// Bytes that count.
    pub fn size(self, family: Family) -> usize {
        match (self, family) {
            (Self::Address, Family::V6) => 16,
            (Self::Address, Family::V4) | (Self::Number | Self::Class, _) => 4,
            (Self::Port, _) => 2,
            (Self::Protocol, _) => 1,
        }
    }
}

/// A key or a value: its fields' bytes one after the other, each filled up with zeros to words of four, as registers
/// hold them. In a set of intervals it is the first of an interval and the last, one after the other.
pub type Words = Box<[u8]>;

/// Puts [`Words`] together.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An address.
    pub fn address(mut self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => self.0.extend(a.octets()),
            IpAddr::V6(a) => self.0.extend(a.octets()),
        }
        self
    }

    /// A protocol.
    pub fn protocol(self, protocol: Protocol) -> Self {
        self.byte(protocol.number())
    }

    /// A byte.
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.extend([byte, 0, 0, 0]);
        self
    }

    /// A port.
    pub fn port(mut self, port: u16) -> Self {
        let [a, b] = port.to_be_bytes();
        self.0.extend([a, b, 0, 0]);
        self
    }

    /// A number.
    pub fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    /// A text that ends in zeros.
    pub fn text(mut self, text: &str) -> Self {
        self.0.extend(text.bytes().chain([0]));
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// What was put together.
    pub fn words(self) -> Words {
        self.0.into()
    }
}

/// What an element of a map holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing: an element of a set.
    None,
    /// What becomes of the packet.
    Verdict(Verdict),
    /// Fields.
    Fields(Words),
}

/// What the elements of a set hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Nothing: it is a set.
    Nothing,
    /// A verdict each.
    Verdicts,
    /// These fields each.
    Fields(Vec<Field>),
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Fields of a key.
    pub key: Vec<Field>,
    /// What elements hold.
    pub holds: Holds,
    /// Elements are intervals.
    pub intervals: bool,
    /// Rules add elements, which go when their time is over; at most so many. They are never part of the value.
    pub dynamic: Option<u32>,
    /// Elements.
    pub elements: BTreeMap<Words, Value>,
}

impl Set {
    /// A set or a map without elements.
    pub fn new(key: &[Field], holds: Holds) -> Self {
        Self {
            key: key.to_vec(),
            holds,
            intervals: false,
            dynamic: None,
            elements: BTreeMap::new(),
        }
    }

    /// The same but for elements.
    pub fn same_form(&self, other: &Self) -> bool {
        let form = |s: &Self| (s.key.clone(), s.holds.clone(), s.intervals, s.dynamic);
        form(self) == form(other)
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes this hook's chain.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On in a chain, and back.
    Jump(Name),
    /// On in a chain for good.
    Goto(Name),
}

/// Where a chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Before it is decided where a packet goes.
    Prerouting,
    /// For this machine.
    Input,
    /// Through this machine.
    Forward,
    /// From this machine.
    Output,
    /// Before a packet leaves.
    Postrouting,
}

/// How a chain is called; its policy is to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// It translates addresses: only a connection's first packet comes here.
    pub nat: bool,
    /// Where.
    pub place: Place,
    /// Smaller ones come first.
    pub priority: i32,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Absent: called by other chains only.
    pub hook: Option<Hook>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// A rule: its parts are carried out in order until one does not match.
pub type Rule = Vec<Part>;

/// What is read from a packet, its connection or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Transport protocol.
    Protocol,
    /// Destination port.
    Port,
    /// Destination address of the connection's first packet, before anything was translated.
    OriginalDestination,
    /// Destination port of the connection's first packet.
    OriginalPort,
    /// Source address of the connection's first packet: who began.
    OriginalSource,
    /// Source address of the connection's answers: who was reached, after the destination was translated.
    ReplySource,
    /// Source port of the connection's answers: the port that was reached.
    ReplyPort,
    /// Type of an ICMPv6 message.
    Icmpv6Type,
    /// Name of the interface that it came by.
    Interface,
    /// State of its connection: bits of [`state`].
    State,
    /// Status of its connection: bits of [`status`].
    Status,
    /// The packet's mark.
    Mark,
    /// The class that it was put in.
    Class,
    /// Whose address the source is, by the routing tables: `RTN_LOCAL` and its kin.
    SourceType,
    /// Whose address the destination is.
    DestinationType,
    /// A random number from `first` up, one of `count`.
    Random {
        /// How many.
        count: u32,
        /// The smallest.
        first: u32,
    },
}

/// Bits of a connection's state (`NF_CT_STATE_BIT`).
pub mod state {
    /// No connection can be made of it.
    pub const INVALID: u32 = 1;
    /// Packets went both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection.
    pub const RELATED: u32 = 4;
    /// The first of a connection.
    pub const NEW: u32 = 8;
    /// No connection is made of such packets.
    pub const UNTRACKED: u32 = 64;
}

/// Bits of a connection's status (`ip_conntrack_status`).
pub mod status {
    /// Its destination was translated.
    pub const DNAT: u32 = 0x20;
}

/// `RTN_LOCAL`: an address of this machine.
pub const LOCAL: u32 = 2;

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The value is this, or is not.
    Is {
        /// What.
        load: Load,
        /// Its bytes; of an interface's name as many as are given, if it ends in no zero.
        bytes: Words,
        /// It must not be so.
        not: bool,
    },
    /// One of these bits is set, or none of them.
    Bits {
        /// Where.
        load: Load,
        /// Which.
        mask: u32,
        /// None of them.
        not: bool,
    },
    /// An address is within a network, or is not.
    Within {
        /// Which address.
        load: Load,
        /// The network.
        net: IpNet,
        /// It must not be.
        not: bool,
    },
    /// A value is between these, both included.
    Between {
        /// What; in the network's byte order.
        load: Load,
        /// First.
        first: u16,
        /// Last.
        last: u16,
    },
    /// A key is in a set, or is not.
    In {
        /// Fields of the key.
        key: Vec<Load>,
        /// The set.
        set: Name,
        /// It must not be.
        not: bool,
    },
    /// The verdict that a map holds for a key.
    Decide {
        /// Fields of the key.
        key: Vec<Load>,
        /// The map.
        map: Name,
    },
    /// The packet is in the class that a map holds for a key. A map of verdicts is looked through by the kernel as a
    /// whole, once for each hook that leads to it, whenever an element comes in; one of classes is not. Its priority
    /// (`skb->priority`) serves as the class because nft can list no map that is looked up by what another holds.
    Classify {
        /// Fields of the key.
        key: Vec<Load>,
        /// The map.
        map: Name,
    },
    /// It is in none any more.
    Unclassify,
    /// The connection goes to the address and port that a map holds for a key.
    Translate {
        /// Fields of the key.
        key: Vec<Load>,
        /// The map.
        map: Name,
    },
    /// An element is added to a dynamic map, or its time begins anew.
    Remember {
        /// Fields of the key.
        key: Vec<Load>,
        /// Fields of the value.
        value: Vec<Load>,
        /// The map.
        map: Name,
        /// How long, in seconds.
        seconds: u32,
    },
    /// The connection leaves with an address of the interface that it leaves by, and a random port.
    Masquerade,
    /// Bits of the packet's mark are set.
    SetMark(u32),
    /// Bits of the packet's mark are cleared.
    ClearMark(u32),
    /// It is refused, so that the sender learns: `ICMP port unreachable`.
    Reject,
    /// A verdict.
    Verdict(Verdict),
}

impl Table {
    /// An empty one.
    pub fn new(name: &'static str, family: Family) -> Self {
        Self {
            name,
            family,
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }

    /// Number of elements of all sets.
    pub fn elements(&self) -> usize {
        self.sets.values().map(|s| s.elements.len()).sum()
    }
}
