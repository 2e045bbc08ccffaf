//! The same by iptables: masquerade where the kernel has no nftables, and rules that let pods' packets through where the
//! legacy variant drops them, which nftables does not show.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipnet::IpNet;

use crate::Error;

const CHAIN: &str = "KEELSON-PODS";
/// What our rules in others' chains are marked with.
const MARK: &str = "keelson-pods";
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];

/// Families: the prefix of programs, and where the kernel lists tables of the legacy variant that are in use.
const FAMILIES: [(&str, &str); 2] = [
    ("iptables", "/proc/thread-self/net/ip_tables_names"),
    ("ip6tables", "/proc/thread-self/net/ip6_tables_names"),
];

fn program(cidr: &IpNet) -> &'static str {
    match cidr.addr() {
        IpAddr::V4(_) => "iptables",
        IpAddr::V6(_) => "ip6tables",
    }
}

/// Sets masquerade for this node's pods, in one step a family.
pub(super) fn masquerade(own: &[IpNet], cluster: &[IpNet]) -> Result<(), Error> {
    for (program, _) in FAMILIES {
        let of = |all: &[IpNet]| -> Vec<IpNet> {
            all.iter()
                .filter(|c| self::program(c) == program)
                .copied()
                .collect()
        };
        let own = of(own);
        if own.is_empty() {
            continue;
        }
        let restore = [&format!("{program}-restore"), "--noflush", "-w"];
        run(&restore, &table(&own, &of(cluster), program))?;
        let jump = ["-m", "comment", "--comment", MARK, "-j", CHAIN];
        let there = [
            &[program, "-w", "-t", "nat", "-C", "POSTROUTING"],
            &jump[..],
        ]
        .concat();
        if run(&there, "").is_err() {
            run(
                &[
                    &[program, "-w", "-t", "nat", "-A", "POSTROUTING"],
                    &jump[..],
                ]
                .concat(),
                "",
            )?;
        }
    }
    Ok(())
}

/// Our chain as a whole: naming it empties it.
fn table(own: &[IpNet], cluster: &[IpNet], program: &str) -> String {
    let multicast = MULTICAST.iter().filter_map(|m| m.parse().ok());
    let multicast = multicast.filter(|m: &IpNet| self::program(m) == program);
    let inside: Vec<IpNet> = cluster.iter().copied().chain(multicast).collect();
    let mut text = format!("*nat\n:{CHAIN} - [0:0]\n");
    for own in own {
        for inside in &inside {
            text += &format!("-A {CHAIN} -s {own} -d {inside} -j RETURN\n");
        }
        text += &format!("-A {CHAIN} -s {own} -j MASQUERADE\n");
    }
    text + "COMMIT\n"
}

/// Lets packets of these networks through where the legacy variant's chain drops what it has no rule for.
pub(super) fn let_through(cidrs: &[IpNet]) -> Result<bool, Error> {
    let mut changed = false;
    for (program, names) in FAMILIES {
        if !in_use(names) {
            continue;
        }
        let legacy = format!("{program}-legacy");
        let rules = run(&[&legacy, "-w", "-S", "FORWARD"], "")?;
        let of = cidrs.iter().filter(|c| self::program(c) == program);
        for rule in missing(&rules, of) {
            let line = rule.split(' ');
            let program = [legacy.as_str(), "-w"].into_iter();
            run(&program.chain(line).collect::<Vec<_>>(), "")?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Whether there is a table of the legacy variant: asking by a program would make one.
fn in_use(names: &str) -> bool {
    let names = std::fs::read_to_string(names).unwrap_or_default();
    names.lines().any(|n| n == "filter")
}

/// How rules of ours are added that a dropping chain lacks: at its end, or before a last rule that drops all.
fn missing<'a>(rules: &str, cidrs: impl Iterator<Item = &'a IpNet>) -> Vec<String> {
    let drops_all = |rule: &str| {
        let target = rule.strip_prefix("-A FORWARD -j ");
        target.is_some_and(|t| t == "DROP" || t.starts_with("REJECT"))
    };
    let all: Vec<&str> = rules.lines().filter(|l| l.starts_with("-A ")).collect();
    let place = match all.last() {
        Some(last) if drops_all(last) => format!("-I FORWARD {}", all.len()),
        _ if rules.lines().any(|l| l == "-P FORWARD DROP") => "-A FORWARD".to_owned(),
        _ => return Vec::new(),
    };
    let wanted = cidrs.flat_map(|cidr| {
        ["-s", "-d"].map(|side| format!("{side} {cidr} -m comment --comment {MARK} -j ACCEPT"))
    });
    let there = |rule: &String| all.contains(&format!("-A FORWARD {rule}").as_str());
    let lacking = wanted.filter(|rule| !there(rule));
    lacking.map(|rule| format!("{place} {rule}")).collect()
}

/// Removes all that is ours, of both variants.
pub(super) fn remove() -> Vec<Error> {
    let mut errors = Vec::new();
    for (program, names) in FAMILIES {
        let tables = std::fs::read_to_string(names).unwrap_or_default();
        let legacy = (!tables.trim().is_empty()).then_some("legacy");
        for variant in legacy.into_iter().chain(["nft"]) {
            let program = format!("{program}-{variant}");
            // A program that is not there has set nothing.
            let Ok(saved) = run(&[&format!("{program}-save")], "") else {
                continue;
            };
            let without = removal(&saved);
            if !without.is_empty() {
                let restore = [&format!("{program}-restore"), "--noflush", "-w"];
                errors.extend(run(&restore, &without).err());
            }
        }
    }
    errors
}

/// What takes our rules and chain away, for `iptables-restore`.
fn removal(saved: &str) -> String {
    let mut text = String::new();
    for table in saved.split_inclusive("COMMIT\n") {
        let mut lines = table.lines();
        let name = lines.find(|l| l.starts_with('*')).unwrap_or_default();
        let rules = lines.clone().filter(|l| l.contains(MARK));
        let rules: String = rules.map(|l| l.replacen("-A ", "-D ", 1) + "\n").collect();
        let ours = lines.any(|l| l.starts_with(&format!(":{CHAIN} ")));
        let chain = if ours {
            format!("-F {CHAIN}\n-X {CHAIN}\n")
        } else {
            String::new()
        };
        if !rules.is_empty() || ours {
            text += &format!("{name}\n{rules}{chain}COMMIT\n");
        }
    }
    text
}

/// Runs a program with this input; its output.
fn run(line: &[impl AsRef<str>], input: &str) -> Result<String, Error> {
    let mut words = line.iter().map(AsRef::as_ref);
    let failed = |said: String| Error::Program {
        program: line.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
        said,
    };
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let go = || {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = { go }().map_err(|e: std::io::Error| failed(e.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(failed(text(&output.stderr))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(all: &[&str]) -> Vec<IpNet> {
        all.iter().map(|c| c.parse().expect("cidr")).collect()
    }

    #[test]
    fn a_chain_that_drops_gets_what_it_lacks() {
        let own = cidrs(&["10.42.0.0/16"]);
        let rule =
            |side| format!("{side} 10.42.0.0/16 -m comment --comment keelson-pods -j ACCEPT");
        let end = |side| format!("-A FORWARD {}", rule(side));
        let cases = [
            ("-P FORWARD ACCEPT\n".to_owned(), vec![]),
            (
                "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n".to_owned(),
                vec![end("-s"), end("-d")],
            ),
            (
                format!("-P FORWARD DROP\n-A FORWARD {}\n", rule("-s")),
                vec![end("-d")],
            ),
            (
                format!(
                    "-P FORWARD ACCEPT\n-A FORWARD -i lo -j ACCEPT\n-A FORWARD {}\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n",
                    rule("-d")
                ),
                vec![format!("-I FORWARD 3 {}", rule("-s"))],
            ),
            (
                "-P FORWARD ACCEPT\n-A FORWARD -i eth9 -j DROP\n".to_owned(),
                vec![],
            ),
            (
                format!(
                    "-P FORWARD DROP\n-A FORWARD {}\n-A FORWARD {}\n",
                    rule("-d"),
                    rule("-s")
                ),
                vec![],
            ),
        ];
        for (rules, want) in cases {
            assert_eq!(missing(&rules, own.iter()), want, "{rules}");
        }
    }

    #[test]
    fn only_ours_goes() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n-A FORWARD -j DOCKER-USER\n-A FORWARD -s 10.42.0.0/16 -m comment --comment keelson-pods -j ACCEPT\nCOMMIT\n*nat\n:KEELSON-PODS - [0:0]\n-A POSTROUTING -m comment --comment keelson-pods -j KEELSON-PODS\n-A KEELSON-PODS -j MASQUERADE\nCOMMIT\n*mangle\n-A FORWARD -j X\nCOMMIT\n";
        let want = "*filter\n-D FORWARD -s 10.42.0.0/16 -m comment --comment keelson-pods -j ACCEPT\nCOMMIT\n*nat\n-D POSTROUTING -m comment --comment keelson-pods -j KEELSON-PODS\n-F KEELSON-PODS\n-X KEELSON-PODS\nCOMMIT\n";
        assert_eq!(removal(saved), want);
        assert_eq!(removal("*nat\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n"), "");
    }

    #[test]
    fn masquerade_spares_what_stays_inside() {
        let text = table(
            &cidrs(&["10.42.1.0/24"]),
            &cidrs(&["10.42.0.0/16"]),
            "iptables",
        );
        let want = "*nat\n:KEELSON-PODS - [0:0]\n-A KEELSON-PODS -s 10.42.1.0/24 -d 10.42.0.0/16 -j RETURN\n-A KEELSON-PODS -s 10.42.1.0/24 -d 224.0.0.0/4 -j RETURN\n-A KEELSON-PODS -s 10.42.1.0/24 -j MASQUERADE\nCOMMIT\n";
        assert_eq!(text, want);
    }
}
