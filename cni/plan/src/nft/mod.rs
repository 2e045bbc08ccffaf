//! nf_tables: what is to be in the kernel, as the messages that put it there (linux/netfilter/nf_tables.h), and what
//! the kernel says is there. Words of registers are counted from 0.

pub mod ask;
mod batch;
pub mod expr;
pub mod wire;

use std::net::IpAddr;

use wire::{Attributes, find, text};

pub use crate::iptables::Family;
pub use batch::Batch;

impl Family {
    /// An address's.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// `NFPROTO_*`, which is `AF_*`.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Bytes of an address.
    pub fn width(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

/// The subsystem's number (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10;
/// `NLM_F_REQUEST`, `NLM_F_CREATE`.
const REQUEST: u16 = 1;
const CREATE: u16 = 0x400;

/// Kinds of messages (`NFT_MSG_*`).
mod kind {
    pub(super) const NEWTABLE: u16 = 0;
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const GETCHAIN: u16 = 4;
    pub(super) const DELCHAIN: u16 = 5;
    pub(super) const NEWRULE: u16 = 6;
    pub(super) const GETRULE: u16 = 7;
    pub(super) const DELRULE: u16 = 8;
    pub(super) const NEWSET: u16 = 9;
    pub(super) const DELSET: u16 = 11;
    pub(super) const NEWSETELEM: u16 = 12;
    pub(super) const GETSETELEM: u16 = 13;
    pub(super) const DELSETELEM: u16 = 14;
    pub(super) const GETGEN: u16 = 16;
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Whose packets come through it (`NFPROTO_*`).
    family: u8,
    /// Its name.
    pub name: &'static str,
}

impl Table {
    /// One for the packets of an address family.
    pub const fn of(family: Family, name: &'static str) -> Self {
        let family = family.number();
        Self { family, name }
    }

    /// One for the frames that bridges pass on.
    pub const fn of_bridges(name: &'static str) -> Self {
        Self { family: 7, name }
    }
}

/// Where packets come to a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What the chain may do.
    kind: &'static str,
    /// `NF_INET_*`, `NF_BR_*`.
    number: u32,
    /// Chains of lower priority come first.
    priority: i32,
}

impl Hook {
    /// The same place, but after chains with its priority, of which the kernel asks the newest first.
    #[must_use]
    pub const fn behind(self) -> Self {
        Self {
            priority: self.priority + 1,
            ..self
        }
    }
}

/// Packets that come in, before they are routed; where destinations are translated.
pub const PREROUTING: Hook = Hook {
    kind: "nat",
    number: 0,
    priority: -100,
};
/// Packets of this machine's own processes.
pub const OUTPUT: Hook = Hook {
    kind: "nat",
    number: 3,
    priority: -100,
};
/// Packets that go out; where sources are translated.
pub const POSTROUTING: Hook = Hook {
    kind: "nat",
    number: 4,
    priority: 100,
};
/// Frames that come to a bridge, before all else.
pub const BRIDGED: Hook = Hook {
    kind: "filter",
    number: 0,
    priority: -300,
};

/// A part of a set's key, or of what a map gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// An address of the table's family.
    Address,
    /// A protocol's number.
    Protocol,
    /// A port.
    Port,
    /// A link's name.
    Link,
}

impl Field {
    /// nft's number of the type, and its length in bytes, in a table of this family (`NFPROTO_*`).
    fn form(self, family: u8) -> (u32, u32) {
        match self {
            Self::Address if family == Family::V4.number() => (7, 4),
            Self::Address => (8, 16),
            Self::Protocol => (12, 1),
            Self::Port => (13, 2),
            Self::Link => (41, 16),
        }
    }
}

/// What a set holds beside its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Verdicts.
    Verdicts,
    /// Values of these fields.
    Fields(&'static [Field]),
}

/// A map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Name.
    pub name: &'static str,
    /// Parts of the key.
    pub key: &'static [Field],
    /// What it gives.
    pub holds: Holds,
    /// Keys are ranges.
    pub ranges: bool,
}

/// What an element gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The packet goes through this chain and comes back.
    Jump(String),
    /// Bytes of the map's fields, each filled up to whole words.
    Fields(Vec<u8>),
}

/// An element of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, or the first of a range; each field filled up to whole words.
    pub key: Vec<u8>,
    /// The last key of a range.
    pub last: Option<Vec<u8>>,
    /// What it gives.
    pub value: Value,
    /// Whose it is; shown by `nft list`.
    pub comment: String,
}

/// nft's number for several types one after the other, and their length in whole words.
fn concatenation(fields: &[Field], family: u8) -> (u32, u32) {
    const BITS: u32 = 6;
    fields.iter().fold((0, 0), |(kind, length), field| {
        let (own, width) = field.form(family);
        (kind << BITS | own, length + width.next_multiple_of(4))
    })
}

/// Kind of a comment in what nft keeps with an element.
const COMMENT: u8 = 0;

fn data(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(1, bytes)
}

impl Element {
    /// An element that leads a key to a chain.
    pub fn leading(key: Vec<u8>, chain: String, comment: String) -> Self {
        Self {
            key,
            last: None,
            value: Value::Jump(chain),
            comment,
        }
    }

    /// The chain that it leads to.
    pub fn chain(&self) -> Option<&str> {
        match &self.value {
            Value::Jump(chain) => Some(chain),
            Value::Fields(_) => None,
        }
    }

    /// What names it.
    fn keyed(&self) -> Attributes {
        let out = Attributes::new().nest(1, &data(&self.key));
        match &self.last {
            Some(last) => out.nest(10, &data(last)),
            None => out,
        }
    }

    fn whole(&self) -> Attributes {
        let value = match &self.value {
            Value::Fields(bytes) => data(bytes),
            Value::Jump(chain) => expr::verdict(expr::JUMP, Some(chain)),
        };
        let comment = [self.comment.as_bytes(), &[0]].concat();
        let comment = [&[COMMENT, comment.len() as u8][..], &comment].concat();
        self.keyed().nest(2, &value).bytes(6, &comment)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes_of = |kind| find(find(bytes, kind)?, 1).map(<[u8]>::to_vec);
        let value = find(bytes, 2)?;
        let value = match (find(value, 1), find(value, 2)) {
            (Some(fields), _) => Value::Fields(fields.to_vec()),
            (None, Some(verdict)) => Value::Jump(text(find(verdict, 2)?)?.to_owned()),
            (None, None) => return None,
        };
        let comment = find(bytes, 6).and_then(|data| match data.split_first_chunk()? {
            ([COMMENT, _], comment) => text(comment),
            _ => None,
        });
        Some(Self {
            key: bytes_of(1)?,
            last: bytes_of(10),
            value,
            comment: comment.unwrap_or_default().to_owned(),
        })
    }
}

/// A field's bytes, filled up to whole words.
pub fn words(bytes: &[u8]) -> Vec<u8> {
    let mut words = bytes.to_vec();
    words.resize(bytes.len().next_multiple_of(4), 0);
    words
}

/// An address's bytes.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_as_they_were_written() {
        let element = |value: Value, last: Option<Vec<u8>>| Element {
            key: words(&[1, 2, 3, 4, 6]),
            last,
            value,
            comment: "someone".into(),
        };
        let rows = [
            element(Value::Fields(vec![10, 0, 0, 1, 0, 80, 0, 0]), None),
            element(Value::Jump("mark".into()), Some(vec![9; 8])),
        ];
        for row in rows {
            let list = Attributes::new().nest(1, &row.whole());
            let answer = Attributes::new().nest(3, &list);
            assert_eq!(ask::elements(answer.as_slice()), [row]);
        }
        assert_eq!(ask::elements(&[]), []);
    }

    #[test]
    fn types_are_put_together_as_nft_does() {
        const KEY: &[Field] = &[Field::Address, Field::Protocol, Field::Port];
        assert_eq!(concatenation(KEY, 2), ((7 << 6 | 12) << 6 | 13, 12));
        assert_eq!(concatenation(KEY, 10), ((8 << 6 | 12) << 6 | 13, 24));
    }
}
