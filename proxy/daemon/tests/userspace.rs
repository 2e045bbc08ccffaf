//! The userspace mode with real packets: what clients in pods, on the node and outside see.
#![allow(missing_docs)]

mod bed;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use bed::{A, B, Bed, CLUSTER_IP, NODE, ask, inside, run, to};
use keelson_proxy::userspace::Config;
use keelson_proxy_plan::iptables::Table;
use keelson_proxy_plan::model::Family;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn config() -> Config {
    Config {
        cluster_cidrs: vec!["10.42.0.0/16".parse().expect("cidr")],
        // What is to happen "while a session lives" must not depend on the machine's speed.
        udp_idle: Duration::from_secs(60),
        ..Config::default()
    }
}

const EVERYWHERE: &[(&str, &str, &str, u16)] = &[
    ("pod to cluster address", "a", CLUSTER_IP, 80),
    ("node to cluster address", "node", CLUSTER_IP, 80),
    ("client to node port", "client", NODE, 30080),
    (
        "client to the node's other address",
        "client",
        "10.42.0.1",
        30080,
    ),
    ("pod to node port", "a", NODE, 30080),
    ("node to its own node port", "node", NODE, 30080),
    ("localhost node port", "node", "127.0.0.1", 30080),
    (
        "client to cluster address, routed",
        "client",
        CLUSTER_IP,
        80,
    ),
    ("pod to cluster address, IPv6", "b", "fd43::9", 80),
    ("node to cluster address, IPv6", "node", "fd43::9", 80),
    ("client to node port, IPv6", "client", "fd99::1", 30080),
    ("localhost node port, IPv6", "node", "::1", 30080),
];

const FOUR: &[&str] = &[A, B, "fd42::2", "fd42::3"];

#[test]
fn tcp_from_everywhere_by_turns() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), FOUR);
    for (name, from, address, port) in EVERYWHERE {
        let counts = bed.counts(from, &to(address, *port), 6);
        let counts: Vec<usize> = counts.into_values().collect();
        assert_eq!(counts, [3, 3], "{name}");
    }
    assert!(bed.tcp("a", &to(CLUSTER_IP, 82)).is_err(), "no service");
}

#[test]
fn udp_from_everywhere_answered_from_where_it_was_asked() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), FOUR);
    for (name, from, address, port) in EVERYWHERE {
        let answers = |_| {
            let socket = bed.udp(from, &to(address, *port));
            let first = ask(&socket).unwrap_or_else(|| panic!("{name}: no answer"));
            assert_eq!(ask(&socket).as_ref(), Some(&first), "{name}: a session");
            first.split(' ').next().expect("name").to_owned()
        };
        let pods: BTreeSet<String> = (0..4).map(answers).collect();
        assert_eq!(pods.len(), 2, "{name}: both endpoints answer: {pods:?}");
    }
}

#[test]
fn large_datagrams_are_whole() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[A]);
    let socket = bed.udp("client", &to(NODE, 30080));
    let sent: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
    socket.send(&sent).expect("send");
    let mut got = vec![0; 65_536];
    let size = socket.recv(&mut got).expect("answer");
    assert!(got[..size] == sent, "{size} bytes");
}

#[test]
fn affinity_stays_with_one_endpoint() {
    let mut bed = Bed::new(config());
    bed.service(|v| v["spec"]["sessionAffinity"] = json!("ClientIP"), FOUR);
    let address = to(CLUSTER_IP, 80);
    let mut all = BTreeSet::new();
    for from in ["a", "b", "node", "client"] {
        let counts = bed.counts(from, &address, 6);
        assert_eq!(counts.len(), 1, "{from}: {counts:?}");
        all.extend(counts.into_keys());
    }
    assert_eq!(all.len(), 2, "different clients, different endpoints");
    let pods: BTreeSet<_> = (0..4).map(|_| ask(&bed.udp("a", &address))).collect();
    assert_eq!(pods.len(), 1, "UDP too: {pods:?}");
}

#[test]
fn what_is_not_there_is_refused_and_what_does_not_answer_is_passed_over() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[]);
    let refused = Err(ErrorKind::ConnectionRefused);
    let places = [
        ("a", to(CLUSTER_IP, 80)),
        ("node", to(CLUSTER_IP, 80)),
        ("client", to(NODE, 30080)),
    ];
    for (from, address) in &places {
        assert_eq!(bed.tcp(from, address), refused, "{from}: no endpoint");
        let socket = bed.udp(from, address);
        // On the node itself the rule refuses already the sending.
        let sent = socket.send(b"?").map_err(|e| e.kind());
        let got = sent.and_then(|_| socket.recv(&mut [0; 8]).map_err(|e| e.kind()));
        let refused = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
        assert!(
            got.is_err_and(|kind| refused.contains(&kind)),
            "{from}: UDP"
        );
    }
    // 10.42.0.1 is the node, where nobody listens on 8080; 10.42.0.99 is nobody.
    bed.endpoints(&["10.42.0.1", "10.42.0.99", B]);
    for (from, address) in &places {
        for _ in 0..3 {
            let answer = bed.tcp(from, address).expect("the one that answers");
            assert!(answer.starts_with("b "), "{from}: {answer}");
        }
    }
    bed.endpoints(&["10.42.0.1"]);
    for (from, address) in &places {
        let reset = Err(ErrorKind::ConnectionReset);
        assert_eq!(bed.tcp(from, address), reset, "{from}: none answers");
    }
    bed.endpoints(&[]);
    for (from, address) in &places {
        assert_eq!(bed.tcp(from, address), refused, "{from}: none again");
    }
}

/// Sends and reads the echo.
fn echo(stream: &mut std::net::TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("write");
    let mut back = vec![0; text.len()];
    stream
        .read_exact(&mut back)
        .unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(String::from_utf8_lossy(&back), text);
}

#[test]
fn connections_outlive_endpoints_services_and_rules() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[A]);
    let connect = |bed: &Bed, from, address: &str, port| {
        let stream = bed.connect(from, &to(address, port));
        let mut stream = stream.expect("connect");
        echo(&mut stream, "first");
        stream
    };
    let mut streams = vec![
        connect(&bed, "b", CLUSTER_IP, 81),
        connect(&bed, "node", CLUSTER_IP, 81),
        connect(&bed, "client", NODE, 30081),
    ];
    bed.endpoints(&[B]);
    streams.iter_mut().for_each(|s| echo(s, "replaced"));
    let answer = bed.tcp("node", &to(CLUSTER_IP, 80)).expect("new");
    assert!(answer.starts_with("b "), "new ones go to the new: {answer}");
    bed.endpoints(&[]);
    streams.iter_mut().for_each(|s| echo(s, "none"));
    bed.state.remove_service("d", "web");
    bed.sync();
    streams.iter_mut().for_each(|s| echo(s, "no service"));
    assert!(bed.connect("client", &to(NODE, 30081)).is_err(), "closed");
    // A kernel tracks connections (and so translates them) as long as any rule asks for it: nodes have such rules, for
    // masquerading at least.
    let node = bed.ns("node");
    run(
        "ip",
        &format!(
            "netns exec {node} iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"
        ),
    );
    bed.cleanup();
    for stream in &mut streams {
        echo(stream, "no rules");
        stream.shutdown(Shutdown::Write).expect("shutdown");
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("read");
        assert_eq!(rest, "|end", "the end is passed on, the other way goes on");
    }
}

#[test]
fn a_reset_is_passed_on_as_one() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[A]);
    let mut stream = bed.connect("client", &to(NODE, 30081)).expect("connect");
    stream.write_all(b"!reset").expect("write");
    let mut all = Vec::new();
    let kind = stream.read_to_end(&mut all).map_err(|e| e.kind());
    assert_eq!(kind, Err(ErrorKind::ConnectionReset), "not a whole answer");
}

#[test]
fn much_data_with_a_reader_that_takes_its_time() {
    const SIZE: usize = 24 << 20;
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[A]);
    let mut reader = bed.connect("client", &to(NODE, 30081)).expect("connect");
    let mut writer = reader.try_clone().expect("clone");
    let byte = |i: usize| (i / 7 % 253) as u8;
    let writing = std::thread::spawn(move || {
        let all: Vec<u8> = (0..SIZE).map(byte).collect();
        writer.write_all(&all).expect("write");
        writer.shutdown(Shutdown::Write).expect("shutdown");
    });
    // Until here nobody reads: all buffers on the way fill up.
    std::thread::sleep(Duration::from_millis(300));
    let mut got = Vec::new();
    reader.read_to_end(&mut got).expect("read");
    writing.join().expect("writer");
    assert_eq!(got.len(), SIZE + 4);
    assert!(
        got.iter()
            .take(SIZE)
            .enumerate()
            .all(|(i, b)| *b == byte(i))
    );
}

#[test]
fn thousands_of_connections_at_once() {
    const COUNT: usize = 4000;
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[A, B]);
    let address = to(NODE, 30081);
    let echoed = inside(&bed.ns("client"), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("runtime").block_on(async move {
            let mut streams = Vec::new();
            for _ in 0..COUNT {
                streams.push(
                    tokio::net::TcpStream::connect(&address)
                        .await
                        .expect("connect"),
                );
            }
            for (i, stream) in streams.iter_mut().enumerate() {
                stream
                    .write_all(format!("{i:08}").as_bytes())
                    .await
                    .expect("write");
            }
            let mut echoed = 0;
            for (i, stream) in streams.iter_mut().enumerate() {
                let mut back = [0; 8];
                stream.read_exact(&mut back).await.expect("read");
                echoed += usize::from(back == format!("{i:08}").as_bytes());
            }
            echoed
        })
    });
    assert_eq!(echoed, COUNT);
}

#[test]
fn a_udp_session_moves_when_its_endpoint_goes_or_it_was_idle() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[A]);
    let socket = bed.udp("client", &to(NODE, 30080));
    let first = ask(&socket).expect("answer");
    assert!(first.starts_with("a "), "{first}");
    bed.endpoints(&[A, B]);
    assert_eq!(ask(&socket), Some(first), "its endpoint is still there");
    bed.endpoints(&[B]);
    let moved = ask(&socket).expect("answer");
    assert!(moved.starts_with("b "), "{moved}");
    bed.restart(Config {
        udp_idle: Duration::from_millis(20),
        ..config()
    });
    bed.endpoints(&[A, B]);
    // By turns, as each session is over before the next question; also across the restart, with the same socket.
    let asked = |_| {
        std::thread::sleep(Duration::from_millis(400));
        ask(&socket).and_then(|a| a.chars().next())
    };
    let names: BTreeSet<Option<char>> = (0..2).map(asked).collect();
    assert_eq!(names, BTreeSet::from([Some('a'), Some('b')]));
}

#[test]
fn the_proxys_own_ports_are_closed_to_others() {
    let mut bed = Bed::new(config());
    bed.service(
        |v| {
            v["spec"]["type"] = json!("LoadBalancer");
            v["spec"]["loadBalancerSourceRanges"] = json!(["10.42.0.3/32"]);
            v["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}});
        },
        &[A],
    );
    let portals = bed.rules(Family::V4);
    let rules = portals.rules(Table::Nat, "KUBE-PORTALS-CONTAINER");
    let ports = rules.expect("chain").iter();
    let ports = ports.filter_map(|r| r.rsplit(' ').next()?.parse::<u16>().ok());
    for port in ports.collect::<BTreeSet<u16>>() {
        for (from, address) in [("client", NODE), ("a", "10.42.0.1"), ("node", "127.0.0.1")] {
            let got = bed.tcp(from, &to(address, port));
            assert_eq!(got, Err(ErrorKind::ConnectionRefused), "{from} to {port}");
        }
    }
    let balancer = to("203.0.113.7", 80);
    assert!(bed.tcp("b", &balancer).is_ok(), "in the range");
    for from in ["a", "client", "node"] {
        assert!(
            bed.tcp(from, &balancer).is_err(),
            "{from}: not in the range"
        );
    }
}

#[test]
fn policy_local_keeps_out_what_has_no_endpoint_here() {
    let mut bed = Bed::new(config());
    let local = |v: &mut serde_json::Value| v["spec"]["externalTrafficPolicy"] = json!("Local");
    bed.service(local, &["!10.42.0.2"]);
    let address = to(NODE, 30080);
    assert!(bed.tcp("client", &address).is_err(), "dropped");
    for from in ["b", "node"] {
        let answer = bed.tcp(from, &address).expect("the short way");
        assert!(answer.starts_with("a "), "{from}: {answer}");
    }
    bed.service(local, &["!10.42.0.2", B]);
    let counts = bed.counts("client", &address, 4);
    assert_eq!(counts.into_keys().collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_restart_mends_rules_and_cleanup_leaves_nothing() {
    let mut bed = Bed::new(config());
    bed.service(|_| (), &[A]);
    bed.restart(config());
    bed.sync();
    assert!(bed.tcp("client", &to(NODE, 30080)).is_ok());
    let node = bed.ns("node");
    let jump = "-m comment --comment x -j RETURN";
    run(
        "ip",
        &format!("netns exec {node} iptables -t nat -A OUTPUT {jump}"),
    );
    run(
        "ip",
        &format!("netns exec {node} iptables -t nat -F KUBE-NODEPORT-CONTAINER"),
    );
    assert!(bed.tcp("client", &to(NODE, 30080)).is_err(), "flushed");
    bed.restart(config());
    bed.sync();
    assert!(bed.tcp("client", &to(NODE, 30080)).is_ok(), "mended");
    bed.cleanup();
    let left = inside(&node, || {
        let out = std::process::Command::new("iptables-save").output();
        String::from_utf8_lossy(&out.expect("iptables-save").stdout).into_owned()
    });
    assert!(
        !left.contains("KUBE-") && left.contains("-A OUTPUT -m comment --comment x"),
        "{left}"
    );
    assert!(bed.tcp("client", &to(NODE, 30080)).is_err(), "closed");
}

#[test]
fn ports_come_from_the_range_and_one_too_few_is_an_error() {
    let mut bed = Bed::new(Config {
        ports: Some(41_000..=41_002),
        ..config()
    });
    bed.state = Default::default();
    bed.service(
        |v| {
            v["spec"]["ports"]
                .as_array_mut()
                .expect("ports")
                .truncate(1)
        },
        &[A],
    );
    let rules = bed.rules(Family::V4);
    let rules = rules.rules(Table::Nat, "KUBE-PORTALS-HOST").expect("chain");
    assert!(rules[0].ends_with("--to-ports 41000"), "{rules:?}");
    let other = |i: u8| json!({"metadata": {"namespace": "d", "name": format!("s{i}")}, "spec": {"clusterIP": format!("10.43.1.{i}"), "ports": [{"port": 80}]}});
    for i in 1..=3 {
        bed.state
            .set_service(&serde_json::from_value(other(i)).expect("service"));
        let slice = json!({"metadata": {"namespace": "d", "name": format!("s{i}"), "labels": {"kubernetes.io/service-name": format!("s{i}")}},
            "addressType": "IPv4", "endpoints": [{"addresses": [A]}], "ports": [{"port": 8080}]});
        bed.state
            .set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
    }
    let error = bed.try_sync().expect_err("three ports for four");
    assert!(error.to_string().contains("listen for d/s3"), "{error}");
    assert!(
        bed.tcp("client", &to("10.43.1.2", 80)).is_ok(),
        "the others are served"
    );
    bed.state.remove_service("d", "s1");
    // The port is free only after its rules are gone, and no program that is being started has the socket any more.
    bed.try_sync().expect_err("not yet");
    let free = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        bed.try_sync().is_ok()
    });
    assert!(free, "a port is free again");
    assert!(bed.tcp("client", &to("10.43.1.3", 80)).is_ok());
}

#[test]
fn beyond_the_limit_tcp_clients_wait_and_udp_clients_are_lost() {
    let mut bed = Bed::new(Config {
        connections: Some(2),
        ..config()
    });
    bed.service(|_| (), &[A]);
    let address = to(NODE, 30081);
    let open = |_| {
        let mut stream = bed.connect("client", &address).expect("connect");
        echo(&mut stream, "one of two");
        stream
    };
    let mut two: Vec<_> = (0..2).map(open).collect();
    let mut third = bed.connect("client", &address).expect("in the queue");
    third.write_all(b"third").expect("write");
    let soon = Some(Duration::from_millis(300));
    third.set_read_timeout(soon).expect("timeout");
    let mut back = [0; 5];
    assert!(third.read_exact(&mut back).is_err(), "waits");
    assert_eq!(ask(&bed.udp("client", &to(NODE, 30080))), None, "lost");
    two.pop();
    third.set_read_timeout(None).expect("timeout");
    third.read_exact(&mut back).expect("its turn");
    drop((two, third));
    let socket = bed.udp("client", &to(NODE, 30080));
    let answer = (0..20).find_map(|_| ask(&socket));
    assert!(answer.is_some(), "there is room again");
}

#[test]
fn a_udp_client_leaves_an_endpoint_that_refuses() {
    let mut bed = Bed::new(config());
    // 10.42.0.1 is the node, where nobody has the port.
    let affinity = |v: &mut serde_json::Value| v["spec"]["sessionAffinity"] = json!("ClientIP");
    bed.service(affinity, &["10.42.0.1", B]);
    // By turns: at least half of them begin with the one that refuses.
    for from in ["client", "a", "b", "node"] {
        let socket = bed.udp(from, &to(NODE, 30080));
        let first = ask(&socket);
        let second = ask(&socket).expect("the other endpoint");
        assert!(second.starts_with("b "), "{from}: {first:?}, {second}");
    }
}
