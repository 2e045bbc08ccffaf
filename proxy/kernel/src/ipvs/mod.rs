//! IPVS: virtual servers by generic netlink, their addresses by rtnetlink. Blocks: call it where that is allowed.

mod genl;
mod link;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use keelson_proxy_plan::ipvs::{
    Action, Destination, Kernel, Live, Server, ServerKey, Timeouts, VirtualServer, Wanted, diff,
    sysctls,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::netlink::Line;
use crate::{Error, sysctl};
use genl::Message;
use link::Link;
use wire::command;

pub use link::LINK;
pub(crate) use link::LINKS;

/// The virtual servers of the network namespace that it was opened in.
pub struct Ipvs {
    line: Line,
    family: u16,
    link: Link,
    /// What is in the kernel; `None`: it must be read.
    live: Option<Live>,
}

/// What a sync did, and left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// What was done, in order.
    pub actions: Vec<Action>,
    /// Virtual servers with destinations that wait for the end of their connections: sync again after a while.
    pub draining: usize,
}

impl Ipvs {
    /// Finds the kernel's IPVS, which loads its module where it is none of the kernel itself.
    pub fn open() -> Result<Self, Error> {
        let none = |source| Error::NoIpvs { source };
        let mut line = Line::open(NETLINK_GENERIC).map_err(none)?;
        let family = genl::family(&mut line, wire::NAME).map_err(none)?;
        let link = Link::open().map_err(|source| fail("find link", LINK, source))?;
        Ok(Self {
            line,
            family,
            link,
            live: None,
        })
    }

    /// Sets the kernel's parameters and timeouts.
    pub fn prepare(&mut self, strict_arp: bool, timeouts: &Timeouts) -> Result<(), Error> {
        let path = "/proc/sys/kernel/osrelease";
        let release = std::fs::read_to_string(path).map_err(|source| fail("read", path, source))?;
        // A version that can't be told from its text is no older than these words.
        let kernel = Kernel::parse(release.trim()).unwrap_or(Kernel(u32::MAX - 1, 0));
        for parameter in sysctls(kernel, strict_arp) {
            sysctl::set(parameter.name, parameter.value.into())?;
        }
        let attributes = wire::timeouts(timeouts);
        if attributes.is_empty() {
            return Ok(());
        }
        let message = Message::new(self.family, command::SET_CONFIG, &attributes);
        self.line
            .get(message, |_| ())
            .map_err(|source| fail("set", "IPVS timeouts", source))
    }

    /// Timeouts as they are.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        let mut found = None;
        let ask = Message::new(self.family, command::GET_CONFIG, &[]);
        let got = self
            .line
            .get(ask, |answer| found = found.or(wire::read_timeouts(&answer)));
        let found = got.and_then(|()| found.ok_or_else(|| io::ErrorKind::InvalidData.into()));
        found.map_err(|source| fail("get", "IPVS timeouts", source))
    }

    /// This node's addresses on links that are not ours, without those of loopback and link-local IPv6 ones.
    pub fn own_addresses(&mut self) -> Result<BTreeSet<IpAddr>, Error> {
        let found = self
            .link
            .addresses()
            .map_err(|source| fail("list", "addresses", source));
        Ok(found?.1)
    }

    /// Addresses on our link: some may be there only for connections that live on. Rules have to cover these too
    /// (`Rules::bound`), or a new connection to one of them would reach the node's own programs.
    pub fn bound(&mut self) -> Result<BTreeSet<IpAddr>, Error> {
        if let Some(live) = &self.live {
            return Ok(live.addresses.clone());
        }
        let found = self.link.addresses();
        Ok(found.map_err(|source| fail("list", "addresses", source))?.0)
    }

    /// The kernel is read back at the next sync.
    pub fn forget(&mut self) {
        self.live = None;
    }

    /// Makes virtual servers and addresses as they are wanted; the rules beside them are the caller's. After an error
    /// the rest is done all the same, and the kernel is read back at the next sync.
    pub fn sync(&mut self, wanted: &Wanted) -> Result<Synced, Error> {
        let mut new_link = false;
        if !wanted.addresses.is_empty() {
            let ensured = self.link.ensure();
            new_link = ensured.map_err(|source| fail("make link", LINK, source))?;
        }
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.read(wanted)?,
        };
        if new_link {
            live.addresses.clear();
        }
        self.recount(&mut live)?;
        let mut synced = Synced::default();
        // Twice: what gets weight 0 in the first round may have no connections, and goes in the second.
        for _ in 0..2 {
            let actions = diff(&live, wanted);
            if actions.is_empty() {
                break;
            }
            self.carry_out(&actions)?;
            actions.iter().for_each(|a| live.apply(a));
            synced.actions.extend(actions);
            self.recount(&mut live)?;
        }
        if live.addresses.is_empty() {
            self.link
                .remove()
                .map_err(|source| fail("remove link", LINK, source))?;
        }
        synced.draining = live.draining().count();
        self.live = Some(live);
        Ok(synced)
    }

    /// All virtual servers, ours and others.
    pub fn servers(&mut self) -> Result<Vec<VirtualServer>, Error> {
        let mut servers = Vec::new();
        let ask = Message::new(self.family, command::GET_SERVICE, &[]);
        let done = self
            .line
            .dump(ask, |answer| servers.extend(wire::read_server(&answer)));
        done.map_err(|source| fail("list", "virtual servers", source))?;
        Ok(servers)
    }

    /// What is there, read again; of virtual servers that are not ours, the destinations only where one of them is wanted.
    pub fn live(&mut self, wanted: &Wanted) -> Result<Live, Error> {
        self.read(wanted)
    }

    /// The destinations of a virtual server.
    pub fn destinations(&mut self, key: &ServerKey) -> Result<Vec<Destination>, Error> {
        let mut found = Vec::new();
        let ask = Message::new(self.family, command::GET_DEST, &[wire::key(key)]);
        let done = self.line.dump(ask, |answer| {
            found.extend(wire::read_destination(&answer, &key.address))
        });
        done.map_err(|source| fail("list destinations of", key, source))?;
        Ok(found)
    }

    /// What is there. Others' destinations are read only where they are about to become ours.
    fn read(&mut self, wanted: &Wanted) -> Result<Live, Error> {
        let mut live = Live::default();
        for server in self.servers()? {
            let key = server.key;
            let mut destinations = BTreeMap::new();
            if server.is_ours() || wanted.servers.contains_key(&key) {
                destinations.extend(self.destinations(&key)?.into_iter().map(|d| (d.at, d)));
            }
            live.servers.insert(
                key,
                Server {
                    server,
                    destinations,
                },
            );
        }
        let addresses = self
            .link
            .addresses()
            .map_err(|source| fail("list", "addresses", source))?;
        live.addresses = addresses.0;
        Ok(live)
    }

    /// Looks again at the connections of what waits for their end.
    fn recount(&mut self, live: &mut Live) -> Result<(), Error> {
        let keys: Vec<ServerKey> = live.draining().collect();
        for key in keys {
            let found = self.destinations(&key)?;
            if let Some(server) = live.servers.get_mut(&key) {
                server.destinations = found.into_iter().map(|d| (d.at, d)).collect();
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, actions: &[Action]) -> Result<(), Error> {
        let is_address = |a: &Action| matches!(a, Action::Bind(_) | Action::Unbind(_));
        let mut result = Ok(());
        for group in actions.chunk_by(|a, b| is_address(a) == is_address(b)) {
            let results = if group.first().is_some_and(is_address) {
                let changes: Vec<_> = group.iter().filter_map(bound).collect();
                self.link
                    .bind(&changes)
                    .map_err(|source| fail("change addresses of", LINK, source))?
            } else {
                let messages = group
                    .iter()
                    .filter_map(|a| Some((self.message(a)?, 0)))
                    .collect();
                self.line.change(messages)
            };
            for (action, done) in group.iter().zip(results) {
                if let Err(source) = done
                    && !is_gone(action, &source)
                {
                    let (verb, object) = name(action);
                    result = result.and(Err(fail(verb, object, source)));
                }
            }
        }
        result
    }

    fn message(&self, action: &Action) -> Option<Message> {
        let (command, attributes) = match action {
            Action::AddServer(s) => (command::NEW_SERVICE, vec![wire::server(s)]),
            Action::SetServer(s) => (command::SET_SERVICE, vec![wire::server(s)]),
            Action::DeleteServer(key) => (command::DEL_SERVICE, vec![wire::key(key)]),
            Action::AddDestination(key, d) => (
                command::NEW_DEST,
                vec![wire::key(key), wire::destination(d)],
            ),
            Action::SetDestination(key, d) => (
                command::SET_DEST,
                vec![wire::key(key), wire::destination(d)],
            ),
            Action::DeleteDestination(key, at) => {
                (command::DEL_DEST, vec![wire::key(key), wire::place(at)])
            }
            Action::Bind(_) | Action::Unbind(_) => return None,
        };
        Some(Message::new(self.family, command, &attributes))
    }

    /// Removes all that is ours at once, connections or not.
    fn remove(&mut self) -> Result<(), Error> {
        let servers = self.servers()?;
        let ours = servers.iter().filter(|s| s.is_ours());
        let actions: Vec<_> = ours.map(|s| Action::DeleteServer(s.key)).collect();
        self.carry_out(&actions)
    }
}

/// Removes our link and all virtual servers of ours at once, connections or not. Goes on after errors and gives them
/// all. To let connections end first, sync to an empty [`Wanted`] until nothing drains.
pub fn cleanup() -> Vec<Error> {
    let link = Link::open().and_then(|mut l| l.remove());
    let mut errors: Vec<_> = link
        .map_err(|source| fail("remove link", LINK, source))
        .err()
        .into_iter()
        .collect();
    // Asking for the family would load the module, only to find nothing.
    if std::path::Path::new("/proc/thread-self/net/ip_vs").exists() {
        errors.extend(Ipvs::open().and_then(|mut ipvs| ipvs.remove()).err());
    }
    errors
}

fn fail(action: &'static str, object: impl ToString, source: io::Error) -> Error {
    Error::Ipvs {
        action,
        object: object.to_string(),
        source,
    }
}

fn bound(action: &Action) -> Option<(IpAddr, bool)> {
    match action {
        Action::Bind(address) => Some((*address, true)),
        Action::Unbind(address) => Some((*address, false)),
        _ => None,
    }
}

/// Whether what should go has gone by itself: `ESRCH` says so of a virtual server, `ENOENT` of a destination.
fn is_gone(action: &Action, error: &io::Error) -> bool {
    let deletes = matches!(
        action,
        Action::DeleteServer(_) | Action::DeleteDestination(..)
    );
    deletes && matches!(error.raw_os_error(), Some(2 | 3))
}

fn name(action: &Action) -> (&'static str, String) {
    match action {
        Action::AddServer(s) => ("add virtual server", s.key.to_string()),
        Action::SetServer(s) => ("change virtual server", s.key.to_string()),
        Action::DeleteServer(key) => ("remove virtual server", key.to_string()),
        Action::AddDestination(key, d) => ("add destination", format!("{} to {key}", d.at)),
        Action::SetDestination(key, d) => ("change destination", format!("{} of {key}", d.at)),
        Action::DeleteDestination(key, at) => ("remove destination", format!("{at} from {key}")),
        Action::Bind(address) => ("add address", format!("{address} to {LINK}")),
        Action::Unbind(address) => ("remove address", format!("{address} from {LINK}")),
    }
}
