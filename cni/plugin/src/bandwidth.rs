//! Type `bandwidth`: what goes to a container and comes from it is slowed down.

use keelson_cni_plan::bandwidth::{self as plan, Conf, Shape};
use keelson_cni_plan::config::invalid;
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Args, Command, Error, code};
use keelson_cni_plan::result::Success;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use nix::libc::EEXIST;
use serde_json::Value;

use crate::attach::{interface, wrong};
use crate::net::{Link, Net, not_own, open_netns};
use crate::steps::{self, Step};

/// Runs a command; what is to be printed, if anything.
pub(crate) fn run(args: &Args, input: &[u8]) -> Result<Option<Value>, Error> {
    let conf = Conf::parse(input)?;
    let own = plan::own_link(&conf.net.name, &args.container, &args.ifname);
    match args.command {
        Command::Add => return add(args, &conf, &own).map(Some),
        Command::Check => check(args, &conf, &own)?,
        Command::Del => remove(&mut Net::here()?, vec![own])?,
        Command::Gc => {
            let (mut host, valid) = (Net::here()?, conf.net.valid_attachments()?);
            let all = host.links()?.into_iter();
            let stale = all.filter(|l| plan::is_stale(&l.name, &l.alias, &conf.net.name, valid));
            let stale = stale.map(|l| l.name).collect();
            remove(&mut host, stale)?;
        }
        // Whether the kernel has such links shows when one is made: it loads what it needs for that.
        Command::Status | Command::Version => {}
    }
    Ok(None)
}

fn remove(host: &mut Net, links: Vec<String>) -> Result<(), Error> {
    host.carry_out(links.iter().map(|l| steps::delete(l)).collect())
}

fn previous(conf: &Conf) -> Result<Success, Error> {
    let previous = conf.net.prev_result.as_ref().ok_or_else(|| {
        let why = "a container's link is slowed down after another plugin made it";
        invalid("prevResult", why)
    })?;
    Success::parse(previous, conf.net.version())
}

fn add(args: &Args, conf: &Conf, own: &str) -> Result<Value, Error> {
    let (mut success, version) = (previous(conf)?, conf.net.version());
    if conf.ingress.is_none() && conf.egress.is_none() {
        return Ok(success.render(version));
    }
    let mut host = Net::here()?;
    let port = host_end(args, &mut host)?;
    let made = shape(args, conf, own, &mut host, &port);
    if made.is_err() {
        // The first error is the one to tell.
        let _ = remove(&mut host, vec![own.to_owned()]);
    }
    let over = made?.map(|link| interface(&link.name, &link, None));
    success.interfaces.extend(over);
    Ok(success.render(version))
}

/// The other end of the container's link.
fn host_end(args: &Args, host: &mut Net) -> Result<Link, Error> {
    let netns = open_netns(args.netns()?)?;
    not_own(&netns)?;
    let name = &args.ifname;
    let inner = Net::inside(&netns)?.must(name)?;
    let pair = |l: &Link| Some(l.index) == inner.peer && l.peer == Some(inner.index);
    let found = host.links()?.into_iter().find(pair);
    found.ok_or_else(|| {
        let why = format!("link {name} has no other end here");
        Error::new(code::KERNEL, "find the container's link", why)
    })
}

/// Gives the link that the container's packets are led over, if they are.
fn shape(
    args: &Args,
    conf: &Conf,
    own: &str,
    host: &mut Net,
    port: &Link,
) -> Result<Option<Link>, Error> {
    if let Some(ingress) = conf.ingress {
        host.carry_out(vec![bucket(port, ingress)])?;
    }
    let Some(egress) = conf.egress else {
        return Ok(None);
    };
    // One that a killed call left is as good as a new one, but for its rate.
    let alias = names::alias(&conf.net.name, &args.container, &args.ifname);
    host.carry_out(new_ifb(own, port.mtu, alias).into())?;
    let over = host.must(own)?;
    host.carry_out(vec![bucket(&over, egress), entry(port), lead(port, &over)])?;
    Ok(Some(over))
}

fn new_ifb(name: &str, mtu: u32, alias: String) -> [Step; 2] {
    let named = |more: LinkAttribute| {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), more];
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message
    };
    let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]);
    let mut link = named(kind);
    link.attributes.push(LinkAttribute::Mtu(mtu));
    [
        Step {
            what: format!("add link {name}"),
            message: RouteNetlinkMessage::NewLink(link),
            flags: NLM_F_CREATE | NLM_F_EXCL,
            fine: &[EEXIST],
        },
        Step {
            what: format!("say whose link {name} is"),
            message: RouteNetlinkMessage::SetLink(named(LinkAttribute::IfAlias(alias))),
            flags: 0,
            fine: &[],
        },
    ]
}

/// `TCA_OPTIONS`.
const OPTIONS: u16 = 2;
/// The queue at which packets come in.
const ENTRY: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};

fn message(link: &Link, kind: &str, options: Vec<u8>) -> TcMessage {
    let index = i32::try_from(link.index).unwrap_or_default();
    let mut message = TcMessage::with_index(index);
    let options = TcAttribute::Other(DefaultNla::new(OPTIONS, options));
    message.attributes = vec![TcAttribute::Kind(kind.to_owned()), options];
    message
}

/// A link sends as slowly as this.
fn bucket(link: &Link, shape: Shape) -> Step {
    let mut message = message(link, "tbf", shape.options());
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle { major: 1, minor: 0 };
    Step {
        what: format!("slow link {} down", link.name),
        message: RouteNetlinkMessage::NewQueueDiscipline(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        fine: &[],
    }
}

/// A place for filters where packets come in by a link.
fn entry(link: &Link) -> Step {
    let mut message = message(link, "ingress", Vec::new());
    message.attributes.truncate(1);
    message.header.parent = TcHandle::INGRESS;
    message.header.handle = ENTRY;
    Step {
        what: format!("add a place for filters to {}", link.name),
        message: RouteNetlinkMessage::NewQueueDiscipline(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        fine: &[EEXIST],
    }
}

/// All that comes in by a link is led over another.
fn lead(link: &Link, over: &Link) -> Step {
    /// Asked first; packets of all protocols (`ETH_P_ALL`, in network byte order).
    const FIRST: u32 = 1 << 16;
    const ALL: u16 = 0x0003;
    let mut message = message(link, "u32", plan::lead_over(over.index));
    message.header.parent = ENTRY;
    message.header.info = FIRST | u32::from(ALL.to_be());
    Step {
        what: format!("lead packets from {} over {}", link.name, over.name),
        message: RouteNetlinkMessage::NewTrafficFilter(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        fine: &[EEXIST],
    }
}

fn check(args: &Args, conf: &Conf, own: &str) -> Result<(), Error> {
    previous(conf)?;
    let mut host = Net::here()?;
    if let Some(ingress) = conf.ingress {
        let port = host_end(args, &mut host)?;
        is_shaped(&mut host, &port, ingress)?;
    }
    if let Some(egress) = conf.egress {
        let gone = || wrong(format!("link {own} is gone"));
        let over = host.link(own)?.filter(|l| l.up).ok_or_else(gone)?;
        is_shaped(&mut host, &over, egress)?;
    }
    Ok(())
}

fn is_shaped(host: &mut Net, link: &Link, shape: Shape) -> Result<(), Error> {
    let name = &link.name;
    let found = host.bucket(link.index)?;
    let found = found.ok_or_else(|| wrong(format!("link {name} is not slowed down")))?;
    let other = || wrong(format!("link {name} is slowed down to another rate"));
    shape.is(&found).then_some(()).ok_or_else(other)
}
