//! Segments, links, routers: all of a layout but its nodes, in network namespaces of this machine.
//!
//! ```text
//!  n1 eth0 ── port0 ┐                                  ┌ port4 ── eth0 n4
//!  n2 eth0 ── port1 ┴ br0 (left)   switch   br1 (right) ┴ port5 ── eth0 n5
//!                    └ port2 ── eth0 router eth1 ── port3 ┘
//! ```
//!
//! All bridges are in one namespace, the switch, and so is one end of every link: a link is cut and degraded there, and
//! a machine that is made anew finds its links as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, ensure};

use super::addresses::within;
use super::layout::{Layout, Nic};
use super::quality::Quality;
use super::{CLIENT, scripts};
use crate::space::Space;

/// The network between machines.
pub struct Wiring {
    layout: Layout,
    switch: Space,
    /// Routers and gateways by name.
    routers: BTreeMap<String, Space>,
    /// By segment.
    bridges: BTreeMap<String, String>,
    /// The end at the switch, by link.
    ports: BTreeMap<String, String>,
    /// Links that are cut.
    cut: BTreeSet<String>,
    /// Links whose quality is another than the layout's.
    degraded: BTreeMap<String, Quality>,
    /// How many ports there were: a name is given once, as an old one may not have gone yet.
    made: usize,
}

impl Wiring {
    /// Segments, routers and the client, which is the caller's.
    ///
    /// # Errors
    /// When the kernel lacks what is needed, or a quality can't be had.
    pub fn new(layout: Layout) -> anyhow::Result<(Self, Space)> {
        let client = Space::new(CLIENT, "", &[])?;
        let mut wiring = Self {
            switch: Space::new("switch", "", &[])?,
            layout,
            routers: BTreeMap::new(),
            bridges: BTreeMap::new(),
            ports: BTreeMap::new(),
            cut: BTreeSet::new(),
            degraded: BTreeMap::new(),
            made: 0,
        };
        wiring.plug(CLIENT, &client)?;
        wiring.add_routers()?;
        Ok((wiring, client))
    }

    /// What is wired.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Nodes come and go: what else the new layout has is made, what it has no longer goes. Nodes are plugged by who
    /// made them.
    ///
    /// # Errors
    /// As [`Wiring::new`].
    pub fn change(&mut self, layout: Layout) -> anyhow::Result<()> {
        self.layout = layout;
        let links: BTreeSet<&String> = self
            .layout
            .machines
            .iter()
            .flat_map(|m| &m.nics)
            .map(|nic| &nic.link)
            .collect();
        self.ports.retain(|link, _| links.contains(link));
        self.cut.retain(|link| links.contains(link));
        self.degraded.retain(|link, _| links.contains(link));
        self.routers
            .retain(|name, _| self.layout.machine(name).is_ok());
        self.add_routers()
    }

    fn add_routers(&mut self) -> anyhow::Result<()> {
        for machine in self.layout.machines.clone() {
            let setup = scripts::setup(machine.kind);
            if !setup.is_empty() && !self.routers.contains_key(&machine.name) {
                let space = Space::new(&machine.name, setup, &[])?;
                self.plug(&machine.name, &space)?;
                self.routers.insert(machine.name, space);
            }
        }
        Ok(())
    }

    /// Connects a machine of the layout, which is new: all its interfaces, addresses and routes.
    ///
    /// # Errors
    /// When it is not in the layout, or has such interfaces.
    pub fn plug(&mut self, name: &str, space: &Space) -> anyhow::Result<()> {
        let machine = self.layout.machine(name)?.clone();
        for nic in &machine.nics {
            self.connect(nic, space)?;
        }
        space.sh(&scripts::machine(&machine))?;
        for nic in &machine.nics {
            self.apply(&nic.link, Some(space))?;
        }
        Ok(())
    }

    /// Gives a machine that is plugged another address than `old`: that which it has in the layout by now.
    ///
    /// # Errors
    /// When it did not have it.
    pub fn readdress(&self, name: &str, old: IpAddr, space: &Space) -> anyhow::Result<()> {
        let machine = self.layout.machine(name)?;
        let mut all = machine
            .nics
            .iter()
            .flat_map(|nic| nic.addresses.iter().map(|a| (a, &nic.device)));
        let (range, device) = all
            .find(|(a, _)| a.contains(&old))
            .with_context(|| format!("{name} is not where {old} is"))?;
        // All routes by this interface may go with its last address, as with any network's.
        let gone = format!("ip address delete {} dev {device}\n", within(range, old));
        space.sh(&(gone + &scripts::machine(machine)))?;
        Ok(())
    }

    /// Connects a machine that is not in the layout where a node's `eth0` is, with another address.
    ///
    /// # Errors
    /// When there is no such node, or the machine has an `eth0`.
    pub fn attach(
        &mut self,
        node: &str,
        name: &str,
        ip: IpAddr,
        space: &Space,
    ) -> anyhow::Result<()> {
        let mut machine = self.layout.machine(node)?.clone();
        machine.nics.truncate(1);
        for nic in &mut machine.nics {
            nic.link = format!("{name}/{}", nic.network);
            nic.addresses.retain(|own| own.contains(&ip));
            nic.addresses
                .iter_mut()
                .for_each(|own| *own = within(own, ip));
            self.connect(nic, space)?;
        }
        space.sh(&scripts::machine(&machine))?;
        Ok(())
    }

    fn connect(&mut self, nic: &Nic, space: &Space) -> anyhow::Result<()> {
        let (port, mut script) = (format!("port{}", self.made), String::new());
        self.made += 1;
        let next = format!("br{}", self.bridges.len());
        let bridge = self.bridges.entry(nic.segment.clone()).or_insert_with(|| {
            script = scripts::bridge(&next, &nic.segment);
            next
        });
        script += &scripts::port(&port, nic, bridge);
        self.switch.wire(&port, space, &nic.device)?;
        self.switch.sh(&script)?;
        self.ports.insert(nic.link.clone(), port);
        Ok(())
    }

    /// Makes a link such as it has to be. `space` is that of its machine where that is no router.
    fn apply(&self, link: &str, space: Option<&Space>) -> anyhow::Result<()> {
        let port = self.port(link)?;
        let (machine, nic) = self.nic(link)?;
        let quality = self.quality(link);
        let state = if self.cut.contains(link) {
            "down"
        } else {
            "up"
        };
        let losses = scripts::losses(port, quality);
        self.switch
            .sh(&format!("{losses}ip link set {port} {state}\n"))?;
        let ends = [
            (Some(&self.switch), port),
            (space.or(self.routers.get(machine)), nic.device.as_str()),
        ];
        for (space, device) in ends {
            let Some(space) = space else { continue };
            space.sh(&scripts::queue(device, quality)).with_context(|| {
                format!("link {link}: rate and delay need the kernel's sch_tbf and sch_netem; delay can't be had without the latter")
            })?;
        }
        Ok(())
    }

    /// Cuts a link, or puts it together again; `space` as for [`Wiring::degrade`].
    ///
    /// # Errors
    /// When there is no such link; those that are there are named.
    pub fn set_cut(&mut self, link: &str, cut: bool, space: Option<&Space>) -> anyhow::Result<()> {
        self.port(link)?;
        if cut {
            self.cut.insert(link.to_owned());
        } else {
            self.cut.remove(link);
        }
        self.apply(link, space)
    }

    /// Makes a link as good or bad as this. `space` is that of its machine where that is no router: what it sends is
    /// held up there.
    ///
    /// # Errors
    /// When there is no such link (those that are there are named), or the kernel can't do it: nothing has changed then.
    pub fn degrade(
        &mut self,
        link: &str,
        quality: Quality,
        space: Option<&Space>,
    ) -> anyhow::Result<()> {
        self.port(link)?;
        let before = self.degraded.insert(link.to_owned(), quality);
        self.apply(link, space).inspect_err(|_| {
            match before {
                Some(before) => self.degraded.insert(link.to_owned(), before),
                None => self.degraded.remove(link),
            };
            // What could not be done is what is told.
            let _ = self.apply(link, space);
        })
    }

    /// How good a link is.
    pub fn quality(&self, link: &str) -> Quality {
        let told = self
            .nic(link)
            .map(|(_, nic)| nic.quality)
            .unwrap_or_default();
        self.degraded.get(link).copied().unwrap_or(told)
    }

    /// How many packets a link has lost by its quality since it was set.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn lost(&self, link: &str) -> anyhow::Result<u64> {
        let listed = format!(
            "nft list tables netdev | grep -wq keelson-{0} && nft list table netdev keelson-{0} || true",
            self.port(link)?
        );
        Ok(scripts::dropped(&self.switch.sh(&listed)?))
    }

    /// Whether a link is cut.
    pub fn is_cut(&self, link: &str) -> bool {
        self.cut.contains(link)
    }

    /// A link's full name: a machine's name alone is that of its only link.
    ///
    /// # Errors
    /// When there is none, or more than one; those that are there are named.
    pub fn link(&self, name: &str) -> anyhow::Result<String> {
        let mut found = self
            .ports
            .keys()
            .filter(|link| *link == name || link.starts_with(&format!("{name}/")));
        let names = || {
            self.ports
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let link = found
            .next()
            .with_context(|| format!("no link {name:?}: there are {}", names()))?;
        ensure!(
            found.next().is_none(),
            "{name} has more than one link: there are {}",
            names()
        );
        Ok(link.clone())
    }

    fn port(&self, link: &str) -> anyhow::Result<&str> {
        let port = self.ports.get(link);
        port.map(String::as_str).with_context(|| {
            let names: Vec<&str> = self.ports.keys().map(String::as_str).collect();
            format!("no link {link:?}: there are {}", names.join(", "))
        })
    }

    /// A link's machine and its interface.
    fn nic(&self, link: &str) -> anyhow::Result<(&str, &Nic)> {
        let mut all = self
            .layout
            .machines
            .iter()
            .flat_map(|m| m.nics.iter().map(|nic| (m.name.as_str(), nic)));
        all.find(|(_, nic)| nic.link == link)
            .with_context(|| format!("no link {link:?}"))
    }

    /// A router or gateway.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn router(&self, name: &str) -> anyhow::Result<&Space> {
        self.routers
            .get(name)
            .with_context(|| format!("no router {name:?}"))
    }

    /// All routers and gateways.
    pub fn routers(&self) -> impl Iterator<Item = (&str, &Space)> {
        self.routers
            .iter()
            .map(|(name, space)| (name.as_str(), space))
    }

    /// Sends a range of addresses to another by all routers that are on its segment, as routers would be told.
    ///
    /// # Errors
    /// When no router has such a route.
    pub fn route(&self, range: &str, via: IpAddr) -> anyhow::Result<()> {
        let near = self.layout.machines.iter().filter(|m| {
            m.nics
                .iter()
                .flat_map(|nic| &nic.addresses)
                .any(|a| a.contains(&via))
        });
        let near = near.filter_map(|m| self.routers.get(&m.name));
        let done = near.map(|space| space.sh(&format!("ip route replace {range} via {via}")));
        let done: Vec<String> = done.collect::<anyhow::Result<_>>()?;
        ensure!(!done.is_empty(), "no router is on the segment of {via}");
        Ok(())
    }
}
