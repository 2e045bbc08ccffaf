//! `CNI_ARGS`: what a runtime adds for one attachment, `KEY=VALUE` separated by semicolons.

use std::net::IpAddr;

use crate::config::{address, valid_mac};
use crate::protocol::{Error, code};

/// What of it plugins here look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// `IP`: the addresses to give, with commas between them, each with or without a prefix (the form of `static`).
    pub ips: Vec<IpAddr>,
    /// `MAC`: the hardware address to give.
    pub mac: Option<String>,
}

/// Pods are told by keys with this before them; nothing here depends on them.
const POD: &str = "K8S_POD_";

impl Extra {
    /// Reads the variable's text. As with the reference, a pair that is none and a key that nobody knows are errors,
    /// the latter unless `IgnoreUnknown` is set.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: String| {
            let why = format!("CNI_ARGS is {text:?}: {why}");
            Error::new(code::INVALID_ENVIRONMENT, "invalid environment", why)
        };
        let (mut extra, mut unknown, mut ignore) = (Self::default(), Vec::new(), false);
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            let parts: Vec<&str> = pair.split('=').collect();
            let [key, value] = parts[..] else {
                return Err(wrong(format!("{pair:?} is not of the form KEY=VALUE")));
            };
            let bad = |what: &str| wrong(format!("{key} is {value:?}, allowed is {what}"));
            match key {
                "IgnoreUnknown" => {
                    ignore = truth(value).ok_or_else(|| bad("true, false, 1 or 0"))?;
                }
                "IP" => {
                    let ips = value.split(',').map(address).collect::<Option<_>>();
                    extra.ips = ips.ok_or_else(|| bad("IP addresses with commas between them"))?;
                }
                "MAC" => {
                    let mac = valid_mac(value).ok_or_else(|| bad("an Ethernet address"))?;
                    extra.mac = Some(mac);
                }
                _ if key.starts_with(POD) => {}
                _ => unknown.push(key),
            }
        }
        if unknown.is_empty() || ignore {
            return Ok(extra);
        }
        Err(wrong(format!("unknown are {}", unknown.join(", "))))
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_bad_ones_refused() {
        let extra = |ips: &[&str], mac: Option<&str>| {
            let ips = ips.iter().map(|ip| ip.parse().expect("ip")).collect();
            let mac = mac.map(str::to_owned);
            Some(Extra { ips, mac })
        };
        let rows: &[(&str, Option<Extra>)] = &[
            ("", Some(Extra::default())),
            ("IP=10.0.0.9", extra(&["10.0.0.9"], None)),
            (
                "IP=10.0.0.9/24,fd00::9/64",
                extra(&["10.0.0.9", "fd00::9"], None),
            ),
            (
                "IgnoreUnknown=true;FOO=BAR;IP=10.0.0.9",
                extra(&["10.0.0.9"], None),
            ),
            ("FOO=BAR;IgnoreUnknown=1", Some(Extra::default())),
            (
                "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;MAC=0A:00:00:00:00:01",
                extra(&[], Some("0a:00:00:00:00:01")),
            ),
            ("FOO=BAR", None),
            ("IgnoreUnknown=0;FOO=BAR", None),
            ("IgnoreUnknown=maybe", None),
            ("IP", None),
            ("IP=10.0.0.9;", None),
            ("IP=a=b", None),
            ("IP=10.0.0", None),
            ("IP=10.0.0.9,", None),
            ("MAC=zz", None),
        ];
        for (text, want) in rows {
            match (Extra::parse(text), want) {
                (Ok(got), Some(want)) => assert_eq!(got, *want, "{text}"),
                (Err(e), None) => {
                    assert_eq!(e.code, code::INVALID_ENVIRONMENT, "{text}");
                    assert!(e.details.contains("CNI_ARGS"), "{e}");
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
