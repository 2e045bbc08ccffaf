//! On which of the machine's NUMA nodes a container's resources lie together.

use std::collections::BTreeMap;

/// NUMA nodes as a bitmask, and whether it is the narrowest that could serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The nodes.
    pub nodes: u64,
    /// As narrow as can be.
    pub preferred: bool,
}

/// For each resource the hints of its provider; `None`: it does not matter.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;
