//! The benchmark's services and addresses: all functions of a number.
//!
//! ```text
//!   client 10.244.K.2 ── 10.244.K.1 node K 10.245.K.1 ── 10.245.K.2 server
//!                                                         10.160.0.0/12  endpoints, port 8080 answers
//!                                                         10.96.0.0/14   services that no rule translates: port 80 is closed
//!                         10.176.0.0/16 on the node       endpoints that refuse
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use keelson_tests::peers::{Frame, Service};

/// Where all services are.
pub(crate) const SERVICES: &str = "10.96.0.0/14";
/// Where endpoints are that answer.
pub(crate) const OPEN: &str = "10.160.0.0/12";
/// Where endpoints are that refuse.
pub(crate) const CLOSED: &str = "10.176.0.0/16";
/// Clients and endpoints.
pub(crate) const PODS: &str = "10.128.0.0/9";
/// The port that endpoints answer on.
pub(crate) const TARGET: u16 = 8080;
/// Services in a namespace.
pub(crate) const TOGETHER: usize = 100;

/// Left to the API's own services.
const FIRST: u32 = 1024;

/// The namespace of a service.
pub(crate) fn namespace(n: usize) -> String {
    format!("bench-{}", n / TOGETHER)
}

/// A service of two endpoints that answer.
pub(crate) fn service(n: usize) -> Service {
    Service {
        namespace: namespace(n),
        name: format!("svc-{n}"),
        port_name: "http".into(),
        address: SocketAddrV4::new(nth([10, 96, 0, 0], n, 1, FIRST), 80),
        endpoints: vec![endpoint(n, 0), endpoint(n, 1)],
    }
}

/// The same when its second endpoint was replaced by one that refuses.
pub(crate) fn replaced(n: usize) -> Service {
    let mut service = service(n);
    let refusing = nth([10, 176, 0, 0], n, 1, 1);
    service.endpoints[1] = SocketAddrV4::new(refusing, TARGET);
    service
}

/// The first so many.
pub(crate) fn services(size: usize) -> Vec<Service> {
    (0..size).map(service).collect()
}

/// An endpoint that answers.
pub(crate) fn endpoint(n: usize, place: u32) -> SocketAddrV4 {
    SocketAddrV4::new(nth([10, 160, 0, 0], n, 2, 1 + place), TARGET)
}

/// Which service the k-th change is about: all over the range.
pub(crate) fn spread(k: usize, size: usize) -> usize {
    // A prime that divides no size.
    k * 7919 % size
}

/// What kube-proxy would know of a node.
pub(crate) fn frame(node: Ipv4Addr) -> Frame {
    Frame {
        node,
        cluster_cidr: PODS.into(),
        service_cidr: SERVICES.into(),
    }
}

fn nth(base: [u8; 4], n: usize, each: u32, offset: u32) -> Ipv4Addr {
    let n = u32::try_from(n).expect("fewer services than addresses");
    Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + n * each + offset)
}
