//! `resolv.conf` (resolv.conf(5)) and which servers of it are asked.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Port of name servers.
const PORT: u16 = 53;
/// Time for one server to answer. glibc's five seconds would leave none for a second one before the asker gives up.
const TIMEOUT: Duration = Duration::from_secs(2);
/// glibc's bounds of what a file can ask for.
const MAX_TIMEOUT: u64 = 30;
const MAX_ATTEMPTS: usize = 5;

/// Servers and how they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Servers {
    pub(crate) addresses: Vec<SocketAddr>,
    /// Time for one server to answer.
    pub(crate) timeout: Duration,
    /// How often each is asked.
    pub(crate) attempts: usize,
    /// Begin with another one each time.
    pub(crate) rotate: bool,
}

impl Servers {
    /// These, asked in the usual way.
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            timeout: TIMEOUT,
            attempts: 2,
            rotate: false,
        }
    }

    /// Reads a file's text. What it does not know it leaves out, as resolvers do. `scope` gives the number of a network interface.
    pub(crate) fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Self {
        let mut servers = Self::new(Vec::new());
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => servers
                    .addresses
                    .extend(words.next().and_then(|w| address(w, &scope))),
                Some("options") => words.for_each(|option| servers.option(option)),
                _ => {}
            }
        }
        servers
    }

    fn option(&mut self, option: &str) {
        let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n > 0);
        match option.split_once(':') {
            None if option == "rotate" => self.rotate = true,
            Some(("timeout", n)) => {
                self.timeout =
                    number(n).map_or(self.timeout, |n| Duration::from_secs(n.min(MAX_TIMEOUT)));
            }
            Some(("attempts", n)) => {
                let n = number(n).and_then(|n| usize::try_from(n).ok());
                self.attempts = n.map_or(self.attempts, |n| n.min(MAX_ATTEMPTS));
            }
            _ => {}
        }
    }

    /// What to ask: systemd's own servers where the file names nothing but a stub on this machine, as the kubelet does it, which
    /// would make a circle of us and it; and never ourselves.
    pub(crate) fn choose(self, systemd: Option<Self>, own: &[SocketAddr]) -> Self {
        let is_local = |s: &Self| s.addresses.iter().all(|a| a.ip().is_loopback());
        let mut chosen = match systemd {
            Some(systemd) if is_local(&self) && !is_local(&systemd) => Self {
                addresses: systemd.addresses,
                ..self
            },
            _ => self,
        };
        chosen
            .addresses
            .retain(|a| !own.contains(a) && !a.ip().is_unspecified());
        chosen
    }
}

/// An address, with the interface behind a percent sign where a link-local one has it.
fn address(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((ip, interface)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT));
    };
    let number = interface.parse().ok().or_else(|| scope(interface))?;
    Some(SocketAddrV6::new(ip.parse().ok()?, PORT, 0, number).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Servers {
        Servers::parse(text, |name| (name == "eth0").then_some(7))
    }

    fn addresses(servers: &Servers) -> Vec<String> {
        servers
            .addresses
            .iter()
            .map(SocketAddr::to_string)
            .collect()
    }

    #[test]
    fn files_are_read() {
        let text = "# made by hand\nsearch a b\nnameserver 192.0.2.1 # first\n nameserver\t2001:db8::1\nnameserver fe80::1%eth0\n\
            nameserver fe80::1%gone\nnameserver somewhere\nnameserver\n;nameserver 192.0.2.9\noptions ndots:5 rotate timeout:1\n\
            options attempts:3 edns0 timeout:x";
        let servers = parse(text);
        assert_eq!(
            addresses(&servers),
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]
        );
        assert_eq!(
            (servers.timeout, servers.attempts, servers.rotate),
            (Duration::from_secs(1), 3, true)
        );
        let none = parse("");
        assert_eq!(
            (none.timeout, none.attempts, none.rotate),
            (TIMEOUT, 2, false)
        );
        let most = parse("options timeout:999 attempts:999");
        assert_eq!(
            (most.timeout.as_secs(), most.attempts),
            (MAX_TIMEOUT, MAX_ATTEMPTS)
        );
        assert_eq!(parse("options timeout:0 attempts:0").attempts, 2);
    }

    #[test]
    fn servers_are_chosen() {
        let own = ["10.43.0.10:53".parse().expect("address")];
        let cases: &[(&str, &str, Option<&str>, &[&str])] = &[
            (
                "a real one",
                "nameserver 192.0.2.1",
                Some("nameserver 192.0.2.2"),
                &["192.0.2.1:53"],
            ),
            (
                "systemd's stub",
                "nameserver 127.0.0.53",
                Some("nameserver 192.0.2.2"),
                &["192.0.2.2:53"],
            ),
            (
                "a local one without systemd",
                "nameserver 127.0.0.1",
                None,
                &["127.0.0.1:53"],
            ),
            (
                "systemd knows none",
                "nameserver 127.0.0.53",
                Some(""),
                &["127.0.0.53:53"],
            ),
            (
                "ourselves",
                "nameserver 10.43.0.10\nnameserver 192.0.2.1",
                None,
                &["192.0.2.1:53"],
            ),
            (
                "systemd asks us",
                "nameserver ::1",
                Some("nameserver 10.43.0.10"),
                &[],
            ),
            ("no address", "nameserver 0.0.0.0", None, &[]),
            (
                "an empty file",
                "",
                Some("nameserver 192.0.2.2"),
                &["192.0.2.2:53"],
            ),
        ];
        for (case, text, systemd, expected) in cases {
            assert_eq!(
                addresses(&parse(text).choose(systemd.map(parse), &own)),
                *expected,
                "{case}"
            );
        }
    }
}
