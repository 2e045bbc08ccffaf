//! Answers for people: what becomes of a connection, by the rules that are in the kernel now, and how those differ from
//! what is wanted. Nothing is changed.

mod cluster;
mod differs;
mod rules;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use anyhow::{Context, bail};
use keelson_proxy_kernel::ipvs::Ipvs;
use keelson_proxy_kernel::{conntrack, node, route};
use keelson_proxy_plan::explain::{
    Candidate, Connection, Course, Flow, Live, Names, Policies, PoliciesSaid, Route, Story,
    affinity, chance, ends, foreign, proxied, report, service, weighted,
};
use keelson_proxy_plan::iptables;
use keelson_proxy_plan::ipvs::{Server, ServerKey};
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::nft::table::Place;
use keelson_proxy_plan::nft::walk;
use keelson_proxy_plan::others;
use keelson_proxy_plan::packet::{self, Outcome, Packet, Source};
use keelson_proxy_plan::policy::model::Host;
use keelson_proxy_plan::userspace::meant_for;
use keelson_proxy_plan::walk::Way;
use kube::Client;

pub use differs::{Differences, diff};
pub use keelson_proxy_plan::explain::Question;

use crate::{Config, userspace};
use cluster::Cluster;
use rules::Rules;

/// What becomes of a connection on this node.
pub async fn connection(
    config: &Config,
    client: &Client,
    question: &Question,
) -> anyhow::Result<String> {
    let cluster = Cluster::read(config, client).await?;
    let asked = ends(question, &cluster.known).map_err(anyhow::Error::msg)?;
    let own = node::addresses()?;
    let destination = asked.destination;
    let source = match asked.source {
        Some(source) => source,
        None => own_source(destination, &own).await?,
    };
    let is_own = own.contains(&source);
    let interface = match is_own {
        true => None,
        false => node::interface_to(source).await?,
    };
    if !is_own && interface.is_none() {
        bail!("no route of this node leads back to {source}: its packets don't come by here");
    }
    let family = Family::of(&destination);
    let mut rules = Rules::read(family).await?;
    let others = rules.others().await?;
    let facts = Facts {
        packet: Packet {
            source,
            destination,
            protocol: question.protocol,
            port: asked.port,
            interface,
        },
        node: packet::Node {
            addresses: own.into_iter().collect(),
        },
        names: cluster.names(),
        notes: asked.notes,
        options: userspace::options(&config.rules, family),
        cluster,
        rules,
        others,
    };
    // The kernel is asked for routes and connections, which may take its time.
    tokio::task::spawn_blocking(move || facts.tell()).await?
}

/// The address that a process of this node has for a destination, as routing chooses it.
async fn own_source(destination: IpAddr, own: &BTreeSet<IpAddr>) -> anyhow::Result<IpAddr> {
    let found = tokio::task::spawn_blocking(move || route::to(destination, None)).await??;
    let same = |ip: &&IpAddr| ip.is_ipv4() == destination.is_ipv4() && !ip.is_loopback();
    let source = found.source().or_else(|| own.iter().find(same).copied());
    source.context("this node has no address of the destination's family")
}

/// All that an answer is made of.
struct Facts {
    packet: Packet,
    node: packet::Node,
    names: Names,
    notes: Vec<String>,
    options: keelson_proxy_plan::userspace::Options,
    cluster: Cluster,
    rules: Rules,
    others: Vec<others::Table>,
}

impl Facts {
    fn tell(self) -> anyhow::Result<String> {
        let packet = &self.packet;
        let entries: Vec<Entry> = self.cluster.state.all().flatten().collect();
        let what = service(&entries, packet, self.node.has(&packet.destination));
        let states = RefCell::new(BTreeMap::new());
        let of = |node: &str| {
            let mut states = states.borrow_mut();
            let new = || Rc::new(self.cluster.policies(node));
            states.entry(node.to_owned()).or_insert_with(new).clone()
        };
        let (ways, servers) = self.ways()?;
        let key = |way: &Way| servers.get(&self.server_of(way)?);
        let mut candidates = Vec::new();
        for way in ways {
            let (then, end) = self.then(&way, &of)?;
            candidates.push(Candidate {
                chance: key(&way).map_or_else(|| chance(&way), |s| weighted(s, &way)),
                then,
                end,
                way,
            });
        }
        Ok(report(&Story {
            packet,
            service: what,
            mode: self.rules.mode,
            notes: self.notes(&entries),
            connections: self.connections()?,
            candidates,
            names: &self.names,
        }))
    }

    fn notes(&self, entries: &[Entry]) -> Vec<String> {
        let (packet, node) = (&self.packet, &self.node);
        let stays = affinity(entries, packet, node.has(&packet.destination)).is_some();
        let unread = stays && !matches!(self.rules.mode, Live::Nftables | Live::Nothing);
        let unread = unread.then(|| {
            "whether this client was here before, and stays with an endpoint, is not looked at"
                .to_owned()
        });
        let left = self.rules.leftovers.iter();
        let left = left.map(|l| {
            format!("services' rules of another mode are live too, which are not walked: {l}")
        });
        let (notes, read) = (self.notes.iter().cloned(), self.rules.notes.iter().cloned());
        notes.chain(unread).chain(left).chain(read).collect()
    }

    fn connections(&self) -> anyhow::Result<Vec<Connection>> {
        Ok(conntrack::connections(Family::of(
            &self.packet.destination,
        ))?)
    }

    /// The ways through services' rules, and the virtual servers that were asked.
    fn ways(&self) -> anyhow::Result<(Vec<Way>, BTreeMap<ServerKey, Server>)> {
        let (node, packet) = (&self.node, &self.packet);
        let none = BTreeMap::new;
        Ok(match self.rules.mode {
            Live::Nftables => {
                let table = self.rules.with_clients()?.context("no table")?;
                (walk::ways(&table, node, packet), none())
            }
            Live::Iptables(_) => (self.by_iptables()?, none()),
            Live::Userspace(_) => {
                let served = self.cluster.state.served(self.options.family);
                let to = meant_for(&served, &self.options, node, packet);
                (proxied(self.by_iptables()?, to), none())
            }
            Live::Ipvs => self.by_ipvs()?,
            Live::Nothing => {
                let way = Way {
                    outcome: Outcome::Pass,
                    of: 1,
                    steps: Vec::new(),
                };
                (vec![way], none())
            }
        })
    }

    fn by_iptables(&self) -> anyhow::Result<Vec<Way>> {
        let saved = self.rules.ours().context("no rules of iptables")?;
        let rules = iptables::walk::Rules::new(&saved.ours);
        let ways = rules.and_then(|r| r.ways(&self.node, &self.packet));
        ways.map_err(|e| anyhow::anyhow!("a rule of iptables is not understood: {e}"))
    }

    fn by_ipvs(&self) -> anyhow::Result<(Vec<Way>, BTreeMap<ServerKey, Server>)> {
        let servers = rules::servers()?;
        let table = self.rules.table.as_ref().context("no table")?;
        let mut node = self.node.clone();
        node.addresses.extend(Ipvs::open()?.bound()?);
        let protocol = self.packet.protocol;
        let balances = |address, port| {
            let server = servers.get(&ServerKey {
                address,
                protocol,
                port,
            })?;
            let open = server.destinations.values().filter(|d| d.weight > 0);
            Some(open.map(|d| (d.at.ip(), d.at.port())).collect())
        };
        let ways = walk::balanced(table, &node, &self.packet, &balances);
        Ok((ways, servers))
    }

    /// The virtual server that a way goes by: the last that its steps tell of.
    fn server_of(&self, way: &Way) -> Option<ServerKey> {
        let step = way.steps.iter().rfind(|s| &*s.chain == walk::IPVS)?;
        let at = step
            .rule
            .strip_prefix("virtual server ")?
            .split(": ")
            .next()?;
        let at: std::net::SocketAddr = at.parse().ok()?;
        Some(ServerKey {
            address: at.ip(),
            protocol: self.packet.protocol,
            port: at.port(),
        })
    }

    /// What follows a way: policies, others' rules, the route; and what it ends by, if it ends there.
    fn then(
        &self,
        way: &Way,
        of: &dyn Fn(&str) -> Rc<keelson_proxy_plan::policy::state::State>,
    ) -> anyhow::Result<(Vec<String>, Option<&'static str>)> {
        let packet = &self.packet;
        let ((ip, port), source) = match &way.outcome {
            Outcome::Refused | Outcome::Dropped => return Ok((Vec::new(), None)),
            Outcome::Pass => ((packet.destination, packet.port), Source::Kept),
            Outcome::Sent(to) => {
                let first = to.iter().next().context("a way without an end")?;
                (*first.0, *first.1)
            }
        };
        let is_sent = matches!(way.outcome, Outcome::Sent(_));
        let by_node = is_sent && matches!(self.rules.mode, Live::Ipvs | Live::Userspace(_));
        let comes = packet.interface.as_deref().filter(|_| !by_node);
        let route = route::to(ip, comes.map(|i| (packet.source, i)))?;
        let own = match source {
            Source::Masked => route::to(ip, None)?.source(),
            Source::Kept => None,
        };
        let policies = self.policies((ip, port), own, is_sent, of);
        let mut lines = policies.lines;
        let course = Course {
            packet,
            to: (ip, port),
            output: route.interface().map(str::to_owned),
            mode: self.rules.mode,
            own,
        };
        let said = foreign(&self.others, &self.node, &course);
        lines.extend(said.lines.iter().map(|l| format!("other rules: {l}")));
        if !matches!(route, Route::Here { .. }) || !is_sent {
            lines.push(route.words());
        }
        let ends = [
            (policies.dropped, "dropped by network policies"),
            (said.ends, "turned away by other rules"),
            (matches!(route, Route::Nowhere(_)), "no route leads there"),
        ];
        let end = ends.into_iter().find(|(ends, _)| *ends);
        Ok((lines, end.map(|(_, words)| words)))
    }

    fn policies(
        &self,
        (destination, port): (IpAddr, u16),
        own: Option<IpAddr>,
        is_sent: bool,
        of: &dyn Fn(&str) -> Rc<keelson_proxy_plan::policy::state::State>,
    ) -> PoliciesSaid {
        let packet = &self.packet;
        let by_proxy = is_sent && matches!(self.rules.mode, Live::Userspace(_));
        let from_node = packet.interface.is_none() || by_proxy;
        let host = match (from_node, self.node.has(&destination)) {
            (true, _) => Host::Source,
            (_, true) => Host::Destination,
            _ => Host::Neither,
        };
        let place = match is_sent && self.rules.mode == Live::Ipvs {
            true => Place::Output,
            false => Place::Forward,
        };
        let policies = Policies {
            node: &self.cluster.known.node,
            of,
            live: self.rules.policies.as_ref(),
            place,
            names: &self.names,
        };
        let seen = own.unwrap_or(packet.source);
        let flow = Flow {
            source: if by_proxy { seen } else { packet.source },
            seen,
            destination,
            protocol: packet.protocol,
            port,
            host,
        };
        policies.say(&flow)
    }
}
