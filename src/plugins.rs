//! The CNI plugins where runtimes look for them: one program, which is the type that it is called by.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::node::sibling;

/// The program, as type `bridge`.
const PROGRAM: &str = "keelson-cni";
/// The other types, as links to it: none has the name of a plugin that somebody else may have put there.
const LINKS: [&str; 5] = [
    "keelson-ptp",
    "keelson-loopback",
    "keelson-host-local",
    "keelson-portmap",
    "keelson-bandwidth",
];

/// Puts them into the first of the folders. What is there is replaced by renaming: a call under way goes on with the
/// old one.
pub(crate) fn install(dir: Option<&PathBuf>) -> anyhow::Result<()> {
    let dir = dir.context("cni-bin-dir has no folder")?;
    let from = sibling(PROGRAM);
    let wanted = fs::read(&from).with_context(|| format!("read CNI plugin {}", from.display()))?;
    put(dir, &wanted).with_context(|| format!("install CNI plugins into {}", dir.display()))
}

fn put(dir: &Path, wanted: &[u8]) -> io::Result<()> {
    let to = dir.join(PROGRAM);
    if !fs::read(&to).is_ok_and(|have| have == wanted) {
        let new = dir.join(format!(".{PROGRAM}.new"));
        fs::create_dir_all(dir)?;
        fs::write(&new, wanted)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        fs::rename(&new, &to)?;
    }
    for link in LINKS {
        match symlink(PROGRAM, dir.join(link)) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Where they are.
pub(crate) fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    LINKS
        .into_iter()
        .chain([PROGRAM])
        .map(|name| dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_program_and_what_is_old_is_replaced() {
        let dir = tempfile::tempdir().expect("directory");
        let dir = dir.path().join("cni");
        for content in [b"one", b"one", b"two"] {
            put(&dir, content).expect("installed");
            for file in files(&dir) {
                assert_eq!(
                    fs::read(&file).expect("file"),
                    content,
                    "{}",
                    file.display()
                );
            }
        }
        assert_eq!(
            fs::read_dir(&dir).expect("directory").count(),
            1 + LINKS.len()
        );
    }
}
