//! What `bridge` and `ptp` have in common: a pair of links between the host and the container.

use std::fs::File;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use keelson_cni_plan::config::{NetConf, invalid};
use keelson_cni_plan::masquerade::Masquerade;
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Args, Error, code};
use keelson_cni_plan::result::{Interface, Ip, Route, Success};
use netlink_packet_route::link::InfoKind;
use nix::libc::{EEXIST, ENODEV};

use crate::ipam::Manager;
use crate::masquerade;
use crate::net::{Link, Net, not_own, open_netns, refused, sysctl, within};
use crate::steps::{self, Manner, NewPair, Step};

/// How long a link may take until packets go through, and an address until it can be used.
const PATIENCE: Duration = Duration::from_secs(10);

/// An attachment: where it is to be, and its link's name on the host.
pub(crate) struct Attach<'a> {
    pub(crate) args: &'a Args,
    pub(crate) netns: File,
    pub(crate) host: Net,
    pub(crate) link: String,
}

/// What a container's end gets.
pub(crate) struct Inner<'a> {
    pub(crate) ips: &'a [Ip],
    pub(crate) routes: Vec<Step>,
    pub(crate) manner: Manner,
}

impl<'a> Attach<'a> {
    pub(crate) fn begin(args: &'a Args) -> Result<Self, Error> {
        let netns = open_netns(args.netns()?)?;
        not_own(&netns)?;
        Ok(Self {
            args,
            netns,
            host: Net::here()?,
            link: names::host_link(&args.container, &args.ifname),
        })
    }

    /// Makes the pair and does what else is to be done about the host's end, which is given. What a call that was
    /// killed left of this very attachment is removed first.
    pub(crate) fn pair(&mut self, new: impl Fn(&File, &str) -> Vec<Step>) -> Result<Link, Error> {
        if let Err((what, errno)) = self.host.try_out(new(&self.netns, &self.link))? {
            if errno != EEXIST {
                return Err(refused(&what, errno));
            }
            if Net::inside(&self.netns)?.link(&self.args.ifname)?.is_some() {
                let (container, ifname) = (&self.args.container, &self.args.ifname);
                let why = format!("CNI_IFNAME: {container} already has a link {ifname}");
                return Err(Error::new(
                    code::INVALID_ENVIRONMENT,
                    "interface exists",
                    why,
                ));
            }
            self.host.carry_out(vec![steps::delete(&self.link)])?;
            self.host.carry_out(new(&self.netns, &self.link))?;
        }
        self.host.must(&self.link)
    }

    /// Gives the container's end addresses and routes and sets it up; the link and the socket there.
    pub(crate) fn configure(&self, index: u32, inner: Inner<'_>) -> Result<(Link, Net), Error> {
        let ifname = &self.args.ifname;
        let mut net = within(&self.netns, || {
            prepare(ifname, &inner)?;
            Net::here()
        })?;
        let addresses = inner
            .ips
            .iter()
            .map(|ip| steps::address(index, ip.address, inner.manner));
        let mut all = vec![steps::up("lo")];
        all.extend(addresses);
        all.push(steps::up(ifname));
        all.extend(inner.routes);
        net.carry_out(all)?;
        if inner.manner.detect {
            settle(&mut net, index)?;
        }
        let link = net.must(ifname)?;
        Ok((link, net))
    }

    /// Waits until packets go through the host's end, which it gives, and then tells the neighbours of the addresses:
    /// the kernel does, when the link is given the hardware address that it has.
    pub(crate) fn working(&mut self, (inner, net): (&Link, &mut Net)) -> Result<Link, Error> {
        let (host, name) = (&mut self.host, &self.link);
        let link =
            wait_for(|| host.must(name).map(|l| l.works.then_some(l)))?.ok_or_else(|| {
                let why = "it did not come up";
                Error::new(code::KERNEL, format!("set link {name} up"), why)
            })?;
        if let Ok(mac) = <[u8; 6]>::try_from(inner.mac.as_slice()) {
            net.carry_out(vec![steps::keep_mac(&inner.name, mac)])?;
        }
        Ok(link)
    }

    /// The container's end in a result.
    pub(crate) fn sandbox(&self) -> Option<String> {
        self.args.netns.as_ref().map(|p| p.display().to_string())
    }
}

fn prepare(ifname: &str, inner: &Inner<'_>) -> Result<(), Error> {
    let of = |v4: bool| inner.ips.iter().any(|ip| ip.address.addr().is_ipv4() == v4);
    if of(true) {
        sysctl(&format!("ipv4/conf/{ifname}/arp_notify"), "1")?;
    }
    if !of(false) {
        return Ok(());
    }
    for link in ["lo", ifname] {
        sysctl(&format!("ipv6/conf/{link}/disable_ipv6"), "0")?;
    }
    let set = |key: &str, value| sysctl(&format!("ipv6/conf/{ifname}/{key}"), value);
    set("ndisc_notify", "1")?;
    set("keep_addr_on_down", "1")?;
    if inner.manner.detect {
        set("enhanced_dad", "1")?;
    }
    set("accept_dad", if inner.manner.detect { "1" } else { "0" })
}

/// Waits until it is known that nobody else has the addresses.
fn settle(net: &mut Net, index: u32) -> Result<(), Error> {
    let settled = wait_for(|| {
        let all = net.addresses(index)?;
        if let Some(taken) = all.iter().find(|a| a.failed) {
            let why = format!("somebody else on the network has {}", taken.net.addr());
            return Err(Error::new(code::KERNEL, "duplicate address", why));
        }
        let tentative = all.iter().any(|a| a.tentative && !a.local);
        Ok((!tentative).then_some(()))
    })?;
    settled.ok_or_else(|| {
        let why = "it is still not known whether somebody else has the addresses";
        Error::new(code::TRY_AGAIN, "duplicate address detection", why)
    })
}

/// Asks until there is an answer, at growing intervals; none in the end.
fn wait_for<T>(mut ask: impl FnMut() -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    let (begin, mut pause) = (Instant::now(), Duration::from_micros(50));
    loop {
        let answer = ask()?;
        if answer.is_some() || begin.elapsed() > PATIENCE {
            return Ok(answer);
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A link in a result.
pub(crate) fn interface(name: &str, link: &Link, sandbox: Option<String>) -> Interface {
    Interface {
        name: name.to_owned(),
        mac: link.mac(),
        mtu: link.mtu,
        sandbox,
        ..Interface::default()
    }
}

/// A pair between the namespaces, as both types make it.
pub(crate) fn new_pair<'a>(
    args: &'a Args,
    netns: &'a File,
    link: &'a str,
    mtu: u32,
) -> NewPair<'a> {
    NewPair {
        host: link,
        peer: &args.ifname,
        netns: Some(netns),
        mac: None,
        mtu,
        bridge: None,
    }
}

/// Deletes the link; either of its ends, since one alone does not exist. The container's end is looked for if the
/// host's does not have its name, as when the reference has made it.
fn delete(args: &Args) -> Result<(), Error> {
    let (mut host, link) = (
        Net::here()?,
        names::host_link(&args.container, &args.ifname),
    );
    let mut delete = steps::delete(&link);
    delete.fine = &[];
    match host.try_out(vec![delete])? {
        Ok(()) => return Ok(()),
        Err((_, ENODEV)) => {}
        Err((what, errno)) => return Err(refused(&what, errno)),
    }
    // A namespace that is gone has no links.
    let Some(netns) = args.netns.as_ref().and_then(|p| open_netns(p).ok()) else {
        return Ok(());
    };
    if not_own(&netns).is_err() {
        return Ok(());
    }
    let mut inside = Net::inside(&netns)?;
    let inner = inside.link(&args.ifname)?;
    if inner.is_some_and(|l| l.kind == Some(InfoKind::Veth)) {
        inside.carry_out(vec![steps::delete(&args.ifname)])?;
    }
    Ok(())
}

/// Takes away what both types made for an attachment, however much of it there is: masquerade, the link, and then the
/// address: in this order nobody gets an address of ours that still answers. Tells of each step.
pub(crate) fn detach(
    (args, conf): (&Args, &NetConf),
    options: &Masquerade,
    manager: &Manager<'_>,
) -> Vec<Result<(), Error>> {
    let link = names::host_link(&args.container, &args.ifname);
    let end = |addresses: &[IpAddr]| match options.ip_masq {
        true => masquerade::remove(options.backend()?, &conf.name, &link, addresses),
        false => Ok(()),
    };
    let known = known(args, conf);
    let mut done = Vec::new();
    if !known.is_empty() {
        done.push(end(&known));
    }
    // Another plugin may need the link for it: `dhcp` gives a lease back over it.
    let before = matches!(manager, Manager::Other(..)).then(|| manager.del(args));
    done.push(delete(args));
    let freed = before.unwrap_or_else(|| manager.del(args));
    // What the runtime did not remember.
    let mut late = freed.as_ref().cloned().unwrap_or_default();
    late.retain(|a| !known.contains(a));
    if known.is_empty() || !late.is_empty() {
        done.push(end(&late));
    }
    done.push(freed.map(drop));
    done
}

/// Deletes the links of a network's attachments that are not valid any more.
pub(crate) fn gc(conf: &NetConf) -> Result<(), Error> {
    let (mut host, valid) = (Net::here()?, conf.valid_attachments()?);
    let all = host.links()?.into_iter();
    let stale = all.filter(|l| names::is_stale_link(&l.name, &l.alias, &conf.name, valid));
    host.carry_out(stale.map(|l| steps::delete(&l.name)).collect())
}

/// The result that CHECK compares with what is.
pub(crate) fn previous(conf: &NetConf) -> Result<Success, Error> {
    let missing = || invalid("prevResult", "CHECK needs the result of ADD");
    let previous = conf.prev_result.as_ref().ok_or_else(missing)?;
    Success::parse(previous, conf.version())
}

/// The addresses of the result that the runtime remembers, if it does.
fn known(args: &Args, conf: &NetConf) -> Vec<IpAddr> {
    let previous = conf.prev_result.as_ref();
    let previous = previous.and_then(|p| Success::parse(p, conf.version()).ok());
    let nets = previous.map(|s| s.addresses_of(&args.ifname));
    nets.unwrap_or_default().iter().map(IpNet::addr).collect()
}

pub(crate) fn wrong(why: String) -> Error {
    Error::new(code::CHECK_FAILED, "check failed", why)
}

/// A link is as a result says it was.
pub(crate) fn same(told: &Interface, now: Option<Link>) -> Result<Link, Error> {
    let name = &told.name;
    let now = now.ok_or_else(|| wrong(format!("link {name} is gone")))?;
    if !told.mac.is_empty() && told.mac.to_ascii_lowercase() != now.mac() {
        return Err(wrong(format!(
            "link {name} has address {}, not {}",
            now.mac(),
            told.mac
        )));
    }
    Ok(now)
}

/// The container's end is as the result says: there, up, with its addresses and routes. Gives it.
pub(crate) fn check(attach: &Attach<'_>, told: &Success, up: bool) -> Result<Link, Error> {
    let (ifname, sandbox) = (&attach.args.ifname, attach.sandbox());
    let mut own = told.interfaces.iter().filter(|i| i.name == *ifname);
    let own = own.find(|i| i.sandbox.is_some() && i.sandbox == sandbox);
    let own = own.ok_or_else(|| {
        let path = sandbox.as_deref().unwrap_or_default();
        wrong(format!("the result has no link {ifname} in {path}"))
    })?;
    let mut inside = Net::inside(&attach.netns)?;
    let now = inside.link(ifname)?;
    let link = same(own, now)?;
    if link.kind != Some(InfoKind::Veth) || link.up != up {
        let state = if up { "up" } else { "down" };
        return Err(wrong(format!(
            "link {ifname} of the container is not {state}"
        )));
    }
    let have = inside.addresses(link.index)?;
    for address in told.addresses_of(ifname) {
        if !have.iter().any(|a| a.net == address) {
            return Err(wrong(format!("address {address} is gone from {ifname}")));
        }
    }
    for route in &told.routes {
        if !has_route(&mut inside, link.index, told, route)? {
            return Err(wrong(format!(
                "route to {} is gone from the container",
                route.dst
            )));
        }
    }
    Ok(link)
}

/// A link on the host is as the result says.
pub(crate) fn on_host(host: &mut Net, told: &Success, name: &str) -> Result<Link, Error> {
    let mut own = told.interfaces.iter().filter(|i| i.sandbox.is_none());
    let own = own.find(|i| i.name == name);
    let own = own.ok_or_else(|| wrong(format!("the result has no link {name}")))?;
    same(own, host.link(name)?)
}

/// The host's end is as the result says: there, up, and the other end of the container's. Gives it.
pub(crate) fn check_host(
    attach: &mut Attach<'_>,
    told: &Success,
    inner: &Link,
) -> Result<Link, Error> {
    let name = attach.link.clone();
    let link = on_host(&mut attach.host, told, &name)?;
    if !link.up || link.peer != Some(inner.index) {
        return Err(wrong(format!("link {name} is down, or leads elsewhere")));
    }
    Ok(link)
}

/// A later plugin of the chain may have changed a route, so any to the destination will do if its own is gone.
fn has_route(inside: &mut Net, link: u32, told: &Success, route: &Route) -> Result<bool, Error> {
    // One of a family without addresses was never made.
    let mut ips = told.ips.iter().map(|ip| ip.address.addr());
    if route.gw.is_none() && !ips.any(|a| a.is_ipv4() == route.dst.addr().is_ipv4()) {
        return Ok(true);
    }
    inside.has_route(link, route)
}

/// The container's routes. One without a next hop whose family has no address here would lead nowhere.
pub(crate) fn routes(success: &Success, link: u32) -> Vec<Step> {
    let has = |v4: bool| {
        success
            .ips
            .iter()
            .any(|ip| ip.address.addr().is_ipv4() == v4)
    };
    let routes = success.routes.iter();
    let possible = routes.filter(|r| r.gw.is_some() || has(r.dst.addr().is_ipv4()));
    possible.map(|r| steps::route(link, r, None)).collect()
}
