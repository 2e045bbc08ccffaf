//! Opens gates ([`keelson_cni_plan::gate`]) for attachments and closes them again.

use std::io::{self, ErrorKind};

use keelson_cni_plan::gate::Gate;
use keelson_cni_plan::nft::wire::Attributes;
use keelson_cni_plan::nft::{Batch, Element, ask};
use keelson_cni_plan::protocol::{Error, code};

use crate::netfilter::Netfilter;

/// A gate, and a socket to change it by.
pub(crate) struct Open<'a> {
    gate: Gate,
    socket: &'a mut Netfilter,
}

fn fail(e: io::Error) -> Error {
    Error::new(code::KERNEL, "change nftables", e)
}

impl<'a> Open<'a> {
    pub(crate) fn new(gate: Gate, socket: &'a mut Netfilter) -> Self {
        Self { gate, socket }
    }

    /// Leads a key to a chain, which has these rules. Where both are there, or only the element is missing, that is
    /// one small transaction; else one more makes all that there is to be.
    pub(crate) fn add(
        &mut self,
        element: &Element,
        rules: impl Fn() -> Vec<Vec<Attributes>>,
    ) -> Result<(), Error> {
        match self.socket.commit(self.gate.lead(element)) {
            Ok(()) => return Ok(()),
            // This attachment's already, or a former owner's.
            Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::ResourceBusy) => {
                if self.get(&element.key)?.as_ref() == Some(element) {
                    return Ok(());
                }
                self.forget(element)?;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
        }
        self.set(element, &rules())
    }

    /// Leads a key, which is not there yet, to a chain that has these rules now, and makes all that there is to be.
    pub(crate) fn set(
        &mut self,
        element: &Element,
        rules: &[Vec<Attributes>],
    ) -> Result<(), Error> {
        let whole = self.gate.make(element, rules);
        self.socket.commit(whole).map_err(fail)
    }

    /// The element of a key; none, too, where there is no table.
    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<Element>, Error> {
        let question = ask::ask_element(self.gate.table, self.gate.map.name, key);
        let found = self.socket.list(&question, ask::elements).map_err(fail)?;
        Ok(found.into_iter().flatten().next())
    }

    fn all(&mut self) -> Result<Vec<Element>, Error> {
        let question = ask::ask_elements(self.gate.table, self.gate.map.name);
        let all = self.socket.list(&question, ask::elements).map_err(fail)?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Removes all elements that are chosen, and what nobody needs then; what calls left that were killed too.
    pub(crate) fn sweep(&mut self, gone: impl Fn(&Element) -> bool) -> Result<(), Error> {
        for element in self.all()?.iter().filter(|e| gone(e)) {
            self.forget(element)?;
        }
        let Gate { table, base, .. } = self.gate;
        let name = |answer: &[u8]| ask::chain(answer, table).map(str::to_owned);
        let chains = self.socket.list(&ask::ask_chains(table), name);
        let chains: Vec<String> = chains.map_err(fail)?.into_iter().flatten().collect();
        for chain in chains.iter().filter(|c| *c != base) {
            self.remove_unused(chain)?;
        }
        match chains.is_empty() {
            true => Ok(()),
            false => self.close(),
        }
    }

    /// Removes an element, and what nobody needs then.
    pub(crate) fn remove(&mut self, element: &Element) -> Result<(), Error> {
        self.forget(element)?;
        match element.chain() {
            Some(chain) if self.remove_unused(chain)? => self.close(),
            _ => Ok(()),
        }
    }

    fn forget(&mut self, element: &Element) -> Result<(), Error> {
        let batch = self.gate.forget(element);
        self.fine(batch, &[ErrorKind::NotFound]).map(drop)
    }

    /// Removes a chain that nothing leads to, and tells whether it is gone. A refused transaction makes the kernel
    /// wait for all processors, so it is asked before.
    fn remove_unused(&mut self, chain: &str) -> Result<bool, Error> {
        const MOST_RULES: u32 = 3;
        let question = ask::ask_chain(self.gate.table, chain);
        let used = self.socket.list(&question, ask::chain_use).map_err(fail)?;
        if used.into_iter().flatten().any(|n| n > MOST_RULES) {
            return Ok(false);
        }
        let batch = self.gate.remove_chain(chain);
        self.fine(batch, &[ErrorKind::NotFound, ErrorKind::ResourceBusy])
    }

    /// Removes the table, if no element is left. A call that is about to add one meets all or nothing.
    fn close(&mut self) -> Result<(), Error> {
        if !self.all()?.is_empty() {
            return Ok(());
        }
        let batch = self.gate.remove();
        self.fine(batch, &[ErrorKind::NotFound, ErrorKind::ResourceBusy])
            .map(drop)
    }

    /// Whether it was done; some refusals are no failures.
    fn fine(&mut self, batch: Batch, fine: &[ErrorKind]) -> Result<bool, Error> {
        match self.socket.commit(batch) {
            Ok(()) => Ok(true),
            Err(e) if fine.contains(&e.kind()) => Ok(false),
            Err(e) => Err(fail(e)),
        }
    }
}
