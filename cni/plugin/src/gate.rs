//! A gate: a table of ours through which all packets go, and a map that leads those of an attachment to the chain that
//! decides about them. One more attachment is one more element, however many there are.

use std::io;

use keelson_cni_plan::protocol::{Error, code};
use nix::libc::{EBUSY, EEXIST, ENOENT};

use crate::netlink::Socket;
use crate::nft::{self, Base, Element, Expression, Map, Table, Transaction};

/// A map, and what loads a packet's key.
pub(crate) type Keyed = (Map, fn() -> Vec<Expression>);

/// A gate's form.
pub(crate) struct Gate {
    pub(crate) table: Table,
    pub(crate) base: Base,
    pub(crate) maps: &'static [Keyed],
}

/// A gate, opened.
pub(crate) struct Open {
    gate: &'static Gate,
    socket: Socket,
}

/// An element's place: the number of its map, and its key.
pub(crate) type Place = (usize, Vec<u8>);

fn fail(e: io::Error) -> Error {
    Error::new(code::KERNEL, "change nftables", e)
}

impl Gate {
    pub(crate) fn open(&'static self) -> Result<Open, Error> {
        let socket = Socket::netfilter().map_err(fail)?;
        Ok(Open { gate: self, socket })
    }
}

impl Open {
    /// Leads a key to a chain, which has these rules. Where both are there, or only the element is missing, that is
    /// one small transaction; else one more makes all that there is to be.
    pub(crate) fn add(
        &mut self,
        map: usize,
        element: &Element,
        rules: impl Fn() -> Vec<Vec<Expression>>,
    ) -> Result<(), Error> {
        let mut quick = Transaction::of(self.gate.table);
        quick.element(&self.gate.maps[map].0, element);
        match self.commit(quick)? {
            Ok(()) => return Ok(()),
            // This attachment's already, or a former owner's.
            Err(EBUSY | EEXIST) => {
                if self.get(&(map, element.key.clone()))?.as_ref() == Some(element) {
                    return Ok(());
                }
                self.remove_key(map, &element.key)?;
            }
            Err(ENOENT) => {}
            Err(errno) => return Err(fail(io::Error::from_raw_os_error(errno))),
        }
        self.set(map, element, rules())
    }

    /// Leads a key, which is not there yet, to a chain that has these rules now, and makes all that there is to be.
    pub(crate) fn set(
        &mut self,
        map: usize,
        element: &Element,
        rules: Vec<Vec<Expression>>,
    ) -> Result<(), Error> {
        let mut whole = self.frame();
        whole.chain(&element.chain);
        whole.rules(&element.chain, rules);
        whole.element(&self.gate.maps[map].0, element);
        self.must(whole)
    }

    /// The table, the chain that packets come through, and the maps.
    fn frame(&self) -> Transaction {
        let mut all = Transaction::of(self.gate.table);
        all.table();
        all.base(&self.gate.base);
        let mut rules = Vec::new();
        for (id, (map, load)) in (1..).zip(self.gate.maps) {
            all.map(map, id);
            let mut rule = load();
            rule.push(Expression::lookup(map));
            rules.push(rule);
        }
        all.rules(self.gate.base.name, rules);
        all
    }

    /// The element at a place.
    pub(crate) fn get(&mut self, (map, key): &Place) -> Result<Option<Element>, Error> {
        let map = &self.gate.maps[*map].0;
        nft::element(&mut self.socket, self.gate.table, map, key).map_err(fail)
    }

    /// Removes all elements that are chosen, wherever they are, and what nobody needs then; what calls left that were
    /// killed too.
    pub(crate) fn sweep(&mut self, gone: impl Fn(&Element) -> bool) -> Result<(), Error> {
        for (i, (map, _)) in self.gate.maps.iter().enumerate() {
            let all = nft::all_elements(&mut self.socket, self.gate.table, map);
            for element in all.map_err(fail)?.iter().filter(|e| gone(e)) {
                self.remove_key(i, &element.key)?;
            }
        }
        let chains = nft::all_chains(&mut self.socket, self.gate.table).map_err(fail)?;
        for chain in chains.iter().filter(|c| *c != self.gate.base.name) {
            self.remove_unused(chain)?;
        }
        match chains.is_empty() {
            true => Ok(()),
            false => self.remove_frame(),
        }
    }

    /// Removes elements, and what nobody needs then.
    pub(crate) fn remove(&mut self, elements: Vec<(usize, Element)>) -> Result<(), Error> {
        let mut chains = Vec::new();
        for (map, element) in elements {
            self.remove_key(map, &element.key)?;
            if !chains.contains(&element.chain) {
                chains.push(element.chain);
            }
        }
        let mut unused = false;
        for chain in chains {
            unused |= self.remove_unused(&chain)?;
        }
        if unused {
            self.remove_frame()?;
        }
        Ok(())
    }

    fn remove_key(&mut self, map: usize, key: &[u8]) -> Result<(), Error> {
        let mut out = Transaction::of(self.gate.table);
        out.remove_element(&self.gate.maps[map].0, key);
        self.fine(out, &[ENOENT]).map(|_| ())
    }

    /// Removes a chain that nothing leads to, and tells whether it is gone. A refused transaction makes the kernel
    /// wait for all processors, so it is asked before.
    fn remove_unused(&mut self, chain: &str) -> Result<bool, Error> {
        const MOST_RULES: u32 = 3;
        let used = nft::chain_use(&mut self.socket, self.gate.table, chain).map_err(fail)?;
        if used.is_some_and(|n| n > MOST_RULES) {
            return Ok(false);
        }
        let mut out = Transaction::of(self.gate.table);
        out.remove_chain(chain);
        self.fine(out, &[ENOENT, EBUSY])
    }

    /// Removes the table, if no element is left. A call that is about to add one meets all or nothing.
    fn remove_frame(&mut self) -> Result<(), Error> {
        for (map, _) in self.gate.maps {
            let left = nft::all_elements(&mut self.socket, self.gate.table, map);
            if !left.map_err(fail)?.is_empty() {
                return Ok(());
            }
        }
        let mut out = Transaction::of(self.gate.table);
        out.rules(self.gate.base.name, Vec::new());
        for (map, _) in self.gate.maps {
            out.remove_empty_map(map);
        }
        out.remove_chain(self.gate.base.name);
        out.remove_empty_table();
        self.fine(out, &[ENOENT, EBUSY]).map(|_| ())
    }

    fn commit(&mut self, transaction: Transaction) -> Result<Result<(), i32>, Error> {
        transaction.commit(&mut self.socket).map_err(fail)
    }

    fn must(&mut self, transaction: Transaction) -> Result<(), Error> {
        self.fine(transaction, &[]).map(|_| ())
    }

    /// Whether it was done; some refusals are no failures.
    fn fine(&mut self, transaction: Transaction, fine: &[i32]) -> Result<bool, Error> {
        match self.commit(transaction)? {
            Ok(()) => Ok(true),
            Err(errno) if fine.contains(&errno) => Ok(false),
            Err(errno) => Err(fail(io::Error::from_raw_os_error(errno))),
        }
    }
}
