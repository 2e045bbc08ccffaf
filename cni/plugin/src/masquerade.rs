//! Masquerade: what an attachment sends out of its network leaves with the node's address.

use std::net::IpAddr;

use ipnet::IpNet;
use keelson_cni_plan::backend::Backend;
use keelson_cni_plan::config::Attachment;
use keelson_cni_plan::masquerade as plan;
use keelson_cni_plan::names;
use keelson_cni_plan::nft::{Family, octets};
use keelson_cni_plan::protocol::Error;

use crate::attach::wrong;
use crate::errors::all_of;
use crate::gate::Open;
use crate::iptables;
use crate::netfilter::Netfilter;

fn gate(address: IpAddr, socket: &mut Netfilter) -> Open<'_> {
    Open::new(plan::gate(Family::of(address)), socket)
}

/// Masquerades for an attachment's addresses; `link` is its link on the host.
pub(crate) fn add(
    backend: Option<Backend>,
    network: &str,
    link: &str,
    addresses: &[IpNet],
) -> Result<(), Error> {
    let mut socket = Netfilter::open()?;
    if socket.backend(backend) == Backend::Iptables {
        return iptables::add(network, link, addresses);
    }
    for address in addresses {
        let element = plan::element(network, link, *address);
        gate(address.addr(), &mut socket).add(&element, || plan::rules(address.trunc()))?;
    }
    Ok(())
}

/// The end of that. Addresses may have been given to others since; what is not tagged as the attachment's stays.
///
/// A socket that is closed after something was removed waits until nothing uses it any more, and so does the removal of
/// a link: what is known is removed before the link, and the socket closed after it.
pub(crate) struct Removal {
    socket: Netfilter,
    backend: Backend,
    tag: String,
    known: Vec<IpAddr>,
}

impl Removal {
    /// Ends it for the addresses that are known.
    pub(crate) fn begin(
        backend: Option<Backend>,
        network: &str,
        link: &str,
        known: Vec<IpAddr>,
    ) -> Result<Self, Error> {
        let mut socket = Netfilter::open()?;
        let mut removal = Self {
            backend: socket.backend(backend),
            socket,
            tag: names::tag(network, link),
            known: Vec::new(),
        };
        match removal.backend {
            Backend::Iptables => iptables::remove(link)?,
            Backend::Nftables => removal.remove(&known)?,
        }
        removal.known = known;
        Ok(removal)
    }

    /// Ends it for others that turned out to be the attachment's; for whatever is, if none are.
    pub(crate) fn finish(mut self, freed: &[IpAddr]) -> Result<(), Error> {
        if self.backend == Backend::Iptables {
            return Ok(());
        }
        if self.known.is_empty() && freed.is_empty() {
            return sweep(&mut self.socket, &|tag| tag == self.tag);
        }
        let late = freed.iter().filter(|a| !self.known.contains(a));
        self.remove(&late.copied().collect::<Vec<_>>())
    }

    fn remove(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        for address in addresses {
            let mut gate = gate(*address, &mut self.socket);
            let element = gate.get(&octets(*address))?;
            if let Some(element) = element.filter(|e| e.comment == self.tag) {
                gate.remove(&element)?;
            }
        }
        Ok(())
    }
}

fn sweep(socket: &mut Netfilter, gone: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let each =
        Family::ALL.map(|family| Open::new(plan::gate(family), socket).sweep(|e| gone(&e.comment)));
    all_of(each.into())
}

/// Ends it for all attachments of a network but the valid ones.
pub(crate) fn gc(
    backend: Option<Backend>,
    network: &str,
    valid: &[Attachment],
) -> Result<(), Error> {
    let mut socket = Netfilter::open()?;
    match socket.backend(backend) {
        Backend::Iptables => iptables::gc(network, valid),
        Backend::Nftables => sweep(&mut socket, &|tag| names::is_stale_tag(tag, network, valid)),
    }
}

/// It is there for all addresses.
pub(crate) fn check(
    backend: Option<Backend>,
    network: &str,
    link: &str,
    addresses: &[IpNet],
) -> Result<(), Error> {
    let missing = |a: IpNet| Err(wrong(format!("there is no masquerade for {}", a.addr())));
    let mut socket = Netfilter::open()?;
    if socket.backend(backend) == Backend::Iptables {
        return iptables::missing(link, addresses)?.map_or(Ok(()), missing);
    }
    for address in addresses {
        let want = plan::element(network, link, *address);
        if gate(address.addr(), &mut socket).get(&want.key)? != Some(want) {
            return missing(*address);
        }
    }
    Ok(())
}
