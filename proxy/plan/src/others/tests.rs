use proptest::prelude::*;

use super::*;
use crate::iptables::walk::Rules;
use crate::iptables::{Ruleset, Table as Own};
use crate::model::Protocol;
use crate::packet::{Node, Outcome, Packet};

const ADMIN_JSON: &str = include_str!("testdata/admin.json");
const ADMIN: &str = include_str!("testdata/admin.nft");

fn seen(source: &str, port: u16) -> Seen {
    Seen {
        source: source.parse().expect("address"),
        destination: [10, 42, 0, 2].into(),
        protocol: Protocol::Tcp,
        port,
        input: Some("eth0".into()),
        output: Some("keelson0".into()),
        translated: true,
    }
}

fn forward(seen: Seen) -> Vec<Stage> {
    vec![Stage {
        place: Place::Forward,
        from: i32::MIN,
        to: i32::MAX,
        seen,
    }]
}

fn told(tables: &[Table], seen: Seen) -> Vec<String> {
    let node = Node {
        addresses: vec![[192, 168, 9, 1].into()],
    };
    let findings = judge(tables, &node, &forward(seen));
    let lines = findings.into_iter().map(|f| {
        let unless = match f.unjudged.len() {
            0 => String::new(),
            n => format!(" ({n} not judged)"),
        };
        match f.judged {
            Judged::Passes => format!("passes{unless}"),
            Judged::Dropped(rule) => format!("dropped{unless} {rule}"),
            Judged::Refused(rule) => format!("refused{unless} {rule}"),
            Judged::Translated(rule) => format!("translated{unless} {rule}"),
        }
    });
    lines.collect()
}

#[test]
fn tables_of_nft_are_walked_as_far_as_they_are_understood() {
    let table = nft::table(ADMIN_JSON, ADMIN).expect("table");
    assert_eq!(table.name, "nft table inet admin");
    let tables = [table];
    let cases = [
        ("10.9.3.4", 80, "dropped forw: ip saddr @bad drop"),
        ("10.8.1.1", 80, "dropped forw: ip saddr @bad drop"),
        // A limit may let it pass before.
        (
            "10.1.1.1",
            1500,
            "refused (1 not judged) forw: ip saddr 10.0.0.0/8 tcp dport { 80, 443, 1000-2000 } counter log prefix \"x\" reject with icmp admin-prohibited",
        ),
        // A mark and a pair of address and port are not known, and the rest is dropped.
        (
            "10.1.1.1",
            53,
            "dropped (2 not judged) forw: policy drop, no rule accepts it",
        ),
        ("10.1.1.1", 25, "passes (1 not judged)"),
    ];
    for (source, port, want) in cases {
        assert_eq!(told(&tables, seen(source, port)), [want], "{source} {port}");
    }
}

const SAVED: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n-A PREROUTING -j DOCKER\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n-A KUBE-FORWARD -j DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n-A FORWARD ! -s 10.0.0.0/8 -p tcp -m multiport --dports 22,8000:8080 -j ACCEPT\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -s 10.1.0.0/16 -m limit --limit 3/min -j ACCEPT\n-A FORWARD -s 10.2.0.0/16 -m set --match-set black src -j REJECT --reject-with icmp-port-unreachable\n-A FORWARD -s 10.2.0.0/16 -m comment --comment \"two words\" -j ACCEPT\n-A FORWARD -s 10.3.0.0/16 -j NFQUEUE --queue-num 1\n-A DOCKER -j DROP\n-A DOCKER-USER -s 10.9.0.0/16 -i eth+ -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\n-A DOCKER-USER -j RETURN\nCOMMIT\n";

#[test]
fn tables_of_iptables_are_walked_as_far_as_they_are_understood() {
    let tables = iptables::tables(SAVED, Family::V4, "iptables (legacy)");
    let cases = [
        (
            "10.9.0.1",
            80,
            "refused DOCKER-USER: -s 10.9.0.0/16 -i eth+ -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable",
        ),
        (
            "10.9.0.1",
            81,
            "dropped FORWARD: policy drop, no rule accepts it",
        ),
        ("192.0.2.1", 8010, "passes"),
        (
            "10.1.0.1",
            80,
            "dropped (1 not judged) FORWARD: policy drop, no rule accepts it",
        ),
        ("10.2.0.1", 80, "passes (1 not judged)"),
        (
            "10.3.0.1",
            80,
            "dropped (1 not judged) FORWARD: policy drop, no rule accepts it",
        ),
    ];
    for (source, port, want) in cases {
        assert_eq!(told(&tables, seen(source, port)), [want], "{source} {port}");
    }
    let out = Seen {
        output: Some("docker0".into()),
        ..seen("192.0.2.1", 8010)
    };
    assert_eq!(told(&tables, out), ["dropped DOCKER: -j DROP"]);
}

#[test]
fn what_is_turned_away_meets_nobody_else() {
    let rule = |does| Rule {
        text: "-".into(),
        tests: Vec::new(),
        does,
    };
    let table = |name: &str, priority, nat, does| Table {
        name: name.into(),
        chains: [(
            "c".to_owned(),
            Chain {
                hook: Some(Hook {
                    place: Place::Forward,
                    priority,
                    nat,
                    drops: false,
                }),
                rules: vec![rule(does)],
            },
        )]
        .into(),
        ..Table::default()
    };
    let tables = [
        table("late", 5, false, Does::Refuse),
        table("first", -5, false, Does::Accept),
        table("then", 0, false, Does::Drop),
    ];
    assert_eq!(
        told(&tables, seen("10.0.0.1", 80)),
        ["passes", "dropped c: -"]
    );
}

/// A rule that services' walker understands too.
fn rule() -> impl Strategy<Value = String> {
    let matches = proptest::sample::subsequence(
        vec![
            "-s 10.42.0.0/16",
            "! -s 10.42.0.2/32",
            "-d 192.0.2.0/24",
            "! -d 192.0.2.1/32",
            "-i eth+",
            "! -i eth0",
            "-p tcp",
            "-p udp",
            "-m addrtype --src-type LOCAL",
            "-m conntrack --ctstate NEW,RELATED",
            "-m conntrack --ctstate ESTABLISHED",
            "-m comment --comment \"a -j DROP\"",
            "-p tcp -m tcp --dport 80",
        ],
        0..3,
    );
    let targets = proptest::sample::select(vec![
        "ACCEPT", "DROP", "REJECT", "RETURN", "MY-A", "MY-B", "MY-C",
    ]);
    (matches, targets).prop_map(|(matches, target)| {
        let matches: Vec<String> = matches.iter().map(|m| format!("{m} ")).collect();
        format!("{}-j {target}", matches.concat())
    })
}

/// A rule of one of these chains may jump to those that come after it.
fn later(chain: usize, rule: &str) -> bool {
    let to = ["MY-A", "MY-B", "MY-C"]
        .iter()
        .position(|c| rule.ends_with(c));
    to.is_none_or(|to| to >= chain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_both_walkers_understand_they_judge_alike(
        chains in proptest::collection::vec(proptest::collection::vec(rule(), 0..5), 4),
        source in proptest::sample::select(vec!["10.42.0.2", "10.42.0.3", "192.168.9.1", "203.0.113.5"]),
        to in proptest::sample::select(vec!["192.0.2.1", "192.0.2.2", "198.51.100.1"]),
        (tcp, port) in (any::<bool>(), proptest::sample::select(vec![80, 81])),
        input in proptest::sample::select(vec!["eth0", "eth1", "keelson0"]),
    ) {
        let (mut set, mut saved) = (Ruleset::default(), String::from("*filter\n:FORWARD ACCEPT [0:0]\n:MY-A - [0:0]\n:MY-B - [0:0]\n:MY-C - [0:0]\n"));
        for (n, name) in ["FORWARD", "MY-A", "MY-B", "MY-C"].into_iter().enumerate() {
            set.chain(Own::Filter, name);
            for rule in chains[n].iter().filter(|r| later(n, r)) {
                set.rule(Own::Filter, name, rule.as_str());
                saved += &format!("-A {name} {rule}\n");
            }
        }
        let node = Node { addresses: vec!["192.168.9.1".parse().expect("address")] };
        let packet = Packet {
            source: source.parse().expect("address"),
            destination: to.parse().expect("address"),
            protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
            port,
            interface: Some(input.into()),
        };
        let want = Rules::new(&set).expect("rules").outcome(&node, &packet).expect("an outcome");
        let seen = Seen {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            port,
            input: packet.interface,
            output: Some("out".into()),
            translated: false,
        };
        let tables = iptables::tables(&saved, Family::V4, "iptables");
        let found = judge(&tables, &node, &forward(seen));
        let judged = found.first().map_or(&Judged::Passes, |f| &f.judged);
        let found_outcome = match judged {
            Judged::Passes => Outcome::Pass,
            Judged::Dropped(_) => Outcome::Dropped,
            Judged::Refused(_) => Outcome::Refused,
            Judged::Translated(_) => return Err(TestCaseError::fail("nothing translates")),
        };
        prop_assert_eq!(found_outcome, want, "{}", saved);
        prop_assert!(found.iter().all(|f| f.unjudged.is_empty()), "{:?}", found);
    }
}
