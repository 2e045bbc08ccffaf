//! Questions about what is in a table, and what is to be read in an answer's attributes.

use super::wire::{Attributes, attributes, find, number, request, text};
use super::{Element, SUBSYSTEM, Table, kind};

/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;

fn ask(kind: u16, flags: u16, family: u8, body: &Attributes) -> Vec<u8> {
    request(SUBSYSTEM << 8 | kind, flags, family, body)
}

fn of(table: Table) -> Attributes {
    Attributes::new().text(1, table.name)
}

/// Asks for a map's elements.
pub fn ask_elements(table: Table, map: &str) -> Vec<u8> {
    ask(
        kind::GETSETELEM,
        DUMP,
        table.family,
        &of(table).text(2, map),
    )
}

/// Asks for the element of a key.
pub fn ask_element(table: Table, map: &str, key: &[u8]) -> Vec<u8> {
    let key = Attributes::new().nest(1, &Attributes::new().bytes(1, key));
    let list = Attributes::new().nest(1, &key);
    let body = of(table).text(2, map).nest(3, &list);
    ask(kind::GETSETELEM, 0, table.family, &body)
}

/// The elements in an answer's attributes. What is not of our form is left out.
pub fn elements(answer: &[u8]) -> Vec<Element> {
    let list = find(answer, 3).unwrap_or_default();
    let each = attributes(list).filter(|(kind, _)| *kind == 1);
    each.filter_map(|(_, bytes)| Element::read(bytes)).collect()
}

/// Asks for a table's rules.
pub fn ask_rules(table: Table) -> Vec<u8> {
    ask(kind::GETRULE, DUMP, table.family, &of(table))
}

/// The chain that a rule in an answer is of, if it is of this table.
pub fn rule_chain(answer: &[u8], table: Table) -> Option<&str> {
    named(answer, table, 2)
}

/// Asks for a table's chains.
pub fn ask_chains(table: Table) -> Vec<u8> {
    ask(kind::GETCHAIN, DUMP, table.family, &of(table))
}

/// The name of the chain in an answer, if it is of this table: older kernels list those of all.
pub fn chain(answer: &[u8], table: Table) -> Option<&str> {
    named(answer, table, 3)
}

/// Asks for a chain.
pub fn ask_chain(table: Table, chain: &str) -> Vec<u8> {
    let body = of(table).text(3, chain);
    ask(kind::GETCHAIN, 0, table.family, &body)
}

/// How many rules the chain in an answer has and how many lead to it, together.
pub fn chain_use(answer: &[u8]) -> Option<u32> {
    number(find(answer, 6)?)
}

fn named(answer: &[u8], table: Table, at: u16) -> Option<&str> {
    let own = text(find(answer, 1)?)? == table.name;
    text(find(answer, at)?).filter(|_| own)
}

/// Asks for the ruleset's generation, which every kernel with nf_tables has.
pub fn ask_generation() -> Vec<u8> {
    ask(kind::GETGEN, 0, 0, &Attributes::new())
}

/// The generation in an answer's attributes.
pub fn generation(answer: &[u8]) -> Option<u32> {
    number(find(answer, 1)?)
}

/// What the kernel says in an answer of an error: its number, 0 for none.
pub fn error(body: &[u8]) -> i32 {
    let code = body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
    code.saturating_neg()
}
