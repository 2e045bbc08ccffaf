//! What becomes of a connection, in words: which service it is for, which endpoints it may go to and how likely, which
//! rules lead there, what policies and others' rules do with it, where it leaves, and where connections that exist
//! already go.

mod connection;
mod ends;
mod foreign;
mod mode;
mod policies;
mod route;

pub use connection::{Connection, State};
pub use ends::{Ends, Known, Question, ends, in_host_network, ips, node_of};
pub use foreign::{Course, Said as ForeignSaid, say as foreign};
pub use mode::{Live, live};
pub use policies::{Flow, Policies, Said as PoliciesSaid};
pub use route::Route;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::ipvs;
use crate::model::{Entry, Family, Front, Kind, Policy, socket};
use crate::packet::{Outcome, Packet, Source};
use crate::select::usable;
use crate::userspace::{Behind, Listener};
use crate::walk::{Step, Way};

/// What addresses are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Pods by address.
    pub of: BTreeMap<IpAddr, String>,
    /// The node that a pod's address is on.
    pub nodes: BTreeMap<IpAddr, String>,
}

impl Names {
    fn with(&self, ip: IpAddr, text: String) -> String {
        match self.of.get(&ip) {
            Some(name) => format!("{text} ({name})"),
            None => text,
        }
    }
}

/// A way that the connection may take, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The way through services' rules.
    pub way: Way,
    /// How likely it is.
    pub chance: String,
    /// What follows: policies, others' rules, the route.
    pub then: Vec<String>,
    /// What of that it ends by.
    pub end: Option<&'static str>,
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct Story<'a> {
    /// The connection's first packet.
    pub packet: &'a Packet,
    /// What it is for, if it is for a service.
    pub service: Option<String>,
    /// What services' traffic goes by on this node.
    pub mode: Live,
    /// What should be known beforehand.
    pub notes: Vec<String>,
    /// All connections.
    pub connections: Vec<Connection>,
    /// Where a new one may go.
    pub candidates: Vec<Candidate>,
    /// What addresses are called.
    pub names: &'a Names,
}

/// The service port that a packet is for, and as what.
fn meant<'a>(entries: &'a [Entry], packet: &Packet, is_node: bool) -> Option<(&'a Entry, Kind)> {
    let address = Front::Address(packet.destination, packet.protocol, packet.port);
    let node = Front::Node(packet.protocol, packet.port);
    let fronts = entries
        .iter()
        .flat_map(|e| e.fronts.iter().map(move |f| (e, f)));
    let found = fronts.filter(|(_, (front, _))| *front == address || is_node && *front == node);
    // An address goes before a node port.
    let first = found.min_by_key(|(_, (_, kind))| *kind == Kind::NodePort);
    first.map(|(entry, (_, kind))| (entry, *kind))
}

/// For how many seconds a client stays with its endpoint, of the service that a packet is for.
pub fn affinity(entries: &[Entry], packet: &Packet, is_node: bool) -> Option<u32> {
    meant(entries, packet, is_node)?.0.port.affinity
}

/// What a packet is for: the service port's name and how it is reached.
pub fn service(entries: &[Entry], packet: &Packet, is_node: bool) -> Option<String> {
    let (entry, kind) = meant(entries, packet, is_node)?;
    let kind = match kind {
        Kind::Cluster => "cluster address",
        Kind::External => "external address",
        Kind::LoadBalancer => "load balancer's address",
        Kind::NodePort => "node port",
    };
    let family = Family::of(&packet.destination);
    let all: Vec<_> = entry.of(family).copied().collect();
    let ready = usable(&all, Policy::Cluster).len();
    let mut text = format!(
        "service {}, {kind}, {} endpoints",
        entry.port.name,
        all.len()
    );
    if ready != all.len() {
        let _ = write!(text, ", {ready} of them usable");
    }
    if let Some(seconds) = entry.port.affinity {
        let _ = write!(
            text,
            "; a client stays with its endpoint for {seconds} s (session affinity)"
        );
    }
    Some(text)
}

/// Ways by a process of this node: those to its port, and from there to whom stands behind the listener.
pub fn proxied(ways: Vec<Way>, meant_for: Option<(Listener, Behind)>) -> Vec<Way> {
    let Some((listener, behind)) = meant_for else {
        return ways;
    };
    let count = u32::try_from(behind.endpoints.len()).unwrap_or(u32::MAX);
    let local = match listener.local_only {
        true => " of this node",
        false => "",
    };
    let stays = behind.affinity.map_or_else(String::new, |seconds| {
        format!("; it stays with its endpoint for {seconds} s")
    });
    let rule = format!(
        "listener of {}: a new client goes to the next of {count} endpoints{local} in turn{stays}",
        listener.name
    );
    let all = ways.into_iter().flat_map(|way| {
        let Outcome::Sent(_) = way.outcome else {
            return vec![way];
        };
        let step = Step {
            chain: "proxy".into(),
            rule: rule.clone(),
        };
        let steps = [way.steps, vec![step]].concat();
        let to = |at: &SocketAddr| Way {
            outcome: Outcome::Sent([((at.ip(), at.port()), Source::Masked)].into()),
            of: count,
            steps: steps.clone(),
        };
        behind.endpoints.iter().map(to).collect()
    });
    all.collect()
}

/// How likely a way is.
pub fn chance(way: &Way) -> String {
    format!("{:.1} %", 100.0 / f64::from(way.of.max(1)))
}

/// How likely a virtual server's destination is: known of schedulers that take turns, and said by name of others.
pub fn weighted(server: &ipvs::Server, way: &Way) -> String {
    let sent = match &way.outcome {
        Outcome::Sent(to) => to.keys().next().copied(),
        _ => None,
    };
    let found = sent.and_then(|(ip, port)| server.destinations.get(&SocketAddr::new(ip, port)));
    let Some(found) = found else {
        return chance(way);
    };
    let open = server.destinations.values().filter(|d| d.weight > 0);
    let name = server.server.scheduler.name();
    let stays = match server.server.timeout {
        0 => String::new(),
        seconds => format!(", clients stay for {seconds} s"),
    };
    let shares = match name {
        "rr" => Some((1, open.count() as u64)),
        "wrr" => Some((
            u64::from(found.weight),
            open.map(|d| u64::from(d.weight)).sum(),
        )),
        _ => None,
    };
    match shares {
        Some((share, of)) => {
            let percent = 100.0 * share as f64 / of.max(1) as f64;
            format!("{percent:.1} % ({name}, weight {}{stays})", found.weight)
        }
        None => format!(
            "as scheduler {name} chooses (weight {}, {} active and {} other connections{stays})",
            found.weight, found.active, found.inactive
        ),
    }
}

/// The whole answer.
pub fn report(story: &Story<'_>) -> String {
    let (packet, names) = (story.packet, story.names);
    let mut out = String::new();
    let to = socket(packet.destination, packet.port);
    let _ = writeln!(out, "{packet}");
    let from = names.with(packet.source, packet.source.to_string());
    let _ = writeln!(out, "  from {from}");
    let what = story.service.as_deref();
    let what = what.unwrap_or("no service has this address and port");
    let _ = writeln!(out, "  to {}: {what}", names.with(packet.destination, to));
    let _ = writeln!(out, "services go by {}", story.mode);
    for note in &story.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for line in connection::existing(packet, &story.connections, names) {
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(out, "a new connection:");
    let common = common_steps(&story.candidates);
    let steps = story.candidates.iter().flat_map(|c| &c.way.steps);
    for step in steps.take(common) {
        let _ = writeln!(out, "  {}: {}", step.chain, step.rule);
    }
    for candidate in &story.candidates {
        candidate.tell(&mut out, common, names);
    }
    out
}

impl Candidate {
    fn tell(&self, out: &mut String, common: usize, names: &Names) {
        let end = self.end.map(|e| format!("; {e}")).unwrap_or_default();
        if let Outcome::Sent(to) = &self.way.outcome {
            for ((ip, port), source) in to {
                let who = names.with(*ip, socket(*ip, *port));
                let (chance, seen) = (&self.chance, seen(*source));
                let _ = writeln!(out, "  {chance}: to {who}, {seen}{end}");
            }
        } else {
            let _ = writeln!(out, "  {}{end}", plain(&self.way.outcome));
        }
        for step in self.way.steps.iter().skip(common) {
            let _ = writeln!(out, "    {}: {}", step.chain, step.rule);
        }
        for line in &self.then {
            let _ = writeln!(out, "    {line}");
        }
    }
}

/// How many rules all ways have in common.
fn common_steps(candidates: &[Candidate]) -> usize {
    let Some((first, others)) = candidates.split_first() else {
        return 0;
    };
    let same = |i: &usize| {
        others
            .iter()
            .all(|c| c.way.steps.get(*i) == first.way.steps.get(*i))
    };
    (0..first.way.steps.len()).take_while(same).count()
}

fn seen(source: Source) -> &'static str {
    match source {
        Source::Kept => "which sees who asks",
        Source::Masked => "which sees this node",
    }
}

fn plain(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "goes where it is sent: no service's rule changes it",
        Outcome::Refused => "refused: the sender is told that nobody is there",
        Outcome::Dropped => "dropped without a word",
        Outcome::Sent(_) => "sent on",
    }
}

#[cfg(test)]
mod tests;
