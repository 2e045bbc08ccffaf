//! Reads our table back: what the registers hold is followed through a rule's expressions, so that its parts come out
//! as they were put in.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::nft::table::{
    Chain, Field, Holds, Hook, Load, Name, Part, Place, Rule, Set, Table, Value, Verdict, Words,
};
use nix::libc;

use super::encode::{
    CT_DESTINATION, CT_DESTINATION6, CT_PORT, CT_SOURCE, CT_SOURCE_PORT, CT_SOURCE6, CT_STATE,
    CT_STATUS, FIB_DESTINATION, FIB_SOURCE, FIB_TYPE, ICMP_TYPE_OFFSET, INVERTED, META_INTERFACE,
    META_MARK, META_PRIORITY, META_PROTOCOL, NETWORK, ORIGINAL, PORT_OFFSET, RANDOM, REPLY,
    TRANSPORT, UNEQUAL, address_offset,
};
use super::socket::Connection;
use super::wire::{self, attributes, find, text};
use super::{TYPE_BITS, VERDICTS, number, type_number};

pub(super) fn read(
    kernel: &Connection,
    own: &'static str,
    family: Family,
) -> io::Result<Option<Table>> {
    let mut ours = Vec::new();
    wire::put_text(&mut ours, 1, own);
    match kernel.get(libc::NFT_MSG_GETTABLE, number(family), &ours) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let list = |kind| kernel.dump(kind, number(family), &ours);
    let mut table = Table::new(own, family);
    for body in list(libc::NFT_MSG_GETSET)? {
        if text(&body, 1) == Some(own)
            && let Some((name, set)) = set(&body, family)
        {
            table.sets.insert(name, set);
        }
    }
    for (name, set) in &mut table.sets {
        if set.dynamic.is_none() {
            read_elements(kernel, own, family, name, set)?;
        }
    }
    for body in list(libc::NFT_MSG_GETCHAIN)? {
        if text(&body, 1) == Some(own)
            && let Some((name, chain)) = chain(&body)
        {
            table.chains.insert(name, chain);
        }
    }
    for body in list(libc::NFT_MSG_GETRULE)? {
        if text(&body, 1) != Some(own) {
            continue;
        }
        let rule = rule(&body, &table);
        let chain = text(&body, 2).and_then(|name| table.chains.get_mut(name));
        if let Some(chain) = chain {
            // One that isn't understood has no parts: none of ours is so.
            chain.rules.push(rule.unwrap_or_default());
        }
    }
    Ok(Some(table))
}

fn set(body: &[u8], family: Family) -> Option<(Name, Set)> {
    // Absent where there are none.
    let flags = wire::number(body, 3).unwrap_or_default() as i32;
    let holds = match wire::number(body, 6) {
        None => Holds::Nothing,
        Some(VERDICTS) => Holds::Verdicts,
        Some(kind) => Holds::Fields(fields(kind, family).unwrap_or_default()),
    };
    // Of a type that we don't use: it has no fields, and none of ours is so.
    let key = fields(wire::number(body, 4)?, family).unwrap_or_default();
    let size = find(body, 9).and_then(|d| wire::number(d, 1));
    let dynamic = flags & libc::NFT_SET_TIMEOUT != 0;
    let set = Set {
        key,
        holds,
        intervals: flags & libc::NFT_SET_INTERVAL != 0,
        dynamic: dynamic.then_some(size.unwrap_or_default()),
        elements: BTreeMap::new(),
    };
    Some((text(body, 2)?.into(), set))
}

fn fields(mut kind: u32, family: Family) -> Option<Vec<Field>> {
    let all = [
        Field::Address,
        Field::Protocol,
        Field::Port,
        Field::Number,
        Field::Class,
    ];
    let mut fields = Vec::new();
    while kind > 0 {
        let part = kind & ((1 << TYPE_BITS) - 1);
        let field = all.iter().find(|f| type_number(**f, family) == part)?;
        fields.push(*field);
        kind >>= TYPE_BITS;
    }
    fields.reverse();
    Some(fields)
}

fn read_elements(
    kernel: &Connection,
    table: &str,
    family: Family,
    name: &str,
    set: &mut Set,
) -> io::Result<()> {
    if set.intervals {
        let bodies = bodies(kernel, table, family, name)?;
        set.elements = intervals(bodies.iter().flat_map(|b| wire::listed(b)));
    } else {
        set.elements.extend(elements(kernel, table, family, name)?);
    }
    Ok(())
}

/// A map's elements as they are now.
pub(super) fn elements(
    kernel: &Connection,
    table: &str,
    family: Family,
    name: &str,
) -> io::Result<Vec<(Words, Value)>> {
    let bodies = bodies(kernel, table, family, name)?;
    let all = bodies.iter().flat_map(|b| wire::listed(b));
    let found = all.filter_map(|element| {
        let key = find(find(element, wire::ELEMENT_KEY)?, wire::DATA_VALUE)?;
        Some((key.into(), value(element)))
    });
    Ok(found.collect())
}

fn bodies(
    kernel: &Connection,
    table: &str,
    family: Family,
    name: &str,
) -> io::Result<Vec<Vec<u8>>> {
    let mut body = Vec::new();
    wire::put_text(&mut body, 1, table);
    wire::put_text(&mut body, 2, name);
    kernel.dump(libc::NFT_MSG_GETSETELEM, number(family), &body)
}

fn value(element: &[u8]) -> Value {
    let Some(data) = find(element, wire::ELEMENT_DATA) else {
        return Value::None;
    };
    if let Some(words) = find(data, wire::DATA_VALUE) {
        return Value::Fields(words.into());
    }
    let verdict = find(data, wire::DATA_VERDICT).and_then(verdict);
    verdict.map_or(Value::None, Value::Verdict)
}

fn verdict(body: &[u8]) -> Option<Verdict> {
    let chain = || text(body, wire::VERDICT_CHAIN).map(Name::from);
    Some(match wire::number(body, wire::VERDICT_CODE)? as i32 {
        libc::NF_ACCEPT => Verdict::Accept,
        libc::NF_DROP => Verdict::Drop,
        libc::NFT_RETURN => Verdict::Return,
        libc::NFT_JUMP => Verdict::Jump(chain()?),
        libc::NFT_GOTO => Verdict::Goto(chain()?),
        _ => return None,
    })
}

/// The kernel lists where intervals begin and where they are over, each an element.
fn intervals<'a>(elements: impl Iterator<Item = &'a [u8]>) -> BTreeMap<Words, Value> {
    let mut ends: Vec<(Vec<u8>, bool)> = Vec::new();
    for element in elements {
        let key = find(element, wire::ELEMENT_KEY).and_then(|k| find(k, wire::DATA_VALUE));
        let flags = wire::number(element, wire::ELEMENT_FLAGS).unwrap_or_default();
        ends.extend(key.map(|k| (k.to_vec(), flags & wire::INTERVAL_END == 0)));
    }
    ends.sort_unstable();
    let mut all = BTreeMap::new();
    let mut rest = ends.into_iter().peekable();
    while let Some((first, begins)) = rest.next() {
        if !begins {
            continue;
        }
        let last = match rest.peek() {
            Some((end, _)) => wire::before(end),
            None => vec![0xff; first.len()],
        };
        all.insert([first, last].concat().into(), Value::None);
    }
    all
}

fn chain(body: &[u8]) -> Option<(Name, Chain)> {
    let hook = find(body, 4).and_then(|hook| {
        let place = match wire::number(hook, 1)? as i32 {
            libc::NF_INET_PRE_ROUTING => Place::Prerouting,
            libc::NF_INET_LOCAL_IN => Place::Input,
            libc::NF_INET_FORWARD => Place::Forward,
            libc::NF_INET_LOCAL_OUT => Place::Output,
            _ => Place::Postrouting,
        };
        Some(Hook {
            nat: text(body, 7) == Some("nat"),
            place,
            priority: wire::number(hook, 2)? as i32,
        })
    });
    let rules = Vec::new();
    Some((text(body, 3)?.into(), Chain { hook, rules }))
}

/// A rule's parts; `None` where one isn't understood.
fn rule(body: &[u8], table: &Table) -> Option<Rule> {
    let mut reader = Reader {
        table,
        registers: BTreeMap::new(),
        parts: Vec::new(),
    };
    for (_, expr) in attributes(find(body, 4).unwrap_or_default()) {
        reader.expr(text(expr, 1)?, find(expr, 2).unwrap_or_default())?;
    }
    Some(reader.parts)
}

/// What a register holds.
#[derive(Clone, Debug)]
enum Held {
    Load(Load),
    /// Some of its bits.
    Masked(Load, Words, Words),
    /// What a map held for these.
    Found(Vec<Load>, Name),
    /// These bytes.
    Constant(Words),
}

struct Reader<'a> {
    table: &'a Table,
    /// By word.
    registers: BTreeMap<u32, Held>,
    parts: Vec<Part>,
}

impl Reader<'_> {
    fn expr(&mut self, kind: &str, body: &[u8]) -> Option<()> {
        match kind {
            "payload" => self.payload(body),
            "meta" => self.meta(body),
            "ct" => {
                let load = match (wire::number(body, 2)?, find(body, 3)) {
                    (CT_STATE, None) => Load::State,
                    (CT_STATUS, None) => Load::Status,
                    (CT_DESTINATION | CT_DESTINATION6, Some([ORIGINAL])) => {
                        Load::OriginalDestination
                    }
                    (CT_PORT, Some([ORIGINAL])) => Load::OriginalPort,
                    (CT_SOURCE | CT_SOURCE6, Some([ORIGINAL])) => Load::OriginalSource,
                    (CT_SOURCE | CT_SOURCE6, Some([REPLY])) => Load::ReplySource,
                    (CT_SOURCE_PORT, Some([REPLY])) => Load::ReplyPort,
                    _ => return None,
                };
                self.hold(body, 1, Held::Load(load))
            }
            "fib" => {
                let load = match (wire::number(body, 3)?, wire::number(body, 2)?) {
                    (FIB_SOURCE, FIB_TYPE) => Load::SourceType,
                    (FIB_DESTINATION, FIB_TYPE) => Load::DestinationType,
                    _ => return None,
                };
                self.hold(body, 1, Held::Load(load))
            }
            "numgen" => {
                let load = Load::Random {
                    count: wire::number(body, 2)?,
                    first: wire::number(body, 4).unwrap_or_default(),
                };
                let random = wire::number(body, 3)? == RANDOM;
                self.hold(body, 1, Held::Load(load)).filter(|()| random)
            }
            "bitwise" => self.bitwise(body),
            "cmp" => self.compare(body),
            "range" => self.range(body),
            "lookup" => self.lookup(body),
            "dynset" => self.dynset(body),
            "nat" => self.nat(body),
            "masq" => self.part(Part::Masquerade),
            "reject" => self.part(Part::Reject),
            "immediate" => {
                let data = find(body, 2)?;
                match find(data, wire::DATA_VALUE) {
                    Some(bytes) => self.hold(body, 1, Held::Constant(bytes.into())),
                    None => self.part(Part::Verdict(verdict(find(data, wire::DATA_VERDICT)?)?)),
                }
            }
            _ => None,
        }
    }

    fn part(&mut self, part: Part) -> Option<()> {
        self.parts.push(part);
        Some(())
    }

    fn hold(&mut self, body: &[u8], attribute: u16, held: Held) -> Option<()> {
        let word = word(body, attribute)?;
        self.registers.insert(word, held);
        Some(())
    }

    fn held(&self, body: &[u8], attribute: u16) -> Option<&Held> {
        self.registers.get(&word(body, attribute)?)
    }

    fn loaded(&self, body: &[u8], attribute: u16) -> Option<Load> {
        match self.held(body, attribute)? {
            Held::Load(load) => Some(load.clone()),
            _ => None,
        }
    }

    fn payload(&mut self, body: &[u8]) -> Option<()> {
        let family = self.table.family;
        let (base, offset) = (wire::number(body, 2)?, wire::number(body, 3)?);
        let load = match base {
            TRANSPORT if offset == PORT_OFFSET => Load::Port,
            TRANSPORT if offset == ICMP_TYPE_OFFSET => Load::Icmpv6Type,
            NETWORK if offset == address_offset(family, true) => Load::Source,
            NETWORK if offset == address_offset(family, false) => Load::Destination,
            _ => return None,
        };
        let width = match load {
            Load::Port => 2,
            Load::Icmpv6Type => 1,
            _ => Field::Address.width(family) as u32,
        };
        let whole = wire::number(body, 4)? == width;
        self.hold(body, 1, Held::Load(load)).filter(|()| whole)
    }

    fn meta(&mut self, body: &[u8]) -> Option<()> {
        let key = wire::number(body, 2)?;
        if wire::number(body, 1).is_some() {
            let load = match key {
                META_PROTOCOL => Load::Protocol,
                META_MARK => Load::Mark,
                META_PRIORITY => Load::Class,
                META_INTERFACE => Load::Interface,
                _ => return None,
            };
            return self.hold(body, 1, Held::Load(load));
        }
        let part = match (key, self.held(body, 3)?.clone()) {
            (META_MARK, Held::Masked(Load::Mark, mask, xor)) => {
                match (!native(&mask)?, native(&xor)?) {
                    (bits, 0) => Part::ClearMark(bits),
                    (bits, to) if to == bits => Part::SetMark(bits),
                    _ => return None,
                }
            }
            (META_PRIORITY, Held::Found(key, map)) => Part::Classify { key, map },
            (META_PRIORITY, Held::Constant(bytes)) if *bytes == [0; 4] => Part::Unclassify,
            _ => return None,
        };
        self.part(part)
    }

    fn bitwise(&mut self, body: &[u8]) -> Option<()> {
        let load = self.loaded(body, 1)?;
        let mask = find(find(body, 4)?, wire::DATA_VALUE)?;
        let xor = find(find(body, 5)?, wire::DATA_VALUE)?;
        self.hold(body, 2, Held::Masked(load, mask.into(), xor.into()))
    }

    fn compare(&mut self, body: &[u8]) -> Option<()> {
        let not = wire::number(body, 2)? == UNEQUAL;
        let bytes = find(find(body, 3)?, wire::DATA_VALUE)?;
        let part = match self.held(body, 1)?.clone() {
            Held::Load(load) => Part::Is {
                load,
                bytes: bytes.into(),
                not,
            },
            Held::Masked(load @ (Load::Source | Load::Destination), mask, _) => {
                let (ip, mask) = (address(bytes)?, address(&mask)?);
                Part::Within {
                    load,
                    net: IpNet::with_netmask(ip, mask).ok()?,
                    not,
                }
            }
            Held::Masked(load, mask, _) => Part::Bits {
                load,
                mask: native(&mask)?,
                not: !not,
            },
            Held::Found(..) | Held::Constant(_) => return None,
        };
        self.part(part)
    }

    fn range(&mut self, body: &[u8]) -> Option<()> {
        let load = self.loaded(body, 1)?;
        let port = |kind| {
            let bytes = find(find(body, kind)?, wire::DATA_VALUE)?;
            Some(u16::from_be_bytes(bytes.try_into().ok()?))
        };
        let (first, last) = (port(3)?, port(4)?);
        self.part(Part::Between { load, first, last })
    }

    /// A key's fields, from a register on.
    fn key(&self, mut word: u32, fields: &[Field]) -> Option<Vec<Load>> {
        let mut key = Vec::new();
        let mut left: u32 = fields.iter().map(|f| self.words(*f)).sum();
        while left > 0 {
            let Held::Load(load) = self.registers.get(&word)? else {
                return None;
            };
            let words = self.load_words(load);
            word += words;
            left = left.checked_sub(words)?;
            key.push(load.clone());
        }
        Some(key)
    }

    fn words(&self, field: Field) -> u32 {
        field.width(self.table.family) as u32 / 4
    }

    fn load_words(&self, load: &Load) -> u32 {
        match load {
            Load::Source
            | Load::Destination
            | Load::OriginalDestination
            | Load::OriginalSource
            | Load::ReplySource => self.words(Field::Address),
            Load::Interface => 4,
            _ => 1,
        }
    }

    fn lookup(&mut self, body: &[u8]) -> Option<()> {
        let name: Name = text(body, 1)?.into();
        let set = self.table.sets.get(&name)?;
        let key = self.key(word(body, 2)?, &set.key)?;
        let not = wire::number(body, 5).unwrap_or_default() & INVERTED != 0;
        match (wire::number(body, 3), &set.holds) {
            (None, _) => self.part(Part::In {
                key,
                set: name,
                not,
            }),
            (Some(_), Holds::Verdicts) => self.part(Part::Decide { key, map: name }),
            (Some(_), _) => {
                let first = word(body, 3)?;
                // What it overwrites is gone.
                let last = first + self.words(Field::Address) + 1;
                self.registers.retain(|w, _| !(first..last).contains(w));
                self.registers.insert(first, Held::Found(key, name));
                Some(())
            }
        }
    }

    fn dynset(&mut self, body: &[u8]) -> Option<()> {
        let map: Name = text(body, 1)?.into();
        let set = self.table.sets.get(&map)?;
        let Holds::Fields(value) = &set.holds else {
            return None;
        };
        let key = self.key(word(body, 4)?, &set.key)?;
        let value = self.key(word(body, 5)?, value)?;
        let timeout = find(body, 6)?;
        let milliseconds = u64::from_be_bytes(timeout.try_into().ok()?);
        let seconds = u32::try_from(milliseconds.div_ceil(1000)).ok()?;
        self.part(Part::Remember {
            key,
            value,
            map,
            seconds,
        })
    }

    fn nat(&mut self, body: &[u8]) -> Option<()> {
        let Held::Found(key, map) = self.held(body, 3)?.clone() else {
            return None;
        };
        let port = word(body, 3)? + self.words(Field::Address);
        let whole = word(body, 5)? == port;
        self.part(Part::Translate { key, map }).filter(|()| whole)
    }
}

/// A register as a word: the kernel names those of 16 bytes where it can.
fn word(body: &[u8], attribute: u16) -> Option<u32> {
    let words = libc::NFT_REG32_00 as u32;
    match wire::number(body, attribute)? {
        0 => None,
        long @ 1..=4 => Some((long - 1) * 4),
        short => short.checked_sub(words),
    }
}

fn native(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
    }
}
