//! Type `loopback`: the container's `lo` is up.

use std::net::{Ipv4Addr, Ipv6Addr};

use keelson_cni_plan::config::NetConf;
use keelson_cni_plan::protocol::{Args, Command, Error};
use keelson_cni_plan::result::{Interface, Ip, Success};
use serde_json::Value;

use crate::attach::{previous, wrong};
use crate::net::{Link, Net, not_own, open_netns};
use crate::steps;

const LOOPBACK: &str = "lo";

/// Runs a command; what is to be printed, if anything. Whatever the interface is called, it is about `lo`.
pub(crate) fn run(args: &Args, input: &[u8]) -> Result<Option<Value>, Error> {
    let conf = NetConf::parse(input)?;
    match args.command {
        Command::Add => add(args, &conf).map(Some),
        Command::Del => del(args).map(|()| None),
        Command::Check => check(args, &conf).map(|()| None),
        // Nothing of it outlives the namespace.
        Command::Gc => conf.valid_attachments().map(|_| None),
        Command::Status | Command::Version => Ok(None),
    }
}

/// With a result before it, that is the result: the container has got its link by then.
fn add(args: &Args, conf: &NetConf) -> Result<Value, Error> {
    let netns = open_netns(args.netns()?)?;
    not_own(&netns)?;
    let mut inside = Net::inside(&netns)?;
    inside.carry_out(vec![steps::up(LOOPBACK)])?;
    if let Some(previous) = &conf.prev_result {
        return Success::parse(previous, conf.version()).map(|s| s.render(conf.version()));
    }
    let link = inside.must(LOOPBACK)?;
    Ok(describe(args, &mut inside, &link)?.render(conf.version()))
}

/// The loopback addresses that it has: without IPv6 there is one.
fn describe(args: &Args, inside: &mut Net, link: &Link) -> Result<Success, Error> {
    let have = inside.addresses(link.index)?;
    let own = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let own = have.iter().filter(|a| own.contains(&a.net.addr()));
    let ips = own.map(|a| Ip {
        interface: Some(0),
        address: a.net,
        gateway: None,
    });
    Ok(Success {
        ips: ips.collect(),
        interfaces: vec![Interface {
            name: LOOPBACK.into(),
            mac: link.mac(),
            sandbox: args.netns.as_ref().map(|p| p.display().to_string()),
            ..Interface::default()
        }],
        ..Success::default()
    })
}

/// A namespace that is gone, or has no `lo` any more, needs nothing.
fn del(args: &Args) -> Result<(), Error> {
    let Some(netns) = args.netns.as_ref().and_then(|p| open_netns(p).ok()) else {
        return Ok(());
    };
    if not_own(&netns).is_err() {
        return Ok(());
    }
    Net::inside(&netns)?.carry_out(vec![steps::down(LOOPBACK)])
}

fn check(args: &Args, conf: &NetConf) -> Result<(), Error> {
    previous(conf)?;
    let netns = open_netns(args.netns()?)?;
    let link = Net::inside(&netns)?.link(LOOPBACK)?;
    if link.is_some_and(|l| l.up) {
        return Ok(());
    }
    Err(wrong("link lo of the container is not up".into()))
}
