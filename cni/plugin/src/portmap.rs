//! Type `portmap`: ports of the node lead to a container. Also done by the bridge itself for a configuration with the
//! capability, without another program.

use std::fs;
use std::io;
use std::net::IpAddr;

use keelson_cni_plan::backend::Backend;
use keelson_cni_plan::nft::{Batch, Element, Family, ask};
use keelson_cni_plan::portmap::nft::{MAPS, Place, TABLE, table};
use keelson_cni_plan::portmap::{self as plan, Conf, Mark, Port, Protocol, Wanted};
use keelson_cni_plan::protocol::{Args, Command, Error, code};
use keelson_cni_plan::result::Success;
use keelson_cni_plan::{conntrack, names};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use crate::attach::wrong;
use crate::errors::all_of;
use crate::iptables;
use crate::net::{Net, sysctl};
use crate::netfilter::Netfilter;

/// Locked while rules are read and changed: they are this network namespace's, and so is the lock.
const LOCK: &str = "/proc/self/ns/net";

/// Runs a command; what is to be printed, if anything.
pub(crate) fn run(args: &Args, input: &[u8]) -> Result<Option<Value>, Error> {
    let conf = Conf::parse(input)?;
    command(args, &conf, args.command)?;
    if args.command != Command::Add {
        return Ok(None);
    }
    // The result before, which is that of this plugin too.
    let previous = conf.net.prev_result.as_ref().unwrap_or(&Value::Null);
    let version = conf.net.version();
    if previous["cniVersion"] == version {
        return Ok(Some(previous.clone()));
    }
    Success::parse(previous, version).map(|result| Some(result.render(version)))
}

/// Carries a command out.
pub(crate) fn command(args: &Args, conf: &Conf, command: Command) -> Result<(), Error> {
    let network = &conf.net.name;
    let owner = names::tag(network, &names::host_link(&args.container, &args.ifname));
    match command {
        Command::Add => {
            let wanted = conf.wanted(&args.ifname)?;
            if wanted.is_empty() {
                return Ok(());
            }
            let added = add(conf, &wanted, &owner);
            if added.is_err() {
                // The first error is the one to tell.
                let _ = remove(conf, &|tag| tag == owner);
            }
            added
        }
        Command::Check => check(conf, &conf.wanted(&args.ifname)?, &owner),
        Command::Del => del(conf, &args.ifname, &owner),
        Command::Gc => {
            let valid = conf.net.valid_attachments()?;
            remove(conf, &|tag| names::is_stale_tag(tag, network, valid))
        }
        Command::Status => status(conf),
        Command::Version => Ok(()),
    }
}

fn failed(action: &str) -> impl Fn(io::Error) -> Error {
    let action = format!("{action} table {TABLE}");
    move |e| Error::new(code::KERNEL, action.clone(), e)
}

/// Held until it is dropped.
fn lock() -> Result<fs::File, Error> {
    let fail = |e: io::Error| Error::new(code::IO_FAILURE, format!("lock {LOCK}"), e);
    let file = fs::File::open(LOCK).map_err(fail)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
    Ok(file)
}

/// The backend to use and a socket for it.
fn backend(conf: &Conf) -> Result<(Backend, Netfilter), Error> {
    let mut socket = Netfilter::open()?;
    Ok((socket.backend(conf.backend()), socket))
}

fn add(conf: &Conf, wanted: &[Wanted], owner: &str) -> Result<(), Error> {
    let (backend, mut socket) = backend(conf)?;
    for wanted in wanted {
        if wanted.family == Family::V4 && !wanted.sources.is_empty() {
            let to = wanted.forwards.iter().map(|f| f.to.0).next();
            let_loopback_through(to)?;
        }
        let _lock = lock()?;
        match backend {
            Backend::Nftables => put(&mut socket, wanted, owner)?,
            Backend::Iptables => restore(wanted, owner)?,
        }
    }
    let to: Vec<(IpAddr, u16)> = wanted
        .iter()
        .flat_map(|w| w.forwards.iter().map(|f| f.to))
        .collect();
    for wanted in wanted {
        forget(&mut socket, wanted.family, &conf.ports, |answerer| {
            !to.contains(&answerer)
        });
    }
    Ok(())
}

/// What comes from 127.0.0.1 is not let out by any link but the one that leads to the container.
fn let_loopback_through(to: Option<IpAddr>) -> Result<(), Error> {
    let Some(to) = to else { return Ok(()) };
    match Net::here()?.towards(to)? {
        Some(link) => sysctl(&format!("ipv4/conf/{link}/route_localnet"), "1"),
        None => Ok(()),
    }
}

/// Adds an attachment's elements, and first what they need where it is not there.
fn put(socket: &mut Netfilter, wanted: &Wanted, owner: &str) -> Result<(), Error> {
    /// With nothing there: once in vain, once after it was made; once more where another has the port.
    const ATTEMPTS: usize = 4;
    let elements = plan::nft::elements(wanted, owner);
    let mut gone = Vec::new();
    let mut result = Ok(());
    for _ in 0..ATTEMPTS {
        let mut batch = Batch::new(table(wanted.family));
        each_map(&gone, |map, some| batch.delete(map, some));
        each_map(&elements, |map, some| batch.add(map, some));
        result = socket.commit(batch);
        match result.as_ref().map_err(io::Error::kind) {
            Err(io::ErrorKind::NotFound) => make(socket, wanted)?,
            // Who came last has the port.
            Err(io::ErrorKind::AlreadyExists) => {
                let have = there(socket, wanted.family)?;
                gone = plan::nft::same_front(wanted.family, have, &elements);
            }
            _ => break,
        }
    }
    result.map_err(failed("add host ports to"))
}

fn make(socket: &mut Netfilter, wanted: &Wanted) -> Result<(), Error> {
    let mut batches = vec![plan::nft::base(wanted.family)];
    if let Mark::Bit(bit) = wanted.mark {
        batches.push(plan::nft::masquerading(wanted.family, bit));
    }
    for batch in batches {
        match socket.commit(batch) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(failed("make"))?,
        }
    }
    Ok(())
}

fn each_map(places: &[Place], mut then: impl FnMut(&str, &[Element])) {
    for map in MAPS {
        let own = places.iter().filter(|(name, _)| *name == map.name);
        let own: Vec<Element> = own.map(|(_, element)| element.clone()).collect();
        if !own.is_empty() {
            then(map.name, &own);
        }
    }
}

/// All elements of a family's table; none without a table.
fn there(socket: &mut Netfilter, family: Family) -> Result<Vec<Place>, Error> {
    let mut all = Vec::new();
    for map in MAPS {
        let question = ask::ask_elements(table(family), map.name);
        let found = socket.list(&question, ask::elements);
        let found = found.map_err(failed("read"))?.into_iter().flatten();
        all.extend(found.map(|element| (map.name, element)));
    }
    Ok(all)
}

fn del(conf: &Conf, ifname: &str, owner: &str) -> Result<(), Error> {
    let removed = remove(conf, &|tag| tag == owner);
    for wanted in conf.wanted(ifname).unwrap_or_default() {
        let container = wanted.forwards.iter().map(|f| f.to.0).next();
        forget(
            &mut Netfilter::open()?,
            wanted.family,
            &conf.ports,
            |(ip, _)| container == Some(ip),
        );
    }
    removed
}

/// Removes the rules of owners that are gone, whichever backend has them.
fn remove(conf: &Conf, gone: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let (backend, mut socket) = backend(conf)?;
    let _lock = lock()?;
    let each = Family::ALL.map(|family| match backend {
        Backend::Nftables => take(&mut socket, family, gone),
        Backend::Iptables => clear(family, gone),
    });
    all_of(each.into())
}

/// Adds an attachment's rules to iptables.
fn restore(wanted: &Wanted, owner: &str) -> Result<(), Error> {
    let missing = || iptables::missing_program(wanted.family);
    let saved = iptables::list(wanted.family)?.ok_or_else(missing)?;
    let text = plan::iptables::add(&saved, wanted, owner);
    iptables::restore(wanted.family, &text)
}

/// Removes from iptables what is gone. Where there is no iptables there is nothing.
fn clear(family: Family, gone: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let saved = iptables::list(family)?;
    match saved.and_then(|saved| plan::iptables::remove(&saved, gone)) {
        Some(text) => iptables::restore(family, &text),
        None => Ok(()),
    }
}

fn take(socket: &mut Netfilter, family: Family, gone: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let mut stale = there(socket, family)?;
    stale.retain(|(_, element)| gone(&element.comment));
    if stale.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new(table(family));
    each_map(&stale, |map, some| batch.delete(map, some));
    socket
        .commit(batch)
        .map_err(failed("remove host ports from"))
}

fn check(conf: &Conf, wanted: &[Wanted], owner: &str) -> Result<(), Error> {
    let (backend, mut socket) = backend(conf)?;
    for wanted in wanted {
        let missing = match backend {
            Backend::Iptables => {
                let saved = iptables::list(wanted.family)?.unwrap_or_default();
                plan::iptables::missing(&saved, wanted, owner)
            }
            Backend::Nftables => {
                let table = table(wanted.family);
                let chain = |answer: &[u8]| ask::rule_chain(answer, table).map(str::to_owned);
                let rules = socket.list(&ask::ask_rules(table), chain);
                let rules: Vec<String> = rules
                    .map_err(failed("read"))?
                    .into_iter()
                    .flatten()
                    .collect();
                plan::nft::missing(wanted, owner, &rules, &there(&mut socket, wanted.family)?)
            }
        };
        if let Some(why) = missing {
            return Err(wrong(why));
        }
    }
    Ok(())
}

/// Host ports can be served where one of the backends is there.
fn status(conf: &Conf) -> Result<(), Error> {
    let (backend, mut socket) = backend(conf)?;
    let there = match backend {
        Backend::Nftables => socket.has_nftables(),
        Backend::Iptables => iptables::list(Family::V4)?.is_some(),
    };
    let why = match backend {
        Backend::Nftables => "this kernel has no nftables",
        Backend::Iptables => "host ports need nftables, or iptables-save and iptables-restore",
    };
    there
        .then_some(())
        .ok_or_else(|| Error::new(code::NOT_AVAILABLE, "not available", why))
}

/// Forgets UDP flows to host ports that keep going where they went. That it fails harms nobody but them, and them not
/// for long. The kernel looks through all flows for an answer, so it is asked once.
fn forget(
    socket: &mut Netfilter,
    family: Family,
    ports: &[Port],
    stale: impl Fn((IpAddr, u16)) -> bool,
) {
    let udp = ports.iter().filter(|p| p.protocol == Protocol::Udp);
    let udp: Vec<u16> = udp.map(|p| p.port).collect();
    if udp.is_empty() {
        return;
    }
    let gone = socket.list(&conntrack::ask(family, &udp), |answer| {
        conntrack::delete(family, answer, &udp, &stale)
    });
    for message in gone.into_iter().flatten().flatten() {
        socket.tell(&message);
    }
}
