//! From what is in the kernel to what is wanted, without breaking a connection.
//!
//! ```text
//! servers, destinations -> addresses -> weights to 0 -> idle destinations, addresses, idle servers go
//! ```
//!
//! A destination that is wanted no more first gets weight 0: no new connection, while established ones go on. It goes
//! when the kernel knows of no connection any more, at a later look. A virtual server that is wanted no more waits in
//! the same way, with its address: so another backend may take over while connections live. All this is read back from
//! the kernel, and a restart forgets nothing of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::server::{Destination, Forwarding, ServerKey, VirtualServer};
use super::wanted::{Wanted, WantedServer, is_graceful};

/// What is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Virtual servers, ours and others.
    pub servers: BTreeMap<ServerKey, Server>,
    /// Addresses on our link.
    pub addresses: BTreeSet<IpAddr>,
}

/// A virtual server with its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The virtual server.
    pub server: VirtualServer,
    /// Its destinations.
    pub destinations: BTreeMap<SocketAddr, Destination>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a virtual server.
    AddServer(VirtualServer),
    /// Change how one works; its connections stay.
    SetServer(VirtualServer),
    /// Remove one, and with it its destinations.
    DeleteServer(ServerKey),
    /// Add a destination.
    AddDestination(ServerKey, Destination),
    /// Change a destination's weight.
    SetDestination(ServerKey, Destination),
    /// Remove a destination.
    DeleteDestination(ServerKey, SocketAddr),
    /// Add an address to our link.
    Bind(IpAddr),
    /// Remove an address from our link.
    Unbind(IpAddr),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |f: &mut fmt::Formatter<'_>, verb, s: &VirtualServer| {
            write!(f, "{verb} virtual server {} {}", s.key, s.scheduler.name())?;
            match s.timeout {
                0 => Ok(()),
                seconds => write!(f, " persistent {seconds}"),
            }
        };
        match self {
            Self::AddServer(s) => server(f, "add", s),
            Self::SetServer(s) => server(f, "change", s),
            Self::DeleteServer(key) => write!(f, "delete virtual server {key}"),
            Self::AddDestination(key, d) => {
                write!(f, "add destination {} of {key} weight {}", d.at, d.weight)
            }
            Self::SetDestination(key, d) => {
                write!(
                    f,
                    "change destination {} of {key} to weight {}",
                    d.at, d.weight
                )
            }
            Self::DeleteDestination(key, at) => write!(f, "delete destination {at} of {key}"),
            Self::Bind(address) => write!(f, "add address {address}"),
            Self::Unbind(address) => write!(f, "delete address {address}"),
        }
    }
}

/// What to do, in order. Virtual servers that are not ours stay, unless they stand where one is wanted: then they
/// become ours.
pub fn diff(live: &Live, wanted: &Wanted) -> Vec<Action> {
    let mut steps = Steps::default();
    for (key, want) in &wanted.servers {
        steps.server(live.servers.get(key), want);
    }
    let mut kept = wanted.addresses.clone();
    let ours = live
        .servers
        .iter()
        .filter(|(f, s)| s.server.is_ours() && !wanted.servers.contains_key(f));
    for (key, server) in ours {
        if steps.leave(server) {
            kept.extend(live.addresses.get(&key.address));
        }
    }
    steps.first.extend(
        wanted
            .addresses
            .difference(&live.addresses)
            .copied()
            .map(Action::Bind),
    );
    steps.idle.extend(
        live.addresses
            .difference(&kept)
            .copied()
            .map(Action::Unbind),
    );
    [steps.first, steps.drain, steps.idle, steps.last].concat()
}

#[derive(Default)]
struct Steps {
    first: Vec<Action>,
    drain: Vec<Action>,
    idle: Vec<Action>,
    last: Vec<Action>,
}

impl Steps {
    fn server(&mut self, live: Option<&Server>, want: &WantedServer) {
        let key = want.server.key;
        match live {
            None => self.first.push(Action::AddServer(want.server.clone())),
            Some(live) if live.server != want.server => {
                self.first.push(Action::SetServer(want.server.clone()))
            }
            Some(_) => {}
        }
        let none = BTreeMap::new();
        let destinations = live.map_or(&none, |l| &l.destinations);
        for at in &want.destinations {
            let new = Destination::new(*at);
            match destinations.get(at) {
                None => self.first.push(Action::AddDestination(key, new)),
                Some(d) if (d.weight, d.forwarding) != (new.weight, new.forwarding) => {
                    self.first.push(Action::SetDestination(key, new));
                }
                Some(_) => {}
            }
        }
        for gone in destinations
            .values()
            .filter(|d| !want.destinations.contains(&d.at))
        {
            if self.retire(key, gone) {
                self.idle.push(Action::DeleteDestination(key, gone.at));
            }
        }
    }

    /// Whether a server that is wanted no more has to stay a while.
    fn leave(&mut self, live: &Server) -> bool {
        let mut stays = false;
        for destination in live.destinations.values() {
            stays |= !self.retire(live.server.key, destination);
        }
        if !stays {
            self.last.push(Action::DeleteServer(live.server.key));
        }
        stays
    }

    /// Stops new connections to a destination. Whether it can go: only one that took none is known to stay idle.
    fn retire(&mut self, key: ServerKey, gone: &Destination) -> bool {
        if !is_graceful(key.protocol) {
            return true;
        }
        if gone.weight > 0 {
            let forwarding = Forwarding::Masquerade;
            self.drain.push(Action::SetDestination(
                key,
                Destination {
                    weight: 0,
                    forwarding,
                    ..*gone
                },
            ));
            return false;
        }
        gone.is_idle()
    }
}

impl Live {
    /// What is there after an action.
    pub fn apply(&mut self, action: &Action) {
        match action {
            Action::AddServer(s) => {
                self.servers.insert(
                    s.key,
                    Server {
                        server: s.clone(),
                        destinations: BTreeMap::new(),
                    },
                );
            }
            Action::SetServer(s) => {
                if let Some(live) = self.servers.get_mut(&s.key) {
                    live.server = s.clone();
                }
            }
            Action::DeleteServer(key) => {
                self.servers.remove(key);
            }
            Action::AddDestination(key, d) | Action::SetDestination(key, d) => {
                let counts =
                    |old: Option<&Destination>| old.map_or((0, 0), |o| (o.active, o.inactive));
                if let Some(live) = self.servers.get_mut(key) {
                    let (active, inactive) = counts(live.destinations.get(&d.at));
                    live.destinations.insert(
                        d.at,
                        Destination {
                            active,
                            inactive,
                            ..*d
                        },
                    );
                }
            }
            Action::DeleteDestination(key, at) => {
                if let Some(live) = self.servers.get_mut(key) {
                    live.destinations.remove(at);
                }
            }
            Action::Bind(address) => {
                self.addresses.insert(*address);
            }
            Action::Unbind(address) => {
                self.addresses.remove(address);
            }
        }
    }

    /// Virtual servers of ours that have a destination without new connections: to be looked at again.
    pub fn draining(&self) -> impl Iterator<Item = ServerKey> + '_ {
        let drains =
            |s: &&Server| s.server.is_ours() && s.destinations.values().any(|d| d.weight == 0);
        self.servers.values().filter(drains).map(|s| s.server.key)
    }
}

#[cfg(test)]
mod tests;
