//! Load for the cluster's DNS: a server with SERVICES services of ten endpoints each on one thread, asked for SECONDS by another.
//! Says what the zone takes, and how many answers the server's thread gives for a second of processor time.
//!
//! `cargo run --release -p keelson-dns --example load -- [SERVICES] [SECONDS] [HEADLESS_EVERY]`

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keelson_dns::{Config, Dns};
use tokio_util::sync::CancellationToken;

/// Questions under way at once.
const WINDOW: usize = 128;
const ENDPOINTS: u32 = 10;

fn main() {
    let number = |at: usize, default: u32| {
        std::env::args()
            .nth(at)
            .and_then(|a| a.parse().ok())
            .unwrap_or(default)
    };
    let (services, seconds, headless) = (number(1, 10_000), number(2, 10), number(3, 20));
    let dns = Dns::new(Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        ..Config::default()
    })
    .expect("configuration");
    let (handle, before) = (dns.handle(), resident());
    let mut spent = Duration::ZERO;
    for i in 0..services {
        let (service, slice) = objects(i, i % headless.max(1) == 0);
        let start = Instant::now();
        handle.set_service(&service);
        handle.set_slice(&slice);
        spent += start.elapsed();
    }
    handle.set_complete();
    println!(
        "{services} services: {} KiB, {spent:?} to take in",
        resident() - before
    );

    let bound = dns.bind().expect("sockets");
    let address = bound.addresses()[0];
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        let (cpu, start) = (processor_time(), Instant::now());
        runtime.block_on(bound.run(stop)).expect("server");
        (processor_time() - cpu, start.elapsed())
    });
    let kinds: [(&str, u16, bool); 3] = [
        ("A", 1, false),
        ("AAAA (nothing)", 28, false),
        ("no such name", 1, true),
    ];
    let answers: u64 = kinds
        .iter()
        .map(|kind| ask(address, services, seconds, *kind))
        .sum();
    shutdown.cancel();
    let (cpu, wall) = server.join().expect("server");
    println!(
        "all: {answers} answers, server's thread {cpu:?} of {wall:?}: {:.0} answers for a second of one processor",
        answers as f64 / cpu.as_secs_f64()
    );
}

/// Asks for a while and says how it went.
fn ask(
    address: std::net::SocketAddr,
    services: u32,
    seconds: u32,
    (name, kind, missing): (&str, u16, bool),
) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("socket");
    socket.connect(address).expect("connect");
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("timeout");
    let questions: Vec<_> = (0..services).map(|i| question(i, kind, missing)).collect();
    let mut sent = vec![Instant::now(); 1 << 16];
    let (mut times, mut waiting, mut next, mut lost) = (Vec::new(), 0_usize, 0_usize, 0_u64);
    let (start, mut buffer) = (Instant::now(), [0; 4096]);
    while start.elapsed() < Duration::from_secs(seconds.into()) {
        while waiting < WINDOW {
            let mut question = questions[next % questions.len()].clone();
            let id = (next & 0xffff) as u16;
            question[..2].copy_from_slice(&id.to_be_bytes());
            sent[usize::from(id)] = Instant::now();
            socket.send(&question).expect("send");
            (next, waiting) = (next + 1, waiting + 1);
        }
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                times.push(sent[usize::from(id)].elapsed());
                waiting -= 1;
            }
            Err(_) => {
                lost += waiting as u64;
                waiting = 0;
            }
        }
    }
    let wall = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!(
        "{name}: {:.0} a second, {lost} lost, p50 {:?}, p99 {:?}",
        times.len() as f64 / wall,
        at(0.5),
        at(0.99)
    );
    times.len() as u64
}

fn question(i: u32, kind: u16, missing: bool) -> Vec<u8> {
    let mut wire = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    let first = format!("{}-{i}", if missing { "none" } else { "service" });
    for label in [
        &first,
        &format!("namespace-{}", i % 100),
        "svc",
        "cluster",
        "local",
    ] {
        wire.push(label.len() as u8);
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire.extend(kind.to_be_bytes());
    // Class, and EDNS with room for 1232 bytes.
    wire.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    wire
}

fn objects(i: u32, headless: bool) -> (Service, EndpointSlice) {
    let (name, namespace) = (format!("service-{i}"), format!("namespace-{}", i % 100));
    let ip = if headless {
        "None".to_owned()
    } else {
        Ipv4Addr::from(0x0a2b_0000 + i).to_string()
    };
    let port = ServicePort {
        name: Some("http".into()),
        port: 80,
        ..Default::default()
    };
    let metadata = |name: String| ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.clone()),
        ..Default::default()
    };
    let service = Service {
        metadata: metadata(name.clone()),
        spec: Some(ServiceSpec {
            cluster_ip: Some(ip.clone()),
            cluster_ips: Some(vec![ip]),
            ports: Some(vec![port]),
            ..Default::default()
        }),
        ..Default::default()
    };
    let endpoint = |n: u32| Endpoint {
        addresses: vec![Ipv4Addr::from(0x0a80_0000 + i * ENDPOINTS + n).to_string()],
        ..Default::default()
    };
    let mut slice = EndpointSlice {
        metadata: metadata(format!("{name}-x7k2p")),
        address_type: "IPv4".into(),
        endpoints: Some((0..ENDPOINTS).map(endpoint).collect()),
        ports: Some(vec![EndpointPort {
            name: Some("http".into()),
            port: Some(8080),
            ..Default::default()
        }]),
    };
    slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), name)].into());
    (service, slice)
}

/// KiB of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("number")
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    Duration::from_nanos(
        text.split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .expect("number"),
    )
}
