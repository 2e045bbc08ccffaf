//! What is slowed down, with real bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::Bed;
use crate::traffic::inside;

const PORT: u16 = 5000;
/// In bits.
const RATE: u64 = 80_000_000;
const BURST: u64 = 800_000;
/// Bytes that are sent: they take half a second at this rate, and at none a few milliseconds.
const AMOUNT: usize = 5_000_000;

fn conf(limits: Value, result: &Value) -> Value {
    json!({"cniVersion": "1.1.0", "name": "pods", "type": "bandwidth", "prevResult": result,
        "runtimeConfig": {"bandwidth": limits}})
}

/// How long it takes to send so much from one namespace to another.
fn time(from: &str, to: &str, address: &str) -> Duration {
    let at = SocketAddr::new(address.parse().expect("ip"), PORT);
    let listener = inside(to, || TcpListener::bind(at)).expect("bind");
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read");
        bytes.len()
    });
    let begin = Instant::now();
    let mut stream = inside(from, || TcpStream::connect(at)).expect("connect");
    stream.write_all(&vec![0; AMOUNT]).expect("write");
    drop(stream);
    assert_eq!(reader.join().expect("reader"), AMOUNT);
    begin.elapsed()
}

#[test]
fn each_way_has_its_rate() {
    // The bucket may be emptied at once, and no more than the rate after that: this is what the kernel promises.
    let least = Duration::from_secs_f64((AMOUNT as f64 * 8.0 - BURST as f64) / RATE as f64 * 0.9);
    let (both, to, from) = (
        json!({"ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST}),
        json!({"ingressRate": RATE, "ingressBurst": BURST}),
        json!({"egressRate": RATE, "egressBurst": BURST}),
    );
    for (limits, slow) in [
        (both, [true, true]),
        (to, [true, false]),
        (from, [false, true]),
    ] {
        let bed = Bed::new();
        let pod = bed.pod("a");
        let result = bed.on_bridge(&pod);
        let conf = conf(limits, &result);
        let added = bed.call("bandwidth", "ADD", &pod, &conf).expect("add");
        let links = added["interfaces"].as_array().expect("links").len();
        assert_eq!(links, 3 + usize::from(slow[1]), "{added}");
        bed.call("bandwidth", "CHECK", &pod, &conf).expect("sound");
        let times = [
            time(&bed.node, &pod, "10.99.0.2"),
            time(&pod, &bed.node, "10.99.0.1"),
        ];
        for (time, slow) in times.iter().zip(slow) {
            // What is not slowed down is not timed: this machine may be busy.
            assert!(!slow || *time > least, "{times:?}, at least {least:?}");
        }
        // Again, as after a call that was killed.
        bed.call("bandwidth", "ADD", &pod, &conf)
            .expect("add again");
        for _ in 0..2 {
            bed.call("bandwidth", "DEL", &pod, &conf).expect("del");
        }
        assert!(!bed.links().contains("ksb"));
        bed.call("bridge", "DEL", &pod, &bed.bridge()).expect("del");
    }
}

#[test]
fn what_is_broken_is_seen_and_what_is_nobodys_goes() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    let result = bed.on_bridge(&pod);
    let limits = json!({"ingressRate": RATE, "ingressBurst": BURST, "egressRate": RATE, "egressBurst": BURST});
    let conf = conf(limits, &result);
    let port = result["interfaces"][1]["name"].as_str().expect("a name");
    let breaks = [
        format!("tc qdisc del dev {port} root"),
        format!("tc qdisc replace dev {port} root tbf rate 1mbit burst 10k latency 25ms"),
        "ip link del $(ip -br link | grep -o '^ksb[0-9a-f]*')".to_owned(),
    ];
    for break_it in &breaks {
        bed.call("bandwidth", "ADD", &pod, &conf).expect("add");
        bed.call("bandwidth", "CHECK", &pod, &conf).expect("sound");
        assert_eq!(bed.sh(break_it), "", "{break_it}");
        let broken = bed.call("bandwidth", "CHECK", &pod, &conf);
        assert_eq!(broken.expect_err(break_it)["code"], 102, "{break_it}");
    }
    bed.call("bandwidth", "ADD", &pod, &conf).expect("add");
    let mut gc = conf.clone();
    for (valid, left) in [
        (json!([{"containerID": pod, "ifname": "eth0"}]), true),
        (json!([]), false),
    ] {
        gc["cni.dev/valid-attachments"] = valid;
        bed.call("bandwidth", "GC", &pod, &gc).expect("gc");
        assert_eq!(bed.links().contains("ksb"), left);
    }
    let nothing = self::conf(json!({}), &result);
    let passed = bed.call("bandwidth", "ADD", &pod, &nothing).expect("add");
    assert_eq!(passed["interfaces"], result["interfaces"]);
    assert_eq!(passed["ips"], result["ips"]);
}
