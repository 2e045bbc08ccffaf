//! A rule's text, understood: the matches and targets that our rules use, and no others.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::model::Protocol;

/// Something that a packet may be or not be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Match {
    /// Its source is within these.
    Source(IpNet),
    /// Its destination is within these.
    Destination(IpNet),
    /// Its protocol.
    Protocol(Protocol),
    /// Its destination port.
    Port(u16),
    /// It comes in by this interface, or, where it ends in `+`, by one whose name begins so.
    Interface(String),
    /// Its source is the node's own.
    SourceLocal,
    /// Its destination is the node's own.
    DestinationLocal,
    /// Its connection is in one of these states, `DNAT` (its destination was translated) among them.
    State(Vec<String>),
    /// Its destination was translated (`--ctstatus DNAT`).
    Translated,
    /// It is marked so, in the bits of the mask.
    Mark(u32, u32),
    /// It is chosen, with this probability.
    Chance(f64),
    /// Who sends it was remembered in the list.
    Recent,
}

/// What is done with a packet that matches.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// Nothing: the rule only counts, or remembers.
    None,
    /// On with another chain.
    Jump(String),
    /// Back to where the chain was jumped to from.
    Return,
    /// Through with the table.
    Accept,
    /// Gone.
    Drop,
    /// The sender learns it.
    Reject,
    /// The mark's bits of the mask are cleared, then those of the value flipped (`--set-xmark value/mask`).
    Mark(u32, u32),
    /// The destination is this from now on; without a port, with the port that it has.
    Dnat(IpAddr, Option<u16>),
    /// The source is the node's from now on.
    Masquerade,
    /// The destination is the node itself, at this port.
    Redirect(Option<u16>),
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    /// All must hold, or, where `true` is beside, must not.
    pub matches: Vec<(Match, bool)>,
    /// What then.
    pub target: Target,
}

/// Understands a rule as `iptables-save` prints it, without `-A CHAIN`. Errors say which word isn't known.
pub(super) fn parse(text: &str) -> Result<Rule, String> {
    let words = words(text)?;
    let mut parser = Parser {
        words: words.into_iter(),
        matches: Vec::new(),
        target: Target::None,
    };
    parser.run()?;
    Ok(Rule {
        matches: parser.matches,
        target: parser.target,
    })
}

/// Modules whose options are known; naming one matches nothing by itself.
const MODULES: &[&str] = &[
    "addrtype",
    "comment",
    "conntrack",
    "mark",
    "recent",
    "sctp",
    "statistic",
    "tcp",
    "udp",
];

struct Parser {
    words: std::vec::IntoIter<String>,
    matches: Vec<(Match, bool)>,
    target: Target,
}

impl Parser {
    fn run(&mut self) -> Result<(), String> {
        let mut not = false;
        while let Some(word) = self.words.next() {
            if word == "!" {
                not = true;
                continue;
            }
            match self.option(&word)? {
                Some(found) => self.matches.push((found, not)),
                None if not => return Err(format!("! before {word}")),
                None => {}
            }
            not = false;
        }
        Ok(())
    }

    fn option(&mut self, word: &str) -> Result<Option<Match>, String> {
        Ok(Some(match word {
            "-s" => Match::Source(self.net()?),
            "-d" => Match::Destination(self.net()?),
            "-i" => Match::Interface(self.value(word)?),
            "-p" => {
                let name = self.value(word)?;
                let found = Protocol::parse(Some(&name.to_uppercase()));
                Match::Protocol(found.ok_or_else(|| format!("protocol {name}"))?)
            }
            "--dport" => Match::Port(self.number(word)?),
            "--src-type" => self.local(Match::SourceLocal)?,
            "--dst-type" => self.local(Match::DestinationLocal)?,
            "--ctstate" => Match::State(self.value(word)?.split(',').map(str::to_owned).collect()),
            "--ctstatus" => self.expect(word, "DNAT", Match::Translated)?,
            "--mark" => self
                .masked(word)
                .map(|(value, mask)| Match::Mark(value, mask))?,
            "--probability" => Match::Chance(self.number(word)?),
            "--rcheck" => Match::Recent,
            "-m" | "-j" | "-g" => {
                let name = self.value(word)?;
                match word {
                    "-m" if MODULES.contains(&&*name) => {}
                    "-j" => self.target = self.target(name)?,
                    _ => return Err(format!("{word} {name}")),
                }
                return Ok(None);
            }
            "--mode" => return self.expect(word, "random", None),
            // They say who is remembered and how, not who matches.
            "--comment" | "--name" | "--mask" | "--seconds" => {
                return self.value(word).map(|_| None);
            }
            "--set" | "--reap" | "--rsource" => return Ok(None),
            other => return Err(format!("{other} is not known")),
        }))
    }

    fn target(&mut self, name: String) -> Result<Target, String> {
        let target = match &*name {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "REJECT" => Target::Reject,
            "MASQUERADE" => Target::Masquerade,
            "REDIRECT" => Target::Redirect(None),
            "MARK" => {
                self.expect("MARK", "--set-xmark", ())?;
                return self
                    .masked("--set-xmark")
                    .map(|(value, mask)| Target::Mark(value, mask));
            }
            "DNAT" => {
                self.expect("DNAT", "--to-destination", ())?;
                return destination(&self.value("--to-destination")?);
            }
            // Our chains' names, and others' that stand beside ours.
            _ if name.contains('-') => Target::Jump(name.clone()),
            _ => return Err(format!("-j {name} is not known")),
        };
        // The options of a target end the rule.
        let rest: Vec<String> = self.words.by_ref().collect();
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        match (&target, rest.as_slice()) {
            (_, []) => Ok(target),
            (Target::Reject, ["--reject-with", _]) => Ok(target),
            (Target::Masquerade, ["--random-fully"]) => Ok(target),
            (Target::Redirect(_), ["--to-ports", port]) => port
                .parse()
                .map(|p| Target::Redirect(Some(p)))
                .map_err(|e| format!("--to-ports {port}: {e}")),
            _ => Err(format!("-j {name} {} is not known", rest.join(" "))),
        }
    }

    fn value(&mut self, of: &str) -> Result<String, String> {
        self.words
            .next()
            .ok_or_else(|| format!("{of} without a value"))
    }

    fn expect<T>(&mut self, of: &str, want: &str, then: T) -> Result<T, String> {
        let value = self.value(of)?;
        if value == want {
            Ok(then)
        } else {
            Err(format!("{of} {value} is not known"))
        }
    }

    fn local(&mut self, then: Match) -> Result<Match, String> {
        self.expect("address type", "LOCAL", then)
    }

    fn number<T: FromStr<Err: std::fmt::Display>>(&mut self, of: &str) -> Result<T, String> {
        let value = self.value(of)?;
        value.parse().map_err(|e| format!("{of} {value}: {e}"))
    }

    fn net(&mut self) -> Result<IpNet, String> {
        let value = self.value("address")?;
        let net = value
            .parse()
            .or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
        net.map_err(|e| format!("{value}: {e}"))
    }

    fn masked(&mut self, of: &str) -> Result<(u32, u32), String> {
        let text = self.value(of)?;
        let (value, mask) = text.split_once('/').unwrap_or((&text, "0xffffffff"));
        let number = |n: &str| u32::from_str_radix(n.strip_prefix("0x").unwrap_or(n), 16);
        let both = number(value).and_then(|v| number(mask).map(|m| (v, m)));
        both.map_err(|e| format!("{of} {text}: {e}"))
    }
}

fn destination(text: &str) -> Result<Target, String> {
    let socket = text.parse::<SocketAddr>().map(|s| (s.ip(), Some(s.port())));
    let bare = || {
        text.trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .map(|ip| (ip, None))
    };
    let found = socket.or_else(|_| bare());
    found
        .map(|(ip, port)| Target::Dnat(ip, port))
        .map_err(|e| format!("--to-destination {text}: {e}"))
}

/// Words, some of them within double quotes, in which a backslash takes the next letter as it is.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let (mut quoted, mut letters) = (false, text.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    if quoted {
        Err("a quote without its end".into())
    } else {
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_understood_or_refused() {
        let text = "! -s 10.42.0.0/16 -d 10.43.0.9/32 -i cni+ -p tcp -m comment --comment \"d/web \\\"x\\\" -j DROP\" -m tcp --dport 80 -j KUBE-MARK-MASQ";
        let rule = parse(text).expect("rule");
        let nots: Vec<bool> = rule.matches.iter().map(|(_, not)| *not).collect();
        assert_eq!(nots, [true, false, false, false, false]);
        assert_eq!(rule.target, Target::Jump("KUBE-MARK-MASQ".into()));
        let targets = [
            ("-j MARK --set-xmark 0x4000/0x0", Target::Mark(0x4000, 0)),
            (
                "-p tcp -m recent --set --name KUBE-SEP-A --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.42.0.2:8080",
                Target::Dnat([10, 42, 0, 2].into(), Some(8080)),
            ),
            (
                "-j DNAT --to-destination [fd42::2]:8080",
                Target::Dnat("fd42::2".parse().expect("ip"), Some(8080)),
            ),
            (
                "-p udp -j REDIRECT --to-ports 53",
                Target::Redirect(Some(53)),
            ),
            ("-j MASQUERADE --random-fully", Target::Masquerade),
            ("-m comment --comment only", Target::None),
        ];
        for (text, want) in targets {
            assert_eq!(parse(text).expect(text).target, want, "{text}");
        }
        for text in [
            "-m set --match-set x dst -j DROP",
            "--sport 5 -j DROP",
            "-j TPROXY",
            "-j MASQUERADE --to-ports 5",
            "-m addrtype --dst-type BROADCAST -j DROP",
            "-m statistic --mode nth --every 2 -j DROP",
            "-p icmp -j ACCEPT",
            "-g KUBE-A",
            "-m comment --comment \"open",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
