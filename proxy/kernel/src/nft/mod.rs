//! nf_tables over netlink: writes transactions, reads tables back as values.
//!
//! Structure (tables, sets, chains, rules) is made by libnftnl in [`sys`]; elements are written and read in [`wire`].

mod decode;
mod encode;
mod socket;
mod sys;
mod wire;

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;

use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::nft::services::{AFFINITY, AFFINITY_LOCAL, TABLE};
use keelson_proxy_plan::nft::table::{
    Chain, Field, Holds, Name, Place, Rule, Set, Table, Value, Words,
};
use keelson_proxy_plan::nft::transaction::Transaction;
use nftnl_sys as nftnl;
use nix::libc;

use crate::Error;
use socket::{Batch, Connection};

const CREATE: i32 = libc::NLM_F_CREATE;
/// Type of a verdict in maps (`NFT_DATA_VERDICT`).
const VERDICTS: u32 = 0xffff_ff00;
/// Bits of a type in a concatenation (nft's `TYPE_BITS`).
const TYPE_BITS: u32 = 6;

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::NFPROTO_IPV4 as u8,
        Family::V6 => libc::NFPROTO_IPV6 as u8,
    }
}

/// Our tables, through a socket that stays open.
pub struct Nftables(Connection);

impl Nftables {
    /// Connects to the kernel, in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let open = Connection::open().map_err(|source| Error::Netlink {
            action: "open a socket for nftables",
            source,
        });
        open.map(Self)
    }

    /// Reads a table of ours; `None` where there is none. What is not understood is left out of the value, so
    /// that it differs from what is wanted.
    pub fn read(&self, name: &'static str, family: Family) -> Result<Option<Table>, Error> {
        decode::read(&self.0, name, family).map_err(|source| Error::Netlink {
            action: "read nftables",
            source,
        })
    }

    /// The ruleset's generation: it changes with every change that anybody makes.
    pub fn generation(&self) -> Result<u32, Error> {
        const ID: u16 = 1;
        let answer = self.0.get(libc::NFT_MSG_GETGEN, 0, &[]);
        let fail = |source| Error::Netlink {
            action: "ask for the generation of nftables",
            source,
        };
        let answer = answer.map_err(fail)?;
        wire::number(&answer, ID).ok_or_else(|| fail(io::ErrorKind::InvalidData.into()))
    }

    /// The clients that rules remember: map, client with what it asked for, endpoint.
    pub fn clients(&self, family: Family) -> Result<Vec<(Name, Words, Words)>, Error> {
        let mut all = Vec::new();
        for map in [AFFINITY, AFFINITY_LOCAL] {
            let elements = self.elements(family, map)?;
            let clients = elements.into_iter().filter_map(|(key, value)| match value {
                Value::Fields(endpoint) => Some((map.into(), key, endpoint)),
                _ => None,
            });
            all.extend(clients);
        }
        Ok(all)
    }

    fn elements(&self, family: Family, map: &str) -> Result<Vec<(Words, Value)>, Error> {
        decode::elements(&self.0, TABLE, family, map).map_err(|source| Error::Netlink {
            action: "read remembered clients",
            source,
        })
    }

    /// Removes a table of ours if it is there.
    pub fn remove(&self, name: &str, family: Family) -> Result<(), Error> {
        let what = || unknown(format!("delete table {name:?}"));
        let mut batch = Batch::new(number(family));
        remove_table(&mut batch, &text(name).ok_or_else(what)?);
        batch.commit(&self.0)
    }

    /// Carries out a transaction, all of it or nothing; `table` is the table that it leads to or comes from: the
    /// forms of sets whose elements change are taken from it. Then what clients must not be remembered for any more
    /// is forgotten.
    pub fn apply(&self, transaction: &Transaction, table: &Table) -> Result<(), Error> {
        batch(transaction, table)?.commit(&self.0)?;
        // A client that connects meanwhile may be remembered once more.
        for _ in 0..2 {
            if transaction.forget.is_empty() || self.forget(transaction, table)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn forget(&self, transaction: &Transaction, table: &Table) -> Result<usize, Error> {
        let family = transaction.family;
        let maps: BTreeSet<&Name> = transaction.forget.iter().map(|(map, ..)| map).collect();
        let mut batch = Batch::new(number(family));
        let mut count = 0;
        for map in maps {
            let Some(set) = table.sets.get(map) else {
                continue;
            };
            let stale = |(key, value): &(Words, Value)| {
                transaction.forget.iter().any(|(of, front, endpoint)| {
                    let same = matches!(value, Value::Fields(v) if v == endpoint);
                    of == map && same && key.ends_with(front)
                })
            };
            let elements = self.elements(family, map)?;
            let gone: Vec<_> = elements.into_iter().filter(stale).collect();
            count += gone.len();
            let verb = ("delete", libc::NFT_MSG_DELSETELEM, 0);
            write_elements(&mut batch, transaction.name, verb, map, set, &gone);
        }
        match batch.commit(&self.0) {
            // Its time was over meanwhile: the next round takes the others.
            Err(Error::Nftables { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(count)
            }
            other => other.map(|()| count),
        }
    }
}

fn text(name: &str) -> Option<CString> {
    CString::new(name).ok()
}

fn unknown(what: String) -> Error {
    Error::Nftables {
        what,
        source: io::ErrorKind::Unsupported.into(),
    }
}

fn remove_table(batch: &mut Batch, name: &CStr) {
    let table = sys::Table::new(name);
    // Added first, so that there is one to remove.
    batch.object(
        libc::NFT_MSG_NEWTABLE,
        CREATE,
        "add the table".into(),
        &table,
    );
    batch.object(libc::NFT_MSG_DELTABLE, 0, "delete the table".into(), &table);
}

fn batch(transaction: &Transaction, table: &Table) -> Result<Batch, Error> {
    let own = text(transaction.name).ok_or_else(|| unknown("the table's name".into()))?;
    let mut batch = Batch::new(number(transaction.family));
    if transaction.anew {
        remove_table(&mut batch, &own);
    }
    batch.object(
        libc::NFT_MSG_NEWTABLE,
        CREATE,
        "add the table".into(),
        &sys::Table::new(&own),
    );
    for (id, (name, set)) in (1..).zip(&transaction.add_sets) {
        let what = format!("add set {name}");
        let object = set_object(&own, name, set, transaction.family, id)
            .ok_or_else(|| unknown(what.clone()))?;
        batch.object(libc::NFT_MSG_NEWSET, CREATE, what, &object);
    }
    for (name, chain) in &transaction.add_chains {
        let what = format!("add chain {name}");
        let object = chain_object(&own, name, Some(chain)).ok_or_else(|| unknown(what.clone()))?;
        batch.object(libc::NFT_MSG_NEWCHAIN, CREATE, what, &object);
    }
    for (name, rules) in &transaction.rules {
        let new = transaction.add_chains.contains_key(name);
        write_rules(&mut batch, &own, name, rules, transaction.family, new)
            .ok_or_else(|| unknown(format!("add rules of chain {name}")))?;
    }
    for (verb, kind, flags, sets) in [
        (
            "delete",
            libc::NFT_MSG_DELSETELEM,
            0,
            &transaction.delete_elements,
        ),
        (
            "add",
            libc::NFT_MSG_NEWSETELEM,
            CREATE,
            &transaction.add_elements,
        ),
    ] {
        for (name, elements) in sets {
            let form = transaction
                .add_sets
                .get(name)
                .or_else(|| table.sets.get(name));
            let form = form.ok_or_else(|| unknown(format!("no set {name}")))?;
            let verb = (verb, kind, flags);
            write_elements(&mut batch, transaction.name, verb, name, form, elements);
        }
    }
    for name in &transaction.delete_chains {
        let what = format!("delete chain {name}");
        let object = chain_object(&own, name, None).ok_or_else(|| unknown(what.clone()))?;
        // A chain goes with its rules only if they went before.
        let rules = rules_of(&own, name).ok_or_else(|| unknown(what.clone()))?;
        batch.object(libc::NFT_MSG_DELRULE, 0, what.clone(), &rules);
        batch.object(libc::NFT_MSG_DELCHAIN, 0, what, &object);
    }
    for name in &transaction.delete_sets {
        let what = format!("delete set {name}");
        let name = CString::new(&**name).map_err(|_| unknown(what.clone()))?;
        batch.object(libc::NFT_MSG_DELSET, 0, what, &sys::Set::new(&own, &name));
    }
    Ok(batch)
}

fn write_elements(
    batch: &mut Batch,
    table: &str,
    (verb, kind, flags): (&str, i32, i32),
    name: &str,
    set: &Set,
    elements: &[(Words, Value)],
) {
    let adds = kind == libc::NFT_MSG_NEWSETELEM;
    for body in wire::elements(table, name, set, elements, adds) {
        batch.attributes(kind, flags, format!("{verb} elements of {name}"), &body);
    }
}

fn write_rules(
    batch: &mut Batch,
    table: &CStr,
    chain: &str,
    rules: &[Rule],
    family: Family,
    new: bool,
) -> Option<()> {
    if !new {
        batch.object(
            libc::NFT_MSG_DELRULE,
            0,
            format!("empty chain {chain}"),
            &rules_of(table, chain)?,
        );
    }
    for (place, rule) in (1..).zip(rules) {
        let mut object = rules_of(table, chain)?;
        encode::rule(&mut object, family, rule)?;
        let flags = CREATE | libc::NLM_F_APPEND;
        batch.object(
            libc::NFT_MSG_NEWRULE,
            flags,
            format!("add rule {place} of chain {chain}"),
            &object,
        );
    }
    Some(())
}

fn rules_of(table: &CStr, chain: &str) -> Option<sys::Rule> {
    Some(sys::Rule::new(table, &CString::new(chain).ok()?))
}

fn chain_object(table: &CStr, name: &str, chain: Option<&Chain>) -> Option<sys::Chain> {
    let mut object = sys::Chain::new(table, &CString::new(name).ok()?);
    if let Some(hook) = chain.and_then(|c| c.hook) {
        let kind = if hook.nat { c"nat" } else { c"filter" };
        object.hook(kind, place(hook.place), hook.priority);
        object.number(nftnl::NFTNL_CHAIN_POLICY, libc::NF_ACCEPT as u32);
    }
    Some(object)
}

fn place(place: Place) -> u32 {
    let number = match place {
        Place::Prerouting => libc::NF_INET_PRE_ROUTING,
        Place::Input => libc::NF_INET_LOCAL_IN,
        Place::Forward => libc::NF_INET_FORWARD,
        Place::Output => libc::NF_INET_LOCAL_OUT,
        Place::Postrouting => libc::NF_INET_POST_ROUTING,
    };
    number as u32
}

/// nft's numbers of types: what `nft list` prints keys by.
fn type_number(field: Field, family: Family) -> u32 {
    match (field, family) {
        (Field::Address, Family::V4) => 7,
        (Field::Address, Family::V6) => 8,
        (Field::Protocol, _) => 12,
        (Field::Port, _) => 13,
        (Field::Number, _) => 19,
        (Field::Class, _) => 23,
    }
}

fn concatenation(fields: &[Field], family: Family) -> (u32, u32) {
    let kind = fields
        .iter()
        .fold(0, |all, f| all << TYPE_BITS | type_number(*f, family));
    let length: usize = match fields {
        // Alone it is as long as it is.
        [field] => field.size(family),
        fields => fields.iter().map(|f| f.width(family)).sum(),
    };
    (kind, length as u32)
}

fn set_object(table: &CStr, name: &str, set: &Set, family: Family, id: u32) -> Option<sys::Set> {
    let mut object = sys::Set::new(table, &CString::new(name).ok()?);
    let (kind, length) = concatenation(&set.key, family);
    object.number(nftnl::NFTNL_SET_ID, id);
    object.number(nftnl::NFTNL_SET_KEY_TYPE, kind);
    object.number(nftnl::NFTNL_SET_KEY_LEN, length);
    let mut flags = 0;
    match &set.holds {
        Holds::Nothing => {}
        Holds::Verdicts => {
            flags |= libc::NFT_SET_MAP;
            object.number(nftnl::NFTNL_SET_DATA_TYPE, VERDICTS);
        }
        Holds::Fields(fields) => {
            flags |= libc::NFT_SET_MAP;
            let (kind, length) = concatenation(fields, family);
            object.number(nftnl::NFTNL_SET_DATA_TYPE, kind);
            object.number(nftnl::NFTNL_SET_DATA_LEN, length);
        }
    }
    if set.intervals {
        flags |= libc::NFT_SET_INTERVAL;
    }
    if let Some(size) = set.dynamic {
        flags |= libc::NFT_SET_EVAL | libc::NFT_SET_TIMEOUT;
        object.number(nftnl::NFTNL_SET_DESC_SIZE, size);
    }
    object.number(nftnl::NFTNL_SET_FLAGS, flags as u32);
    Some(object)
}
