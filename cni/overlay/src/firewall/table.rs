//! What we have in nftables: masquerade in a table of our own (what comes from this node's pods and goes neither to other
//! pods nor to a multicast group leaves with the node's address), and rules in others' chains that let pods' packets
//! through.

use std::ffi::{CStr, CString};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use nftnl::expr::{Bitwise, Cmp, CmpOp, Expression};
use nftnl::{
    Batch, Chain, ChainType, FinalizedBatch, Hook, MsgType, Policy, ProtoFamily, Rule, Table,
    nft_expr,
};
use nix::libc;

use super::chains::{Dropping, Place, Room};

/// Our table, and what rules of ours in others' chains are marked with.
pub(super) const TABLE: &CStr = c"keelson-pods";
/// Where the plugins keep pods' host ports (`keelson_cni_plan::portmap`).
const HOST_PORTS: &CStr = c"keelson-hostports";
/// Where they keep masquerade, and who may use which Ethernet address.
const PLUGINS: &CStr = c"keelson-cni";

/// Where destination and source addresses are translated last; other software's chains have the same place.
const PRIORITY_SRCNAT: i32 = 100;

/// Groups that a router must not send on with another source.
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];

/// Sets the table for this node's pods in one transaction: no packet sees it half done. Gives the number of the socket,
/// by which the kernel tells of the change.
pub(super) fn apply(own: &[IpNet], cluster: &[IpNet]) -> io::Result<u32> {
    let table = Table::new(TABLE, ProtoFamily::Inet);
    let mut batch = Batch::new();
    // Added first, so that there is one to delete.
    batch.add(&table, MsgType::Add);
    batch.add(&table, MsgType::Del);
    batch.add(&table, MsgType::Add);
    let mut chain = Chain::new(c"postrouting", &table);
    chain.set_hook(Hook::PostRouting, PRIORITY_SRCNAT);
    chain.set_type(ChainType::Nat);
    chain.set_policy(Policy::Accept);
    batch.add(&chain, MsgType::Add);
    let multicast: Vec<IpNet> = MULTICAST.iter().filter_map(|m| m.parse().ok()).collect();
    for own in own {
        let v4 = own.addr().is_ipv4();
        for inside in cluster
            .iter()
            .chain(&multicast)
            .filter(|c| c.addr().is_ipv4() == v4)
        {
            let mut rule = Rule::new(&chain);
            matching(&mut rule, own, Some(inside));
            rule.add_expr(&nft_expr!(verdict accept));
            batch.add(&rule, MsgType::Add);
        }
        let mut rule = Rule::new(&chain);
        matching(&mut rule, own, None);
        rule.add_expr(&nft_expr!(counter));
        rule.add_expr(&nft_expr!(masquerade));
        batch.add(&rule, MsgType::Add);
    }
    send(&batch.finalize())
}

/// Removes our table and those that the plugins make, in whichever families: their pods are gone. Gives all errors.
pub(super) fn remove() -> Vec<io::Error> {
    use ProtoFamily::{Bridge, Inet, Ipv4, Ipv6};
    let tables = [
        (TABLE, Inet),
        (HOST_PORTS, Ipv4),
        (HOST_PORTS, Ipv6),
        (PLUGINS, Ipv4),
        (PLUGINS, Ipv6),
        (PLUGINS, Bridge),
    ];
    let gone = tables.map(|(name, family)| {
        let table = Table::new(name, family);
        let mut batch = Batch::new();
        // One that is not there is made first: it can be removed either way.
        batch.add(&table, MsgType::Add);
        batch.add(&table, MsgType::Del);
        send(&batch.finalize())
    });
    gone.into_iter().filter_map(Result::err).collect()
}

/// Puts rules into a chain that is somebody else's, before what drops the rest: what comes from these networks, and what goes there, is
/// accepted. Each is a network, whether it is where packets come from, and the rule's comment.
pub(super) fn let_through(found: &Dropping, cidrs: &[(IpNet, bool, CString)]) -> io::Result<u32> {
    let Dropping { place, room, .. } = found;
    let table = Table::new(&place.table, place.family);
    let chain = Chain::new(&place.chain, &table);
    let mut batch = Batch::new();
    for (cidr, from, mark) in cidrs {
        let mut rule = Rule::new(&chain);
        if let Room::After(handle) = room {
            rule.set_position(*handle);
        }
        // In a table of one family there is nothing to ask, and nft can't list what asks.
        if chain.get_table().get_family() == ProtoFamily::Inet {
            family(&mut rule, cidr);
        }
        match (cidr, from) {
            (IpNet::V4(_), true) => within(&mut rule, &nft_expr!(payload ipv4 saddr), cidr),
            (IpNet::V4(_), false) => within(&mut rule, &nft_expr!(payload ipv4 daddr), cidr),
            (IpNet::V6(_), true) => within(&mut rule, &nft_expr!(payload ipv6 saddr), cidr),
            (IpNet::V6(_), false) => within(&mut rule, &nft_expr!(payload ipv6 daddr), cidr),
        }
        rule.add_expr(&nft_expr!(counter));
        rule.add_expr(&nft_expr!(verdict accept));
        rule.set_comment(mark).map_err(io::Error::other)?;
        batch.add(&rule, MsgType::Add);
    }
    send(&batch.finalize())
}

/// Removes rules from a chain by their handles.
pub(super) fn forget(chain: &Place, handles: &[u64]) -> io::Result<u32> {
    let table = Table::new(&chain.table, chain.family);
    let chain = Chain::new(&chain.chain, &table);
    let mut batch = Batch::new();
    for handle in handles {
        let mut rule = Rule::new(&chain);
        rule.set_handle(*handle);
        batch.add(&rule, MsgType::Del);
    }
    send(&batch.finalize())
}

fn family(rule: &mut Rule<'_>, cidr: &IpNet) {
    let family = if cidr.addr().is_ipv4() {
        libc::NFPROTO_IPV4
    } else {
        libc::NFPROTO_IPV6
    };
    rule.add_expr(&nft_expr!(meta nfproto));
    rule.add_expr(&nft_expr!(cmp == family as u8));
}

fn matching(rule: &mut Rule<'_>, source: &IpNet, destination: Option<&IpNet>) {
    family(rule, source);
    match source {
        IpNet::V4(_) => within(rule, &nft_expr!(payload ipv4 saddr), source),
        IpNet::V6(_) => within(rule, &nft_expr!(payload ipv6 saddr), source),
    }
    match destination {
        Some(IpNet::V4(_)) => destination
            .into_iter()
            .for_each(|d| within(rule, &nft_expr!(payload ipv4 daddr), d)),
        Some(IpNet::V6(_)) => destination
            .into_iter()
            .for_each(|d| within(rule, &nft_expr!(payload ipv6 daddr), d)),
        None => {}
    }
}

fn within(rule: &mut Rule<'_>, load: &impl Expression, cidr: &IpNet) {
    rule.add_expr(load);
    let (mask, network) = (bytes(cidr.netmask()), bytes(cidr.network()));
    let xor = vec![0u8; mask.len()];
    rule.add_expr(&Bitwise::new(mask.as_slice(), xor.as_slice()));
    rule.add_expr(&Cmp::new(CmpOp::Eq, network.as_slice()));
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn send(batch: &FinalizedBatch) -> io::Result<u32> {
    let socket = mnl::Socket::new(mnl::Bus::Netfilter)?;
    let portid = socket.portid();
    socket.send_all(batch)?;
    let mut buffer = vec![0; nftnl::nft_nlmsg_maxsize() as usize];
    let mut expected = batch.sequence_numbers();
    while !expected.is_empty() {
        for message in socket.recv(&mut buffer[..])? {
            let Some(sequence) = expected.next() else {
                break;
            };
            mnl::cb_run(message?, sequence, portid)?;
        }
    }
    Ok(portid)
}
