//! The rules as they change: what a Service put in before is compared with what it puts in now. Its own chains are
//! made anew, chains that it shares are put together from lines that are there; what is written to the kernel are the
//! chains that are other than before, whole, as a restore can't do less.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::frame::{self, CAUGHT, CLUSTER_IPS, REFUSED_EXTERNAL, SHARED, Shared, frame};
use super::part::part;
use crate::iptables::ruleset::{Line, Ruleset, Table};
use crate::model::{Change, Entry, Family, PortName, Protocol};
use crate::options::Options;

type Key = (PortName, Protocol);

/// What is kept of a service port's rules.
#[derive(Clone, Debug, Default)]
struct Kept {
    shared: Vec<(Shared, Line)>,
    own: Vec<String>,
    cluster_ips: Vec<IpAddr>,
}

/// A cluster address: how many service ports have it, and its rule.
#[derive(Clone, Debug)]
struct Address {
    users: u32,
    line: Line,
}

/// A family's rules, and who put in what.
#[derive(Clone, Debug)]
pub struct Live {
    family: Family,
    options: Options,
    set: Ruleset,
    kept: BTreeMap<Key, Kept>,
    addresses: BTreeMap<IpAddr, Address>,
}

impl Live {
    /// Nothing is there yet but what is there without services.
    pub fn new(family: Family, options: Options) -> Self {
        let mut live = Self {
            set: frame(family, &options),
            family,
            options,
            kept: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        live.reset(std::iter::empty());
        live
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// All rules as they should be now.
    pub fn ruleset(&self) -> &Ruleset {
        &self.set
    }

    /// All rules as they should be now.
    pub fn into_ruleset(self) -> Ruleset {
        self.set
    }

    /// Begins anew with all that is there.
    pub fn reset<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        self.set = frame(self.family, &self.options);
        self.kept.clear();
        self.addresses.clear();
        for entry in entries {
            self.put(entry);
        }
        for shared in SHARED {
            self.assemble(shared);
        }
    }

    /// What the changes mean, as input of `iptables-restore --noflush`; `None`: nothing.
    pub fn update(&mut self, changes: &[Change]) -> Option<String> {
        let addresses: Vec<IpAddr> = self.ends();
        let (mut chains, mut shared) = (HashMap::new(), BTreeMap::new());
        let mut taken = BTreeSet::new();
        for entry in changes.iter().flat_map(|c| &c.before) {
            let key = key(entry);
            let Some(kept) = self.take(&key) else {
                continue;
            };
            for name in kept.own {
                let rules = self.set.remove(Table::Nat, &name);
                chains.insert(name, rules);
            }
            taken.extend(kept.cluster_ips);
            shared.insert(key, kept.shared);
        }
        for entry in changes.iter().flat_map(|c| &c.after) {
            let key = key(entry);
            self.put(entry);
            let kept = self.kept.get(&key);
            for name in kept.iter().flat_map(|k| &k.own) {
                chains.entry(name.clone()).or_insert(None);
            }
            taken.extend(kept.iter().flat_map(|k| k.cluster_ips.iter().copied()));
            shared.entry(key).or_default();
        }
        let own = chains
            .into_iter()
            .filter(|(name, before)| self.set.rules(Table::Nat, name) != before.as_deref());
        let mut written: BTreeSet<(Table, String)> =
            own.map(|(name, _)| (Table::Nat, name)).collect();
        let mut dirty = self.differing(&shared);
        if taken.iter().any(|ip| self.is_other(ip)) {
            dirty.insert(CLUSTER_IPS);
        }
        if self.ends() != addresses {
            dirty.insert(REFUSED_EXTERNAL);
        }
        for chain in dirty {
            self.assemble(chain);
            written.insert((chain.0, chain.1.to_owned()));
        }
        self.set.partial(&written)
    }

    /// Shared chains in which these service ports have other rules than they had.
    fn differing(&self, before: &BTreeMap<Key, Vec<(Shared, Line)>>) -> BTreeSet<Shared> {
        let mut dirty = BTreeSet::new();
        for (key, before) in before {
            let now = self
                .kept
                .get(key)
                .map(|k| k.shared.as_slice())
                .unwrap_or_default();
            for chain in SHARED {
                let of = |rules: &[(Shared, Line)]| -> Vec<Line> {
                    let mine = rules.iter().filter(|(c, _)| *c == chain);
                    mine.map(|(_, rule)| rule.clone()).collect()
                };
                if of(before) != of(now) {
                    dirty.insert(chain);
                }
            }
        }
        dirty
    }

    /// Whether the rule of a cluster address came or went since its chain was put together.
    fn is_other(&self, ip: &IpAddr) -> bool {
        let line = self.line(ip);
        let chain = self
            .set
            .rules(CLUSTER_IPS.0, CLUSTER_IPS.1)
            .unwrap_or_default();
        self.addresses.contains_key(ip) != chain.contains(&line)
    }

    /// The first and the last cluster address, if there is any.
    fn ends(&self) -> Vec<IpAddr> {
        let mut all = self.addresses.keys();
        all.next()
            .into_iter()
            .chain(all.next_back())
            .copied()
            .collect()
    }

    fn put(&mut self, entry: &Entry) {
        let part = part(entry, self.family, &self.options);
        for ip in &part.cluster_ips {
            let line = self.line(ip);
            let address = self
                .addresses
                .entry(*ip)
                .or_insert(Address { users: 0, line });
            address.users += 1;
        }
        let mut own = Vec::with_capacity(part.own.len());
        for (name, rules) in part.own {
            self.set.replace(Table::Nat, name.clone(), rules);
            own.push(name);
        }
        let kept = Kept {
            shared: part.shared,
            own,
            cluster_ips: part.cluster_ips,
        };
        self.kept.insert(key(entry), kept);
    }

    fn take(&mut self, key: &Key) -> Option<Kept> {
        let kept = self.kept.remove(key)?;
        for ip in &kept.cluster_ips {
            if let Slot::Occupied(mut address) = self.addresses.entry(*ip) {
                let users = &mut address.get_mut().users;
                *users = users.saturating_sub(1);
                if address.get().users == 0 {
                    address.remove();
                }
            }
        }
        Some(kept)
    }

    fn line(&self, ip: &IpAddr) -> Line {
        let (to, reject) = (IpNet::from(*ip), frame::reject(self.family));
        format!("-d {to} -m comment --comment \"no such service port\" -j {reject}").into()
    }

    /// Puts a shared chain together.
    fn assemble(&mut self, chain: Shared) {
        let mut rules: Vec<Line> = if chain == CLUSTER_IPS {
            self.addresses.values().map(|a| a.line.clone()).collect()
        } else {
            let all = self.kept.values().flat_map(|k| &k.shared);
            let mine = all.filter(|(c, _)| *c == chain);
            mine.map(|(_, rule)| rule.clone()).collect()
        };
        if chain == CAUGHT {
            rules.extend(frame::node_ports(self.family, &self.options));
        }
        if chain == REFUSED_EXTERNAL {
            let (mut first, mut last) = (self.addresses.keys(), self.addresses.keys().rev());
            let ends = first.next().zip(last.next());
            rules.extend(ends.map(|(first, last)| frame::unserved(*first, *last)));
        }
        self.set.replace(chain.0, chain.1.to_owned(), rules);
    }
}

fn key(entry: &Entry) -> Key {
    (entry.port.name.clone(), entry.port.protocol)
}
