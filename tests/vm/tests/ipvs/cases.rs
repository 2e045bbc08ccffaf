//! What must hold, a function a case.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use keelson_proxy_kernel::ipvs::{self as kernel, Ipvs, LINK};
use keelson_proxy_plan::ipvs::{
    Action, Flags, Scheduler, ServerKey, Timeouts, VirtualServer, Wanted, WantedServer,
};
use keelson_proxy_plan::model::Protocol;
use serde_json::json;

use crate::bed::{
    BOTH, BRIDGE, Bed, Beside, CLIENT, CLUSTER_IP, CLUSTER_IP6, NODE, ONLY_A, ONLY_B, POD_A, POD_B,
    Talk, ask, inside, sh, to,
};

type Case = (&'static str, fn(&mut Bed));

/// Those in which rules beside IPVS matter, by nftables and by iptables.
pub(crate) const BOTH_RULES: &[Case] = &[
    ("services answer from everywhere, evenly", from_everywhere),
    ("sources are kept where they may be", sources),
    ("policies leave endpoints out", policies),
    ("source ranges", source_ranges),
    ("the node's own ports stay its own", own_ports),
    (
        "connections live when another backend takes over",
        mode_switch,
    ),
    ("cleanup leaves nothing and others alone", cleanup),
];

/// The others.
pub(crate) const CASES: &[Case] = &[
    (
        "the kernel knows every scheduler, protocol and timeout",
        schedulers_and_timeouts,
    ),
    ("without endpoints refused at once", refused),
    ("affinity", affinity),
    ("a connection outlives its endpoint's removal", draining),
    ("a connection outlives its service", service_removed),
    ("UDP flows move at once", udp_moves),
    ("a restart writes nothing, drift is mended", restart),
    ("hundreds of services", scale),
];

fn even(n: usize) -> BTreeMap<String, usize> {
    [("a".to_owned(), n), ("b".to_owned(), n)].into()
}

fn key(address: &str, port: u16) -> ServerKey {
    ServerKey {
        address: address.parse().expect("address"),
        protocol: Protocol::Tcp,
        port,
    }
}

fn schedulers_and_timeouts(bed: &mut Bed) {
    bed.in_node(|| {
        let mut ipvs = Ipvs::open().expect("open");
        let mut wanted = Wanted::default();
        let names = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"];
        for (name, i) in names.iter().zip(1..) {
            let scheduler: Scheduler = name.parse().expect("scheduler");
            let key = key(&format!("10.43.9.{i}"), 80);
            let flags = scheduler.flags().with(Flags::OURS).with(Flags::PERSISTENT);
            let server = VirtualServer { key, scheduler, flags, timeout: 60 + i, netmask: u32::MAX };
            wanted.servers.insert(key, WantedServer { server, destinations: BTreeSet::new() });
        }
        for (address, protocol) in [
            ("10.43.9.99", Protocol::Udp),
            ("10.43.9.99", Protocol::Sctp),
            ("fd43::99", Protocol::Sctp),
        ] {
            let mut server = wanted.servers.values().next().expect("one").clone();
            let address = address.parse().expect("address");
            let key = ServerKey { address, protocol, port: 65535 };
            server.server.key = key;
            server.server.netmask = VirtualServer::full_mask(&address);
            wanted.servers.insert(key, server);
        }
        ipvs.sync(&wanted).expect("sync");
        let read: BTreeMap<_, _> = ipvs.servers().expect("list").into_iter().map(|s| (s.key, s)).collect();
        let want: BTreeMap<_, _> = wanted.servers.iter().map(|(k, w)| (*k, w.server.clone())).collect();
        assert_eq!(read, want);
        let timeouts = Timeouts { tcp: 1000, tcp_fin: 0, udp: 77 };
        ipvs.prepare(true, &timeouts).expect("prepare");
        assert_eq!(ipvs.timeouts().expect("timeouts"), Timeouts { tcp_fin: 120, ..timeouts });
        assert_eq!(sh("cd /proc/sys/net/ipv4; cat vs/conntrack vs/expire_nodest_conn conf/all/arp_ignore conf/all/arp_announce").split('\n').collect::<Vec<_>>(), ["1", "1", "1", "2"]);
        ipvs.sync(&Wanted::default()).expect("sync");
        assert!(ipvs.servers().expect("list").is_empty());
    });
}

fn from_everywhere(bed: &mut Bed) {
    bed.service(|_| (), BOTH);
    let cases = [
        ("pod to cluster address", "a", to(CLUSTER_IP, 80)),
        ("node to cluster address", "node", to(CLUSTER_IP, 80)),
        ("client to node port", "client", to(NODE, 30080)),
        ("pod to node port", "a", to(NODE, 30080)),
        ("node to its own node port", "node", to(NODE, 30080)),
        (
            "client to cluster address, routed",
            "client",
            to(CLUSTER_IP, 80),
        ),
        ("pod to cluster address, IPv6", "b", to(CLUSTER_IP6, 80)),
        ("node to cluster address, IPv6", "node", to(CLUSTER_IP6, 80)),
    ];
    for (name, from, address) in cases {
        assert_eq!(bed.counts(from, &address, 4), even(2), "{name}");
        let answer = bed
            .udp(from, &address)
            .unwrap_or_else(|e| panic!("{name}, UDP: {e}"));
        assert!(answer.starts_with(['a', 'b']), "{name}, UDP: {answer}");
    }
    // Nothing speaks with a service's address, and none is on a link that asks around.
    let addresses = sh(&format!(
        "ip -n {} -o addr show dev {LINK}; ip -n {} -o link show dev {LINK}",
        bed.ns("node"),
        bed.ns("node")
    ));
    assert!(
        addresses.contains("10.43.0.9/32 scope host") && addresses.contains("state DOWN"),
        "{addresses}"
    );
    assert!(
        addresses.contains("fd43::9/128")
            && addresses.contains("deprecated")
            && !addresses.contains("tentative"),
        "{addresses}"
    );
    let routes = sh(&format!(
        "ip -n {0} -4 route; ip -n {0} -6 route",
        bed.ns("node")
    ));
    assert!(!routes.contains(LINK), "no route but local ones: {routes}");
}

fn sources(bed: &mut Bed) {
    bed.service(|_| (), ONLY_A);
    let cases = [
        (
            "hairpin: masked, or it would answer itself",
            "a",
            CLUSTER_IP,
            80,
            BRIDGE,
        ),
        ("a pod's address is kept", "b", CLUSTER_IP, 80, POD_B),
        (
            "the node's is not a service's",
            "node",
            CLUSTER_IP,
            80,
            BRIDGE,
        ),
        ("routed from outside", "client", CLUSTER_IP, 80, BRIDGE),
        ("node port", "client", NODE, 30080, BRIDGE),
        ("a pod's kept, IPv6", "b", CLUSTER_IP6, 80, "fd42::3"),
        ("hairpin, IPv6", "a", CLUSTER_IP6, 80, "fd42::1"),
    ];
    for (name, from, address, port, source) in cases {
        assert_eq!(
            bed.tcp(from, &to(address, port)),
            Ok(format!("a {source}")),
            "{name}"
        );
    }
    bed.service(
        |v| v["spec"]["externalTrafficPolicy"] = json!("Local"),
        ONLY_A,
    );
    assert_eq!(
        bed.tcp("client", &to(NODE, 30080)),
        Ok(format!("a {CLIENT}")),
        "policy Local keeps the client's"
    );
    assert_eq!(bed.tcp("node", &to(NODE, 30080)), Ok(format!("a {BRIDGE}")));
}

fn refused(bed: &mut Bed) {
    bed.service(|_| (), &[]);
    let cases = [
        ("a", to(CLUSTER_IP, 80)),
        ("node", to(CLUSTER_IP, 80)),
        ("client", to(NODE, 30080)),
        ("a", to(CLUSTER_IP6, 80)),
        ("node", to(CLUSTER_IP6, 80)),
    ];
    for (from, address) in cases {
        assert_eq!(
            bed.tcp(from, &address),
            Err(ErrorKind::ConnectionRefused),
            "{from} to {address}"
        );
        // What this node itself sends is refused where it is sent.
        let word = if from == "node" {
            ErrorKind::PermissionDenied
        } else {
            ErrorKind::ConnectionRefused
        };
        assert_eq!(
            bed.udp(from, &address),
            Err(word),
            "{from} to {address}, UDP"
        );
    }
    bed.endpoints(ONLY_B);
    assert_eq!(bed.counts("node", &to(CLUSTER_IP, 80), 1).len(), 1);
}

fn policies(bed: &mut Bed) {
    // Pod b as if it were elsewhere.
    let mixed = &[(POD_A, "me"), (POD_B, "other")];
    let away = &[(POD_B, "other")];
    let external = |v: &mut serde_json::Value| v["spec"]["externalTrafficPolicy"] = json!("Local");
    let internal = |v: &mut serde_json::Value| v["spec"]["internalTrafficPolicy"] = json!("Local");
    bed.service(external, mixed);
    assert_eq!(
        bed.counts("client", &to(NODE, 30080), 3),
        [("a".to_owned(), 3)].into()
    );
    assert_eq!(bed.counts("a", &to(CLUSTER_IP, 80), 4), even(2));
    for from in ["a", "node"] {
        assert_eq!(
            bed.counts(from, &to(NODE, 30080), 4),
            even(2),
            "{from}: from inside to all"
        );
    }
    bed.service(external, away);
    assert_eq!(
        bed.tcp("client", &to(NODE, 30080)),
        Err(ErrorKind::TimedOut),
        "dropped: another node has one"
    );
    assert_eq!(bed.tcp("node", &to(NODE, 30080)), Ok(format!("b {BRIDGE}")));
    assert_eq!(bed.tcp("a", &to(NODE, 30080)), Ok(format!("b {POD_A}")));
    bed.service(internal, mixed);
    assert_eq!(
        bed.counts("b", &to(CLUSTER_IP, 80), 3),
        [("a".to_owned(), 3)].into()
    );
    assert_eq!(bed.counts("client", &to(NODE, 30080), 4), even(2));
    bed.service(internal, away);
    assert_eq!(bed.tcp("a", &to(CLUSTER_IP, 80)), Err(ErrorKind::TimedOut));
    let node = bed.tcp("node", &to(CLUSTER_IP, 80));
    match bed.beside {
        Beside::Nftables => assert_eq!(node, Err(ErrorKind::TimedOut)),
        // As long as connections of before are remembered, IPVS refuses before iptables could drop.
        Beside::Iptables => assert!(node.is_err()),
    }
}

fn source_ranges(bed: &mut Bed) {
    const VIP: &str = "192.0.2.7";
    let with = |ranges: &'static [&str]| {
        move |v: &mut serde_json::Value| {
            v["spec"]["type"] = json!("LoadBalancer");
            v["spec"]["loadBalancerSourceRanges"] = json!(ranges);
            v["status"] = json!({"loadBalancer": {"ingress": [{"ip": VIP}]}});
        }
    };
    bed.service(with(&["10.42.0.0/16"]), BOTH);
    let try_all =
        |bed: &Bed| ["a", "client", "node"].map(|from| bed.tcp(from, &to(VIP, 80)).is_ok());
    // The node has an address among the pods', and so may.
    assert_eq!(try_all(bed), [true, false, true]);
    bed.service(with(&["192.168.9.2/32"]), BOTH);
    assert_eq!(try_all(bed), [false, true, false]);
    // With policy Local those from inside go another way, and no further than they may.
    let local = with(&["10.42.0.2/32"]);
    let mixed = &[(POD_A, "me"), (POD_B, "other")];
    bed.service(
        |v| {
            local(v);
            v["spec"]["externalTrafficPolicy"] = json!("Local");
        },
        mixed,
    );
    assert_eq!(try_all(bed), [true, false, false]);
    assert_eq!(bed.counts("a", &to(VIP, 80), 4), even(2));
    assert_eq!(bed.tcp("b", &to(VIP, 80)), Err(ErrorKind::TimedOut));
    bed.service(with(&[]), BOTH);
    assert_eq!(try_all(bed), [true, true, true]);
}

fn own_ports(bed: &mut Bed) {
    bed.service(|_| (), BOTH);
    assert!(
        bed.connect("client", &to(NODE, 22)).is_ok(),
        "the node's address is its own"
    );
    for from in ["a", "client", "node"] {
        assert_eq!(
            bed.tcp(from, &to(CLUSTER_IP, 22)),
            Err(ErrorKind::ConnectionRefused),
            "{from}"
        );
        assert!(
            bed.tcp(from, &to(CLUSTER_IP, 80)).is_ok(),
            "{from}: the service, not who listens everywhere"
        );
    }
}

fn affinity(bed: &mut Bed) {
    bed.service(|v| v["spec"]["sessionAffinity"] = json!("ClientIP"), BOTH);
    let mut chosen = BTreeMap::new();
    for from in ["a", "node", "client"] {
        let counts = bed.counts(from, &to(CLUSTER_IP, 80), 5);
        assert_eq!(counts.len(), 1, "{from}: {counts:?}");
        chosen.extend(counts);
    }
    // With the endpoint gone, its clients go to the other, though the kernel remembers them.
    bed.endpoints(ONLY_B);
    for from in ["a", "node", "client"] {
        assert_eq!(
            bed.counts(from, &to(CLUSTER_IP, 80), 2),
            [("b".to_owned(), 2)].into(),
            "{from}"
        );
    }
}

/// Looks until nothing drains. The kernel forgets a connection that was reset within ten seconds.
fn drain(bed: &Bed, wanted: &Wanted) -> Vec<Action> {
    let end = Instant::now() + Duration::from_secs(120);
    let mut actions = Vec::new();
    loop {
        let synced = bed.sync_servers(wanted);
        actions.extend(synced.actions);
        if synced.draining == 0 {
            return actions;
        }
        assert!(Instant::now() < end, "still draining");
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn draining(bed: &mut Bed) {
    bed.service(|_| (), ONLY_A);
    let mut talks: Vec<_> = [
        ("b", to(CLUSTER_IP, 80)),
        ("node", to(CLUSTER_IP, 80)),
        ("client", to(NODE, 30080)),
    ]
    .map(|(from, address)| bed.connect(from, &address).expect("connect"))
    .into();
    for talk in &mut talks {
        assert_eq!(talk.ask().map(|a| a.starts_with("a ")), Ok(true));
    }
    let synced = bed.endpoints(ONLY_B);
    assert_eq!(
        synced.draining, 2,
        "cluster address and node port: {:?}",
        synced.actions
    );
    for talk in &mut talks {
        assert_eq!(
            talk.ask().map(|a| a.starts_with("a ")),
            Ok(true),
            "goes on with the endpoint that it has"
        );
    }
    assert_eq!(
        bed.counts("client", &to(CLUSTER_IP, 80), 4),
        [("b".to_owned(), 4)].into(),
        "new ones go to the new one"
    );
    // The way there and back is the kernel's: a restart changes nothing.
    assert_eq!(
        bed.sync(),
        kernel::Synced {
            actions: vec![],
            draining: 2
        }
    );
    talks.into_iter().for_each(Talk::reset);
    let gone = drain(bed, &bed.wanted());
    assert!(
        gone.iter()
            .all(|a| matches!(a, Action::DeleteDestination(_, at) if at.ip().to_string() == POD_A)),
        "{gone:?}"
    );
    assert_eq!(gone.len(), 2);
}

fn service_removed(bed: &mut Bed) {
    bed.service(|_| (), ONLY_A);
    let mut talk = bed.connect("client", &to(CLUSTER_IP, 80)).expect("connect");
    assert!(talk.ask().is_ok());
    bed.state.remove_service("d", "web");
    assert_eq!(bed.sync().draining, 1);
    assert!(talk.ask().is_ok(), "goes on without the service");
    assert_eq!(
        bed.tcp("b", &to(CLUSTER_IP, 80)).err(),
        Some(ErrorKind::ConnectionRefused),
        "a new one doesn't"
    );
    assert_eq!(
        bed.tcp("b", &to(CLUSTER_IP, 22)).err(),
        Some(ErrorKind::ConnectionRefused),
        "nor one to the node's own"
    );
    talk.reset();
    drain(bed, &bed.wanted());
    assert_eq!(
        sh(&format!("ip -n {} -o link", bed.ns("node")))
            .matches(LINK)
            .count(),
        0,
        "the link goes with the last address"
    );
}

fn mode_switch(bed: &mut Bed) {
    bed.service(|_| (), BOTH);
    let mut talks: Vec<_> = ["a", "b", "node", "client"]
        .map(|from| bed.connect(from, &to(CLUSTER_IP, 80)).expect("connect"))
        .into();
    talks.push(bed.connect("client", &to(NODE, 30080)).expect("connect"));
    let first: Vec<_> = talks.iter_mut().map(|t| t.ask().expect("answer")).collect();
    // The other backend's rules come in place of ours in one step, and then the virtual servers take nobody new.
    bed.switch();
    let left = bed.sync_servers(&Wanted::default());
    assert!(left.draining > 0);
    let second: Vec<_> = talks.iter_mut().map(|t| t.ask().expect("lives")).collect();
    assert_eq!(first, second);
    for from in ["a", "node", "client"] {
        assert!(
            bed.tcp(from, &to(CLUSTER_IP, 80)).is_ok() && bed.tcp(from, &to(NODE, 30080)).is_ok(),
            "{from}: new ones by the other backend"
        );
    }
    // And back: what the other backend translated lives on.
    let mut talk = bed.connect("client", &to(NODE, 30080)).expect("connect");
    let answer = talk.ask();
    bed.sync();
    assert_eq!((talk.ask(), answer.is_ok()), (answer, true));
    let third: Vec<_> = talks.iter_mut().map(|t| t.ask().expect("lives")).collect();
    assert_eq!(first, third);
    assert_eq!(bed.counts("b", &to(CLUSTER_IP, 80), 4), even(2));
}

fn udp_moves(bed: &mut Bed) {
    bed.service(|_| (), ONLY_A);
    let socket = inside(&bed.ns("client"), || {
        let socket = UdpSocket::bind("0.0.0.0:5555").expect("bind");
        socket.connect((NODE, 30080)).expect("connect");
        socket
            .set_read_timeout(Some(Duration::from_millis(1500)))
            .expect("timeout");
        socket
    });
    assert!(ask(&socket).expect("answer").starts_with("a "));
    let synced = bed.endpoints(ONLY_B);
    assert_eq!(synced.draining, 0, "nobody waits for UDP");
    // The packet that finds the flow without its destination is lost; the flow begins anew with the next.
    let answers: Vec<_> = (0..4).filter_map(|_| ask(&socket).ok()).collect();
    assert!(
        answers.len() >= 2 && answers.iter().all(|a| a.starts_with("b ")),
        "{answers:?}"
    );
}

fn restart(bed: &mut Bed) {
    bed.service(|v| v["spec"]["sessionAffinity"] = json!("ClientIP"), BOTH);
    assert_eq!(
        bed.sync(),
        kernel::Synced::default(),
        "read back, nothing differs"
    );
    let foreign = VirtualServer {
        key: key("192.0.2.99", 99),
        scheduler: Scheduler::default(),
        flags: Flags::NONE,
        timeout: 0,
        netmask: u32::MAX,
    };
    let wanted = bed.wanted();
    bed.in_node(|| {
        let mut ipvs = Ipvs::open().expect("open");
        ipvs.sync(&wanted).expect("sync");
        // Somebody else makes a virtual server, and takes pieces of ours away.
        let mut others = wanted.clone();
        others.servers.insert(
            foreign.key,
            WantedServer {
                server: foreign.clone(),
                destinations: BTreeSet::new(),
            },
        );
        others
            .servers
            .get_mut(&key(CLUSTER_IP, 80))
            .expect("server")
            .server
            .scheduler = Scheduler::read("wlc");
        others
            .servers
            .get_mut(&key(NODE, 30080))
            .expect("server")
            .destinations
            .pop_first();
        others
            .addresses
            .remove(&CLUSTER_IP.parse::<IpAddr>().expect("address"));
        Ipvs::open().expect("open").sync(&others).expect("sync");
        assert_eq!(
            ipvs.sync(&wanted).expect("sync").actions,
            [],
            "it trusts what it wrote"
        );
        ipvs.forget();
        let mended = ipvs.sync(&wanted).expect("sync").actions;
        assert_eq!(
            mended.len(),
            3,
            "scheduler, destination, address: {mended:?}"
        );
        sh(&format!("ip link del {LINK}"));
        let again = ipvs.sync(&wanted).expect("sync").actions;
        assert_eq!(again.len(), 2, "each address once more: {again:?}");
        assert!(
            ipvs.servers().expect("list").contains(&foreign),
            "what is not ours stays"
        );
    });
    assert_eq!(bed.sync(), kernel::Synced::default());
    assert_eq!(bed.counts("a", &to(CLUSTER_IP, 80), 2).len(), 1);
}

fn cleanup(bed: &mut Bed) {
    let look = |bed: &Bed| {
        sh(&format!(
            "ip netns exec {} bash -c 'ip -o link | cut -d: -f2; ip -o addr; ip route show table all; ip -6 route show table all; cat /proc/net/ip_vs'",
            bed.ns("node")
        ))
    };
    let before = look(bed);
    bed.service(|_| (), BOTH);
    let mut talk = bed.connect("client", &to(NODE, 30080)).expect("connect");
    assert!(talk.ask().is_ok() && before != look(bed));
    bed.remove_rules();
    let errors = bed.in_node(|| [kernel::cleanup(), kernel::cleanup()].map(|e| format!("{e:?}")));
    assert_eq!(errors, ["[]", "[]"]);
    assert_eq!(look(bed), before);
    assert!(
        !bed.in_node(|| sh("iptables-save; ip6tables-save"))
            .contains("KUBE-")
    );
}

fn scale(bed: &mut Bed) {
    let count: u32 = std::env::var(crate::SERVICES)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(300);
    let mut wanted = Wanted::default();
    for i in 0..count {
        let address: IpAddr = (0x0a2b_0000 + i).to_be_bytes().into();
        let key = ServerKey {
            address,
            protocol: Protocol::Tcp,
            port: 80,
        };
        let server = VirtualServer {
            key,
            scheduler: Scheduler::default(),
            flags: Flags::OURS,
            timeout: 0,
            netmask: u32::MAX,
        };
        let destinations = [POD_A, POD_B]
            .map(|p| to(p, 8080).parse().expect("socket"))
            .into();
        wanted.servers.insert(
            key,
            WantedServer {
                server,
                destinations,
            },
        );
        wanted.addresses.insert(address);
    }
    bed.in_node(|| {
        let mut ipvs = Ipvs::open().expect("open");
        let timed = |name: &str, ipvs: &mut Ipvs, wanted: &Wanted| {
            let begin = Instant::now();
            let actions = ipvs.sync(wanted).expect("sync").actions.len();
            println!(
                "  {count} services, {name}: {actions} actions in {:.1} ms",
                begin.elapsed().as_secs_f64() * 1000.0
            );
            actions
        };
        assert_eq!(
            timed("from nothing", &mut ipvs, &wanted),
            4 * count as usize
        );
        let some = *wanted.servers.keys().nth(count as usize / 2).expect("one");
        wanted
            .servers
            .get_mut(&some)
            .expect("server")
            .destinations
            .pop_first();
        assert_eq!(timed("one endpoint less", &mut ipvs, &wanted), 2);
        assert_eq!(timed("nothing new", &mut ipvs, &wanted), 0);
        ipvs.forget();
        assert_eq!(timed("after a restart", &mut ipvs, &wanted), 0);
    });
    assert!(bed.tcp("a", &to("10.43.0.5", 80)).is_ok());
    let errors = bed.in_node(kernel::cleanup);
    assert!(errors.is_empty(), "{errors:?}");
}
