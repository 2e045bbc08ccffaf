//! Masquerade: what an attachment sends out of its network leaves with the node's address.

use std::net::IpAddr;

use ipnet::IpNet;
use keelson_cni_plan::config::Attachment;
use keelson_cni_plan::masquerade::Backend;
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Error, code};

use crate::gate::{Gate, Open, Place};
use crate::iptables;
use crate::nft::{Base, Element, Expression, Map, Table};

const INET: u8 = 1;
const POSTROUTING: u32 = 4;
/// Where source addresses are translated (`NF_IP_PRI_NAT_SRC`).
const SRCNAT: i32 = 100;
/// Keys of `meta`, bases of `payload` (`linux/netfilter/nf_tables.h`).
const NFPROTO: u32 = 15;
const NETWORK: u32 = 1;
const ACCEPT: i32 = 1;

static GATE: Gate = Gate {
    table: Table {
        family: INET,
        name: "keelson-cni",
    },
    base: Base {
        name: "postrouting",
        kind: "nat",
        hook: POSTROUTING,
        priority: SRCNAT,
    },
    maps: &[
        (
            Map {
                name: "masquerade4",
                key_type: 7,
                key_len: 4,
            },
            || source(true),
        ),
        (
            Map {
                name: "masquerade6",
                key_type: 8,
                key_len: 16,
            },
            || source(false),
        ),
    ],
};

/// Groups that a router must not send on with another source.
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];

/// Where a packet's source and destination stand in its header: offset and length in bytes.
fn place(v4: bool, source: bool) -> (u32, u32) {
    match (v4, source) {
        (true, true) => (12, 4),
        (true, false) => (16, 4),
        (false, true) => (8, 16),
        (false, false) => (24, 16),
    }
}

fn load(v4: bool, source: bool) -> Expression {
    let (offset, length) = place(v4, source);
    Expression::payload(NETWORK, offset, length)
}

/// Loads the source address of a packet of a family.
fn source(v4: bool) -> Vec<Expression> {
    let family: u8 = if v4 { 2 } else { 10 };
    vec![
        Expression::meta(NFPROTO),
        Expression::compare(true, &[family]),
        load(v4, true),
    ]
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The rules for a network: what stays in it and what goes to a group is left alone.
fn rules(network: IpNet) -> Vec<Vec<Expression>> {
    let v4 = network.addr().is_ipv4();
    let groups = MULTICAST.iter().filter_map(|m| m.parse::<IpNet>().ok());
    let alone = groups.filter(|g| g.addr().is_ipv4() == v4).chain([network]);
    let mut rules: Vec<Vec<Expression>> = alone
        .map(|net| {
            vec![
                load(v4, false),
                Expression::mask(&bytes(net.netmask())),
                Expression::compare(true, &bytes(net.network())),
                Expression::verdict(ACCEPT),
            ]
        })
        .collect();
    rules.push(vec![Expression::masquerade()]);
    rules
}

fn at(address: IpAddr) -> Place {
    (usize::from(address.is_ipv6()), bytes(address))
}

fn element(network: &str, link: &str, address: IpNet) -> Element {
    Element {
        key: bytes(address.addr()),
        chain: names::network_chain(&address.trunc()),
        tag: names::tag(network, link),
    }
}

/// Masquerades for an attachment's addresses; `link` is its link on the host.
pub(crate) fn add(
    backend: Backend,
    network: &str,
    link: &str,
    addresses: &[IpNet],
) -> Result<(), Error> {
    if backend == Backend::Iptables {
        return iptables::add(network, link, addresses);
    }
    let mut gate = GATE.open()?;
    for address in addresses {
        let (map, _) = at(address.addr());
        let element = element(network, link, *address);
        gate.add(map, &element, || rules(address.trunc()))?;
    }
    Ok(())
}

/// Ends that. Its addresses may have been given to others since; what is not tagged as the attachment's stays.
pub(crate) fn remove(
    backend: Backend,
    network: &str,
    link: &str,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    if backend == Backend::Iptables {
        return iptables::remove(link);
    }
    let (mut gate, tag) = (GATE.open()?, names::tag(network, link));
    if addresses.is_empty() {
        return gate.sweep(|e| e.tag == tag);
    }
    let mut found = Vec::new();
    for address in addresses {
        let place = at(*address);
        let element = gate.get(&place)?.filter(|e| e.tag == tag);
        found.extend(element.map(|e| (place.0, e)));
    }
    gate.remove(found)
}

/// Ends it for all attachments of a network but the valid ones.
pub(crate) fn gc(backend: Backend, network: &str, valid: &[Attachment]) -> Result<(), Error> {
    if backend == Backend::Iptables {
        iptables::gc(network, valid)?;
    }
    let mut gate = GATE.open()?;
    gate.sweep(|e| names::is_stale_tag(&e.tag, network, valid))
}

/// It is there for all addresses.
pub(crate) fn check(
    backend: Backend,
    network: &str,
    link: &str,
    addresses: &[IpNet],
) -> Result<(), Error> {
    let wrong = |a: &IpNet| {
        let why = format!("there is no masquerade for {}", a.addr());
        Err(Error::new(code::CHECK_FAILED, "check failed", why))
    };
    if backend == Backend::Iptables {
        let missing = iptables::missing(link, addresses)?;
        return missing.map_or(Ok(()), |a| wrong(&a));
    }
    let mut gate: Open = GATE.open()?;
    for address in addresses {
        let want = element(network, link, *address);
        if gate.get(&at(address.addr()))? != Some(want) {
            return wrong(address);
        }
    }
    Ok(())
}
