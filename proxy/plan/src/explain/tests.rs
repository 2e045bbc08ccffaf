use super::*;
use crate::model::Protocol;
use crate::nft::services::table;
use crate::nft::walk;
use crate::options::{Options, Pods};
use crate::packet::Node;
use crate::state::{self, Here};
use serde_json::json;

#[test]
fn a_cluster_address_and_its_endpoints() {
    let mut state = state::State::default();
    let service = json!({"metadata": {"namespace": "d", "name": "web"},
        "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}]}});
    state.set_service(&serde_json::from_value(service).expect("service"));
    let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.42.0.2"], "nodeName": "me"}, {"addresses": ["10.42.1.2"]}]});
    let slice = serde_json::from_value(slice).expect("slice");
    state.set_slice(&slice, &Here::from("me"));
    let entries: Vec<Entry> = state.all().flatten().collect();
    let options = Options {
        pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("net")]),
        ..Options::default()
    };
    let table = table(entries.iter(), Family::V4, &options);
    let packet = Packet {
        source: [10, 42, 0, 2].into(),
        destination: [10, 43, 0, 9].into(),
        protocol: Protocol::Tcp,
        port: 80,
        interface: Some("keelson0".into()),
    };
    let ways = walk::ways(&table, &Node::default(), &packet);
    let connection = Connection {
        protocol: Protocol::Tcp,
        client: ([10, 42, 0, 2].into(), 4444),
        destination: ([10, 43, 0, 9].into(), 80),
        answerer: ([10, 42, 1, 2].into(), 8080),
        answered: ([10, 42, 0, 2].into(), 4444),
        state: State::Tcp("established"),
    };
    let other = Connection {
        client: ([10, 42, 0, 3].into(), 4445),
        ..connection
    };
    let names = Names {
        of: [([10, 42, 0, 2].into(), "pod d/web-a".to_owned())].into(),
        ..Names::default()
    };
    let candidates = ways.into_iter().map(|way| Candidate {
        chance: chance(&way),
        way,
        then: vec!["route: leaves by keelson0".into()],
        end: Some("turned away by other rules"),
    });
    let many = (0..11).map(|n| Connection {
        client: ([10, 42, 0, 2].into(), 5000 + n),
        ..connection
    });
    insta::assert_snapshot!(report(&Story {
        packet: &packet,
        service: super::service(&entries, &packet, false),
        mode: Live::Nftables,
        notes: vec!["something".into()],
        connections: [connection, other].into_iter().chain(many).collect(),
        candidates: candidates.collect(),
        names: &names,
    }));
}

#[test]
fn a_proxys_endpoints_and_a_virtual_servers() {
    let way = |to: &str| {
        let at: SocketAddr = to.parse().expect("socket");
        let to = [((at.ip(), at.port()), Source::Kept)];
        Way {
            outcome: Outcome::Sent(to.into()),
            of: 1,
            steps: Vec::new(),
        }
    };
    let name = crate::model::PortName {
        namespace: "d".into(),
        service: "web".into(),
        port: "".into(),
    };
    let listener = Listener {
        family: Family::V4,
        name,
        protocol: Protocol::Tcp,
        local_only: true,
    };
    let endpoints: Vec<SocketAddr> = ["10.42.0.2:80", "10.42.0.3:80"]
        .map(|a| a.parse().expect("socket"))
        .into();
    let behind = Behind {
        endpoints,
        affinity: None,
    };
    let ways = proxied(vec![way("127.0.0.1:40000")], Some((listener, behind)));
    let told: Vec<_> = ways.iter().map(|w| (chance(w), w.lines().pop())).collect();
    let to = |ip| {
        (
            String::from("50.0 %"),
            Some(format!("to {ip}:80 from this node's address")),
        )
    };
    assert_eq!(told, [to("10.42.0.2"), to("10.42.0.3")]);
    assert_eq!(
        proxied(vec![way("127.0.0.1:4")], None),
        [way("127.0.0.1:4")]
    );

    let server = |scheduler: &str| {
        let mut destinations = BTreeMap::new();
        for (at, weight) in [
            ("10.42.0.2:80", 1),
            ("10.42.0.3:80", 3),
            ("10.42.0.4:80", 0),
        ] {
            let at = at.parse().expect("socket");
            let new = ipvs::Destination::new(at);
            destinations.insert(
                at,
                ipvs::Destination {
                    weight,
                    active: 7,
                    ..new
                },
            );
        }
        let key = ipvs::ServerKey {
            address: [10, 43, 0, 9].into(),
            protocol: Protocol::Tcp,
            port: 80,
        };
        let server = ipvs::VirtualServer {
            key,
            scheduler: ipvs::Scheduler::read(scheduler),
            flags: ipvs::Flags::OURS,
            timeout: 0,
            netmask: u32::MAX,
        };
        ipvs::Server {
            server,
            destinations,
        }
    };
    for (scheduler, want) in [
        ("rr", "50.0 % (rr, weight 3)"),
        ("wrr", "75.0 % (wrr, weight 3)"),
        (
            "lc",
            "as scheduler lc chooses (weight 3, 7 active and 0 other connections)",
        ),
    ] {
        assert_eq!(weighted(&server(scheduler), &way("10.42.0.3:80")), want);
    }
}
