//! What the kernel holds, read and changed by netlink.

mod message;
mod read;
mod wireguard;

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures::TryStreamExt;
use genetlink::GenetlinkHandle;
use netlink_packet_route::link::LinkMessage;
use rtnetlink::Handle;

pub(crate) use message::{Names, name, parse};
pub(crate) use read::Found;

use crate::Error;
use crate::key::{PrivateKey, PublicKey};
use crate::plan::{Entry, Link, LinkKind, Step};

/// Host ends of pods' links, as the plugin names them.
pub(crate) const POD_LINKS: &str = "ksn";

/// The kernel of a network namespace.
pub(crate) struct Kernel {
    handle: Handle,
    generic: GenetlinkHandle,
    /// What a WireGuard tunnel is made with.
    key: Option<PrivateKey>,
    /// Numbers of our links.
    names: Names,
}

impl Kernel {
    pub(crate) fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        tokio::spawn(connection);
        let (connection, generic, _) = genetlink::new_connection().map_err(Error::Socket)?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            generic,
            key: None,
            names: BTreeMap::new(),
        })
    }

    /// The tunnels' numbers, as they were when they were last read.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Whom the node is in WireGuard with this private key. Only a link of that kind can tell: it is made if it is not
    /// there.
    pub(crate) async fn identify(
        &mut self,
        key: PrivateKey,
        link: &Link,
    ) -> Result<PublicKey, Error> {
        self.key = Some(key);
        if self.index(&link.name).await.is_err() {
            self.make(link).await?;
        }
        self.set_key(link).await?;
        let device = wireguard::get(&mut self.generic, &link.name).await?;
        device.key.ok_or(Error::NoKey)
    }

    /// Does a step. Each can be repeated.
    pub(crate) async fn apply(&mut self, step: &Step) -> Result<(), Error> {
        let done = match step {
            Step::Remove(entry) => self.remove(entry).await,
            Step::Set { want, have } => self.set(want, have.as_ref()).await,
        };
        done.map_err(|source| Error::Step {
            step: step.to_string(),
            source: Box::new(source),
        })
    }

    async fn set(&mut self, want: &Entry, have: Option<&Entry>) -> Result<(), Error> {
        match want {
            Entry::Link(link) => self.set_link(link, have).await,
            Entry::Address { link, address } => {
                let index = self.index(link).await?;
                let (address, prefix) = (*address, message::whole(*address));
                let adding = self.handle.address().add(index, address, prefix);
                Ok(adding.replace().execute().await?)
            }
            Entry::Peer {
                key,
                endpoint,
                allowed,
            } => wireguard::set_peer(&mut self.generic, *key, *endpoint, allowed).await,
            Entry::Forward { mac, to } => {
                let index = self.index(crate::plan::VXLAN).await?;
                let message = message::forward(index, *mac, *to);
                let mut adding = self.handle.neighbours().add_bridge(index, &mac.0);
                *adding.message_mut() = message;
                Ok(adding.replace().execute().await?)
            }
            Entry::Neighbour { address, mac } => {
                let index = self.index(crate::plan::VXLAN).await?;
                let adding = self.handle.neighbours().add(index, *address);
                let adding = adding.link_layer_address(&mac.0).replace();
                Ok(adding.execute().await?)
            }
            Entry::Route(route) => {
                let index = self.index_of(route.link.as_deref()).await?;
                let adding = self.handle.route().add(message::route(route, index));
                // One that is not ours is not replaced: the kernel refuses ours, which is told.
                match have {
                    Some(_) => Ok(adding.replace().execute().await?),
                    None => Ok(adding.execute().await?),
                }
            }
        }
    }

    async fn remove(&mut self, entry: &Entry) -> Result<(), Error> {
        match entry {
            Entry::Link(link) => self.remove_link(&link.name).await,
            Entry::Address { link, address } => {
                let message = message::address(self.index(link).await?, *address);
                Ok(self.handle.address().del(message).execute().await?)
            }
            Entry::Peer { key, .. } => wireguard::remove_peer(&mut self.generic, *key).await,
            Entry::Forward { mac, to } => {
                let index = self.index(crate::plan::VXLAN).await?;
                let message = message::forward(index, *mac, *to);
                Ok(self.handle.neighbours().del(message).execute().await?)
            }
            Entry::Neighbour { address, .. } => {
                let index = self.index(crate::plan::VXLAN).await?;
                let message = message::neighbour(index, *address);
                Ok(self.handle.neighbours().del(message).execute().await?)
            }
            Entry::Route(route) => {
                let index = self.index_of(route.link.as_deref()).await?;
                let message = message::route(route, index);
                Ok(self.handle.route().del(message).execute().await?)
            }
        }
    }

    /// Makes a link, or changes it; one that can't be changed into what it is to be is made anew.
    async fn set_link(&mut self, link: &Link, have: Option<&Entry>) -> Result<(), Error> {
        let same = |have: &Entry| matches!(have, Entry::Link(h) if h.kind == link.kind);
        let keep = match (have, &link.kind) {
            // Another key is set, not born with.
            (Some(_), LinkKind::WireGuard { .. }) => true,
            (Some(have), LinkKind::Vxlan { .. }) => same(have),
            (None, _) => false,
        };
        if !keep {
            // There may be one of that name and another kind, or one that is down.
            if self.index(&link.name).await.is_ok() {
                self.remove_link(&link.name).await?;
            }
            self.make(link).await?;
        }
        if matches!(link.kind, LinkKind::WireGuard { .. }) {
            self.set_key(link).await?;
        }
        let index = self.index(&link.name).await?;
        let up = message::up(index, link.mtu);
        Ok(self.handle.link().set(up).execute().await?)
    }

    async fn make(&mut self, link: &Link) -> Result<(), Error> {
        self.names.retain(|_, name| *name != link.name);
        let message = message::link(link);
        Ok(self.handle.link().add(message).execute().await?)
    }

    async fn set_key(&mut self, link: &Link) -> Result<(), Error> {
        let (LinkKind::WireGuard { port, .. }, Some(key)) = (&link.kind, &self.key) else {
            return Err(Error::NoKey);
        };
        wireguard::set_key(&mut self.generic, &link.name, *port, key).await
    }

    async fn remove_link(&mut self, name: &str) -> Result<(), Error> {
        let index = self.index(name).await?;
        self.names.remove(&index);
        Ok(self.handle.link().del(index).execute().await?)
    }

    async fn index_of(&mut self, name: Option<&str>) -> Result<Option<u32>, Error> {
        match name {
            Some(name) => self.index(name).await.map(Some),
            None => Ok(None),
        }
    }

    /// A link's number.
    async fn index(&mut self, link: &str) -> Result<u32, Error> {
        if let Some((index, _)) = self.names.iter().find(|(_, name)| *name == link) {
            return Ok(*index);
        }
        let found = self.handle.link().get().match_name(link.to_owned());
        let found = found.execute().try_next().await?;
        let index = found.map(|l| l.header.index).ok_or(Error::NoLink)?;
        self.names.insert(index, link.to_owned());
        Ok(index)
    }

    /// Links of any kind.
    async fn links(&self) -> Result<Vec<LinkMessage>, Error> {
        Ok(self.handle.link().get().execute().try_collect().await?)
    }

    /// Removes the bridge and the pods' links.
    pub(crate) async fn remove_links(&mut self, bridge: &str) -> Vec<Error> {
        let all = match self.links().await {
            Ok(all) => all,
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        let ours = |n: &str| n == bridge || n.starts_with(POD_LINKS);
        for name in all.iter().filter_map(name).filter(|n| ours(n)) {
            errors.extend(self.remove_named(name).await.err());
        }
        errors
    }

    /// Removes a link, whatever it is like.
    pub(crate) async fn remove_named(&mut self, name: &str) -> Result<(), Error> {
        self.remove_link(name).await.map_err(|source| Error::Step {
            step: format!("remove link {name}"),
            source: Box::new(source),
        })
    }
}

/// Whether an address is one of a link itself: of no use to others.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local() || a.is_loopback(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_loopback(),
    }
}
