//! `macspoofchk`: a container's frames with another source than its own hardware address are dropped.

use keelson_cni_plan::config::Attachment;
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Error, code};

use crate::gate::Gate;
use crate::nft::{Base, Element, Expression, Map, Table};

const BRIDGE: u8 = 7;
const PREROUTING: u32 = 0;
/// Before all else (`NF_BR_PRI_NAT_DST_BRIDGED`).
const FIRST: i32 = -300;
/// Keys of `meta`, bases of `payload` (`linux/netfilter/nf_tables.h`).
const IIFNAME: u32 = 6;
const ETHERNET: u32 = 0;
const DROP: i32 = 0;
/// The source in an Ethernet header: offset and length in bytes.
const SOURCE: (u32, u32) = (6, 6);
/// Bytes of a link's name, filled with zeros.
const NAME: usize = 16;

static GATE: Gate = Gate {
    table: Table {
        family: BRIDGE,
        name: "keelson-cni",
    },
    base: Base {
        name: "prerouting",
        kind: "filter",
        hook: PREROUTING,
        priority: FIRST,
    },
    maps: &[(
        Map {
            name: "ports",
            key_type: 41,
            key_len: NAME as u32,
        },
        || vec![Expression::meta(IIFNAME)],
    )],
};

fn key(link: &str) -> Vec<u8> {
    let mut key = link.as_bytes().to_vec();
    key.resize(NAME, 0);
    key
}

/// Lets through what comes from an attachment's link with this hardware address, and nothing else.
pub(crate) fn add(network: &str, link: &str, mac: &[u8]) -> Result<(), Error> {
    let element = Element {
        key: key(link),
        chain: link.to_owned(),
        tag: names::tag(network, link),
    };
    let rules = vec![vec![
        Expression::payload(ETHERNET, SOURCE.0, SOURCE.1),
        Expression::compare(false, mac),
        Expression::verdict(DROP),
    ]];
    // A call that was killed may have left a chain for another address.
    remove(link)?;
    GATE.open()?.set(0, &element, rules)
}

/// Ends that.
pub(crate) fn remove(link: &str) -> Result<(), Error> {
    let mut gate = GATE.open()?;
    let found = gate.get(&(0, key(link)))?;
    gate.remove(found.into_iter().map(|e| (0, e)).collect())
}

/// Ends it for all attachments of a network but the valid ones.
pub(crate) fn gc(network: &str, valid: &[Attachment]) -> Result<(), Error> {
    GATE.open()?
        .sweep(|e| names::is_stale_tag(&e.tag, network, valid))
}

/// It is there.
pub(crate) fn check(link: &str) -> Result<(), Error> {
    match GATE.open()?.get(&(0, key(link)))? {
        Some(_) => Ok(()),
        None => {
            let why = format!("nothing looks at the hardware addresses behind {link}");
            Err(Error::new(code::CHECK_FAILED, "check failed", why))
        }
    }
}
