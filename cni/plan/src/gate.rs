//! A gate: a table of ours through which all packets of a hook go, and a map that leads those of an attachment to the
//! chain that decides about them. One more attachment is one more element, however many there are.

use crate::nft::expr::{self, Load};
use crate::nft::wire::Attributes;
use crate::nft::{Batch, Element, Hook, Map, Table};

/// A gate's form.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Its table, which has nothing else.
    pub table: Table,
    /// The chain that packets come through.
    pub base: &'static str,
    /// Where they come to it.
    pub hook: Hook,
    /// Leads keys to chains.
    pub map: Map,
    /// A packet's key.
    pub key: Load,
}

impl Gate {
    /// Leads a key to a chain, all of which is there.
    pub fn lead(&self, element: &Element) -> Batch {
        let mut batch = Batch::new(self.table);
        batch.add(self.map.name, [element]);
        batch
    }

    /// Leads a key, which leads nowhere yet, to a chain, and makes all that it needs: the table, the chain that packets
    /// come through, the map, and the chain with these rules and no others.
    pub fn make(&self, element: &Element, rules: &[Vec<Attributes>]) -> Batch {
        let mut batch = Batch::new(self.table);
        batch.table();
        batch.chain(self.base, Some(self.hook), false);
        batch.map(&self.map, 1);
        let mut look_up = expr::load(&[self.key]);
        look_up.push(expr::decide_by(self.map.name));
        replace(&mut batch, self.base, &[look_up]);
        if let Some(chain) = element.chain() {
            batch.chain(chain, None, false);
            replace(&mut batch, chain, rules);
        }
        batch.add(self.map.name, [element]);
        batch
    }

    /// An element is no more.
    pub fn forget(&self, element: &Element) -> Batch {
        let mut batch = Batch::new(self.table);
        batch.delete(self.map.name, [element]);
        batch
    }

    /// A chain is no more, if nothing leads to it.
    pub fn remove_chain(&self, chain: &str) -> Batch {
        let mut batch = Batch::new(self.table);
        batch.delete_chain(chain);
        batch
    }

    /// The table is no more, if only what makes a gate is in it.
    pub fn remove(&self) -> Batch {
        let mut batch = Batch::new(self.table);
        batch.flush(self.base);
        batch.delete_empty_map(self.map.name);
        batch.delete_chain(self.base);
        batch.delete_empty_table();
        batch
    }
}

/// A chain has these rules and no others.
fn replace(batch: &mut Batch, chain: &str, rules: &[Vec<Attributes>]) {
    batch.flush(chain);
    for rule in rules {
        batch.rule(chain, rule);
    }
}
