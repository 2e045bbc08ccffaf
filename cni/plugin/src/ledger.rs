//! Which container has which address: a file an address, in the layout of the reference's host-local
//! (`<dataDir>/<network>/<address>` holding the container and its interface), under one lock.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keelson_cni_plan::alloc::{self, Choice};
use keelson_cni_plan::config::{Attachment, NetConf};
use keelson_cni_plan::protocol::{Error, code};
use rustix::buffer::spare_capacity;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};

/// The allocations of a network, locked until it is dropped.
pub(crate) struct Ledger {
    dir: PathBuf,
    _lock: fs::File,
}

impl Ledger {
    /// Opens and locks the allocations of a network.
    pub(crate) fn open(conf: &NetConf) -> Result<Self, Error> {
        let dir = conf.ipam.data_dir.join(&conf.name);
        let fail = |e: std::io::Error| {
            Error::new(
                code::IO_FAILURE,
                format!("open allocations {}", dir.display()),
                e,
            )
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&dir)
            .map_err(fail)?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"));
        let lock = lock.map_err(fail)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// The owner's addresses: those it has already, and a new one for each set where it has none.
    pub(crate) fn allocate(
        &self,
        conf: &NetConf,
        owner: &Attachment,
    ) -> Result<Vec<Choice>, Error> {
        let all = self.read()?;
        let taken: BTreeSet<IpAddr> = all.iter().map(|(a, _)| *a).collect();
        let mut choices = Vec::new();
        for (i, set) in conf.ipam.ranges.iter().enumerate() {
            let own = all
                .iter()
                .filter(|(_, o)| o == owner)
                .find_map(|(a, _)| alloc::locate(set, *a));
            choices.push(match own {
                Some(choice) => choice,
                None => self.take(i, alloc::choose(set, &taken, self.last(i)), owner, conf)?,
            });
        }
        Ok(choices)
    }

    fn take(
        &self,
        set: usize,
        choice: Option<Choice>,
        owner: &Attachment,
        conf: &NetConf,
    ) -> Result<Choice, Error> {
        let choice = choice.ok_or_else(|| {
            let subnets: Vec<String> = conf.ipam.ranges[set]
                .iter()
                .map(|r| r.subnet.to_string())
                .collect();
            Error::new(
                code::NO_ADDRESS,
                "no address left",
                format!(
                    "network {} has none free in {}",
                    conf.name,
                    subnets.join(", ")
                ),
            )
        })?;
        // The owner's name is in the file before the file has its name: killed between, nobody owns an address without a name.
        self.write(
            &choice.address.to_string(),
            &format!("{}\r\n{}", owner.container, owner.ifname),
        )?;
        self.write(
            &format!("last_reserved_ip.{set}"),
            &choice.address.to_string(),
        )?;
        Ok(choice)
    }

    /// Frees all addresses whose owner is chosen, and tells whether there were any.
    pub(crate) fn release(&self, gone: impl Fn(&Attachment) -> bool) -> Result<bool, Error> {
        let mut found = false;
        for (address, owner) in self.read()? {
            if gone(&owner) {
                self.remove(&self.dir.join(address.to_string()))?;
                found = true;
            }
        }
        Ok(found)
    }

    /// All allocations.
    pub(crate) fn read(&self) -> Result<Vec<(IpAddr, Attachment)>, Error> {
        let mut all = Vec::new();
        let dir = fs::File::open(&self.dir).map_err(|e| self.fail("read", &self.dir, e))?;
        for entry in fs::read_dir(&self.dir).map_err(|e| self.fail("read", &self.dir, e))? {
            let name = entry
                .map_err(|e| self.fail("read", &self.dir, e))?
                .file_name();
            let Some(address) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let text = read_at(&dir, &name);
            let text = text.map_err(|e| self.fail("read", &self.dir.join(&name), e))?;
            let mut lines = text.lines().map(str::trim);
            let mut next = || lines.next().unwrap_or_default().to_owned();
            all.push((
                address,
                Attachment {
                    container: next(),
                    ifname: next(),
                },
            ));
        }
        Ok(all)
    }

    fn last(&self, set: usize) -> Option<IpAddr> {
        fs::read_to_string(self.dir.join(format!("last_reserved_ip.{set}")))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let (path, temporary) = (self.dir.join(name), self.dir.join(".new"));
        let written = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary);
        let written = written
            .and_then(|mut f| f.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|e| self.fail("write", &path, e))
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(self.fail("free", path, e)),
            _ => Ok(()),
        }
    }

    fn fail(&self, action: &str, path: &Path, e: std::io::Error) -> Error {
        Error::new(
            code::IO_FAILURE,
            format!("{action} allocation {}", path.display()),
            e,
        )
    }
}

/// A file's text. There is a file for every pod of the node: no call more than it takes, for each of them.
fn read_at(dir: &fs::File, name: &OsStr) -> std::io::Result<String> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(512);
    loop {
        let free = text.capacity() - text.len();
        if rustix::io::read(&file, spare_capacity(&mut text))? < free {
            break;
        }
        text.reserve(512);
    }
    String::from_utf8(text).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
}
