//! UDP clients that go on sending when what they send to changes: each way to a service, both families.

use keelson_proxy_kernel::{conntrack, node};
use keelson_proxy_plan::conntrack::Wanted;

use super::*;

const ENDPOINTS_A: &[&str] = &["10.42.0.2", "fd42::2"];
const ENDPOINTS_B: &[&str] = &["10.42.0.3", "fd42::3"];

/// Ways to the service, and the client's port.
fn ways() -> Vec<(String, u16)> {
    let addresses = [
        (CLUSTER_IP, CLUSTER_IP6, 80),
        ("192.0.2.9", "2001:db8::9", 80),
        ("192.0.2.7", "2001:db8::7", 80),
        (NODE, NODE6, 30080),
    ];
    let all = addresses.map(|(v4, v6, port)| [to(v4, port), to(v6, port)]);
    all.concat().into_iter().zip(5555..).collect()
}

/// Reached in all ways that there are.
fn all_ways(v: &mut Value) {
    v["spec"]["type"] = json!("LoadBalancer");
    v["spec"]["externalIPs"] = json!(["192.0.2.9", "2001:db8::9"]);
    v["status"] =
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}]}});
}

struct Client(Vec<(String, UdpSocket)>);

impl Client {
    fn new(bed: &Bed) -> Self {
        let sockets = inside(&bed.ns("client"), || {
            let sockets = ways().into_iter().map(|(to, port)| {
                let any = if to.starts_with('[') {
                    "[::]"
                } else {
                    "0.0.0.0"
                };
                let socket = UdpSocket::bind(format!("{any}:{port}")).expect("bind");
                let patience = Duration::from_millis(400);
                socket.set_read_timeout(Some(patience)).expect("timeout");
                socket.connect(&to).expect("connect");
                (to, socket)
            });
            sockets.collect()
        });
        Self(sockets)
    }

    /// Sends on each socket; who answered which way.
    fn ask(&self) -> Vec<(&str, Option<String>)> {
        let mut buffer = [0; 64];
        // An error of before is told first.
        let send = |s: &UdpSocket| s.send(b"?").or_else(|_| s.send(b"?"));
        self.0.iter().for_each(|(_, s)| _ = send(s).expect("send"));
        let answers = self.0.iter().map(|(to, socket)| {
            let answer = socket.recv(&mut buffer).ok();
            let text = answer.map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned());
            (
                to.as_str(),
                text.map(|t| t.split(' ').next().expect("a name").to_owned()),
            )
        });
        answers.collect()
    }

    #[track_caller]
    fn is_answered(&self, by: Option<&str>, why: &str) {
        for (to, answer) in self.ask() {
            assert_eq!(answer.as_deref(), by, "{to}: {why}");
        }
    }
}

/// Ends what the changes so far left behind; how many flows there were, and when asked again.
fn clean(bed: &mut Bed) -> (usize, usize) {
    let mut wanted = Wanted::default();
    wanted.add(&bed.state.take_changes());
    inside(&bed.ns("node"), move || {
        let own = node::addresses().expect("addresses");
        let clean = || {
            conntrack::clean(wanted.fronts(), |flow| {
                wanted.is_stale(flow, |ip| own.contains(ip))
            })
        };
        (clean().expect("clean"), clean().expect("again"))
    })
}

#[test]
fn flows_move_when_their_endpoint_goes() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(all_ways, ENDPOINTS_A);
        clean(&mut bed);
        let client = Client::new(&bed);
        client.is_answered(Some("a"), "by the only one");
        bed.endpoints(ENDPOINTS_B);
        client.is_answered(Some("a"), "its flow is there");
        assert_eq!(clean(&mut bed), (ways().len(), 0), "{backend:?}");
        client.is_answered(Some("b"), "by the other");
        bed.endpoints(&[]);
        assert_eq!(clean(&mut bed), (ways().len(), 0), "{backend:?}");
        client.is_answered(None, "there is none");
    }
}

/// An endpoint on its way out that still answers keeps who is there; new clients go to the other.
#[test]
fn flows_stay_while_their_endpoint_answers() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(all_ways, ENDPOINTS_A);
        clean(&mut bed);
        let client = Client::new(&bed);
        client.is_answered(Some("a"), "by the only one");
        for (is, by) in [("serving", "a"), ("gone", "b")] {
            let going = json!({"ready": false, "serving": is == "serving", "terminating": true});
            for (name, kind, place) in [("web-4", "IPv4", 0), ("web-6", "IPv6", 1)] {
                let (old, new) = (ENDPOINTS_A[place], ENDPOINTS_B[place]);
                let slice = json!({"metadata": {"namespace": "d", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
                    "addressType": kind, "ports": [{"name": "u", "port": 8080, "protocol": "UDP"}],
                    "endpoints": [{"addresses": [old], "conditions": going}, {"addresses": [new]}]});
                let slice = serde_json::from_value(slice).expect("slice");
                bed.state.set_slice(&slice, &"me".into());
            }
            bed.sync();
            let ended = if by == "b" { ways().len() } else { 0 };
            assert_eq!(clean(&mut bed), (ended, 0), "{backend:?}, {is}");
            client.is_answered(Some(by), is);
        }
    }
}

#[test]
fn flows_move_when_there_is_an_endpoint_at_last() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        // Without any rule the kernel doesn't follow connections.
        bed.sync();
        let client = Client::new(&bed);
        client.is_answered(None, "there is no service");
        bed.service(all_ways, ENDPOINTS_A);
        client.is_answered(None, "its flow is there, and leads nowhere");
        assert_eq!(clean(&mut bed), (ways().len(), 0), "{backend:?}");
        client.is_answered(Some("a"), "it is there");
    }
}

#[test]
fn flows_of_a_service_without_endpoints_are_answered_when_it_has_one() {
    for backend in BACKENDS {
        let mut bed = Bed::new(backend);
        bed.service(all_ways, &[]);
        let client = Client::new(&bed);
        client.is_answered(None, "there is no endpoint");
        bed.endpoints(ENDPOINTS_B);
        clean(&mut bed);
        client.is_answered(Some("b"), "there is");
    }
}

/// The kernel is asked in another way about many ports.
#[test]
fn many_services_change_and_only_stale_flows_end() {
    let mut bed = Bed::new(Backend::Nftables);
    bed.service(all_ways, ENDPOINTS_A);
    clean(&mut bed);
    let client = Client::new(&bed);
    client.is_answered(Some("a"), "by the only one");
    let other = |i: u8| {
        json!({"metadata": {"namespace": "d", "name": format!("s{i}")}, "spec": {"clusterIP": format!("10.43.1.{i}"),
        "ports": [{"port": 80, "protocol": "UDP"}]}})
    };
    for i in 1..=100 {
        let other = serde_json::from_value(other(i)).expect("service");
        bed.state.set_service(&other);
    }
    bed.endpoints(&[ENDPOINTS_A, ENDPOINTS_B].concat());
    assert_eq!(clean(&mut bed), (0, 0), "all have their endpoint");
    for i in 1..=100 {
        bed.state.remove_service("d", &format!("s{i}"));
    }
    bed.endpoints(ENDPOINTS_B);
    assert_eq!(clean(&mut bed), (ways().len(), 0));
    client.is_answered(Some("b"), "by the other");
}
