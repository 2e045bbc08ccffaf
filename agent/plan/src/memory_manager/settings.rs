//! The memory manager's part of the configuration, under upstream's names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::eviction::Error;
use crate::quantity;

/// An element of `reservedMemory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reservation {
    /// Of which node it is kept.
    pub numa_node: u32,
    /// How much, by resource.
    pub limits: BTreeMap<String, String>,
}

/// How memory is handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The policy is `Static`; else `None`.
    pub pinned: bool,
    /// What is kept of each node, bytes by resource.
    pub reserved: BTreeMap<u32, BTreeMap<String, u64>>,
}

/// `memory`, or pages of one size.
pub(super) fn is_memory(resource: &str) -> bool {
    resource == "memory" || resource.starts_with("hugepages-")
}

impl Settings {
    /// The policy's name.
    pub fn policy(&self) -> &'static str {
        if self.pinned { "Static" } else { "None" }
    }

    /// From the configuration's fields as they are written.
    pub fn parse(policy: Option<&str>, reserved: &[Reservation]) -> Result<Self, Error> {
        const FIELD: &str = "reservedMemory";
        let pinned = match policy.unwrap_or("None") {
            "None" | "" => false,
            "Static" => true,
            other => {
                let why = format!("unknown policy: {other:?}, needed is \"None\" or \"Static\"");
                return Err(Error::new("memoryManagerPolicy", None, why));
            }
        };
        let mut own: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new();
        for (place, reservation) in reserved.iter().enumerate() {
            let node = reservation.numa_node;
            for (resource, text) in &reservation.limits {
                let wrong = |why: String| Error::new(FIELD, Some(&place.to_string()), why);
                if !is_memory(resource) {
                    return Err(wrong(format!(
                        "the limit type {resource:?} for NUMA node {node} is not supported, only memory and hugepages-<size> are accepted"
                    )));
                }
                let bytes = quantity::value(text).and_then(|n| u64::try_from(n).ok());
                let bytes = bytes.filter(|n| *n > 0).ok_or_else(|| {
                    wrong(format!(
                        "reserved memory may not be {text:?} for NUMA node {node}"
                    ))
                })?;
                let of_node = own.entry(node).or_default();
                if of_node.insert(resource.clone(), bytes).is_some() {
                    return Err(wrong(format!(
                        "the reserved memory has a duplicate value for NUMA node {node} and resource {resource:?}"
                    )));
                }
            }
        }
        Ok(Self {
            pinned,
            reserved: own,
        })
    }
}
