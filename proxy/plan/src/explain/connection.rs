//! Connections that exist, as the connection table has them.

use std::net::IpAddr;

use super::Names;
use crate::model::{Protocol, socket};
use crate::packet::{Packet, Source};

/// So many are told one by one.
const TOLD: usize = 10;

/// A connection that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// Protocol.
    pub protocol: Protocol,
    /// Who began it.
    pub client: (IpAddr, u16),
    /// What for.
    pub destination: (IpAddr, u16),
    /// Who answers.
    pub answerer: (IpAddr, u16),
    /// Whom the answerer answers.
    pub answered: (IpAddr, u16),
    /// How far it is.
    pub state: State,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Of TCP, by its name in the connection table (`enum tcp_conntrack`).
    Tcp(&'static str),
    /// Somebody answered.
    Answered,
    /// Nobody answered yet.
    Unanswered,
}

impl State {
    /// TCP's state of a number.
    pub fn tcp(number: u8) -> Option<Self> {
        const NAMES: [&str; 10] = [
            "none",
            "SYN sent",
            "SYN received",
            "established",
            "FIN wait",
            "close wait",
            "last ACK",
            "time wait",
            "closed",
            "SYN sent by both",
        ];
        NAMES.get(usize::from(number)).copied().map(Self::Tcp)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Tcp(name) => name,
            Self::Answered => "answered",
            Self::Unanswered => "not answered yet",
        }
    }
}

/// Connections of the same source, destination, protocol and port as a packet, a line each.
pub(super) fn existing(packet: &Packet, connections: &[Connection], names: &Names) -> Vec<String> {
    let same = |c: &&Connection| {
        let to = (packet.destination, packet.port);
        c.protocol == packet.protocol && c.client.0 == packet.source && c.destination == to
    };
    let mut found: Vec<_> = connections.iter().filter(same).collect();
    // Those that go on come first.
    found.sort_by_key(|c| (!matches!(c.state, State::Tcp("established")), c.client));
    let told = found.iter().take(TOLD).map(|c| {
        let (ip, port) = c.answerer;
        let source = match c.answered.0 == c.client.0 {
            true => Source::Kept,
            false => Source::Masked,
        };
        format!(
            "  from port {} to {}, {}, {}",
            c.client.1,
            names.with(ip, socket(ip, port)),
            super::seen(source),
            c.state.words()
        )
    });
    let mut lines: Vec<String> = told.collect();
    if !found.is_empty() {
        lines.insert(0, format!("{} existing:", found.len()));
    }
    if found.len() > TOLD {
        lines.push(format!("  and {} more", found.len() - TOLD));
    }
    lines
}
