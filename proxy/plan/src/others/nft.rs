//! Tables as `nft --json --numeric list table` prints them (libnftables-json(5)).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::{Chain, Does, Hook, Rule, Table, Test, What};
use crate::model::Family;
use crate::nft::table::{Place, state, status};

/// Names of keelson's own tables begin so: what services and policies don't know of them is walked as others' are.
const OURS: &str = "keelson-";

/// Family and name of all tables of a list (`nft --json list tables`). Errors: it is no such list.
pub fn names(json: &str) -> Result<Vec<(String, String)>, String> {
    let objects = objects(json)?;
    let tables = objects.iter().filter_map(|o| o.get("table"));
    let named = tables.filter_map(|t| Some((text(t, "family")?, text(t, "name")?)));
    Ok(named.collect())
}

/// A table. `printed` is the same as `nft --handle list table` prints it for people: rules are told by its words.
/// Errors: it is no table.
pub fn table(json: &str, printed: &str) -> Result<Table, String> {
    let objects = objects(json)?;
    let of = |kind: &'static str| objects.iter().filter_map(move |o| o.get(kind));
    let own = of("table").next().ok_or("no table in what nft printed")?;
    let (family, name) = (text(own, "family"), text(own, "name"));
    let (family, name) = (family.unwrap_or_default(), name.unwrap_or_default());
    let mut table = Table {
        name: match name.starts_with(OURS) {
            true => format!("keelson's nft table {family} {name}"),
            false => format!("nft table {family} {name}"),
        },
        ..Table::default()
    };
    match &*family {
        "ip" => table.family = Some(Family::V4),
        "ip6" => table.family = Some(Family::V6),
        "inet" => {}
        other => table.unjudged = Some(format!("rules of family {other} are not walked")),
    }
    let sets: BTreeMap<String, &Value> = of("set")
        .filter_map(|s| Some((text(s, "name")?, s)))
        .collect();
    let words = words(printed);
    for chain in of("chain") {
        let hook = hook(chain);
        let name = text(chain, "name").unwrap_or_default();
        let rules = Vec::new();
        table.chains.insert(name, Chain { hook, rules });
    }
    let reader = Reader { sets };
    for rule in of("rule") {
        let handle = rule.get("handle").and_then(Value::as_u64);
        let words = handle.and_then(|h| words.get(&h).cloned());
        let words = words.unwrap_or_else(|| format!("rule of handle {}", handle.unwrap_or(0)));
        let chain = text(rule, "chain").and_then(|c| table.chains.get_mut(&c));
        let statements = rule.get("expr").and_then(Value::as_array);
        if let (Some(chain), Some(statements)) = (chain, statements) {
            chain.rules.extend(reader.rules(statements, words));
        }
    }
    Ok(table)
}

fn objects(json: &str) -> Result<Vec<Value>, String> {
    let whole: Value = serde_json::from_str(json).map_err(|e| format!("nft's JSON: {e}"))?;
    let list = whole.get("nftables").and_then(Value::as_array);
    list.cloned()
        .ok_or_else(|| "nft's JSON: no nftables".into())
}

fn text(of: &Value, field: &str) -> Option<String> {
    of.get(field)?.as_str().map(str::to_owned)
}

/// Handle to words.
fn words(printed: &str) -> BTreeMap<u64, String> {
    let lines = printed.lines().filter_map(|line| {
        let (words, handle) = line.rsplit_once("# handle ")?;
        Some((handle.trim().parse().ok()?, words.trim().to_owned()))
    });
    lines.collect()
}

fn hook(chain: &Value) -> Option<Hook> {
    let place = match chain.get("hook")?.as_str()? {
        "prerouting" => Place::Prerouting,
        "input" => Place::Input,
        "forward" => Place::Forward,
        "output" => Place::Output,
        "postrouting" => Place::Postrouting,
        _ => return None,
    };
    let priority = chain.get("prio").and_then(Value::as_i64);
    Some(Hook {
        place,
        priority: priority.and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
        nat: chain.get("type").and_then(Value::as_str) == Some("nat"),
        drops: chain.get("policy").and_then(Value::as_str) == Some("drop"),
    })
}

/// Statements that decide nothing.
const PLAIN: &[&str] = &[
    "counter",
    "log",
    "mangle",
    "notrack",
    "flow",
    "ct helper",
    "ct timeout",
    "set",
    "map",
    "last",
];

struct Reader<'a> {
    sets: BTreeMap<String, &'a Value>,
}

impl Reader<'_> {
    /// A rule; several verdicts in one (maps of verdicts) are tried in order, as rules of their own.
    fn rules(&self, statements: &[Value], text: String) -> Vec<Rule> {
        let (mut tests, mut rules) = (Vec::new(), Vec::new());
        let statements = statements.iter().filter_map(Value::as_object).flatten();
        for (kind, body) in statements {
            let does = match kind.as_str() {
                "match" => {
                    tests.extend(self.matches(body));
                    continue;
                }
                kind if PLAIN.contains(&kind) => continue,
                "xt" => match (string(body, "type"), string(body, "name")) {
                    ("target", "REJECT") => Does::Refuse,
                    ("target", "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT") => Does::Translate,
                    ("target", _) => Does::Unknown,
                    _ => {
                        tests.push(What::Unknown.into());
                        continue;
                    }
                },
                // How often is not known of one packet.
                "limit" | "quota" | "ct count" | "meter" => {
                    tests.push(What::Unknown.into());
                    continue;
                }
                "vmap" => self.choose(body),
                verdict => does(verdict, body),
            };
            rules.push(Rule {
                text: text.clone(),
                tests: tests.clone(),
                does,
            });
        }
        rules
    }

    fn choose(&self, body: &Value) -> Does {
        let data = body.get("data").map(|d| self.members(d));
        let (Some(key), Some(Some(members))) = (body.get("key"), data) else {
            return Does::Unknown;
        };
        let cases = members.iter().map(|member| {
            let [of, verdict] = member.as_array()?.as_slice() else {
                return None;
            };
            let (kind, body) = verdict.as_object()?.iter().next()?;
            let mut tests = self.compare(key, "==", of);
            // A case is one test: where there are more (a port is of a protocol) the rest goes without saying.
            let test = tests.pop().unwrap_or_else(|| What::Unknown.into());
            Some((test, does(kind, body)))
        });
        cases
            .collect::<Option<_>>()
            .map_or(Does::Unknown, Does::Choose)
    }

    fn matches(&self, body: &Value) -> Vec<Test> {
        match (body.get("left"), body.get("right")) {
            (Some(left), Some(right)) => self.compare(left, string(body, "op"), right),
            _ => vec![What::Unknown.into()],
        }
    }

    fn compare(&self, left: &Value, op: &str, right: &Value) -> Vec<Test> {
        let not = op == "!=";
        let known = matches!(op, "==" | "!=" | "in");
        let what = known.then(|| self.what(left, right)).flatten();
        let mut tests: Vec<Test> = implied(left).into_iter().map(Test::from).collect();
        tests.push(match what {
            Some(what) => Test { what, not },
            None => What::Unknown.into(),
        });
        tests
    }

    fn what(&self, left: &Value, right: &Value) -> Option<What> {
        let members = self.members(right)?;
        let (kind, body) = left.as_object()?.iter().next()?;
        let numbers = || members.iter().map(number).collect::<Option<Vec<u64>>>();
        let any = |bit: u32| Some(numbers()?.iter().any(|n| n & u64::from(bit) != 0));
        Some(
            match (kind.as_str(), string(body, "protocol"), name(body)) {
                ("payload", "ip" | "ip6", "saddr") => What::Source(all(&members, addresses)?),
                ("payload", "ip" | "ip6", "daddr") => What::Destination(all(&members, addresses)?),
                ("payload", "ip", "protocol")
                | ("payload", "ip6", "nexthdr")
                | ("meta", _, "l4proto") => {
                    What::Protocol(all(&members, |m| u8::try_from(number(m)?).ok())?)
                }
                ("payload", "tcp" | "udp" | "sctp" | "th", "dport") => {
                    What::Port(all(&members, ports)?)
                }
                ("meta", _, "iifname" | "iif") => What::In(all(&members, link)?),
                ("meta", _, "oifname" | "oif") => What::Out(all(&members, link)?),
                ("meta", _, "nfproto") => match numbers()?.as_slice() {
                    [2] => What::Family(Family::V4),
                    [10] => What::Family(Family::V6),
                    _ => return None,
                },
                ("ct", _, "state") => What::State {
                    new: any(state::NEW)?,
                    translated: false,
                },
                ("ct", _, "status") => match numbers()?.as_slice() {
                    [bit] if *bit == u64::from(status::DNAT) => What::State {
                        new: false,
                        translated: true,
                    },
                    _ => return None,
                },
                ("fib", ..) if members.len() == 1 && number(members.first()?) == Some(2) => {
                    let flags = body.get("flags")?.as_array()?;
                    match (string(body, "result"), flags.as_slice()) {
                        ("type", [of]) if of == "saddr" => What::SourceLocal,
                        ("type", [of]) if of == "daddr" => What::DestinationLocal,
                        _ => return None,
                    }
                }
                _ => return None,
            },
        )
    }

    /// One value, or those of a set, a list or a set with a name.
    fn members(&self, right: &Value) -> Option<Vec<Value>> {
        let list =
            |of: &Value| -> Option<Vec<Value>> { Some(of.as_array()?.iter().map(bare).collect()) };
        match right {
            Value::String(name) if name.starts_with('@') => {
                let set = self.sets.get(name.trim_start_matches('@'))?;
                // Without elements it has none of them.
                set.get("elem").map_or_else(|| Some(Vec::new()), list)
            }
            Value::Array(_) => list(right),
            Value::Object(o) if o.contains_key("set") => list(o.get("set")?),
            one => Some(vec![one.clone()]),
        }
    }
}

/// An element without its comment and its time.
fn bare(element: &Value) -> Value {
    let inner = element.get("elem").and_then(|e| e.get("val"));
    inner.unwrap_or(element).clone()
}

fn string<'a>(of: &'a Value, field: &str) -> &'a str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What of a packet is meant: `field` of a header, `key` of all else.
fn name(of: &Value) -> &str {
    match string(of, "field") {
        "" => string(of, "key"),
        field => field,
    }
}

/// What a header stands for.
fn implied(left: &Value) -> Option<What> {
    match string(left.get("payload")?, "protocol") {
        "ip" => Some(What::Family(Family::V4)),
        "ip6" => Some(What::Family(Family::V6)),
        "tcp" => Some(What::Protocol(vec![6])),
        "udp" => Some(What::Protocol(vec![17])),
        "sctp" => Some(What::Protocol(vec![132])),
        _ => None,
    }
}

fn does(verdict: &str, body: &Value) -> Does {
    let target = || string(body, "target").to_owned();
    match verdict {
        "accept" => Does::Accept,
        "drop" => Does::Drop,
        "reject" => Does::Refuse,
        "return" => Does::Return,
        "continue" => Does::Nothing,
        "jump" => Does::Jump(target()),
        "goto" => Does::Goto(target()),
        "dnat" | "snat" | "masquerade" | "redirect" => Does::Translate,
        _ => Does::Unknown,
    }
}

fn all<T>(members: &[Value], read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    members.iter().map(read).collect()
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64()
}

fn link(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn ports(value: &Value) -> Option<(u16, u16)> {
    let port = |v: &Value| u16::try_from(number(v)?).ok();
    match range(value) {
        Some((first, last)) => Some((port(first)?, port(last)?)),
        None => port(value).map(|p| (p, p)),
    }
}

fn addresses(value: &Value) -> Option<(IpAddr, IpAddr)> {
    let address = |v: &Value| v.as_str()?.parse::<IpAddr>().ok();
    if let Some((first, last)) = range(value) {
        return Some((address(first)?, address(last)?));
    }
    let Some(prefix) = value.get("prefix") else {
        return address(value).map(|a| (a, a));
    };
    let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
    let net = IpNet::new(address(prefix.get("addr")?)?, length).ok()?;
    Some((net.network(), net.broadcast()))
}

fn range(value: &Value) -> Option<(&Value, &Value)> {
    match value.get("range")?.as_array()?.as_slice() {
        [first, last] => Some((first, last)),
        _ => None,
    }
}
