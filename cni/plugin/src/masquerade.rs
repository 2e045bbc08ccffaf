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

/// Ends that for addresses; for whatever is the attachment's, if none are given. They may have been given to others
/// since; what is not tagged as the attachment's stays.
pub(crate) fn remove(
    backend: Option<Backend>,
    network: &str,
    link: &str,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let mut socket = Netfilter::open()?;
    if socket.backend(backend) == Backend::Iptables {
        return iptables::remove(link);
    }
    let tag = names::tag(network, link);
    if addresses.is_empty() {
        return sweep(&mut socket, &|text| text == tag);
    }
    for address in addresses {
        let mut gate = gate(*address, &mut socket);
        let element = gate.get(&octets(*address))?;
        if let Some(element) = element.filter(|e| e.comment == tag) {
            gate.remove(&element)?;
        }
    }
    Ok(())
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
