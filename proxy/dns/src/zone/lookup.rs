//! Questions to the zone, by the Kubernetes DNS-Based Service Discovery specification 1.1.0. Where that leaves it open the answers
//! are those of CoreDNS's kubernetes plugin in the mode `pods insecure`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::object::{Kind, Service, Slice};
use super::{Entry, Zone};
use crate::answer::{Answer, Data, Host, Outcome, Owner, Record, Target, is_asked, undash};
use crate::name::Name;

/// Aliases followed for one question, as in CoreDNS.
const MAX_ALIASES: usize = 8;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) kind: RecordType,
    /// Which of several addresses stands first; anything that grows from question to question.
    pub(crate) turn: usize,
    /// Addresses that fit into the answer at most.
    pub(crate) most: usize,
}

/// What a name is, before aliases are followed.
enum Found<'z> {
    Answer(Answer<'z>),
    Alias(&'z [u8]),
}

impl<'z> From<Answer<'z>> for Found<'z> {
    fn from(answer: Answer<'z>) -> Self {
        Self::Answer(answer)
    }
}

impl Zone {
    /// The name is one of the zone.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        name.above(&self.name).is_some()
    }

    /// Answers a question.
    pub(crate) fn ask<'z>(&'z self, name: &Name, asked: Asked) -> Outcome<'z> {
        let Some(above) = name.above(&self.name) else {
            return self
                .reverse(name, asked.kind)
                .map_or(Outcome::Elsewhere, Outcome::Answer);
        };
        let mut aliases = match self.find(name, above, asked) {
            Found::Answer(answer) => return Outcome::Answer(answer),
            Found::Alias(target) => vec![target],
        };
        while let Some(Some((next, _))) = aliases.last().map(|last| Name::read(last)) {
            if asked.kind == RecordType::CNAME {
                break;
            }
            let Some(above) = next.above(&self.name) else {
                return Outcome::Alias(aliases);
            };
            match self.find(&next, above, asked) {
                Found::Answer(answer) => return Outcome::Answer(behind(&aliases, answer)),
                Found::Alias(target) => aliases.push(target),
            }
            if aliases.len() > MAX_ALIASES {
                return Outcome::Answer(Answer::failed(ResponseCode::ServFail));
            }
        }
        Outcome::Answer(behind(&aliases, Answer::found(Vec::new())))
    }

    fn find<'z>(&'z self, name: &Name, above: usize, asked: Asked) -> Found<'z> {
        let label = |from_right: usize| {
            above
                .checked_sub(from_right)
                .map_or(&b""[..], |at| name.label(at))
        };
        let answer = match (label(1), above) {
            (_, 0) => self.apex(asked.kind),
            (b"dns-version", 1) if asked.kind == RecordType::TXT => {
                Answer::of([Data::Version].into_iter())
            }
            (b"dns-version" | b"svc" | b"pod" | b"dns", 1) | (b"pod", 2) => Answer::empty(),
            (b"dns", 2) if label(2) == b"ns" => addresses(self.servers.iter().copied(), asked),
            (b"pod", 3) => match undash(label(3)) {
                Some(ip) => addresses([ip].into_iter(), asked),
                None => Answer::missing(),
            },
            (b"svc", 2)
                if self
                    .namespaces
                    .contains_key(name.between(above - 2, above - 1)) =>
            {
                Answer::empty()
            }
            (b"svc", 3..) => {
                let key = name.between(above - 3, above - 1);
                let entry = self.names.get(key).and_then(|id| self.entry(*id));
                let prefix = (label(above), if above > 4 { label(above - 1) } else { b"" });
                match entry.and_then(|e| Some((e, e.service.as_ref()?))) {
                    Some((entry, service)) => return entry.find(service, above - 3, prefix, asked),
                    None => Answer::missing(),
                }
            }
            _ => Answer::missing(),
        };
        answer.into()
    }

    fn apex(&self, kind: RecordType) -> Answer<'_> {
        match kind {
            RecordType::SOA => Answer::of([Data::Authority].into_iter()),
            RecordType::NS if !self.servers.is_empty() => {
                let mut answer = Answer::of([Data::Server].into_iter());
                let own = |ip| Record {
                    owner: Owner::Server,
                    data: Data::Address(ip),
                };
                answer.additionals = self.servers.iter().copied().map(own).collect();
                answer
            }
            _ => Answer::empty(),
        }
    }

    /// `None`: the name is no address's of ours.
    fn reverse(&self, name: &Name, kind: RecordType) -> Option<Answer<'_>> {
        let ip = reversed(name)?;
        let mut entries: Vec<_> = match ip {
            IpAddr::V4(ip) => {
                let all = self.reverse_v4.range((ip, 0)..=(ip, u32::MAX));
                all.filter_map(|(_, id)| self.entry(*id)).collect()
            }
            IpAddr::V6(ip) => {
                let all = self.reverse_v6.range((ip, 0)..=(ip, u32::MAX));
                all.filter_map(|(_, id)| self.entry(*id)).collect()
            }
        };
        entries.retain(|e| e.service.is_some());
        entries.sort_unstable_by_key(|e| &e.key);
        let own = entries
            .iter()
            .find(|e| e.service.iter().any(|s| s.addresses().any(|a| a == ip)));
        let targets: Vec<_> = match own {
            Some(entry) => vec![entry.target(Host::Service)],
            None => {
                let hosts = entries
                    .iter()
                    .flat_map(|e| e.hosts_of(ip).into_iter().map(|h| e.target(h)));
                hosts.collect()
            }
        };
        if targets.is_empty() {
            return None;
        }
        if kind == RecordType::PTR {
            return Some(Answer::of(targets.into_iter().map(Data::Pointer)));
        }
        // Nothing else is told of the name, and the zone's authority does not reach there.
        Some(Answer {
            authority: false,
            ..Answer::empty()
        })
    }
}

impl Entry {
    fn target<'z>(&'z self, host: Host<'z>) -> Target<'z> {
        Target {
            host,
            service: &self.key,
        }
    }

    fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.iter().map(|(_, slice)| slice)
    }

    /// First labels of the endpoints that have an address.
    fn hosts_of(&self, ip: IpAddr) -> Vec<Host<'_>> {
        let all = self
            .slices()
            .filter(|s| s.has(ip))
            .flat_map(Slice::endpoints);
        let mut hosts = Vec::new();
        for (host, _) in all.filter(|(_, a)| *a == ip) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }

    /// What a name is that has so many labels in front of the service's; the first two of those are given.
    fn find<'z>(
        &'z self,
        service: &'z Service,
        labels: usize,
        prefix: (&[u8], &[u8]),
        asked: Asked,
    ) -> Found<'z> {
        if let Kind::External(target) = &service.kind {
            return if labels == 0 {
                Found::Alias(target)
            } else {
                Answer::missing().into()
            };
        }
        let headless = service.kind == Kind::Headless;
        if headless && self.slices().all(|s| s.len() == 0) {
            return Answer::missing().into();
        }
        let answer = match (labels, headless) {
            (0, false) if asked.kind == RecordType::SRV => self.ports(service, |_| true),
            (0, false) => addresses(service.addresses(), asked),
            (0, true) if asked.kind == RecordType::SRV => self.endpoint_ports(|_| true, None),
            (0, true) => self.all_addresses(asked),
            (1, _) if prefix.0.starts_with(b"_") => {
                let own = service.ports.iter().filter(|_| !headless);
                let below = own.chain(self.slices().filter(|_| headless).flat_map(|s| &*s.ports));
                if below.into_iter().any(|p| p.is_below(prefix.0)) {
                    Answer::empty()
                } else {
                    Answer::missing()
                }
            }
            (1, _) => self.endpoint(prefix.0, asked),
            (2, false) => self
                .ports(service, |p| p.is(prefix.0, prefix.1))
                .of_port(asked.kind),
            (2, true) => self
                .endpoint_ports(|p| p.is(prefix.0, prefix.1), None)
                .of_port(asked.kind),
            _ => Answer::missing(),
        };
        answer.into()
    }

    /// A headless service: the addresses of its endpoints, beginning with another one each time.
    fn all_addresses(&self, asked: Asked) -> Answer<'_> {
        let v4 = match asked.kind {
            RecordType::A => true,
            RecordType::AAAA => false,
            _ => return Answer::empty(),
        };
        let slices: Vec<_> = self.slices().filter(|s| s.is_v4() == v4).collect();
        let all: usize = slices.iter().map(|s| s.len()).sum();
        let first = asked.turn.checked_rem(all).unwrap_or_default();
        let places = slices
            .iter()
            .enumerate()
            .flat_map(|(slice, s)| (0..s.len()).map(move |at| (slice, at)));
        let (before, after) = (places.clone().take(first), places.skip(first));
        let distinct = after.chain(before).filter_map(|(slice, at)| {
            let ip = slices.get(slice)?.address(at)?;
            // While a pod moves from one slice to another it stands in both.
            let earlier = slices.get(..slice).unwrap_or_default();
            (!earlier.iter().any(|s| s.has(ip))
                && (at == 0 || slices.get(slice)?.address(at - 1) != Some(ip)))
            .then_some(ip)
        });
        Answer::of(distinct.take(asked.most).map(Data::Address))
    }

    /// An endpoint by its host name or dashed address.
    fn endpoint<'z>(&'z self, label: &[u8], asked: Asked) -> Answer<'z> {
        let mut ips: Vec<_> = self
            .slices()
            .flat_map(|s| s.named(label))
            .map(|(_, ip)| ip)
            .collect();
        ips.sort_unstable();
        ips.dedup();
        if ips.is_empty() {
            Answer::missing()
        } else if asked.kind == RecordType::SRV {
            self.endpoint_ports(|_| true, Some(label))
        } else {
            addresses(ips.into_iter(), asked)
        }
    }

    /// Ports of a service with addresses of its own.
    fn ports<'z>(
        &'z self,
        service: &'z Service,
        wanted: impl Fn(&super::object::Port) -> bool,
    ) -> Answer<'z> {
        let ports: Vec<_> = service.ports.iter().filter(|p| wanted(p)).collect();
        let target = self.target(Host::Service);
        let weight = weight(ports.len() * service.addresses().count());
        let mut answer = Answer::of(ports.iter().map(|p| Data::Service {
            weight,
            port: p.number,
            target,
        }));
        if !ports.is_empty() {
            let own = |ip| Record {
                owner: Owner::Target(target),
                data: Data::Address(ip),
            };
            answer.additionals = service.addresses().map(own).collect();
        }
        answer
    }

    /// Ports of endpoints, of those that a label names or of all.
    fn endpoint_ports<'z>(
        &'z self,
        wanted: impl Fn(&super::object::Port) -> bool,
        label: Option<&[u8]>,
    ) -> Answer<'z> {
        let mut pairs = Vec::new();
        for slice in self.slices() {
            let endpoints: Vec<_> = match label {
                Some(label) => slice.named(label).collect(),
                None => slice.endpoints().collect(),
            };
            let ports: Vec<_> = slice
                .ports
                .iter()
                .filter(|p| wanted(p))
                .map(|p| p.number)
                .collect();
            pairs.extend(
                endpoints
                    .into_iter()
                    .flat_map(|e| ports.iter().map(move |port| (e, *port))),
            );
        }
        if pairs.is_empty() {
            return Answer::empty();
        }
        let weight = weight(pairs.len());
        let (mut ports, mut addresses) = (HashSet::new(), HashSet::new());
        let mut answer = Answer::found(Vec::new());
        for ((host, ip), port) in pairs {
            let target = self.target(host);
            if ports.insert((host, port)) {
                answer.answers.push(Record {
                    owner: Owner::Question,
                    data: Data::Service {
                        weight,
                        port,
                        target,
                    },
                });
            }
            if addresses.insert((host, ip)) {
                answer.additionals.push(Record {
                    owner: Owner::Target(target),
                    data: Data::Address(ip),
                });
            }
        }
        answer
    }
}

impl Answer<'_> {
    /// A port's name has nothing but the places where the port is, and does not exist without them.
    fn of_port(self, kind: RecordType) -> Self {
        match kind {
            _ if self.answers.is_empty() => Answer::missing(),
            RecordType::SRV => self,
            _ => Answer::empty(),
        }
    }
}

/// CoreDNS's: a hundred parts for all, at least one for each.
fn weight(targets: usize) -> u16 {
    let share = 100_usize.checked_div(targets).unwrap_or_default();
    u16::try_from(share.max(1)).unwrap_or(1)
}

/// Addresses of the family asked for, beginning with another one each time.
fn addresses<'z>(all: impl Iterator<Item = IpAddr>, asked: Asked) -> Answer<'z> {
    let mut answer = Answer::of(
        all.filter(|ip| is_asked(*ip, asked.kind))
            .take(asked.most)
            .map(Data::Address),
    );
    if answer.answers.len() > 1 {
        let first = asked.turn % answer.answers.len();
        answer.answers.rotate_left(first);
    }
    answer
}

/// Puts aliases in front of what was found behind them.
fn behind<'z>(aliases: &[&'z [u8]], mut answer: Answer<'z>) -> Answer<'z> {
    let mut owner = Owner::Question;
    let mut records = Vec::with_capacity(aliases.len() + answer.answers.len());
    for target in aliases {
        records.push(Record {
            owner,
            data: Data::Alias(target),
        });
        owner = Owner::Name(target);
    }
    records.extend(
        answer
            .answers
            .iter()
            .map(|found| Record { owner, ..*found }),
    );
    answer.answers = records;
    answer
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &Name) -> Option<IpAddr> {
    let labels = name.labels();
    if labels == 6 && name.ending(4) == b"\x07in-addr\x04arpa\0" {
        let mut bytes = [0; 4];
        for (i, byte) in bytes.iter_mut().enumerate() {
            let text = std::str::from_utf8(name.label(3 - i)).ok()?;
            *byte = text.parse().ok().filter(|b: &u8| b.to_string() == text)?;
        }
        return Some(Ipv4Addr::from(bytes).into());
    }
    if labels == 34 && name.ending(32) == b"\x03ip6\x04arpa\0" {
        let mut value = 0_u128;
        for i in (0..32).rev() {
            let text = std::str::from_utf8(name.label(i))
                .ok()
                .filter(|t| t.len() == 1)?;
            value = value << 4 | u128::from_str_radix(text, 16).ok()?;
        }
        return Some(Ipv6Addr::from(value).into());
    }
    None
}
