//! Rules of others: what tables that are not ours do with a packet that comes by them, as far as that is known.
//!
//! They are read from what `iptables-save` ([`iptables`]) and `nft --json` ([`nft`]) print. A rule whose matches are all
//! understood is walked; one that has another match, or does something else than let pass and turn away, is told as it
//! stands and nothing is claimed of it.

pub mod iptables;
mod judge;
pub mod nft;

#[cfg(test)]
mod tests;

pub use judge::{Finding, Judged, Seen, Stage, judge};

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::Family;
use crate::nft::table::Place;

/// A table of somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// For people: whose program, its family, its name.
    pub name: String,
    /// Which packets it sees; `None`: of both families.
    pub family: Option<Family>,
    /// Its chains.
    pub chains: BTreeMap<String, Chain>,
    /// What can be said of it is only this: it is of a kind that is not walked.
    pub unjudged: Option<String>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Absent: called by other chains only.
    pub hook: Option<Hook>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// How a chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where.
    pub place: Place,
    /// Smaller ones come first.
    pub priority: i32,
    /// It translates addresses: who was translated before doesn't come by.
    pub nat: bool,
    /// What no rule decides is dropped.
    pub drops: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As its program prints it.
    pub text: String,
    /// All must hold.
    pub tests: Vec<Test>,
    /// What then.
    pub does: Does,
}

/// What a rule does with a packet that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// Nothing that decides.
    Nothing,
    /// Through with the base chain.
    Accept,
    /// Gone.
    Drop,
    /// The sender learns it.
    Refuse,
    /// Back to where the chain was jumped to from.
    Return,
    /// On in a chain, and back.
    Jump(String),
    /// On in a chain for good.
    Goto(String),
    /// Source or destination are replaced.
    Translate,
    /// Of several the first that holds.
    Choose(Vec<(Test, Self)>),
    /// Something else.
    Unknown,
}

/// Something that a packet is or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// What.
    pub what: What,
    /// It must not be so.
    pub not: bool,
}

/// What a packet may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Its source is within one of these, both ends included.
    Source(Vec<(IpAddr, IpAddr)>),
    /// Its destination is.
    Destination(Vec<(IpAddr, IpAddr)>),
    /// Its protocol's number is one of these.
    Protocol(Vec<u8>),
    /// Its destination port is within one of these, both ends included.
    Port(Vec<(u16, u16)>),
    /// It comes in by one of these; `*` at the end stands for anything.
    In(Vec<String>),
    /// It leaves by one of these.
    Out(Vec<String>),
    /// Its connection is new, or has a translated destination, whichever is asked for.
    State {
        /// A new connection is.
        new: bool,
        /// One whose destination was translated is.
        translated: bool,
    },
    /// It is of this family.
    Family(Family),
    /// Its source is this node's own.
    SourceLocal,
    /// Its destination is.
    DestinationLocal,
    /// It is not understood.
    Unknown,
}

impl From<What> for Test {
    fn from(what: What) -> Self {
        Self { what, not: false }
    }
}
