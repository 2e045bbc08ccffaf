//! Names of the table's sets, maps and chains. Those of sets, blocks and groups are made of contents.

use crate::nft::table::{Name, Verdict};
use crate::policy::compiled::Id;
use crate::policy::model::Direction;

/// Pods whose connections are judged as theirs: address to group.
pub const EGRESS: &str = "egress";
/// Pods to which connections are judged: address to group.
pub const INGRESS: &str = "ingress";
/// Pairs of a pod's address with itself: what a pod sends to itself by a service passes.
pub const ITSELF: &str = "self";

/// The base chain.
pub(super) const FORWARD: &str = "forward";
/// The base chain for what IPVS hands on.
pub(super) const OUTPUT: &str = "output";
/// What no rule of a group allows.
pub(super) const REFUSE: &str = "refuse";
/// Packets that are of no connection.
pub(super) const UNTRACKED: &str = "untracked";

/// The map of a direction.
pub(super) fn map(direction: Direction) -> Name {
    match direction {
        Direction::Egress => EGRESS.into(),
        Direction::Ingress => INGRESS.into(),
    }
}

/// The chain of a group.
pub(super) fn group(id: &Id) -> Name {
    format!("g-{id}").into()
}

/// What the maps hold for a group.
pub(super) fn jump(id: &Id) -> Verdict {
    Verdict::Jump(group(id))
}

/// A set of pods.
pub(super) fn set(id: &Id) -> Name {
    format!("s-{id}").into()
}

/// A set of intervals.
pub(super) fn blocks(id: &Id) -> Name {
    format!("b-{id}").into()
}
