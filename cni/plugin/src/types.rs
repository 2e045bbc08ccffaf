//! The types of plugin in this one binary. A runtime calls it by the name of the type that the configuration names.

use std::path::Path;

use keelson_cni_plan::protocol::{Args, Command, Error, code};
use serde_json::Value;

use crate::{bandwidth, bridge, host_local, loopback, portmap, ptp};

/// What a type does with a call: a checked environment and the configuration as it came. What it gives is printed.
pub(crate) type Run = fn(&Args, &[u8]) -> Result<Option<Value>, Error>;

/// A type whose commands are functions of their own.
pub(crate) trait Commands {
    /// ADD, and its result.
    fn add(&self) -> Result<Value, Error>;
    /// DEL.
    fn del(&self) -> Result<(), Error>;
    /// CHECK.
    fn check(&self) -> Result<(), Error>;
    /// GC.
    fn gc(&self) -> Result<(), Error>;
    /// STATUS.
    fn status(&self) -> Result<(), Error>;
}

/// Carries a command out; what is to be printed, if anything.
pub(crate) fn carry_out(command: Command, to: &impl Commands) -> Result<Option<Value>, Error> {
    match command {
        Command::Add => return to.add().map(Some),
        Command::Del => to.del()?,
        Command::Check => to.check()?,
        Command::Gc => to.gc()?,
        Command::Status => to.status()?,
        Command::Version => {}
    }
    Ok(None)
}

/// A type of plugin.
pub(crate) struct Type {
    /// The names it is called by, each also with `keelson-` before it.
    pub(crate) names: &'static [&'static str],
    /// What it does.
    pub(crate) run: Run,
}

/// All types.
const TYPES: &[Type] = &[
    Type {
        names: &["bridge", "cni"],
        run: bridge::run,
    },
    Type {
        names: &["ptp"],
        run: ptp::run,
    },
    Type {
        names: &["loopback"],
        run: loopback::run,
    },
    Type {
        names: &["host-local"],
        run: host_local::run,
    },
    Type {
        names: &["portmap"],
        run: portmap::run,
    },
    Type {
        names: &["bandwidth"],
        run: bandwidth::run,
    },
];

/// The type that a program's name stands for.
pub(crate) fn find(program: &Path) -> Result<&'static Type, Error> {
    let name = program.file_name().and_then(|n| n.to_str());
    let name = name.unwrap_or_default();
    let bare = name.strip_prefix("keelson-").unwrap_or(name);
    let found = TYPES.iter().find(|t| t.names.contains(&bare));
    found.ok_or_else(|| {
        let known: Vec<&str> = TYPES.iter().flat_map(|t| t.names).copied().collect();
        let why = format!(
            "it was called as {name:?}; types are {}, each also with keelson- before it",
            known.join(", ")
        );
        Error::new(code::INVALID_ENVIRONMENT, "no such plugin type", why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_types() {
        let same = |a: &str, b: &str| {
            let (a, b) = (find(Path::new(a)), find(Path::new(b)));
            std::ptr::eq(a.expect("type"), b.expect("type"))
        };
        assert!(same("/opt/cni/bin/keelson-cni", "bridge"));
        assert!(same("keelson-bridge", "/usr/lib/cni/bridge"));
        assert!(!same("portmap", "bridge"));
        for wrong in ["", "/", "keelson", "keelson-", "Bridge", "bridge2"] {
            assert!(find(Path::new(wrong)).is_err(), "{wrong}");
        }
    }
}
