//! What is there: pieces of ours, and the machine.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use rtnetlink::RouteMessageBuilder;

use super::message::{mtu, name, parse};
use super::{Kernel, is_link_local, wireguard};
use crate::Error;
use crate::plan::{Entries, Entry, Host, HostLink, HostRoute, VXLAN, WIREGUARD};

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Ours.
    pub(crate) entries: Entries,
    /// The machine's.
    pub(crate) host: Host,
}

impl Found {
    fn add(&mut self, entry: Entry) {
        self.entries.insert(entry.key(), entry);
    }
}

impl Kernel {
    /// Reads all that the plan depends on and speaks of.
    pub(crate) async fn read(&mut self) -> Result<Found, Error> {
        let mut found = Found::default();
        self.read_links(&mut found).await?;
        self.read_addresses(&mut found).await?;
        if !self.names.is_empty() {
            self.read_neighbours(&mut found).await?;
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            self.read_routes(family, &mut found).await?;
        }
        Ok(found)
    }

    async fn read_links(&mut self, found: &mut Found) -> Result<(), Error> {
        self.names.clear();
        for link in self.links().await? {
            let Some(named) = name(&link) else { continue };
            if ![VXLAN, WIREGUARD].contains(&named) {
                let (index, mtu) = (link.header.index, mtu(&link).unwrap_or(u32::MAX));
                found.host.links.push(HostLink { index, mtu });
                continue;
            }
            self.names.insert(link.header.index, named.to_owned());
            // One that is down counts as none: it is made anew.
            if !parse::is_up(&link) {
                continue;
            }
            if parse::is_wireguard(&link) {
                let device = wireguard::get(&mut self.generic, named).await?;
                let entries = device.entries(named, mtu(&link).unwrap_or_default());
                entries.into_iter().for_each(|e| found.add(e));
            } else if let Some(entry) = parse::vxlan(&link) {
                found.add(entry);
            }
        }
        Ok(())
    }

    async fn read_addresses(&self, found: &mut Found) -> Result<(), Error> {
        let mut all = self.handle.address().get().execute();
        while let Some(message) = all.try_next().await? {
            let index = message.header.index;
            match parse::address(&message, &self.names) {
                Some(entry) => found.add(entry),
                None => {
                    let address = parse::local(&message).filter(|a| !is_link_local(*a));
                    let address = address.filter(|_| !self.names.contains_key(&index));
                    let addresses = &mut found.host.addresses;
                    addresses.extend(address.map(|a| (index, a)));
                }
            }
        }
        Ok(())
    }

    async fn read_neighbours(&self, found: &mut Found) -> Result<(), Error> {
        let families = [
            AddressFamily::Bridge,
            AddressFamily::Inet,
            AddressFamily::Inet6,
        ];
        for family in families {
            let query = self.handle.neighbours().get().set_address_family(family);
            let mut all = query.execute();
            while let Some(message) = all.try_next().await? {
                parse::neighbour(&message, &self.names)
                    .into_iter()
                    .for_each(|e| found.add(e));
            }
        }
        Ok(())
    }

    async fn read_routes(&self, family: AddressFamily, found: &mut Found) -> Result<(), Error> {
        let mut query = RouteMessageBuilder::<IpAddr>::new().build();
        query.header.address_family = family;
        let mut all = self.handle.route().get(query).execute();
        while let Some(message) = all.try_next().await? {
            let Some(route) = parse::route(&message) else {
                continue;
            };
            match (route.entry(&self.names), route.link) {
                (Some(entry), _) => found.add(entry),
                (None, Some(link)) if !self.names.contains_key(&link) => {
                    found.host.routes.push(HostRoute {
                        to: route.to,
                        link,
                        gateway: route.via.is_some(),
                        metric: route.metric,
                        mtu: route.mtu,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}
