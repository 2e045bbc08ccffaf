//! Who a container's process runs as: from the security context, the image's USER, and the passwd
//! and group files inside its root file system.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::model::Security;

const LARGEST: u64 = 1 << 20;

/// User, group and supplemental groups of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplemental groups, the primary one among them (CVE-2022-36109).
    pub groups: Vec<u32>,
}

/// The account files of a root file system; empty when there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

impl Accounts {
    /// Reads them from the layers of a root file system, uppermost first. Symbolic links cannot
    /// lead out of a layer; one that leads from one layer into another is not followed.
    pub fn read<P: AsRef<Path>>(layers: &[P]) -> Accounts {
        let find = |path| {
            let found = layers
                .iter()
                .find_map(|layer| match read_in(layer.as_ref(), path) {
                    Ok(text) => Some(text),
                    Err(Errno::NOENT | Errno::NOTDIR) => None,
                    // Deleted by this layer (a whiteout), or nothing that could be read.
                    Err(_) => Some(String::new()),
                });
            found.unwrap_or_default()
        };
        Accounts {
            passwd: find("etc/passwd"),
            group: find("etc/group"),
        }
    }

    fn by_name(&self, name: &str) -> Option<(u32, u32)> {
        let mut found = rows(&self.passwd).filter(|row| row.first() == Some(&name));
        found.find_map(|row| Some((number(&row, 2)?, number(&row, 3)?)))
    }

    fn by_uid(&self, uid: u32) -> Option<(&str, u32)> {
        let mut found = rows(&self.passwd).filter(|row| number(row, 2) == Some(uid));
        found.find_map(|row| Some((*row.first()?, number(&row, 3)?)))
    }

    fn group_by_name(&self, name: &str) -> Option<u32> {
        let mut found = rows(&self.group).filter(|row| row.first() == Some(&name));
        found.find_map(|row| number(&row, 2))
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        let member = |row: &Vec<&str>| {
            row.get(3)
                .is_some_and(|members| members.split(',').any(|m| m.trim() == user))
        };
        let rows = rows(&self.group).filter(member);
        rows.filter_map(|row| number(&row, 2)).collect()
    }
}

/// Decides who runs: `runAsUser`/`runAsGroup` win over the image's USER; names and missing groups
/// are looked up in the image's account files.
pub fn resolve(security: &Security, image_user: &str, accounts: &Accounts) -> Result<User, Error> {
    let (image_user, image_group) = match image_user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (image_user, None),
    };
    let unknown = |what, name: &str| Error::invalid(what, name, "not in the image's account files");
    let (uid, named_gid) = match (security.run_as_user, image_user) {
        (Some(uid), _) => (uid, None),
        (None, "") => (0, None),
        (None, text) => match text.parse() {
            Ok(uid) => (uid, None),
            Err(_) => {
                let (uid, gid) = accounts
                    .by_name(text)
                    .ok_or_else(|| unknown("user", text))?;
                (uid, Some(gid))
            }
        },
    };
    let account = accounts.by_uid(uid);
    let image_gid = match (security.run_as_user, image_group) {
        (None, Some(text)) => match text.parse() {
            Ok(gid) => Some(gid),
            Err(_) => Some(
                accounts
                    .group_by_name(text)
                    .ok_or_else(|| unknown("group", text))?,
            ),
        },
        _ => None,
    };
    let gid = security
        .run_as_group
        .or(image_gid)
        .or(named_gid)
        .or(account.map(|(_, gid)| gid))
        .unwrap_or(0);
    let mut groups = vec![gid];
    groups.extend(&security.supplemental_groups);
    if let (false, Some((name, _))) = (security.strict_groups, account) {
        groups.extend(accounts.groups_of(name));
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|group| seen.insert(*group));
    Ok(User { uid, gid, groups })
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.trim().split(':').collect())
}

fn number(row: &[&str], column: usize) -> Option<u32> {
    row.get(column)?.parse().ok()
}

fn read_in(root: &Path, path: &str) -> Result<String, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // Non-blocking: the image could hold a FIFO there.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), inside)?;
    let file = File::from(file);
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(Errno::INVAL);
    }
    let mut bytes = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(|_| Errno::IO)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nbroken\n".into(),
            group: "root:x:0:\nweb:x:34:\nlog:x:4:web,root\nextra:x:77:web\n".into(),
        }
    }

    #[test]
    fn users_are_resolved_in_upstreams_order() {
        let context = |user, group, groups: &[u32], strict_groups| Security {
            run_as_user: user,
            run_as_group: group,
            supplemental_groups: groups.to_vec(),
            strict_groups,
            ..Security::default()
        };
        let plain = context(None, None, &[], false);
        type Row = (Security, &'static str, Option<(u32, u32, &'static [u32])>);
        let table: [Row; 11] = [
            (plain.clone(), "", Some((0, 0, &[0, 4]))),
            (plain.clone(), "web", Some((33, 34, &[34, 4, 77]))),
            (plain.clone(), "33", Some((33, 34, &[34, 4, 77]))),
            (plain.clone(), "web:log", Some((33, 4, &[4, 77]))),
            (plain.clone(), "1234", Some((1234, 0, &[0]))),
            (plain.clone(), "1234:99", Some((1234, 99, &[99]))),
            (plain.clone(), "nobody", None),
            (plain, "web:nogroup", None),
            (
                context(Some(33), None, &[500], false),
                "root:root",
                Some((33, 34, &[34, 500, 4, 77])),
            ),
            (
                context(Some(33), Some(9), &[500, 9], true),
                "",
                Some((33, 9, &[9, 500])),
            ),
            (
                context(None, Some(9), &[], false),
                "web",
                Some((33, 9, &[9, 4, 77])),
            ),
        ];
        for (security, user, expected) in table {
            let found = resolve(&security, user, &accounts()).ok();
            let expected = expected.map(|(uid, gid, groups)| User {
                uid,
                gid,
                groups: groups.to_vec(),
            });
            assert_eq!(found, expected, "{user:?} {security:?}");
        }
    }

    #[test]
    fn links_do_not_lead_out_of_the_root() {
        let root = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(root.path().join("etc")).expect("etc");
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("etc/passwd")).expect("link");
        // The link points to itself inside the root, to the host's file outside.
        assert_eq!(Accounts::read(&[root.path()]), Accounts::default());
        std::fs::create_dir_all(root.path().join("real")).expect("real");
        std::fs::write(root.path().join("real/group"), "a:x:1:").expect("group");
        std::os::unix::fs::symlink("../../../real/group", root.path().join("etc/group"))
            .expect("link");
        assert_eq!(Accounts::read(&[root.path()]).group, "a:x:1:");
    }
}
