use serde_json::{Value, json};

use super::*;

fn parse(change: impl Fn(&mut Value)) -> Result<Conf, Error> {
    let mut v = json!({"cniVersion": "1.0.0", "name": "pods", "type": "portmap",
        "runtimeConfig": {"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"}]},
        "prevResult": {"cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/n"}],
            "ips": [{"interface": 0, "address": "10.9.9.9/24"}, {"interface": 1, "address": "10.1.0.5/24"},
                {"interface": 1, "address": "fd00::5/64"}]}});
    change(&mut v);
    Conf::parse(v.to_string().as_bytes())
}

fn wanted(change: impl Fn(&mut Value)) -> Vec<Wanted> {
    let conf = parse(change).expect("valid");
    conf.wanted("eth0").expect("a result")
}

fn nets(all: &[&str]) -> Vec<IpNet> {
    all.iter().map(|n| n.parse().expect("net")).collect()
}

#[test]
fn what_goes_where() {
    let all = wanted(|_| ());
    assert_eq!(all.len(), 2);
    let to = |text: &str| -> IpAddr { text.parse().expect("ip") };
    assert_eq!(all[0].forwards.len(), 2);
    assert_eq!(all[0].forwards[0].to, (to("10.1.0.5"), 80));
    assert_eq!(all[0].forwards[1].host, Some(to("192.0.2.1")));
    // An address of the other family is none of its business.
    assert_eq!(all[1].forwards.len(), 1);
    assert_eq!(all[1].forwards[0].to, (to("fd00::5"), 80));
    let any = |v: &mut Value| v["runtimeConfig"]["portMappings"][1]["hostIP"] = json!("0.0.0.0");
    assert_eq!(wanted(any)[0].forwards[1].host, None);
    assert_eq!(wanted(any)[1].forwards.len(), 1);
    assert!(
        parse(|v| v["prevResult"] = Value::Null)
            .expect("valid")
            .wanted("eth0")
            .is_err()
    );
}

#[test]
fn mappings_are_understood_as_containerd_writes_them() {
    let theirs = json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
        {"HostPort": 53, "ContainerPort": 5353, "Protocol": "udp", "HostIP": "192.0.2.1"}]);
    let change = |v: &mut Value| v["runtimeConfig"]["portMappings"] = theirs.clone();
    assert_eq!(wanted(change), wanted(|_| ()));
}

#[test]
fn results_of_every_version_are_understood() {
    let old =
        json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24"}, "ip6": {"ip": "fd00::5/64"}});
    let bare = json!({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.1.0.5/24"},
        {"version": "6", "address": "fd00::5/64"}]});
    for previous in [old, bare] {
        let all = wanted(|v| v["prevResult"] = previous.clone());
        assert_eq!(all, wanted(|_| ()), "{previous}");
    }
}

#[test]
fn whose_packets_get_the_nodes_address() {
    type Case = (
        fn(&mut Value),
        &'static [&'static str],
        &'static [&'static str],
    );
    let cases: &[Case] = &[
        (|_| (), &["10.1.0.0/24", "127.0.0.1/32"], &["fd00::/64"]),
        (|v| v["snat"] = json!(false), &[], &[]),
        (|v| v["masqAll"] = json!(true), &["0.0.0.0/0"], &["::/0"]),
    ];
    for (change, v4, v6) in cases {
        let all = wanted(change);
        assert_eq!((&all[0].sources, &all[1].sources), (&nets(v4), &nets(v6)));
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_code() {
    type Case = (&'static str, u32, fn(&mut Value));
    const CONFIG: u32 = code::INVALID_CONFIG;
    let cases: &[Case] = &[
        ("name", CONFIG, |v| v["name"] = json!("../x")),
        ("bit", CONFIG, |v| v["markMasqBit"] = json!(32)),
        ("bit and chain", CONFIG, |v| {
            v["markMasqBit"] = json!(1);
            v["externalSetMarkChain"] = json!("A");
        }),
        ("chain", CONFIG, |v| {
            v["externalSetMarkChain"] = json!("A -j B")
        }),
        ("line end", CONFIG, |v| {
            v["conditionsV4"] = json!(["-d\n-F"])
        }),
        ("other language", code::UNSUPPORTED_FIELD, |v| {
            v["conditionsV6"] = json!(["ip6 daddr"])
        }),
        ("backend", code::DECODE_FAILURE, |v| {
            v["backend"] = json!("pf")
        }),
        ("wrong backend", CONFIG, |v| {
            v["backend"] = json!("nftables");
            v["conditionsV4"] = json!(["-d", "10.0.0.1"]);
        }),
        ("no port", CONFIG, |v| {
            v["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(0)
        }),
        ("large port", CONFIG, |v| {
            v["runtimeConfig"]["portMappings"][0]["containerPort"] = json!(70_000)
        }),
        ("negative port", CONFIG, |v| {
            v["runtimeConfig"]["portMappings"][0]["containerPort"] = json!(-1)
        }),
        ("huge port", code::DECODE_FAILURE, |v| {
            v["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(1e30)
        }),
        ("protocol", CONFIG, |v| {
            v["runtimeConfig"]["portMappings"][0]["protocol"] = json!("icmp")
        }),
        ("address", CONFIG, |v| {
            v["runtimeConfig"]["portMappings"][1]["hostIP"] = json!("1.2.3")
        }),
    ];
    for (name, code, change) in cases {
        assert_eq!(parse(change).expect_err(name).code, *code, "{name}");
    }
}

#[test]
fn backends_follow_what_is_asked() {
    type Case = (fn(&mut Value), Option<Backend>);
    let cases: &[Case] = &[
        (|_| (), None),
        (
            |v| v["backend"] = json!("nftables"),
            Some(Backend::Nftables),
        ),
        (
            |v| v["backend"] = json!("iptables"),
            Some(Backend::Iptables),
        ),
        (
            |v| v["externalSetMarkChain"] = json!("KUBE-MARK-MASQ"),
            Some(Backend::Iptables),
        ),
        (
            |v| v["conditionsV4"] = json!(["!", "-s", "10.0.0.0/8"]),
            Some(Backend::Iptables),
        ),
    ];
    for (change, want) in cases {
        assert_eq!(parse(change).expect("valid").backend(), *want);
    }
}

#[test]
fn who_came_last_has_the_front() {
    let mine = nft::elements(&wanted(|_| ())[0], "mine");
    let theirs = |v: &mut Value| {
        v["prevResult"]["ips"][1]["address"] = json!("10.2.0.7/16");
        v["runtimeConfig"]["portMappings"]
            .as_array_mut()
            .expect("list")
            .truncate(1);
    };
    let theirs = nft::elements(&wanted(theirs)[0], "theirs");
    // One element that translates and one for each of two sources.
    assert_eq!((mine.len(), theirs.len()), (6, 3));
    let gone = nft::same_front(Family::V4, theirs.clone(), &mine);
    assert_eq!(gone, theirs);
    let other = |v: &mut Value| v["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(81);
    let other = nft::elements(&wanted(other)[0], "other");
    let gone = nft::same_front(Family::V4, other, &theirs);
    assert_eq!(gone, []);
}

fn owner(container: &str) -> String {
    crate::names::tag("pods", &crate::names::host_link(container, "eth0"))
}

const EMPTY: &str =
    "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\nCOMMIT\n";

/// What iptables-save would print after a plan: enough of it for these rules.
fn carried_out(saved: &str, plan: &str) -> String {
    let mut lines: Vec<String> = saved.lines().map(str::to_owned).collect();
    for line in plan.lines() {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "-A" => lines.push(line.to_owned()),
            "-I" => {
                let (chain, rule) = rest.split_once(' ').expect("a rule");
                let rule = rule.strip_prefix("1 ").unwrap_or(rule);
                lines.insert(1, format!("-A {chain} {rule}"));
            }
            "-D" => lines.retain(|l| *l != format!("-A {rest}")),
            "-X" => lines.retain(|l| !l.starts_with(&format!(":{rest} "))),
            _ if line.starts_with(':') => {
                let chain = &verb[1..];
                lines.retain(|l| !l.starts_with(&format!("-A {chain} ")));
                if !lines.iter().any(|l| l.starts_with(&format!("{verb} "))) {
                    lines.push(line.to_owned());
                }
            }
            _ => {}
        }
    }
    lines.join("\n")
}

#[test]
fn iptables_rules_come_and_go() {
    let want = &wanted(|v| v["conditionsV4"] = json!(["!", "-s", "10.8.0.0/16"]))[0];
    let (a, b) = (owner("a"), owner("b"));
    assert!(iptables::missing(EMPTY, want, &a).is_some());
    let one = carried_out(EMPTY, &iptables::add(EMPTY, want, &a));
    assert_eq!(iptables::missing(&one, want, &a), None);
    let two = carried_out(&one, &iptables::add(&one, want, &b));
    // The shared chain was not emptied, and is led to once.
    assert_eq!(iptables::missing(&two, want, &a), None);
    assert_eq!(two.matches("-j KEELSON-HOSTPORTS").count(), 2, "{two}");
    let again = carried_out(&two, &iptables::add(&two, want, &a));
    assert_eq!(again.lines().count(), two.lines().count(), "{again}");
    let gone = iptables::remove(&again, |tag| tag == a).expect("there");
    let left = carried_out(&again, &gone);
    assert!(iptables::missing(&left, want, &a).is_some());
    assert_eq!(iptables::missing(&left, want, &b), None);
    assert_eq!(iptables::remove(&left, |tag| tag == a), None);
    assert!(
        two.contains("-p tcp -m multiport --dports 8080 -m comment"),
        "{two}"
    );
    assert!(two.contains("! -s 10.8.0.0/16 -j KEELSON-HP-"), "{two}");
    assert!(
        two.contains(
            "-d 192.0.2.1 -p udp -m udp --dport 53 -j DNAT --to-destination 10.1.0.5:5353"
        )
    );
}
