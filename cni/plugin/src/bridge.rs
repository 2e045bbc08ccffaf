//! Type `bridge`: ADD, DEL, CHECK, GC and STATUS. ADD undoes what it did when a step fails; DEL goes on after errors.

use std::fs::File;
use std::net::IpAddr;

use keelson_cni_plan::alloc::Choice;
use keelson_cni_plan::config::{Attachment, NetConf};
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Args, Command, Error, code};
use keelson_cni_plan::result::{self, Interface, Success};
use serde_json::Value;

use crate::ledger::Ledger;
use crate::net::{Link, Net, open_netns};
use crate::ports;

/// Runs a command; what is to be printed, if anything.
pub(crate) fn run(args: &Args, input: &[u8]) -> Result<Option<Value>, Error> {
    let conf = NetConf::parse(input)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(code::IO_FAILURE, "start", e))?;
    runtime.block_on(command(args, &conf))
}

async fn command(args: &Args, conf: &NetConf) -> Result<Option<Value>, Error> {
    match args.command {
        Command::Add => {
            let added = add(args, conf).await?.render(conf.version());
            if let Err(error) = ports::command(args, conf, Some(&added)).await {
                // The first error is the one to tell.
                let _ = del(args, conf).await;
                return Err(error);
            }
            Ok(Some(added))
        }
        Command::Del => {
            let ports = ports::command(args, conf, conf.prev_result.as_ref()).await;
            del(args, conf).await.and(ports).map(|()| None)
        }
        Command::Check => {
            check(args, conf).await?;
            ports::command(args, conf, conf.prev_result.as_ref())
                .await
                .map(|()| None)
        }
        Command::Gc => {
            let ports = ports::command(args, conf, None).await;
            gc(conf).await.and(ports).map(|()| None)
        }
        Command::Status => status(conf).await.map(|()| None),
        Command::Version => Ok(None),
    }
}

fn owner(args: &Args) -> Attachment {
    Attachment {
        container: args.container.clone(),
        ifname: args.ifname.clone(),
    }
}

async fn add(args: &Args, conf: &NetConf) -> Result<Success, Error> {
    let netns = open_netns(args.netns()?)?;
    let inside = Net::inside(&netns)?;
    if inside.link(&args.ifname).await?.is_some() {
        let why = format!("{} already has a link {}", args.container, args.ifname);
        return Err(Error::new(
            code::INVALID_ENVIRONMENT,
            "interface exists",
            why,
        ));
    }
    let host = Net::here()?;
    let link = names::host_link(&args.container, &args.ifname);
    // What a call that was killed left of this very attachment.
    host.delete(&link).await?;
    let addresses = Ledger::open(conf)?.allocate(conf, &owner(args))?;
    let made = connect(args, conf, &host, &inside, &netns, &link, &addresses).await;
    if made.is_err() {
        // The first error is the one to tell.
        let _ = host.delete(&link).await;
        let _ = Ledger::open(conf).and_then(|l| l.release(|o| *o == owner(args)));
    }
    let (bridge, port, inner) = made?;
    let interface = |name: &str, link: Link, sandbox| Interface {
        name: name.to_owned(),
        mac: link.mac,
        mtu: link.mtu,
        sandbox,
    };
    let sandbox = args.netns.as_ref().map(|p| p.display().to_string());
    Ok(Success {
        interfaces: vec![
            interface(&conf.bridge, bridge, None),
            interface(&link, port, None),
            interface(&args.ifname, inner, sandbox),
        ],
        routes: result::routes(conf, &addresses),
        addresses,
    })
}

async fn connect(
    args: &Args,
    conf: &NetConf,
    host: &Net,
    inside: &Net,
    netns: &File,
    name: &str,
    addresses: &[Choice],
) -> Result<(Link, Link, Link), Error> {
    let bridge = gateway(conf, host, addresses).await?;
    let port = host
        .pair(name, &args.ifname, netns, conf.mtu, bridge.index)
        .await?;
    if conf.hairpin_mode {
        host.hairpin(port.index).await?;
    }
    inside.up("lo").await?;
    let inner = inside.must(&args.ifname).await?;
    for a in addresses {
        inside.address(inner.index, a.address, a.prefix).await?;
    }
    inside.up(&args.ifname).await?;
    for route in result::routes(conf, addresses) {
        inside.route(inner.index, &route).await?;
    }
    Ok((bridge, port, inner))
}

/// The bridge, with the gateways' addresses, and forwarding on.
async fn gateway(conf: &NetConf, host: &Net, addresses: &[Choice]) -> Result<Link, Error> {
    let first = addresses
        .first()
        .map(|a| a.gateway.to_string())
        .unwrap_or_default();
    let bridge = host
        .bridge(
            &conf.bridge,
            names::bridge_mac(&conf.bridge, &first),
            conf.mtu,
        )
        .await?;
    if conf.is_gateway {
        let have = host.addresses(bridge.index).await?;
        for a in addresses.iter().filter(|a| !have.contains(&a.gateway)) {
            host.address(bridge.index, a.gateway, a.prefix).await?;
        }
        for a in addresses {
            forward(a.gateway)?;
        }
    }
    Ok(bridge)
}

/// A gateway that does not forward is none: the sysctl is written only when it is off.
fn forward(family: IpAddr) -> Result<(), Error> {
    let path = if family.is_ipv4() {
        "/proc/sys/net/ipv4/ip_forward"
    } else {
        "/proc/sys/net/ipv6/conf/all/forwarding"
    };
    let fail = |e| Error::new(code::IO_FAILURE, format!("switch {path} on"), e);
    if std::fs::read_to_string(path).map_err(fail)?.trim() == "0" {
        std::fs::write(path, "1").map_err(fail)?;
    }
    Ok(())
}

/// Takes the link away, then frees the address: in this order nobody gets an address that still answers.
async fn del(args: &Args, conf: &NetConf) -> Result<(), Error> {
    let link = names::host_link(&args.container, &args.ifname);
    let deleted = match Net::here() {
        Ok(host) => host.delete(&link).await.map(|_| ()),
        Err(e) => Err(e),
    };
    let freed = Ledger::open(conf).and_then(|l| l.release(|o| *o == owner(args)));
    match (deleted, freed) {
        (Err(a), Err(b)) => Err(Error {
            details: format!("{}; {b}", a.details),
            ..a
        }),
        (a, b) => a.and(b.map(|_| ())),
    }
}

async fn check(args: &Args, conf: &NetConf) -> Result<(), Error> {
    let wrong = |why: String| Error::new(code::CHECK_FAILED, "check failed", why);
    let previous = conf.prev_result.as_ref();
    let previous = previous.ok_or_else(|| {
        Error::new(
            code::INVALID_CONFIG,
            "invalid prevResult",
            "CHECK needs the result of ADD",
        )
    })?;
    let (host, netns) = (Net::here()?, open_netns(args.netns()?)?);
    let inside = Net::inside(&netns)?;
    let bridge = host
        .link(&conf.bridge)
        .await?
        .ok_or_else(|| wrong(format!("bridge {} is gone", conf.bridge)))?;
    let name = names::host_link(&args.container, &args.ifname);
    let port = host
        .link(&name)
        .await?
        .ok_or_else(|| wrong(format!("link {name} is gone")))?;
    if port.controller != Some(bridge.index) || !port.up {
        return Err(wrong(format!(
            "link {name} is no port of {} or is down",
            conf.bridge
        )));
    }
    let inner = inside.link(&args.ifname).await?.filter(|l| l.up);
    let inner = inner.ok_or_else(|| {
        wrong(format!(
            "link {} is gone from the container or is down",
            args.ifname
        ))
    })?;
    let have = inside.addresses(inner.index).await?;
    let own = Ledger::open(conf)?.read()?;
    for address in result::addresses(previous) {
        if !have.contains(&address) {
            return Err(wrong(format!(
                "address {address} is gone from {}",
                args.ifname
            )));
        }
        if !own.iter().any(|(a, o)| *a == address && *o == owner(args)) {
            return Err(wrong(format!(
                "address {address} is not allocated to {}",
                args.container
            )));
        }
    }
    let choices: Vec<Choice> = own
        .iter()
        .filter(|(_, o)| *o == owner(args))
        .filter_map(|(a, _)| {
            conf.ipam
                .ranges
                .iter()
                .find_map(|set| keelson_cni_plan::alloc::locate(set, *a))
        })
        .collect();
    for route in result::routes(conf, &choices) {
        if !inside.has_route(inner.index, &route).await? {
            return Err(wrong(format!(
                "route to {} is gone from the container",
                route.dst
            )));
        }
    }
    Ok(())
}

/// Frees the links and addresses of attachments that are not valid any more.
async fn gc(conf: &NetConf) -> Result<(), Error> {
    let need = || {
        Error::new(
            code::INVALID_CONFIG,
            "invalid cni.dev/valid-attachments",
            "GC needs the list of valid attachments",
        )
    };
    let valid = conf.valid_attachments.as_ref().ok_or_else(need)?;
    let (host, ledger) = (Net::here()?, Ledger::open(conf)?);
    for (_, gone) in ledger.read()?.iter().filter(|(_, o)| !valid.contains(o)) {
        host.delete(&names::host_link(&gone.container, &gone.ifname))
            .await?;
    }
    ledger.release(|o| !valid.contains(o)).map(|_| ())
}

/// ADD can be served when there is an address for it.
async fn status(conf: &NetConf) -> Result<(), Error> {
    let taken = Ledger::open(conf)?
        .read()?
        .into_iter()
        .map(|(a, _)| a)
        .collect();
    for set in &conf.ipam.ranges {
        if keelson_cni_plan::alloc::choose(set, &taken, None).is_none() {
            return Err(Error::new(
                code::NOT_AVAILABLE,
                "not available",
                format!("network {} has no address left", conf.name),
            ));
        }
    }
    Ok(())
}
