//! Which class stands for which path.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::names::PATHS;
use super::path::Path;
use crate::nft::table::{Name, Value, Verdict, Words, Writer};

/// Classes of the paths in use: each its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes(BTreeMap<Path, u32>);

impl Classes {
    /// A path's class. One that is new gets that of its name, so that a table that is there already is right after a
    /// restart; or, if another path has that, the next that is free.
    pub(super) fn of(&mut self, path: &Path) -> u32 {
        if let Some(class) = self.0.get(path) {
            return *class;
        }
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(&*path.name()));
        let mut class = u32::from_be_bytes([a, b, c, d]);
        while self.0.values().any(|taken| *taken == class) {
            class = class.wrapping_add(1);
        }
        self.0.insert(*path, class);
        class
    }

    /// A path that nobody needs any more.
    pub(super) fn free(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// What a map of fronts holds for those that go by a path.
    pub(super) fn value(&mut self, path: &Path) -> Value {
        Value::Fields(self.words(path))
    }

    /// The element that leads to a path's chain.
    pub(super) fn element(&mut self, path: &Path) -> (Name, Words, Value) {
        let chain = Value::Verdict(Verdict::Goto(path.name()));
        (PATHS.into(), self.words(path), chain)
    }

    fn words(&mut self, path: &Path) -> Words {
        Writer::default().number(self.of(path)).words()
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::{Mask, Slots};
    use super::*;

    #[test]
    fn paths_keep_apart() {
        let path = |count| Path {
            node_port: false,
            mask: Mask::Always,
            sticky: None,
            slots: Slots { count, first: 0 },
        };
        let mut classes = Classes::default();
        let one = classes.of(&path(1));
        assert_eq!(classes.of(&path(1)), one);
        assert_eq!(Classes::default().of(&path(1)), one, "by its name");
        // As if another's name led to the same.
        classes.free(&path(1));
        classes.0.insert(path(2), one);
        assert_eq!(classes.of(&path(1)), one.wrapping_add(1));
        assert_eq!(classes.of(&path(2)), one);
    }
}
