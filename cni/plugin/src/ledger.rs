//! Which container has which address: a file an address, in the layout of the reference's host-local
//! (`<dataDir>/<network>/<address>` holding the container and its interface), under one lock.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use keelson_cni_plan::alloc::{self, Choice, Taken};
use keelson_cni_plan::config::Attachment;
use keelson_cni_plan::host_local::HostLocal;
use keelson_cni_plan::protocol::{Error, code};
use nix::time::{ClockId, clock_gettime};
use rustix::buffer::spare_capacity;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};

/// The file that names the boot in which the allocations were made. The reference passes over it.
const BOOT: &str = "boot_id";

/// The allocations of a network, locked until it is dropped.
pub(crate) struct Ledger<'a> {
    conf: &'a HostLocal,
    dir: PathBuf,
    _lock: fs::File,
}

impl<'a> Ledger<'a> {
    /// Opens and locks the allocations of a network.
    pub(crate) fn open(conf: &'a HostLocal) -> Result<Self, Error> {
        let dir = conf.data_dir.join(&conf.network);
        let fail = |e: io::Error| {
            let what = format!("open allocations {}", dir.display());
            Error::new(code::IO_FAILURE, what, e)
        };
        let open = || {
            let mut options = fs::OpenOptions::new();
            let options = options.create(true).truncate(false).write(true).mode(0o600);
            options.open(dir.join("lock"))
        };
        let lock = open().or_else(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                let mut builder = fs::DirBuilder::new();
                builder.recursive(true).mode(0o755).create(&dir)?;
                open()
            }
            _ => Err(e),
        });
        let lock = lock.map_err(fail)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        let ledger = Self {
            conf,
            dir,
            _lock: lock,
        };
        ledger.forget_former_boots()?;
        Ok(ledger)
    }

    /// After a reboot no container of before is there any more, so nobody has the addresses written down before it.
    /// Those since then may be the reference's, which does not name the boot.
    fn forget_former_boots(&self) -> Result<(), Error> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(path).map_err(|e| self.fail("read", path, e))?;
        let known = fs::read_to_string(self.dir.join(BOOT)).ok();
        if known.as_deref() == Some(boot.as_str()) {
            return Ok(());
        }
        if known.is_some() {
            let since = booted();
            for (address, _) in self.read()? {
                let path = self.dir.join(address.to_string());
                let written = fs::metadata(&path).and_then(|m| m.modified());
                if written.is_ok_and(|w| w < since) {
                    self.remove(&path)?;
                }
            }
        }
        self.write(BOOT, &boot)
    }

    /// An address of each set for the owner, those it has already among them.
    pub(crate) fn allocate(&self, owner: &Attachment) -> Result<Vec<Choice>, Error> {
        let choices = alloc::plan(self.conf, &self.owned()?, owner, |set| self.last(set))?;
        for choice in choices.iter().filter(|c| c.fresh) {
            let address = choice.address.addr().to_string();
            self.write(
                &address,
                &format!("{}\r\n{}", owner.container, owner.ifname),
            )?;
            self.write(&format!("last_reserved_ip.{}", choice.set), &address)?;
        }
        Ok(choices)
    }

    /// Frees the owner's addresses and gives them. What an old reference wrote, which named no interface, is the
    /// container's, if nothing is the interface's.
    pub(crate) fn release(&self, owner: &Attachment) -> Result<Vec<IpAddr>, Error> {
        let old = Attachment {
            container: owner.container.clone(),
            ifname: String::new(),
        };
        let freed = self.release_all(|o| o == owner)?;
        if freed.is_empty() {
            return self.release_all(|o| *o == old);
        }
        Ok(freed)
    }

    /// Frees all addresses whose owner is chosen, and gives them.
    pub(crate) fn release_all(
        &self,
        gone: impl Fn(&Attachment) -> bool,
    ) -> Result<Vec<IpAddr>, Error> {
        let taken = self.read()?;
        let mut freed = Vec::new();
        for (address, _) in taken.iter().filter(|(_, owner)| gone(owner)) {
            self.remove(&self.dir.join(address.to_string()))?;
            freed.push(*address);
        }
        Ok(freed)
    }

    /// Whether each set has an address to give.
    pub(crate) fn available(&self) -> Result<bool, Error> {
        Ok(alloc::available(self.conf, &self.owned()?))
    }

    /// The allocations that have an owner: a file without one is of a call that was killed before it wrote it.
    fn owned(&self) -> Result<Taken, Error> {
        let mut all = self.read()?;
        all.retain(|_, owner| !owner.container.is_empty());
        Ok(all)
    }

    /// All allocations. One whose owner can't be read is taken all the same.
    pub(crate) fn read(&self) -> Result<Taken, Error> {
        let mut all = Taken::new();
        let fail = |e| self.fail("read", &self.dir, e);
        let dir = fs::File::open(&self.dir).map_err(fail)?;
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let Some(address) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let text = read_at(&dir, &name);
            let text = text.map_err(|e| self.fail("read", &self.dir.join(&name), e))?;
            let mut lines = text.lines().map(str::trim);
            let mut next = || lines.next().unwrap_or_default().to_owned();
            let owner = Attachment {
                container: next(),
                ifname: next(),
            };
            all.insert(address, owner);
        }
        Ok(all)
    }

    fn last(&self, set: usize) -> Option<IpAddr> {
        let path = self.dir.join(format!("last_reserved_ip.{set}"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Writes a file in place: a text as short as these is there whole or not at all, whenever the call is killed. A
    /// rename over a file makes ext4 write the new one to the disk first, a millisecond for each pod; and after the
    /// machine itself has failed none of it counts.
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        let mut options = fs::OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o644);
        let length = text.len() as u64;
        let written = options.open(&path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            match file.metadata()?.len() > length {
                true => file.set_len(length),
                false => Ok(()),
            }
        });
        written.map_err(|e| self.fail("write", &path, e))
    }

    fn remove(&self, path: &Path) -> Result<(), Error> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.fail("free", path, e)),
            _ => Ok(()),
        }
    }

    fn fail(&self, action: &str, path: &Path, e: io::Error) -> Error {
        let what = format!("{action} allocation {}", path.display());
        Error::new(code::IO_FAILURE, what, e)
    }
}

/// When the machine was started, by the clock that files are stamped with.
fn booted() -> SystemTime {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    let up = up.unwrap_or_default();
    SystemTime::now()
        .checked_sub(up)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A file's text. There is a file for every pod of the node: no call more than it takes, for each of them.
fn read_at(dir: &fs::File, name: &std::ffi::OsStr) -> io::Result<String> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(512);
    loop {
        let free = text.capacity() - text.len();
        if rustix::io::read(&file, spare_capacity(&mut text))? < free {
            break;
        }
        text.reserve(512);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(dir: &Path) -> HostLocal {
        let range = serde_json::json!([[{"subnet": "10.0.0.0/29"}]]);
        HostLocal {
            network: "pods".into(),
            sets: serde_json::from_value(range).expect("ranges"),
            requested: Vec::new(),
            routes: Vec::new(),
            data_dir: dir.to_owned(),
            resolv_conf: None,
        }
    }

    fn owner(container: &str) -> Attachment {
        Attachment {
            container: container.into(),
            ifname: "eth0".into(),
        }
    }

    fn owners(ledger: &Ledger<'_>) -> Vec<String> {
        let all = ledger.read().expect("ledger").into_values();
        all.map(|o| o.container).collect()
    }

    #[test]
    fn a_reboot_frees_what_was_before_it_and_nothing_since() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = conf(dir.path());
        let of = |name: &str| dir.path().join("pods").join(name);
        for who in ["before", "since"] {
            let ledger = Ledger::open(&conf).expect("ledger");
            ledger.allocate(&owner(who)).expect("address");
        }
        let age = |name: &str, by: u64| {
            let file = fs::File::options()
                .write(true)
                .open(of(name))
                .expect("file");
            let then = booted() - Duration::from_secs(by);
            file.set_modified(then).expect("time");
        };
        age("10.0.0.2", 60);
        // Without a file that names the boot nothing is known of before and since.
        fs::remove_file(of(BOOT)).expect("boot");
        assert_eq!(
            owners(&Ledger::open(&conf).expect("ledger")),
            ["before", "since"]
        );
        fs::write(of(BOOT), "another\n").expect("boot");
        assert_eq!(owners(&Ledger::open(&conf).expect("ledger")), ["since"]);
    }

    #[test]
    fn what_is_no_allocation_is_passed_over_and_what_cannot_be_read_is_taken() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = conf(dir.path());
        let ledger = Ledger::open(&conf).expect("ledger");
        fs::write(ledger.dir.join("last_reserved_ip.0"), "not an address").expect("write");
        fs::write(ledger.dir.join("10.0.0.2"), [0xff, 0xfe]).expect("write");
        fs::write(ledger.dir.join("notes"), "x").expect("write");
        let given = ledger.allocate(&owner("a")).expect("address");
        assert_eq!(given[0].address.to_string(), "10.0.0.3/29");
        assert_eq!(ledger.release(&owner("a")).expect("freed").len(), 1);
        assert_eq!(ledger.release(&owner("a")).expect("freed").len(), 0);
        fs::write(ledger.dir.join("10.0.0.5"), "a").expect("write");
        let old = ledger.release(&owner("a")).expect("freed");
        assert_eq!(old, ["10.0.0.5".parse::<IpAddr>().expect("ip")]);
    }

    #[test]
    fn what_a_killed_call_left_without_an_owner_is_free() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = conf(dir.path());
        let ledger = Ledger::open(&conf).expect("ledger");
        for address in 2..7 {
            fs::write(ledger.dir.join(format!("10.0.0.{address}")), "").expect("write");
        }
        assert_eq!(ledger.available(), Ok(true));
        let given = ledger.allocate(&owner("a")).expect("address");
        assert_eq!(given[0].address.to_string(), "10.0.0.2/29");
        let gone = |o: &Attachment| *o != owner("a");
        assert_eq!(ledger.release_all(gone).expect("freed").len(), 4);
        assert_eq!(owners(&ledger), ["a"]);
    }

    #[test]
    fn a_shorter_text_takes_a_longers_place() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = conf(dir.path());
        let ledger = Ledger::open(&conf).expect("ledger");
        for text in ["10.0.0.100", "10.0.0.7"] {
            ledger.write("last_reserved_ip.0", text).expect("write");
            assert_eq!(ledger.last(0), text.parse().ok());
        }
    }
}
