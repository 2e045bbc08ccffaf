//! Changes: what is to be in a table, and what is to go from it.

use super::wire::{Attributes, Head, message};
use super::{CREATE, Element, Holds, Hook, Map, REQUEST, SUBSYSTEM, Table, concatenation, kind};

const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `NLM_F_EXCL`, `NLM_F_APPEND`.
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;
/// `NLM_F_NONREC`: what still has something in it is not deleted.
const ONLY_EMPTY: u16 = 0x100;

/// Messages that the kernel carries out whole or not at all.
pub struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    table: Table,
}

impl Batch {
    /// Begins one for a table.
    pub fn new(table: Table) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence: 0,
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
            family: self.table.family,
            resource: 0,
        };
        self.sequence += 1;
        message(&mut self.bytes, head, body.as_slice());
    }

    /// The table's name and, at its place, that of something in it.
    fn named(&self, at: u16, name: &str) -> Attributes {
        Attributes::new().text(1, self.table.name).text(at, name)
    }

    /// Adds the table; one that is there stays as it is.
    pub fn table(&mut self) {
        let body = Attributes::new().text(1, self.table.name);
        self.push(kind::NEWTABLE, CREATE, &body);
    }

    /// Deletes the table; the batch fails with `EBUSY` where something is in it.
    pub fn delete_empty_table(&mut self) {
        let body = Attributes::new().text(1, self.table.name);
        self.push(kind::DELTABLE, ONLY_EMPTY, &body);
    }

    /// Adds a chain. `new`: the batch fails with `EEXIST` where there is one.
    pub fn chain(&mut self, name: &str, hook: Option<Hook>, new: bool) {
        let mut body = self.named(3, name);
        if let Some(hook) = hook {
            let at = Attributes::new()
                .number(1, hook.number)
                .bytes(2, &hook.priority.to_be_bytes());
            body = body.nest(4, &at).text(7, hook.kind);
        }
        let flags = if new { CREATE | EXCLUSIVE } else { CREATE };
        self.push(kind::NEWCHAIN, flags, &body);
    }

    /// Deletes a chain; the batch fails with `EBUSY` where something leads to it.
    pub fn delete_chain(&mut self, name: &str) {
        let body = self.named(3, name);
        self.push(kind::DELCHAIN, 0, &body);
    }

    /// Adds a rule to the end of a chain.
    pub fn rule(&mut self, chain: &str, expressions: &[Attributes]) {
        let list = expressions
            .iter()
            .fold(Attributes::new(), |list, e| list.nest(1, e));
        let body = self.named(2, chain).nest(4, &list);
        self.push(kind::NEWRULE, CREATE | APPEND, &body);
    }

    /// Deletes all rules of a chain that is there.
    pub fn flush(&mut self, chain: &str) {
        let body = self.named(2, chain);
        self.push(kind::DELRULE, 0, &body);
    }

    /// Adds a map; `id` is its own within the batch.
    pub fn map(&mut self, map: &Map, id: u32) {
        /// `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_CONCAT`.
        const FLAGS: (u32, u32, u32) = (4, 8, 0x80);
        /// `NFT_DATA_VERDICT`.
        const VERDICTS: u32 = 0xffff_ff00;
        let family = self.table.family;
        let (key, length) = concatenation(map.key, family);
        let flags = FLAGS.1 | if map.ranges { FLAGS.0 | FLAGS.2 } else { 0 };
        let mut body = self
            .named(2, map.name)
            .number(3, flags)
            .number(4, key)
            .number(5, length);
        body = match map.holds {
            Holds::Verdicts => body.number(6, VERDICTS).number(7, 0),
            Holds::Fields(fields) => {
                let (data, length) = concatenation(fields, family);
                body.number(6, data).number(7, length)
            }
        };
        if map.ranges {
            let fields = map.key.iter().fold(Attributes::new(), |all, field| {
                all.nest(1, &Attributes::new().number(1, field.form(family).1))
            });
            body = body.nest(9, &Attributes::new().nest(2, &fields));
        }
        self.push(kind::NEWSET, CREATE, &body.number(10, id));
    }

    /// Deletes a map; the batch fails with `EBUSY` where something is in it.
    pub fn delete_empty_map(&mut self, map: &str) {
        let body = self.named(2, map);
        self.push(kind::DELSET, ONLY_EMPTY, &body);
    }

    /// Adds elements; the batch fails with `EEXIST` where a key has one.
    pub fn add<'a>(&mut self, map: &str, elements: impl IntoIterator<Item = &'a Element>) {
        let elements = elements.into_iter().map(Element::whole);
        self.elements(kind::NEWSETELEM, CREATE | EXCLUSIVE, map, elements);
    }

    /// Deletes elements that are there.
    pub fn delete<'a>(&mut self, map: &str, elements: impl IntoIterator<Item = &'a Element>) {
        let elements = elements.into_iter().map(Element::keyed);
        self.elements(kind::DELSETELEM, 0, map, elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        map: &str,
        elements: impl Iterator<Item = Attributes>,
    ) {
        /// At most so many in a message: an attribute has 64 KiB.
        const MOST: usize = 128;
        let all: Vec<Attributes> = elements.collect();
        for some in all.chunks(MOST) {
            let list = some.iter().fold(Attributes::new(), |l, e| l.nest(1, e));
            let body = self.named(2, map).nest(3, &list);
            self.push(kind, flags, &body);
        }
    }
}
