//! Where the programs under test are.

use std::path::PathBuf;

/// Path of a program: in the folder named by `KEELSON_BIN`, else in the profile's folder that this test was
/// built into.
///
/// # Panics
/// When it is not there, saying how to build it.
pub fn program(name: &str) -> PathBuf {
    let path = folder().join(name);
    assert!(
        path.exists(),
        "{} is missing: build the programs first (cargo build --workspace --bins), or name their folder in KEELSON_BIN",
        path.display()
    );
    path
}

pub(crate) fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("KEELSON_BIN") {
        return folder.into();
    }
    let own = std::env::current_exe().expect("own path");
    let folder = own.parent().expect("a program is in a folder");
    // A test is one further down: target/debug/deps/suite-0123.
    let above = folder.parent().filter(|_| folder.ends_with("deps"));
    above.unwrap_or(folder).to_owned()
}
