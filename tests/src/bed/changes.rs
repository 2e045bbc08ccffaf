//! What befalls a bed: nodes come, go and move, links are cut and degraded.

use std::net::{IpAddr, Ipv4Addr};

use super::Bed;
use crate::space::Space;
use crate::testbed::description::{Description, Node};
use crate::testbed::{Layout, Quality, Wiring};

impl Bed {
    /// A further node, which joins; Ready.
    ///
    /// # Errors
    /// When the description contradicts itself with it.
    pub fn add(&mut self, node: Node) -> anyhow::Result<()> {
        let name = node.name.clone();
        let mut description = self.description.clone();
        description.nodes.push(node);
        self.change(description)?;
        let machine = self.layout().machine(&name)?.clone();
        self.add_machine(&machine)?;
        let node = &self.nodes[self.nodes.len() - 1];
        node.install();
        self.join_anywhere(node, &self.flags(node));
        self.wait_node_ready(node);
        Ok(())
    }

    /// Takes a node away: its machine, without a warning, and then its object.
    ///
    /// # Errors
    /// When there is none of this name, or it is the server.
    pub fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        let place = self.place(name)?;
        anyhow::ensure!(
            place > 0,
            "{name} is the server, without which there is no cluster"
        );
        let mut description = self.description.clone();
        description.nodes.retain(|node| node.name != name);
        drop(self.nodes.remove(place));
        self.change(description)?;
        self.kubectl(&format!("delete node {name} --ignore-not-found"));
        Ok(())
    }

    /// Gives a node another address of the same network, at once: the old one is gone.
    ///
    /// # Errors
    /// When there is none of this name, it is the server, or the address is not free there.
    pub fn move_node(&mut self, name: &str, ip: Ipv4Addr) -> anyhow::Result<()> {
        let place = self.place(name)?;
        anyhow::ensure!(
            place > 0,
            "{name} is the server, which agents know by its address"
        );
        let old = self.nodes[place].ip;
        let mut description = self.description.clone();
        let nodes = description
            .nodes
            .iter_mut()
            .filter(|node| node.name == name);
        for address in nodes.flat_map(|node| &mut node.addresses) {
            if *address == IpAddr::from(old) {
                *address = ip.into();
            }
        }
        self.change(description)?;
        let node = &mut self.nodes[place];
        self.wiring.readdress(name, old.into(), &node.space)?;
        node.ip = ip;
        Ok(())
    }

    fn change(&mut self, description: Description) -> anyhow::Result<()> {
        let description = description.complete()?;
        self.wiring.change(Layout::of(&description)?)?;
        self.description = description;
        Ok(())
    }

    /// Cuts a link: `MACHINE/NETWORK`, or the machine where it has one.
    ///
    /// # Errors
    /// When there is no such link; those that are there are named.
    pub fn cut(&mut self, link: &str) -> anyhow::Result<()> {
        self.on_link(link, |wiring, link, space| {
            wiring.set_cut(link, true, space)
        })
    }

    /// Puts a link together again.
    ///
    /// # Errors
    /// When there is no such link; those that are there are named.
    pub fn mend(&mut self, link: &str) -> anyhow::Result<()> {
        self.on_link(link, |wiring, link, space| {
            wiring.set_cut(link, false, space)
        })
    }

    /// Makes a link as good or bad as this.
    ///
    /// # Errors
    /// When there is no such link (those that are there are named), or the kernel can't do it.
    pub fn degrade(&mut self, link: &str, quality: Quality) -> anyhow::Result<()> {
        self.on_link(link, |wiring, link, space| {
            wiring.degrade(link, quality, space)
        })
    }

    fn on_link(
        &mut self,
        link: &str,
        change: impl FnOnce(&mut Wiring, &str, Option<&Space>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let link = self.wiring.link(link)?;
        let machine = link.split('/').next().unwrap_or_default();
        let node = self.nodes.iter().find(|n| n.name == machine);
        change(&mut self.wiring, &link, node.map(|n| &n.space))
    }
}
