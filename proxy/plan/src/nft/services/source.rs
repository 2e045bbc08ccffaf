//! Where packets come from, as parts of rules.

use super::names::PODS;
use crate::nft::table::{Load, Part, Rule, Words};
use crate::options::{Options, Pods};

/// Matches what comes from pods, or what doesn't; `None` where pods aren't known.
fn pods(options: &Options, not: bool) -> Option<Rule> {
    match &options.pods {
        Pods::Unknown => None,
        Pods::Within(_) => Some(vec![Part::In {
            key: vec![Load::Source],
            set: PODS.into(),
            not,
        }]),
        Pods::Behind(name) => Some(vec![Part::Is {
            load: Load::Interface,
            bytes: interface(name),
            not,
        }]),
    }
}

/// Matches what comes from pods.
pub(crate) fn insiders(options: &Options) -> Option<Rule> {
    pods(options, false)
}

/// Matches what comes from elsewhere.
pub(crate) fn outsiders(options: &Options) -> Option<Rule> {
    pods(options, true)
}

/// As the kernel compares names: to their end in a zero, or only as far as is given.
fn interface(name: &str) -> Words {
    match name.strip_suffix('*') {
        Some(prefix) => prefix.as_bytes().into(),
        None => [name.as_bytes(), &[0]].concat().into(),
    }
}
