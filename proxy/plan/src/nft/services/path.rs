//! The chains that a packet for a service ends in. They are shared by all services of the same form: what differs
//! between two services, their endpoints, stands in maps.

use super::names::{AFFINITY, AFFINITY_LOCAL, Maps};
use super::source;
use crate::nft::parts::own_source;
use crate::nft::table::{Load, Name, Part, Rule};
use crate::options::Options;

/// Whose packets are masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mask {
    /// Nobody's: the endpoint sees who asks.
    Never,
    /// Those of everybody but pods.
    Outsiders,
    /// Those of this node itself.
    Node,
    /// Everybody's.
    Always,
}

/// Which of a front's slots may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slots {
    /// How many.
    pub count: u32,
    /// The first.
    pub first: u32,
}

/// How clients stay with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sticky {
    /// For so many seconds after their last connection began.
    pub seconds: u32,
    /// With endpoints of this node only.
    pub local: bool,
}

/// How packets for a front go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// By a port of the node's addresses.
    pub node_port: bool,
    /// Whose source is masked.
    pub mask: Mask,
    /// How clients stay.
    pub sticky: Option<Sticky>,
    /// Where to.
    pub slots: Slots,
}

impl Path {
    /// The chain's name.
    pub fn name(&self) -> Name {
        let front = if self.node_port {
            "node-port"
        } else {
            "address"
        };
        let mask = match self.mask {
            Mask::Never => "plain",
            Mask::Outsiders => "mask-outsiders",
            Mask::Node => "mask-node",
            Mask::Always => "mask",
        };
        let Slots { count, first } = self.slots;
        let mut name = format!("{front}-{mask}-{count}");
        if first > 0 {
            name += &format!("-from-{first}");
        }
        if let Some(Sticky { seconds, local }) = self.sticky {
            name += &format!("-sticky{}-{seconds}", if local { "-local" } else { "" });
        }
        name.into()
    }

    /// The chain's rules.
    pub fn rules(&self, options: &Options) -> Vec<Rule> {
        let mark = Part::SetMark(options.masquerade_mark);
        let mut rules: Vec<Rule> = vec![vec![Part::Unclassify]];
        match self.mask {
            Mask::Never => {}
            Mask::Outsiders => rules.extend(source::outsiders(options).map(|mut rule| {
                rule.push(mark);
                rule
            })),
            Mask::Node => rules.push(vec![own_source(), mark]),
            Mask::Always => rules.push(vec![mark]),
        }
        if let Some(sticky) = self.sticky {
            rules.push(vec![Part::Translate {
                key: client(),
                map: sticky.map(),
            }]);
        }
        let maps = Maps::of(self.node_port);
        let Slots { count, first } = self.slots;
        rules.push(vec![Part::Translate {
            key: [maps.key(), vec![Load::Random { count, first }]].concat(),
            map: maps.endpoints(),
        }]);
        rules
    }
}

impl Sticky {
    /// Who went where.
    pub(super) fn map(&self) -> Name {
        if self.local { AFFINITY_LOCAL } else { AFFINITY }.into()
    }

    /// The chain that remembers where a connection goes, once it is translated.
    pub fn name(&self) -> Name {
        let local = if self.local { "-local" } else { "" };
        format!("remember{local}-{}", self.seconds).into()
    }

    /// The chain's rules.
    pub fn rules(&self) -> Vec<Rule> {
        vec![vec![Part::Remember {
            key: vec![
                Load::Source,
                Load::OriginalDestination,
                Load::Protocol,
                Load::OriginalPort,
            ],
            value: vec![Load::Destination, Load::Port],
            map: self.map(),
            seconds: self.seconds,
        }]]
    }
}

/// Who asks for what.
fn client() -> Vec<Load> {
    vec![Load::Source, Load::Destination, Load::Protocol, Load::Port]
}
