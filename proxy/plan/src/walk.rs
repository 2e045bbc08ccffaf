//! Ways that a packet takes through a backend's rules, in the form that all those share who walk them
//! ([`crate::nft::walk`], [`crate::iptables::walk`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::socket;
use crate::packet::{Outcome, Packet, Source};

/// One rule that matched, or one that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In which chain.
    pub chain: Arc<str>,
    /// The rule.
    pub rule: String,
}

/// A way that a packet may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// What becomes of it.
    pub outcome: Outcome,
    /// One of so many that are equally likely.
    pub of: u32,
    /// The rules that it was by.
    pub steps: Vec<Step>,
}

/// What becomes of a packet, whatever is chosen. Ways that end differently in kind are told as an error: no rule of
/// ours leaves it to chance whether a packet arrives.
pub fn outcome(ways: &[Way]) -> Result<Outcome, String> {
    let mut all = BTreeMap::new();
    for way in ways {
        match (&way.outcome, ways) {
            (Outcome::Sent(to), _) => all.extend(to),
            (other, [_]) => return Ok(other.clone()),
            (other, _) => return Err(format!("{other:?} by chance: {:?}", way.steps)),
        }
    }
    Ok(Outcome::Sent(all))
}

/// How a walk ends before its packet goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Refused,
    Dropped,
}

/// What came of a packet: how its walk ended, where it goes now, and what was done to it on the way.
pub(crate) fn over(end: Option<End>, packet: &Packet, translated: bool, masked: bool) -> Outcome {
    match end {
        Some(End::Refused) => Outcome::Refused,
        Some(End::Dropped) => Outcome::Dropped,
        None if translated => {
            let source = if masked { Source::Masked } else { Source::Kept };
            let to = (packet.destination, packet.port);
            Outcome::Sent(BTreeMap::from([(to, source)]))
        }
        None => Outcome::Pass,
    }
}

impl Way {
    /// For people: the rules, one a line, and the end.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .steps
            .iter()
            .map(|s| format!("{}: {}", s.chain, s.rule))
            .collect();
        lines.push(match &self.outcome {
            Outcome::Pass => "goes on unchanged".into(),
            Outcome::Refused => "refused".into(),
            Outcome::Dropped => "dropped".into(),
            Outcome::Sent(to) => {
                let to: Vec<String> = to
                    .iter()
                    .map(|((ip, port), source)| {
                        let as_whom = match source {
                            Source::Kept => "from its own address",
                            Source::Masked => "from this node's address",
                        };
                        format!("{} {as_whom}", socket(*ip, *port))
                    })
                    .collect();
                format!("to {}", to.join(", "))
            }
        });
        lines
    }
}
