use super::*;
use crate::ipvs::{Origin, ruleset};
use crate::state::State;
use serde_json::{Value, json};

const CLUSTER: &str = "10.43.0.9:80";
const NODE_PORT: &str = "192.168.9.1:30080";
const BALANCER: &str = "192.0.2.7:80";
const EXTERNAL: &str = "192.0.2.8:80";

type Change = fn(&mut Value);
/// Name, change, endpoints, where to, where from, what happens.
type Case = (
    &'static str,
    Change,
    Vec<Value>,
    &'static str,
    &'static str,
    &'static str,
);

fn options() -> Options {
    Options {
        common: options::Options {
            pods: Pods::Within(vec!["10.42.0.0/16".parse().expect("cidr")]),
            node_port_nets: vec!["192.168.9.0/24".parse().expect("cidr")],
            ..options::Options::default()
        },
        own_addresses: ["192.168.9.1", "10.42.0.1"]
            .map(|a| a.parse().expect("address"))
            .into(),
        ..Options::default()
    }
}

fn here() -> Value {
    json!({"addresses": ["10.42.0.2"], "nodeName": "me"})
}

fn elsewhere() -> Value {
    json!({"addresses": ["10.42.1.2"], "nodeName": "other"})
}

/// A service with addresses of every kind, changed as the case wants.
fn state(change: Change, endpoints: &[Value]) -> State {
    let mut service = json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.9",
        "externalIPs": ["192.0.2.8"], "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}});
    change(&mut service);
    let slice = json!({"metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
    let mut state = State::default();
    state.set_service(&serde_json::from_value(service).expect("service"));
    state.set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
    state
}

fn of(state: &State, options: &Options) -> Wanted {
    let entries: Vec<Entry> = state.all().flatten().collect();
    wanted(&entries, options)
}

fn key(at: &str) -> ServerKey {
    let at: SocketAddr = at.parse().expect("socket");
    ServerKey {
        address: at.ip(),
        protocol: Protocol::Tcp,
        port: at.port(),
    }
}

/// What a packet meets: where it may go, whether its source is kept; or that it is refused or dropped.
fn fate(wanted: &Wanted, at: &str, from: &str) -> String {
    let address: IpAddr = from.parse().expect("address");
    let node = options().own_addresses.contains(&address) || at.starts_with(&format!("{from}:"));
    let pod = options()
        .common
        .pod_nets(Family::V4)
        .iter()
        .any(|c| c.contains(&address));
    let origin = Origin { address, node, pod };
    let treatment = &wanted.rules.keys[&key(at)];
    if !treatment.admits(&origin) {
        return "dropped".to_owned();
    }
    if let Some(to) = treatment.short_way
        && (node || pod)
    {
        // Its source is decided on before it is sent there.
        let server = &wanted.servers[&key(&to.to_string())];
        return told(server, treatment.masquerades(&origin));
    }
    told(&wanted.servers[&key(at)], treatment.masquerades(&origin))
}

/// Where a server sends to.
fn told(server: &WantedServer, masked: bool) -> String {
    let to: Vec<_> = server
        .destinations
        .iter()
        .map(|d| d.ip().to_string())
        .collect();
    match (to.is_empty(), masked) {
        (true, _) => "refused".to_owned(),
        (false, masked) => format!("{}{}", to.join(" "), if masked { " masked" } else { "" }),
    }
}

#[test]
fn packets_meet_their_fate() {
    const POD: &str = "10.42.0.5";
    const CLIENT: &str = "203.0.113.5";
    let same: Change = |_| ();
    let local: Change = |v| v["spec"]["externalTrafficPolicy"] = json!("Local");
    let internal: Change = |v| v["spec"]["internalTrafficPolicy"] = json!("Local");
    let ranges: Change =
        |v| v["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/28", "2001:db8::/32"]);
    let ours: Change = |v| v["spec"]["loadBalancerSourceRanges"] = json!(["192.168.9.0/24"]);
    let both = || vec![here(), elsewhere()];
    let cases: Vec<Case> = vec![
        (
            "a pod's address is kept",
            same,
            both(),
            CLUSTER,
            POD,
            "10.42.0.2 10.42.1.2",
        ),
        (
            "this node speaks with the service's address",
            same,
            both(),
            CLUSTER,
            "10.43.0.9",
            "10.42.0.2 10.42.1.2 masked",
        ),
        (
            "routed from outside",
            same,
            both(),
            CLUSTER,
            CLIENT,
            "10.42.0.2 10.42.1.2 masked",
        ),
        (
            "node port",
            same,
            both(),
            NODE_PORT,
            CLIENT,
            "10.42.0.2 10.42.1.2 masked",
        ),
        (
            "load balancer",
            same,
            both(),
            BALANCER,
            CLIENT,
            "10.42.0.2 10.42.1.2 masked",
        ),
        (
            "external address",
            same,
            both(),
            EXTERNAL,
            POD,
            "10.42.0.2 10.42.1.2 masked",
        ),
        ("nobody there", same, vec![], CLUSTER, POD, "refused"),
        (
            "nobody there, from outside",
            local,
            vec![],
            NODE_PORT,
            CLIENT,
            "refused",
        ),
        ("local ones", local, both(), NODE_PORT, CLIENT, "10.42.0.2"),
        (
            "cluster address in spite of the external policy",
            local,
            both(),
            CLUSTER,
            POD,
            "10.42.0.2 10.42.1.2",
        ),
        (
            "local ones: a pod may go anywhere",
            local,
            both(),
            NODE_PORT,
            POD,
            "10.42.0.2 10.42.1.2",
        ),
        (
            "local ones: so may this node",
            local,
            both(),
            BALANCER,
            "192.0.2.7",
            "10.42.0.2 10.42.1.2 masked",
        ),
        (
            "all local: a pod stays near",
            |v| {
                v["spec"]["externalTrafficPolicy"] = json!("Local");
                v["spec"]["internalTrafficPolicy"] = json!("Local");
            },
            both(),
            NODE_PORT,
            POD,
            "10.42.0.2",
        ),
        (
            "none local: client",
            local,
            vec![elsewhere()],
            BALANCER,
            CLIENT,
            "dropped",
        ),
        (
            "none local: pod",
            local,
            vec![elsewhere()],
            BALANCER,
            POD,
            "10.42.1.2",
        ),
        (
            "none local: node",
            local,
            vec![elsewhere()],
            NODE_PORT,
            "192.168.9.1",
            "10.42.1.2 masked",
        ),
        ("internal", internal, both(), CLUSTER, POD, "10.42.0.2"),
        (
            "internal, none local",
            internal,
            vec![elsewhere()],
            CLUSTER,
            POD,
            "dropped",
        ),
        (
            "internal is not for node ports",
            internal,
            vec![elsewhere()],
            NODE_PORT,
            CLIENT,
            "10.42.1.2 masked",
        ),
        (
            "in the range",
            ranges,
            both(),
            BALANCER,
            CLIENT,
            "10.42.0.2 10.42.1.2 masked",
        ),
        ("out of the range", ranges, both(), BALANCER, POD, "dropped"),
        (
            "this node out of the range",
            ranges,
            both(),
            BALANCER,
            "192.0.2.7",
            "dropped",
        ),
        (
            "this node in the range",
            ours,
            both(),
            BALANCER,
            "192.0.2.7",
            "10.42.0.2 10.42.1.2 masked",
        ),
        (
            "ranges are for load balancers",
            ranges,
            both(),
            EXTERNAL,
            POD,
            "10.42.0.2 10.42.1.2 masked",
        ),
    ];
    for (name, change, endpoints, at, from, want) in cases {
        assert_eq!(
            fate(&of(&state(change, &endpoints), &options()), at, from),
            want,
            "{name}"
        );
    }
}

#[test]
fn addresses_are_bound_once_and_the_nodes_own_never() {
    let found = of(&state(|_| (), &[here()]), &options());
    let bound: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(bound, ["10.43.0.9", "192.0.2.7", "192.0.2.8"]);
    assert_eq!(found.rules.bound, found.addresses);
    let own = of(
        &state(
            |v| v["spec"]["externalIPs"] = json!(["192.168.9.1"]),
            &[here()],
        ),
        &options(),
    );
    assert!(
        own.servers.contains_key(&key("192.168.9.1:80"))
            && !own.addresses.contains(&key(NODE_PORT).address)
    );
    let hairpin: Vec<_> = found
        .rules
        .hairpin
        .iter()
        .map(|(_, at)| at.to_string())
        .collect();
    assert_eq!(hairpin, ["10.42.0.2:8080"]);
}

#[test]
fn servers_are_marked_and_carry_affinity_and_scheduler() {
    let affinity: Change = |v| v["spec"]["sessionAffinity"] = json!("ClientIP");
    let cases: &[(&str, Change, &str, u32, u32)] = &[
        ("plain", |_| (), "rr", 0x20, 0),
        ("affinity", affinity, "lc", 0x21, 10_800),
        ("mh", affinity, "mh", 0x31, 10_800),
    ];
    for (name, change, scheduler, flags, timeout) in cases {
        let options = Options {
            scheduler: scheduler.parse().expect("scheduler"),
            ..options()
        };
        let found = of(&state(*change, &[here()]), &options);
        for WantedServer { server, .. } in found.servers.values() {
            assert_eq!(
                (server.scheduler.name(), server.flags.0, server.timeout),
                (*scheduler, *flags, *timeout),
                "{name}"
            );
            assert_eq!(server.netmask, u32::MAX, "{name}");
        }
    }
    let unknown = "random"
        .parse::<Scheduler>()
        .expect_err("no such one")
        .to_string();
    assert!(
        unknown.contains("\"random\"") && unknown.contains("wlc"),
        "{unknown}"
    );
}

#[test]
fn both_families_and_all_masked() {
    let change: Change = |v| {
        v["spec"]["clusterIPs"] = json!(["10.43.0.9", "fd43::9"]);
    };
    let mut state = state(change, &[here()]);
    let slice = json!({"metadata": {"namespace": "d", "name": "web-6", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv6", "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["fd42::2"]}]});
    state.set_slice(&serde_json::from_value(slice).expect("slice"), &"me".into());
    let found = of(
        &state,
        &Options {
            common: options::Options {
                masquerade_all: true,
                ..options().common
            },
            ..options()
        },
    );
    let six = &found.servers[&key("[fd43::9]:80")];
    assert_eq!(six.server.netmask, 128);
    assert_eq!(
        six.destinations.first().map(ToString::to_string).as_deref(),
        Some("[fd42::2]:8080")
    );
    assert_eq!(found.rules.keys[&key(CLUSTER)].masquerade, Masquerade::All);
    // Without pods' addresses only what this node itself sends is told from a pod's.
    let found = of(&state, &options());
    assert_eq!(
        found.rules.keys[&key("[fd43::9]:80")].masquerade,
        Masquerade::Node
    );
    let without = Options {
        no_ipv6: true,
        ..options()
    };
    assert!(
        of(&state, &without)
            .servers
            .keys()
            .all(|k| k.address.is_ipv4())
    );
    let rules = ruleset(&found.rules, Family::V6, &options().common).render();
    assert!(
        rules.contains("-d fd43::9/128 -p tcp -m tcp --dport 80 -m addrtype --src-type LOCAL"),
        "{rules}"
    );
}
