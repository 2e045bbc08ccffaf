//! Follows the nodes and the kernel: what is planned and what is there are compared when one of them changes.

use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use rtnetlink::MulticastGroup;
use tokio::sync::watch;

use crate::kernel::{self, Found, Kernel, Names, is_link_local, parse};
use crate::key::{PrivateKey, PublicKey};
use crate::plan::{
    self, Entries, Entry, Link, LinkKind, Mode, Node, Options, Plan, Step, VXLAN, WIREGUARD, diff,
};
use crate::probe::Ends;
use crate::{Error, Facts, sysctl};

/// After a change that was noticed: what comes with it is taken together.
const SETTLE: Duration = Duration::from_millis(50);
/// After an error.
const AGAIN: Duration = Duration::from_secs(5);
/// All is looked at this often, should the kernel have lost a notification.
const LOOK: Duration = Duration::from_secs(60);
/// A link that is made anew takes with it what stands on it; more turns than two mean that somebody works against us.
const TURNS: usize = 3;

/// Who is told what.
pub(crate) struct Told {
    pub(crate) facts: watch::Sender<Facts>,
    /// This node's pods, for rules.
    pub(crate) own: watch::Sender<Vec<ipnet::IpNet>>,
    /// Other ends of the tunnel, for the probe.
    pub(crate) ends: watch::Sender<Ends>,
}

/// Until the sender of nodes is gone.
pub(crate) async fn run(
    options: Options,
    mut nodes: watch::Receiver<Option<Vec<Node>>>,
    told: Told,
) -> Result<(), Error> {
    // Before anything is read: what changes in between is told.
    let mut changes = listen()?;
    let mut keeper = Keeper {
        kernel: Kernel::open()?,
        options,
        key: None,
        found: None,
        plan: Plan::default(),
        troubles: Vec::new(),
        told,
    };
    loop {
        let known = nodes.wait_for(Option::is_some).await;
        let Some(now) = known.ok().and_then(|n| n.clone()) else {
            return Ok(());
        };
        nodes.mark_unchanged();
        keeper.turn(&now).await;
        let pause = if keeper.troubles.is_empty() {
            LOOK
        } else {
            AGAIN
        };
        tokio::select! {
            changed = nodes.changed() => if changed.is_err() { return Ok(()) },
            () = drift(&mut changes, keeper.kernel.names(), &keeper.plan.entries) => keeper.found = None,
            () = tokio::time::sleep(pause) => keeper.found = None,
        }
    }
}

type Changes = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

fn listen() -> Result<Changes, Error> {
    use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route};
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        Ipv4Ifaddr,
        Ipv4Route,
        Ipv6Ifaddr,
        Ipv6Route,
    ];
    let listening = rtnetlink::new_multicast_connection(&groups).map_err(Error::Socket)?;
    let (connection, _, changes) = listening;
    tokio::spawn(connection);
    Ok(changes)
}

struct Keeper {
    kernel: Kernel,
    options: Options,
    key: Option<PublicKey>,
    /// What is there; none: it has to be read again.
    found: Option<Found>,
    plan: Plan,
    /// What went wrong, told once.
    troubles: Vec<String>,
    told: Told,
}

impl Keeper {
    async fn turn(&mut self, nodes: &[Node]) {
        let mut troubles = match self.sync(nodes).await {
            Ok(errors) => errors.iter().map(Error::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        if !troubles.is_empty() {
            self.found = None;
        }
        let own = nodes.iter().find(|n| n.name == self.options.node);
        let own = own.map(|n| n.pod_cidrs.clone()).unwrap_or_default();
        if !own.is_empty() {
            let tunnels = self.kernel.names().values();
            troubles.extend(sysctl::set(&own, tunnels.map(String::as_str)));
            self.told.own.send_if_modified(|told| {
                let new = *told != own;
                *told = own;
                new
            });
        }
        let new = troubles.iter().filter(|t| !self.troubles.contains(t));
        for trouble in new {
            tracing::warn!(node = self.options.node, trouble, "pod network");
        }
        self.troubles = troubles;
    }

    /// Makes the kernel hold what is planned; gives the errors of single steps.
    async fn sync(&mut self, nodes: &[Node]) -> Result<Vec<Error>, Error> {
        self.identify().await?;
        let mut errors = Vec::new();
        for _ in 0..TURNS {
            let mut found = match self.found.take() {
                Some(found) => found,
                None => self.kernel.read().await?,
            };
            self.plan(nodes, &found);
            let steps = diff(&found.entries, &self.plan.entries);
            let mut of_links = false;
            errors.clear();
            for step in steps {
                tracing::debug!(%step, "pod network");
                of_links |= is_of_link(&step);
                match self.kernel.apply(&step).await {
                    Ok(()) => note(&mut found.entries, step),
                    Err(error) => errors.push(error),
                }
            }
            if !of_links {
                self.found = Some(found);
                break;
            }
        }
        Ok(errors)
    }

    /// Finds out who the node is in WireGuard, and tells.
    async fn identify(&mut self) -> Result<(), Error> {
        if self.options.mode != Mode::WireGuard || self.key.is_some() {
            return Ok(());
        }
        let path = &self.options.key_file;
        let key = PrivateKey::load_or_make(path).map_err(|source| Error::KeyFile {
            path: path.display().to_string(),
            source,
        })?;
        let link = Link {
            name: WIREGUARD.to_owned(),
            // What it is to be is not known before the nodes are; it is set then.
            mtu: 1280,
            kind: LinkKind::WireGuard {
                port: self.options.wireguard_port,
                key: PublicKey([0; 32]),
            },
        };
        let public = self.kernel.identify(key, &link).await?;
        self.key = Some(public);
        self.told
            .facts
            .send_modify(|facts| facts.key = Some(public));
        Ok(())
    }

    fn plan(&mut self, nodes: &[Node], found: &Found) {
        let plan = plan::wanted(&self.options, self.key, &found.host, nodes);
        for unreached in plan
            .unreached
            .iter()
            .filter(|u| !self.plan.unreached.contains(u))
        {
            tracing::warn!(
                node = self.options.node,
                unreached,
                "pods of a node are not reached"
            );
        }
        self.told.facts.send_if_modified(|facts| {
            let new = facts.mtu != Some(plan.mtu);
            facts.mtu = Some(plan.mtu);
            new
        });
        // A link's number says whether it is still the same one.
        let names = self.kernel.names().iter();
        let mut tunnels = names.filter(|(_, name)| *name == VXLAN);
        let ends = Ends {
            link: tunnels.next().map(|(index, _)| *index),
            ends: plan.ends.clone(),
        };
        self.told.ends.send_if_modified(|told| {
            let new = *told != ends;
            *told = ends;
            new
        });
        self.plan = plan;
    }
}

/// Waits until something has changed that these pieces depend on, or one of them.
async fn drift(changes: &mut Changes, names: &Names, wanted: &Entries) {
    loop {
        // The connection ends with the runtime only.
        let Some((message, _)) = changes.next().await else {
            return std::future::pending().await;
        };
        if concerns(&message.payload, names, wanted) {
            tokio::time::sleep(SETTLE).await;
            while changes.try_recv().is_ok() {}
            return;
        }
    }
}

/// Changes of this machine's links, addresses and routes.
pub struct Moves(Changes);

impl Moves {
    /// Listens from now on.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn listen() -> Result<Self, Error> {
        listen().map(Self)
    }

    /// Waits for the next; several at a time are one.
    pub async fn next(&mut self) {
        drift(&mut self.0, &Names::new(), &Entries::new()).await;
    }
}

fn is_of_link(step: &Step) -> bool {
    match step {
        Step::Remove(entry) => matches!(entry, Entry::Link(_)),
        Step::Set { want, .. } => matches!(want, Entry::Link(_)),
    }
}

/// What is there after a step.
fn note(entries: &mut Entries, step: Step) {
    match step {
        Step::Remove(entry) => _ = entries.remove(&entry.key()),
        Step::Set { want, .. } => _ = entries.insert(want.key(), want),
    }
}

/// Whether a notification tells of more than what we did or what pods do.
fn concerns(
    payload: &NetlinkPayload<RouteNetlinkMessage>,
    names: &Names,
    wanted: &Entries,
) -> bool {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        // Some were lost.
        NetlinkPayload::Overrun(_) => return true,
        _ => return false,
    };
    let is_wanted = |entry: &Entry| wanted.get(&entry.key()) == Some(entry);
    let ours = |entry: Option<Entry>, gone: bool| match entry {
        Some(entry) if gone => wanted.contains_key(&entry.key()),
        Some(entry) => !is_wanted(&entry),
        None => false,
    };
    use RouteNetlinkMessage as M;
    match message {
        M::NewLink(link) | M::DelLink(link) => {
            let gone = matches!(message, M::DelLink(_));
            match kernel::name(link) {
                Some(VXLAN) => gone || !parse::is_up(link) || ours(parse::vxlan(link), false),
                Some(WIREGUARD) => gone || !parse::is_up(link),
                Some(name) => !name.starts_with(kernel::POD_LINKS),
                None => true,
            }
        }
        M::NewAddress(address) | M::DelAddress(address) => {
            let gone = matches!(message, M::DelAddress(_));
            match parse::address(address, names) {
                Some(entry) => ours(Some(entry), gone),
                None => parse::local(address).is_some_and(|a| !is_link_local(a)),
            }
        }
        M::NewNeighbour(neighbour) | M::DelNeighbour(neighbour) => {
            let gone = matches!(message, M::DelNeighbour(_));
            let entry = parse::neighbour(neighbour, names).filter(|_| !gone);
            let known = parse::neighbour_key(neighbour, names).and_then(|k| wanted.get(&k));
            known != entry.as_ref()
        }
        M::NewRoute(route) | M::DelRoute(route) => {
            let gone = matches!(message, M::DelRoute(_));
            parse::route(route).is_some_and(|route| match route.entry(names) {
                Some(entry) => ours(Some(entry), gone),
                None => !is_link_local(route.to.addr()),
            })
        }
        _ => false,
    }
}

/// Removes all that is ours.
pub(crate) async fn clear(kernel: &mut Kernel) -> Vec<Error> {
    let found = match kernel.read().await {
        Ok(found) => found,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for step in diff(&found.entries, &Entries::new()) {
        errors.extend(kernel.apply(&step).await.err());
    }
    // Those that are not as we make them, too.
    for name in kernel.names().values().cloned().collect::<Vec<_>>() {
        errors.extend(kernel.remove_named(&name).await.err());
    }
    errors
}
