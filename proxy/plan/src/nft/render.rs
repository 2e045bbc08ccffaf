//! Tables and transactions as text, in the words of `nft list` as far as it has them: for people, snapshots and logs.

use std::fmt::{self, Display, Formatter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::table::{
    Chain, Field, Holds, Hook, Load, Part, Place, Rule, Set, Table, Value, Verdict, Words, state,
    status,
};
use super::transaction::Transaction;
use crate::model::Family;

/// Something of a table of a family, as text.
pub struct Text<'a, T>(pub Family, pub &'a T);

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", family(self.family), self.name)?;
        for (name, set) in &self.sets {
            let kind = if set.holds == Holds::Nothing {
                "set"
            } else {
                "map"
            };
            writeln!(f, "  {kind} {name} {{ {}", Text(self.family, set))?;
            for (key, value) in &set.elements {
                writeln!(f, "    {}", element(self.family, set, key, value))?;
            }
            writeln!(f, "  }}")?;
        }
        for (name, chain) in &self.chains {
            writeln!(f, "  chain {name} {{{}", hook(chain))?;
            for rule in &chain.rules {
                writeln!(f, "    {}", Text(self.family, rule))?;
            }
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")
    }
}

impl Transaction {
    /// As lines, each a change; `table` is what it changes, for the forms of its sets.
    pub fn render(&self, table: &Table) -> String {
        let mut out = String::new();
        if self.anew {
            out += "delete table\n";
        }
        for name in self.add_sets.keys() {
            let _ = writeln!(out, "add set {name}");
        }
        for (name, chain) in &self.add_chains {
            let _ = writeln!(out, "add chain {name}{}", hook(chain));
        }
        for (name, rules) in &self.rules {
            for rule in rules {
                let _ = writeln!(out, "add rule {name} {}", Text(self.family, rule));
            }
        }
        for (verb, sets) in [
            ("delete", &self.delete_elements),
            ("add", &self.add_elements),
        ] {
            for (name, elements) in sets {
                let form = self.add_sets.get(name).or_else(|| table.sets.get(name));
                for (key, value) in elements {
                    let text = form.map(|s| element(self.family, s, key, value));
                    let _ = writeln!(out, "{verb} element {name} {}", text.unwrap_or_default());
                }
            }
        }
        for name in &self.delete_chains {
            let _ = writeln!(out, "delete chain {name}");
        }
        for name in &self.delete_sets {
            let _ = writeln!(out, "delete set {name}");
        }
        out
    }
}

fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn hook(chain: &Chain) -> String {
    let Some(Hook {
        nat,
        place,
        priority,
    }) = chain.hook
    else {
        return String::new();
    };
    let kind = if nat { "nat" } else { "filter" };
    let place = match place {
        Place::Prerouting => "prerouting",
        Place::Input => "input",
        Place::Forward => "forward",
        Place::Output => "output",
        Place::Postrouting => "postrouting",
    };
    format!(" type {kind} hook {place} priority {priority}; policy accept;")
}

fn field(family: Family, field: Field) -> &'static str {
    match (field, family) {
        (Field::Address, Family::V4) => "ipv4_addr",
        (Field::Address, Family::V6) => "ipv6_addr",
        (Field::Protocol, _) => "inet_proto",
        (Field::Port, _) => "inet_service",
        (Field::Number, _) => "mark",
        (Field::Class, _) => "classid",
    }
}

impl Display for Text<'_, Set> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(of, set) = self;
        let fields = |all: &[Field]| join(all.iter().map(|x| field(*of, *x)));
        write!(f, "type {}", fields(&set.key))?;
        match &set.holds {
            Holds::Nothing => {}
            Holds::Verdicts => write!(f, " : verdict")?,
            Holds::Fields(all) => write!(f, " : {}", fields(all))?,
        }
        if set.intervals {
            write!(f, "; flags interval")?;
        }
        if let Some(size) = set.dynamic {
            write!(f, "; flags dynamic,timeout; size {size}")?;
        }
        Ok(())
    }
}

/// An element of a set.
pub fn element(family: Family, set: &Set, key: &Words, value: &Value) -> String {
    let text = if set.intervals {
        let (first, last) = key.split_at(key.len() / 2);
        let (first, last) = (
            words(family, &set.key, first),
            words(family, &set.key, last),
        );
        if first == last {
            first
        } else {
            format!("{first}-{last}")
        }
    } else {
        words(family, &set.key, key)
    };
    match (value, &set.holds) {
        (Value::None, _) => text,
        (Value::Verdict(verdict), _) => format!("{text} : {verdict}"),
        (Value::Fields(value), Holds::Fields(fields)) => {
            format!("{text} : {}", words(family, fields, value))
        }
        (Value::Fields(value), _) => format!("{text} : {value:?}"),
    }
}

/// Fields of a key or value.
fn words(family: Family, fields: &[Field], mut bytes: &[u8]) -> String {
    let mut all = Vec::new();
    for field in fields {
        let (part, rest) = bytes
            .split_at_checked(field.width(family))
            .unwrap_or((bytes, &[]));
        bytes = rest;
        all.push(word(*field, part));
    }
    join(all.iter().map(String::as_str))
}

fn word(field: Field, bytes: &[u8]) -> String {
    match (field, bytes) {
        (Field::Address, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        (Field::Address, _) => match <[u8; 16]>::try_from(bytes) {
            Ok(bytes) => Ipv6Addr::from(bytes).to_string(),
            Err(_) => format!("{bytes:?}"),
        },
        (Field::Protocol, [6, ..]) => "tcp".into(),
        (Field::Protocol, [17, ..]) => "udp".into(),
        (Field::Protocol, [132, ..]) => "sctp".into(),
        (Field::Protocol, [58, ..]) => "ipv6-icmp".into(),
        (Field::Port, [a, b, ..]) => u16::from_be_bytes([*a, *b]).to_string(),
        (Field::Number, [a, b, c, d]) => u32::from_ne_bytes([*a, *b, *c, *d]).to_string(),
        (Field::Class, [a, b, c, d]) => {
            let class = u32::from_ne_bytes([*a, *b, *c, *d]);
            format!("{:x}:{:x}", class >> 16, class & 0xffff)
        }
        _ => format!("{bytes:?}"),
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(" . ")
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Text<'_, Rule> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.1.iter().map(|p| part(self.0, p)).collect();
        f.write_str(&parts.join(" "))
    }
}

fn loads(of: Family, all: &[Load]) -> String {
    let all: Vec<String> = all.iter().map(|l| load(of, l)).collect();
    all.join(" . ")
}

fn load(of: Family, load: &Load) -> String {
    let ip = family(of);
    match load {
        Load::Source => format!("{ip} saddr"),
        Load::Destination => format!("{ip} daddr"),
        Load::Protocol => "meta l4proto".into(),
        Load::Port => "th dport".into(),
        Load::OriginalDestination => format!("ct original {ip} daddr"),
        Load::OriginalPort => "ct original proto-dst".into(),
        Load::OriginalSource => format!("ct original {ip} saddr"),
        Load::ReplySource => format!("ct reply {ip} saddr"),
        Load::ReplyPort => "ct reply proto-src".into(),
        Load::Icmpv6Type => "icmpv6 type".into(),
        Load::Interface => "iifname".into(),
        Load::State => "ct state".into(),
        Load::Status => "ct status".into(),
        Load::Mark => "meta mark".into(),
        Load::Class => "meta priority".into(),
        Load::SourceType => "fib saddr type".into(),
        Load::DestinationType => "fib daddr type".into(),
        Load::Random { count, first: 0 } => format!("numgen random mod {count}"),
        Load::Random { count, first } => format!("numgen random mod {count} offset {first}"),
    }
}

fn part(of: Family, part: &Part) -> String {
    let no = |not: bool| if not { "!= " } else { "" };
    match part {
        Part::Is {
            load: l,
            bytes,
            not,
        } => {
            format!("{} {}{}", load(of, l), no(*not), constant(of, l, bytes))
        }
        Part::Bits { load: l, mask, not } => {
            let what = bits(l, *mask);
            if *not {
                format!("{} & {what} == 0", load(of, l))
            } else {
                format!("{} {what}", load(of, l))
            }
        }
        Part::Within { load: l, net, not } => format!("{} {}{net}", load(of, l), no(*not)),
        Part::Between {
            load: l,
            first,
            last,
        } => format!("{} {first}-{last}", load(of, l)),
        Part::In { key, set, not } => format!("{} {}@{set}", loads(of, key), no(*not)),
        Part::Decide { key, map } => format!("{} vmap @{map}", loads(of, key)),
        Part::Classify { key, map } => {
            format!("meta priority set {} map @{map}", loads(of, key))
        }
        Part::Unclassify => "meta priority set none".into(),
        Part::Translate { key, map } => format!("dnat to {} map @{map}", loads(of, key)),
        Part::Remember {
            key,
            value,
            map,
            seconds,
        } => {
            let (key, value) = (loads(of, key), loads(of, value));
            format!("update @{map} {{ {key} timeout {seconds}s : {value} }}")
        }
        Part::Masquerade => "masquerade fully-random".into(),
        Part::SetMark(mark) => format!("meta mark set meta mark | {mark:#x}"),
        Part::ClearMark(mark) => format!("meta mark set meta mark & ~{mark:#x}"),
        Part::Reject => "reject".into(),
        Part::Verdict(verdict) => verdict.to_string(),
    }
}

fn constant(of: Family, load: &Load, bytes: &Words) -> String {
    match (load, &**bytes) {
        (Load::SourceType | Load::DestinationType, [2, 0, 0, 0]) => "local".into(),
        (Load::Source | Load::Destination, bytes) => word(Field::Address, bytes),
        (Load::Protocol, [number, ..]) => word(Field::Protocol, &[*number, 0, 0, 0]),
        (Load::Port | Load::ReplyPort, bytes) => word(Field::Port, bytes),
        (Load::Icmpv6Type, [number]) => number.to_string(),
        (Load::Interface, bytes) => {
            let text = String::from_utf8_lossy(bytes);
            match text.strip_suffix('\0') {
                Some(name) => format!("\"{name}\""),
                None => format!("\"{text}*\""),
            }
        }
        (_, bytes) => format!("{of:?} {bytes:?}"),
    }
}

fn bits(load: &Load, mask: u32) -> String {
    let names: &[(u32, &str)] = match load {
        Load::State => &[
            (state::INVALID, "invalid"),
            (state::ESTABLISHED, "established"),
            (state::RELATED, "related"),
            (state::NEW, "new"),
            (state::UNTRACKED, "untracked"),
        ],
        Load::Status => &[(status::DNAT, "dnat")],
        _ => &[],
    };
    let found: Vec<&str> = names
        .iter()
        .filter(|(b, _)| mask & b != 0)
        .map(|(_, n)| *n)
        .collect();
    if found.is_empty() {
        format!("& {mask:#x} != 0")
    } else {
        found.join(",")
    }
}

/// The address and the port that a value of a map of endpoints holds.
pub fn endpoint(family: Family, bytes: &[u8]) -> Option<(IpAddr, u16)> {
    let (address, port) = bytes.split_at_checked(Field::Address.width(family))?;
    let ip = match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    let [a, b, ..] = port else { return None };
    Some((ip, u16::from_be_bytes([*a, *b])))
}
