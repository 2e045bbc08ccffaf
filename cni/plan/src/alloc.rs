//! Which addresses a container gets: the next free one after the last given, as the reference's
//! host-local does, so that an address comes back as late as possible.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Attachment;
use crate::host_local::{HostLocal, Range, step};
use crate::protocol::{Error, code};
use crate::result::Ip;

/// Who has which address.
pub type Taken = BTreeMap<IpAddr, Attachment>;

/// An address out of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The set that it is of.
    pub set: usize,
    /// The address and its network.
    pub address: IpNet,
    /// The range's gateway.
    pub gateway: IpAddr,
    /// It is to be written down: the owner does not have it yet.
    pub fresh: bool,
}

impl Choice {
    fn of(set: usize, address: IpAddr, range: &Range, fresh: bool) -> Option<Self> {
        let address = IpNet::new(address, range.subnet.prefix_len()).ok()?;
        Some(Self {
            set,
            address,
            gateway: range.gateway(),
            fresh,
        })
    }

    /// In the form of a result.
    pub fn ip(&self) -> Ip {
        Ip {
            interface: None,
            address: self.address,
            gateway: Some(self.gateway),
        }
    }
}

/// An address for each set: the one asked for, the one the owner has already (a call that was killed is repeated), or
/// the next free one. `last` says for each set which was given last.
pub fn plan(
    conf: &HostLocal,
    taken: &Taken,
    owner: &Attachment,
    last: impl Fn(usize) -> Option<IpAddr>,
) -> Result<Vec<Choice>, Error> {
    let mut asked = conf.requested.clone();
    let mut choices = Vec::new();
    for (i, set) in conf.sets.iter().enumerate() {
        let wanted = asked.iter().position(|a| range_of(set, *a).is_some());
        let choice = match wanted {
            Some(at) => requested(i, set, asked.swap_remove(at), taken, owner)?,
            None => {
                let own = taken.iter().filter(|(_, o)| *o == owner);
                let mut own = own.filter_map(|(a, _)| Choice::of(i, *a, range_of(set, *a)?, false));
                let choice = own.next().or_else(|| next(i, set, taken, last(i)));
                choice.ok_or_else(|| exhausted(conf, set))?
            }
        };
        choices.push(choice);
    }
    if asked.is_empty() {
        return Ok(choices);
    }
    let left: Vec<String> = asked.iter().map(IpAddr::to_string).collect();
    let why = format!(
        "{}: each must be in a range set of its own",
        left.join(", ")
    );
    Err(Error::new(
        code::NO_ADDRESS,
        "requested addresses can't be given",
        why,
    ))
}

/// Whether each set has an address to give.
pub fn available(conf: &HostLocal, taken: &Taken) -> bool {
    conf.sets
        .iter()
        .all(|set| next(0, set, taken, None).is_some())
}

fn requested(
    i: usize,
    set: &[Range],
    address: IpAddr,
    taken: &Taken,
    owner: &Attachment,
) -> Result<Choice, Error> {
    let refuse =
        |why: String| Error::new(code::NO_ADDRESS, "requested address can't be given", why);
    let found = range_of(set, address).filter(|r| r.gateway() != address);
    let range = found.ok_or_else(|| refuse(format!("{address} is the gateway")))?;
    match taken.get(&address) {
        Some(other) if other != owner => Err(refuse(format!("{address} is taken"))),
        own => Choice::of(i, address, range, own.is_none())
            .ok_or_else(|| refuse(format!("{address} is in no network"))),
    }
}

fn exhausted(conf: &HostLocal, set: &[Range]) -> Error {
    let subnets: Vec<String> = set.iter().map(|r| r.subnet.to_string()).collect();
    let why = format!(
        "network {} has none free in {}",
        conf.network,
        subnets.join(", ")
    );
    Error::new(code::NO_ADDRESS, "no address left", why)
}

/// The range of a set that an address is in.
fn range_of(set: &[Range], address: IpAddr) -> Option<&Range> {
    set.iter().find(|r| r.contains(address))
}

/// The first free address after `last`, going round; `None` when all are taken.
fn next(i: usize, set: &[Range], taken: &Taken, last: Option<IpAddr>) -> Option<Choice> {
    let start = last.and_then(|l| set.iter().position(|r| r.contains(l)));
    let after = start.and_then(|k| {
        let from = last.filter(|l| *l < set[k].last()).map(|l| step(l, 1))?;
        free(i, &set[k], from, taken)
    });
    let first = start.map_or(0, |k| k + 1);
    after.or_else(|| {
        (0..set.len()).find_map(|k| {
            let range = &set[(first + k) % set.len()];
            free(i, range, range.first(), taken)
        })
    })
}

fn free(i: usize, range: &Range, from: IpAddr, taken: &Taken) -> Option<Choice> {
    let (mut address, last, gateway) = (from, range.last(), range.gateway());
    // Runs over at most `taken` addresses and the gateway: a /64 is never walked.
    while address <= last {
        if address != gateway && address != range.subnet.network() && !taken.contains_key(&address)
        {
            return Choice::of(i, address, range, true);
        }
        if address == last {
            break;
        }
        address = step(address, 1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(subnet: &str) -> Range {
        Range {
            subnet: subnet.parse().expect("cidr"),
            range_start: None,
            range_end: None,
            gateway: None,
        }
    }

    fn owner(container: &str) -> Attachment {
        Attachment {
            container: container.into(),
            ifname: "eth0".into(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("ip")
    }

    fn pick(set: &[Range], taken: &[&str], last: Option<&str>) -> Option<String> {
        let taken = taken.iter().map(|a| (ip(a), owner("x"))).collect();
        next(0, set, &taken, last.map(ip)).map(|c| c.address.addr().to_string())
    }

    #[test]
    fn requested_own_and_next_addresses() {
        let conf = |requested: &[&str]| HostLocal {
            network: "pods".into(),
            sets: vec![vec![range("10.0.0.0/29")], vec![range("fd00::/64")]],
            requested: requested.iter().map(|a| ip(a)).collect(),
            routes: Vec::new(),
            data_dir: "/d".into(),
            resolv_conf: None,
        };
        let taken = [("10.0.0.2", "b"), ("10.0.0.3", "a")];
        let taken: Taken = taken.iter().map(|(a, o)| (ip(a), owner(o))).collect();
        // Who asks, for what, and which are given; those with a star are fresh.
        type Row = (
            &'static str,
            &'static [&'static str],
            Option<&'static [&'static str]>,
        );
        let rows: &[Row] = &[
            ("a", &[], Some(&["10.0.0.3/29", "fd00::2/64*"])),
            ("c", &[], Some(&["10.0.0.4/29*", "fd00::2/64*"])),
            ("c", &["fd00::9"], Some(&["10.0.0.4/29*", "fd00::9/64*"])),
            (
                "c",
                &["fd00::9", "10.0.0.6"],
                Some(&["10.0.0.6/29*", "fd00::9/64*"]),
            ),
            ("a", &["10.0.0.3"], Some(&["10.0.0.3/29", "fd00::2/64*"])),
            ("c", &["10.0.0.3"], None),
            ("c", &["10.0.0.1"], None),
            ("c", &["10.9.0.1"], None),
            ("c", &["10.0.0.5", "10.0.0.6"], None),
        ];
        for (who, requested, want) in rows {
            let planned = plan(&conf(requested), &taken, &owner(who), |_| None);
            let told = planned.map(|all| {
                let star = |c: &Choice| if c.fresh { "*" } else { "" };
                all.iter()
                    .map(|c| format!("{}{}", c.address, star(c)))
                    .collect::<Vec<_>>()
            });
            match (told, want) {
                (Ok(told), Some(want)) => assert_eq!(told, *want, "{who} {requested:?}"),
                (Err(e), None) => assert_eq!(e.code, code::NO_ADDRESS),
                (told, _) => panic!("{who} {requested:?}: {told:?}"),
            }
        }
    }

    #[test]
    fn a_full_set_is_told() {
        let conf = HostLocal {
            network: "pods".into(),
            sets: vec![vec![range("10.0.0.0/30")]],
            requested: Vec::new(),
            routes: Vec::new(),
            data_dir: "/d".into(),
            resolv_conf: None,
        };
        let mut taken = Taken::new();
        assert!(available(&conf, &taken));
        taken.insert(ip("10.0.0.2"), owner("a"));
        assert!(!available(&conf, &taken));
        let e = plan(&conf, &taken, &owner("b"), |_| None).expect_err("full");
        assert!(e.details.contains("10.0.0.0/30"), "{e}");
    }

    #[test]
    fn next_after_the_last_and_round() {
        let set = [range("10.0.0.0/29")];
        let cases: &[(&[&str], Option<&str>, Option<&str>)] = &[
            (&[], None, Some("10.0.0.2")),
            (&[], Some("10.0.0.2"), Some("10.0.0.3")),
            (&["10.0.0.3"], Some("10.0.0.2"), Some("10.0.0.4")),
            (&[], Some("10.0.0.6"), Some("10.0.0.2")),
            (&["10.0.0.2"], Some("10.0.0.6"), Some("10.0.0.3")),
            (
                &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
                Some("10.0.0.4"),
                None,
            ),
            (&[], Some("192.168.0.1"), Some("10.0.0.2")),
        ];
        for (taken, last, want) in cases {
            assert_eq!(
                pick(&set, taken, *last).as_deref(),
                *want,
                "{taken:?} {last:?}"
            );
        }
        let two = [range("10.0.0.0/30"), range("10.0.1.0/30")];
        assert_eq!(
            pick(&two, &[], Some("10.0.0.2")).as_deref(),
            Some("10.0.1.2")
        );
        assert_eq!(
            pick(&two, &[], Some("10.0.1.2")).as_deref(),
            Some("10.0.0.2")
        );
    }

    proptest! {
        #[test]
        fn never_taken_never_the_gateway_and_every_address_is_used(len in 24u8..=29, mut last in any::<Option<u8>>()) {
            let set = [range(&format!("10.0.0.0/{len}"))];
            let mut taken = Taken::new();
            while let Some(c) = next(0, &set, &taken, last.map(|l| IpAddr::from([10, 0, 0, l]))) {
                let address = c.address.addr();
                prop_assert!(set[0].contains(address) && address != c.gateway);
                prop_assert!(taken.insert(address, owner("x")).is_none());
                last = None;
            }
            // All but network, broadcast and gateway.
            prop_assert_eq!(taken.len(), (1usize << (32 - len)) - 3);
        }
    }
}
