//! nf_tables: what is to be in the kernel, as the messages that put it there (linux/netfilter/nf_tables.h), and what
//! the kernel says is there. A table belongs to one address family; words of registers are counted from 0.

pub mod expr;
pub mod wire;

use std::net::IpAddr;

use wire::{Attributes, Head, find, message, number, text};

pub use crate::iptables::Family;

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
    pub fn number(self) -> u8 {
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
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NLM_F_REQUEST`, `NLM_F_EXCL`, `NLM_F_CREATE`, `NLM_F_APPEND`, `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const DUMP: u16 = 0x300;

/// Kinds of messages (`NFT_MSG_*`).
mod kind {
    pub(super) const NEWTABLE: u16 = 0;
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const NEWRULE: u16 = 6;
    pub(super) const GETRULE: u16 = 7;
    pub(super) const NEWSET: u16 = 9;
    pub(super) const NEWSETELEM: u16 = 12;
    pub(super) const GETSETELEM: u16 = 13;
    pub(super) const DELSETELEM: u16 = 14;
    pub(super) const GETGEN: u16 = 16;
}

/// Where packets come to a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `NF_INET_*`.
    pub number: u32,
    /// Chains of lower priority come first.
    pub priority: i32,
}

/// Packets that come in, before they are routed; where destinations are translated.
pub const PREROUTING: Hook = Hook {
    number: 0,
    priority: -100,
};
/// Packets of this machine's own processes.
pub const OUTPUT: Hook = Hook {
    number: 3,
    priority: -100,
};
/// Packets that go out; where sources are translated.
pub const POSTROUTING: Hook = Hook {
    number: 4,
    priority: 100,
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
}

impl Field {
    /// nft's number of the type, and its length in bytes.
    fn form(self, family: Family) -> (u32, u32) {
        match (self, family) {
            (Self::Address, Family::V4) => (7, 4),
            (Self::Address, Family::V6) => (8, 16),
            (Self::Protocol, _) => (12, 1),
            (Self::Port, _) => (13, 2),
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

/// Messages that the kernel carries out whole or not at all.
pub struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    family: Family,
    table: &'static str,
}

impl Batch {
    /// Begins one for a table.
    pub fn new(family: Family, table: &'static str) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
            family,
            table,
        };
        batch.mark(BEGIN);
        batch
    }

    /// The whole, to be sent.
    pub fn finish(mut self) -> Vec<u8> {
        self.mark(END);
        self.bytes
    }

    fn mark(&mut self, kind: u16) {
        let head = Head {
            kind,
            flags: REQUEST,
            sequence: self.sequence,
            family: 0,
            resource: SUBSYSTEM,
        };
        self.sequence += 1;
        message(&mut self.bytes, head, &[]);
    }

    fn push(&mut self, kind: u16, flags: u16, body: &Attributes) {
        let head = Head {
            kind: SUBSYSTEM << 8 | kind,
            flags: REQUEST | flags,
            sequence: self.sequence,
            family: self.family.number(),
            resource: 0,
        };
        self.sequence += 1;
        message(&mut self.bytes, head, body.as_slice());
    }

    /// Adds the table; one that is there stays as it is.
    pub fn table(&mut self) {
        self.push(
            kind::NEWTABLE,
            CREATE,
            &Attributes::new().text(1, self.table),
        );
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self) {
        self.push(kind::DELTABLE, 0, &Attributes::new().text(1, self.table));
    }

    /// Adds a chain. `new`: the batch fails with `EEXIST` where there is one.
    pub fn chain(&mut self, name: &str, hook: Option<Hook>, new: bool) {
        let mut body = Attributes::new().text(1, self.table).text(3, name);
        if let Some(hook) = hook {
            let at = Attributes::new()
                .number(1, hook.number)
                .bytes(2, &hook.priority.to_be_bytes());
            body = body.nest(4, &at).text(7, "nat");
        }
        let flags = if new { CREATE | EXCLUSIVE } else { CREATE };
        self.push(kind::NEWCHAIN, flags, &body);
    }

    /// Adds a rule to the end of a chain.
    pub fn rule(&mut self, chain: &str, expressions: &[Attributes]) {
        let list = expressions
            .iter()
            .fold(Attributes::new(), |list, e| list.nest(1, e));
        let body = Attributes::new().text(1, self.table).text(2, chain);
        self.push(kind::NEWRULE, CREATE | APPEND, &body.nest(4, &list));
    }

    /// Adds a map; `id` is its own within the batch.
    pub fn map(&mut self, map: &Map, id: u32) {
        /// `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_CONCAT`.
        const FLAGS: (u32, u32, u32) = (4, 8, 0x80);
        /// `NFT_DATA_VERDICT`.
        const VERDICTS: u32 = 0xffff_ff00;
        let (key, length) = concatenation(map.key, self.family);
        let flags = FLAGS.1 | if map.ranges { FLAGS.0 | FLAGS.2 } else { 0 };
        let mut body = Attributes::new()
            .text(1, self.table)
            .text(2, map.name)
            .number(3, flags)
            .number(4, key)
            .number(5, length);
        body = match map.holds {
            Holds::Verdicts => body.number(6, VERDICTS),
            Holds::Fields(fields) => {
                let (data, length) = concatenation(fields, self.family);
                body.number(6, data).number(7, length)
            }
        };
        if map.ranges {
            let fields = map.key.iter().fold(Attributes::new(), |all, field| {
                let length = field.form(self.family).1;
                all.nest(1, &Attributes::new().number(1, length))
            });
            body = body.nest(9, &Attributes::new().nest(2, &fields));
        }
        self.push(kind::NEWSET, CREATE, &body.number(10, id));
    }

    /// Adds elements; the batch fails with `EEXIST` where a key has one.
    pub fn add(&mut self, map: &str, elements: &[Element]) {
        self.elements(kind::NEWSETELEM, CREATE | EXCLUSIVE, map, elements, true);
    }

    /// Deletes elements that are there.
    pub fn delete(&mut self, map: &str, elements: &[Element]) {
        self.elements(kind::DELSETELEM, 0, map, elements, false);
    }

    fn elements(&mut self, kind: u16, flags: u16, map: &str, elements: &[Element], whole: bool) {
        /// At most so many in a message: an attribute has 64 KiB.
        const MOST: usize = 128;
        for some in elements.chunks(MOST) {
            let list = some.iter().fold(Attributes::new(), |list, element| {
                list.nest(1, &element.write(whole))
            });
            let body = Attributes::new().text(1, self.table).text(2, map);
            self.push(kind, flags, &body.nest(3, &list));
        }
    }
}

/// nft's number for several types one after the other, and their length in whole words.
fn concatenation(fields: &[Field], family: Family) -> (u32, u32) {
    const BITS: u32 = 6;
    fields.iter().fold((0, 0), |(kind, length), field| {
        let (own, width) = field.form(family);
        (kind << BITS | own, length + width.next_multiple_of(4))
    })
}

/// Kind of a comment in what nft keeps with an element.
const COMMENT: u8 = 0;

impl Element {
    fn write(&self, whole: bool) -> Attributes {
        let data = |bytes: &[u8]| Attributes::new().bytes(1, bytes);
        let mut out = Attributes::new().nest(1, &data(&self.key));
        if let Some(last) = &self.last {
            out = out.nest(10, &data(last));
        }
        if whole {
            let value = match &self.value {
                Value::Fields(bytes) => data(bytes),
                Value::Jump(chain) => expr::verdict(expr::JUMP, Some(chain)),
            };
            let comment = [self.comment.as_bytes(), &[0]].concat();
            let comment = [&[COMMENT, comment.len() as u8][..], &comment].concat();
            out = out.nest(2, &value).bytes(6, &comment);
        }
        out
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let data = |kind| find(find(bytes, kind)?, 1).map(<[u8]>::to_vec);
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
            key: data(1)?,
            last: data(10),
            value,
            comment: comment.unwrap_or_default().to_owned(),
        })
    }
}

fn ask(kind: u16, flags: u16, family: u8, body: &Attributes) -> Vec<u8> {
    let mut out = Vec::new();
    let head = Head {
        kind: SUBSYSTEM << 8 | kind,
        flags: REQUEST | flags,
        sequence: 1,
        family,
        resource: 0,
    };
    message(&mut out, head, body.as_slice());
    out
}

/// Asks for a map's elements.
pub fn ask_elements(family: Family, table: &str, map: &str) -> Vec<u8> {
    let body = Attributes::new().text(1, table).text(2, map);
    ask(kind::GETSETELEM, DUMP, family.number(), &body)
}

/// Asks for a table's rules.
pub fn ask_rules(family: Family, table: &str) -> Vec<u8> {
    let body = Attributes::new().text(1, table);
    ask(kind::GETRULE, DUMP, family.number(), &body)
}

/// Asks for the ruleset's generation, which every kernel with nf_tables has.
pub fn ask_generation() -> Vec<u8> {
    ask(kind::GETGEN, 0, 0, &Attributes::new())
}

/// The elements in an answer's attributes. What is not of our form is left out.
pub fn elements(answer: &[u8]) -> Vec<Element> {
    let list = find(answer, 3).unwrap_or_default();
    let each = wire::attributes(list).filter(|(kind, _)| *kind == 1);
    each.filter_map(|(_, bytes)| Element::read(bytes)).collect()
}

/// The chain that a rule in an answer is of, if it is of this table.
pub fn rule_chain<'a>(answer: &'a [u8], table: &str) -> Option<&'a str> {
    let own = text(find(answer, 1)?)? == table;
    text(find(answer, 2)?).filter(|_| own)
}

/// What the kernel says in an answer of an error: its number, 0 for none.
pub fn error(body: &[u8]) -> i32 {
    let code = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
    code.saturating_neg()
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

/// The generation in an answer's attributes.
pub fn generation(answer: &[u8]) -> Option<u32> {
    number(find(answer, 1)?)
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
            let list = Attributes::new().nest(1, &row.write(true));
            let answer = Attributes::new().nest(3, &list);
            assert_eq!(elements(answer.as_slice()), [row]);
        }
        assert_eq!(elements(&[]), []);
    }

    #[test]
    fn types_are_put_together_as_nft_does() {
        const KEY: &[Field] = &[Field::Address, Field::Protocol, Field::Port];
        assert_eq!(
            concatenation(KEY, Family::V4),
            ((7 << 6 | 12) << 6 | 13, 12)
        );
        assert_eq!(
            concatenation(KEY, Family::V6),
            ((8 << 6 | 12) << 6 | 13, 24)
        );
    }
}
