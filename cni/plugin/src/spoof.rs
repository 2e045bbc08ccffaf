//! `macspoofchk`: a container's frames with another source than its own hardware address are dropped.

use keelson_cni_plan::config::Attachment;
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::Error;
use keelson_cni_plan::spoof as plan;

use crate::attach::wrong;
use crate::gate::Open;
use crate::netfilter::Netfilter;

/// Lets through what comes from an attachment's link with this hardware address, and nothing else.
pub(crate) fn add(network: &str, link: &str, mac: &[u8]) -> Result<(), Error> {
    // A call that was killed may have left a chain for another address.
    remove(link)?;
    let mut socket = Netfilter::open()?;
    let mut gate = Open::new(plan::GATE, &mut socket);
    gate.set(&plan::element(network, link), &plan::rules(mac))
}

/// Ends that.
pub(crate) fn remove(link: &str) -> Result<(), Error> {
    let mut socket = Netfilter::open()?;
    let mut gate = Open::new(plan::GATE, &mut socket);
    match gate.get(&plan::key(link))? {
        Some(element) => gate.remove(&element),
        None => Ok(()),
    }
}

/// Ends it for all attachments of a network but the valid ones.
pub(crate) fn gc(network: &str, valid: &[Attachment]) -> Result<(), Error> {
    let mut socket = Netfilter::open()?;
    Open::new(plan::GATE, &mut socket).sweep(|e| names::is_stale_tag(&e.comment, network, valid))
}

/// It is there.
pub(crate) fn check(link: &str) -> Result<(), Error> {
    let mut socket = Netfilter::open()?;
    match Open::new(plan::GATE, &mut socket).get(&plan::key(link))? {
        Some(_) => Ok(()),
        None => Err(wrong(format!(
            "nothing looks at the hardware addresses behind {link}"
        ))),
    }
}
