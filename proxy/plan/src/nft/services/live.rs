//! The table as it changes: what a Service put in before is compared with what it puts in now, so that work is
//! proportional to the change.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::TABLE;
use super::classes::Classes;
use super::pieces::{Piece, Shared, pieces};
use crate::model::{Change, Entry, Family};
use crate::nft::table::{Chain, Value};
use crate::nft::transaction::Transaction;
use crate::options::Options;

/// Who needs what several services share.
#[derive(Clone, Debug)]
pub struct Live {
    family: Family,
    options: Options,
    addresses: BTreeMap<(Shared, IpAddr), u32>,
    chains: BTreeMap<Piece, u32>,
    classes: Classes,
}

impl Live {
    /// Nothing is there yet.
    pub fn new(family: Family, options: Options) -> Self {
        Self {
            family,
            options,
            addresses: BTreeMap::new(),
            chains: BTreeMap::new(),
            classes: Classes::default(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Begins anew with all that is there.
    pub fn reset<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        self.addresses.clear();
        self.chains.clear();
        self.classes = Classes::default();
        for entry in entries {
            for piece in pieces(entry, self.family, &self.options) {
                self.take(piece);
            }
        }
    }

    /// What the changes mean for the table.
    pub fn update(&mut self, changes: &[Change]) -> Transaction {
        let mut transaction = Transaction::new(TABLE, self.family);
        let all = |entries: fn(&Change) -> &[Entry]| {
            let entries = changes.iter().flat_map(entries);
            let mut all: Vec<Piece> = entries
                .flat_map(|e| pieces(e, self.family, &self.options))
                .collect();
            all.sort_unstable();
            all
        };
        let (before, after) = (all(|c| &c.before), all(|c| &c.after));
        let (gone, new) = difference(before, after);
        let new: Vec<Piece> = new.into_iter().filter_map(|p| self.take(p)).collect();
        let gone: Vec<Piece> = gone.into_iter().filter_map(|p| self.give_back(p)).collect();
        // Something shared may have lost its last user and found a new one in the same change.
        let (gone, new) = difference(sorted(gone), sorted(new));
        for piece in gone {
            self.remove(&mut transaction, piece);
        }
        for piece in new {
            self.add(&mut transaction, piece);
        }
        transaction
    }

    /// Counts a user; gives the piece if it is the first.
    fn take(&mut self, piece: Piece) -> Option<Piece> {
        // In the order of a table that is made anew: it has the same classes.
        if let Piece::Class(.., path) = &piece {
            self.classes.of(path);
        }
        let is_first = match piece {
            Piece::Own(..) | Piece::Class(..) | Piece::Stays(..) => true,
            Piece::Shared(shared, ip) => one_more(&mut self.addresses, &(shared, ip)),
            _ => one_more(&mut self.chains, &piece),
        };
        is_first.then_some(piece)
    }

    /// Counts a user less; gives the piece if it was the last.
    fn give_back(&mut self, piece: Piece) -> Option<Piece> {
        let was_last = match piece {
            Piece::Own(..) | Piece::Class(..) | Piece::Stays(..) => true,
            Piece::Shared(shared, ip) => one_less(&mut self.addresses, &(shared, ip)),
            _ => one_less(&mut self.chains, &piece),
        };
        was_last.then_some(piece)
    }

    fn add(&mut self, transaction: &mut Transaction, piece: Piece) {
        match piece {
            Piece::Shared(shared, ip) => {
                let (set, key) = shared.element(ip);
                transaction.add_element(set, key, Value::None);
            }
            Piece::Own(set, key, value) => transaction.add_element(set, key, value),
            Piece::Stays(..) => {}
            Piece::Memory(sticky) => {
                let rules = sticky.rules();
                transaction.add_chain(sticky.name(), Chain { hook: None, rules });
            }
            Piece::Class(set, key, path) => {
                transaction.add_element(set, key, self.classes.value(&path));
            }
            Piece::Path(path) => {
                let rules = path.rules(&self.options);
                transaction.add_chain(path.name(), Chain { hook: None, rules });
                let (set, class, chain) = self.classes.element(&path);
                transaction.add_element(set, class, chain);
            }
            Piece::Guard(guard) => {
                if let (Some(name), Some(set)) = (guard.set_name(), guard.set(self.family)) {
                    transaction.add_set(name, set);
                }
                let rules = guard.rules(&self.options);
                transaction.add_chain(guard.name(), Chain { hook: None, rules });
            }
        }
    }

    fn remove(&mut self, transaction: &mut Transaction, piece: Piece) {
        match piece {
            Piece::Shared(shared, ip) => {
                let (set, key) = shared.element(ip);
                transaction.delete_element(set, key, Value::None);
            }
            Piece::Own(set, key, value) => transaction.delete_element(set, key, value),
            Piece::Class(set, key, path) => {
                transaction.delete_element(set, key, self.classes.value(&path));
            }
            // All that are in its class were removed: pieces are in the order of their kinds.
            Piece::Path(path) => {
                let (set, class, chain) = self.classes.element(&path);
                transaction.delete_element(set, class, chain);
                transaction.delete_chain(path.name());
                self.classes.free(&path);
            }
            Piece::Memory(sticky) => transaction.delete_chain(sticky.name()),
            Piece::Stays(map, front, endpoint) => transaction.forget.push((map, front, endpoint)),
            Piece::Guard(guard) => {
                transaction.delete_chain(guard.name());
                transaction.delete_sets.extend(guard.set_name());
            }
        }
    }
}

fn one_more<K: Ord + Clone>(users: &mut BTreeMap<K, u32>, of: &K) -> bool {
    match users.get_mut(of) {
        Some(users) => {
            *users += 1;
            false
        }
        None => users.insert(of.clone(), 1).is_none(),
    }
}

fn one_less<K: Ord>(users: &mut BTreeMap<K, u32>, of: &K) -> bool {
    match users.get_mut(of) {
        Some(users @ 2..) => {
            *users -= 1;
            false
        }
        Some(_) => users.remove(of).is_some(),
        None => false,
    }
}

fn sorted(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_unstable();
    pieces
}

/// What is only in the one and only in the other of two ordered lists, in which things may stand several times.
fn difference(before: Vec<Piece>, after: Vec<Piece>) -> (Vec<Piece>, Vec<Piece>) {
    let (mut gone, mut new) = (Vec::new(), Vec::new());
    let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
    loop {
        match (before.peek(), after.peek()) {
            (Some(b), Some(a)) if b == a => {
                before.next();
                after.next();
            }
            (Some(b), Some(a)) if b < a => gone.extend(before.next()),
            (Some(_), None) => gone.extend(before.next()),
            (_, Some(_)) => new.extend(after.next()),
            (None, None) => return (gone, new),
        }
    }
}
