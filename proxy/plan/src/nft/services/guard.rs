//! Who may not pass: looked at before anything is translated, for a connection's first packet only.

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::source;
use crate::model::Family;
use crate::nft::parts::{self, own_source};
use crate::nft::table::{Load, Name, Part, Rule, Set, Verdict};
use crate::options::Options;

/// What becomes of packets for a front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Then {
    /// They go on.
    Pass,
    /// The sender learns that there is nobody.
    Refuse,
    /// The sender tries again, and may be sent elsewhere then.
    Drop,
    /// The same for those from outside; pods and this node go on.
    DropOutsiders,
}

/// A guard of one or several fronts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guard {
    /// Only those from these networks go on, if there is a list.
    pub ranges: Option<Vec<IpNet>>,
    /// What becomes of those.
    pub then: Then,
}

impl Guard {
    /// One that looks at nobody's address.
    pub fn new(then: Then) -> Self {
        Self { ranges: None, then }
    }

    /// The chain's name.
    pub fn name(&self) -> Name {
        let then = match self.then {
            Then::Pass => "pass",
            Then::Refuse => "refuse",
            Then::Drop => "drop",
            Then::DropOutsiders => "drop-outsiders",
        };
        let Some(ranges) = &self.ranges else {
            return then.into();
        };
        let text: Vec<String> = ranges.iter().map(IpNet::to_string).collect();
        let digest = Sha256::digest(text.join(","));
        let hash = digest.iter().take(6).map(|b| format!("{b:02x}"));
        format!("from-{}-{then}", hash.collect::<String>()).into()
    }

    /// The set of those that go on; sets have names of their own, so it has the chain's.
    pub fn set_name(&self) -> Option<Name> {
        self.ranges.is_some().then(|| self.name())
    }

    /// That set, as far as it is of a family.
    pub fn set(&self, family: Family) -> Option<Set> {
        let ranges = self.ranges.as_ref()?;
        let mine = |n: &&IpNet| Family::of(&n.addr()) == family;
        Some(parts::nets(ranges.iter().filter(mine)))
    }

    /// The chain's rules.
    pub fn rules(&self, options: &Options) -> Vec<Rule> {
        let drop = Part::Verdict(Verdict::Drop);
        let mut rules: Vec<Rule> = Vec::new();
        rules.extend(self.set_name().map(|set| {
            let stranger = Part::In {
                key: vec![Load::Source],
                set,
                not: true,
            };
            vec![stranger, drop.clone()]
        }));
        match self.then {
            Then::Pass => {}
            Then::Refuse => rules.push(vec![Part::Reject]),
            Then::Drop => rules.push(vec![drop]),
            Then::DropOutsiders => {
                let accept = Part::Verdict(Verdict::Accept);
                rules.extend(
                    source::insiders(options).map(|rule| [rule, vec![accept.clone()]].concat()),
                );
                rules.push(vec![own_source(), accept]);
                rules.push(vec![drop]);
            }
        }
        rules
    }
}
