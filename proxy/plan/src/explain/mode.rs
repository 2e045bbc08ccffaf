//! By what services' traffic goes on a node, told from what is live there.

use std::fmt;

use crate::iptables::{self, variant::Variant};
use crate::ipvs;
use crate::nft::services::TABLE;
use crate::nft::table::Table;
use crate::userspace;

/// What carries services' traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// Our table of nftables.
    Nftables,
    /// iptables, of this variant if it has a name.
    Iptables(Option<Variant>),
    /// A process that rules of iptables send packets to.
    Userspace(Option<Variant>),
    /// IPVS, and our table beside it.
    Ipvs,
    /// Nothing of ours is there.
    Nothing,
}

impl fmt::Display for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = |v: &Option<Variant>| v.map_or_else(String::new, |v| format!(" ({v})"));
        match self {
            Self::Nftables => write!(f, "nftables (table {TABLE})"),
            Self::Iptables(v) => write!(f, "iptables{}", variant(v)),
            Self::Userspace(v) => {
                write!(f, "a process of this node, by iptables{}", variant(v))
            }
            Self::Ipvs => write!(f, "IPVS (and table {TABLE})"),
            Self::Nothing => f.write_str("nothing: no rules for services are live on this node"),
        }
    }
}

/// From our table, if there is one, and from what each of iptables' variants holds of ours. Where several modes left
/// something, the others are told too: packets meet all of them.
pub fn live(
    table: Option<&Table>,
    rules: &[(Option<Variant>, &iptables::Ruleset)],
) -> (Live, Vec<Live>) {
    let of_table = table.map(|t| match ipvs::is_beside(t) {
        true => Live::Ipvs,
        false => Live::Nftables,
    });
    let of_rules = rules.iter().filter(|(_, set)| set.size().0 > 0);
    let of_rules = of_rules.map(|(variant, set)| match userspace::is_ruleset(set) {
        true => Live::Userspace(*variant),
        false => Live::Iptables(*variant),
    });
    let mut all = of_table.into_iter().chain(of_rules);
    let first = all.next().unwrap_or(Live::Nothing);
    (first, all.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::{Ruleset, Table::Nat};
    use crate::model::Family;
    use crate::options::Options;

    #[test]
    fn what_is_there_says_which_mode_it_is() {
        let options = Options::default();
        let services = crate::nft::services::table([].iter(), Family::V4, &options);
        let ipvs = ipvs::table(&ipvs::Rules::default(), Family::V4, &options);
        let iptables = iptables::ruleset([].iter(), Family::V4, &options);
        let own = userspace::Options {
            family: Family::V4,
            cluster_cidrs: Vec::new(),
            node_port_addresses: Vec::new(),
            localhost_node_ports: true,
        };
        let userspace = userspace::ruleset(&[], &own, &std::collections::BTreeMap::new());
        let mut jump = Ruleset::default();
        jump.jump(Nat, "OUTPUT", "-j KUBE-SERVICES");
        let empty = Ruleset::default();
        let (legacy, nft) = (Some(Variant::Legacy), Some(Variant::Nft));
        let cases: &[(Option<&Table>, [&Ruleset; 2], Live, usize)] = &[
            (None, [&empty, &empty], Live::Nothing, 0),
            (None, [&empty, &jump], Live::Nothing, 0),
            (Some(&services), [&empty, &empty], Live::Nftables, 0),
            (Some(&ipvs), [&empty, &empty], Live::Ipvs, 0),
            (None, [&empty, &iptables], Live::Iptables(nft), 0),
            (None, [&userspace, &empty], Live::Userspace(legacy), 0),
            (Some(&services), [&iptables, &iptables], Live::Nftables, 2),
        ];
        for (table, [a, b], want, others) in cases {
            let (found, more) = live(*table, &[(legacy, *a), (nft, *b)]);
            assert_eq!((found, more.len()), (*want, *others));
        }
    }
}
