//! The topology manager's part of the configuration, under upstream's names.

use std::collections::BTreeMap;

use super::{POLICIES, SCOPES, Settings};
use crate::eviction::Error;

/// Reads `true` and its kind as upstream's programs do.
pub(crate) fn flag(field: &str, name: &str, text: &str) -> Result<bool, Error> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::new(
            field,
            Some(name),
            format!("bad value for option {name:?}: {text:?} is neither true nor false"),
        )),
    }
}

/// The one of a name; the default without one.
fn named<T: Copy + Default>(
    field: &str,
    all: &[(&str, T)],
    name: Option<&str>,
) -> Result<T, Error> {
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok(T::default());
    };
    let found = all.iter().find(|(n, _)| *n == name);
    found.map(|(_, one)| *one).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(n, _)| *n).collect();
        let why = format!("{name:?} must be one of: {}", names.join(", "));
        Error::new(field, None, why)
    })
}

impl Settings {
    /// From the configuration's fields as they are written.
    pub fn parse(
        policy: Option<&str>,
        scope: Option<&str>,
        options: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        const OPTIONS: &str = "topologyManagerPolicyOptions";
        let policy = named("topologyManagerPolicy", &POLICIES, policy)?;
        let scope = named("topologyManagerScope", &SCOPES, scope)?;
        let mut settings = Self {
            policy,
            scope,
            ..Self::default()
        };
        for (name, text) in options {
            let wrong = |why: String| Error::new(OPTIONS, Some(name), why);
            match name.as_str() {
                "prefer-closest-numa-nodes" => {
                    settings.prefer_closest = flag(OPTIONS, name, text)?;
                }
                "max-allowable-numa-nodes" => {
                    let most = text.parse().ok().filter(|n| (8..=64).contains(n));
                    let why = || format!("{text:?} must be a number from 8 to 64");
                    settings.most_nodes = Some(most.ok_or_else(|| wrong(why()))?);
                }
                _ => {
                    return Err(wrong(format!(
                        "unknown Topology Manager Policy option: {name:?}"
                    )));
                }
            }
        }
        Ok(settings)
    }
}
