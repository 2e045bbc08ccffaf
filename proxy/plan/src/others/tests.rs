use super::*;
use crate::model::Protocol;
use crate::packet::Node;

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
