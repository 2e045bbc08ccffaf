//! A large table of connections, and endpoints of UDP services that go: their flows end, and no others.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddrV4, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use keelson_tests::eventually;
use keelson_tests::figures::Samples;
use keelson_tests::wait::{is_long, secs};

use super::alone::objects::{Objects, address, spread};
use super::alone::{Alone, SOURCES};

/// Flows to each service.
const EACH: usize = 5;
const MOMENT: Duration = Duration::from_millis(2);

/// Services, and how many of them change: the whole by `scripts/test --long`.
fn size() -> (usize, usize) {
    if is_long() {
        (10_000, 100)
    } else {
        (1_000, 20)
    }
}

#[test]
fn stale_flows_end() {
    let (size, changes) = size();
    let mut alone = Alone::new();
    alone.bed.kube(async |client| {
        let objects = Objects::new(client, 1, 1);
        objects.create(0..size).await.expect("services");
    });
    // Their ends are told though nobody listened when they began.
    let keep = "cd /proc/sys/net/netfilter; echo 1 >nf_conntrack_events; echo 3600 >nf_conntrack_udp_timeout";
    alone.node.sh(keep).expect("flows stay");
    alone.start("nftables");
    let began = Instant::now();
    alone.client.enter(|| send(size)).expect("packets");
    eventually("all flows are there", secs(30), || {
        let flows = count(&alone)?;
        anyhow::ensure!(flows == size * EACH, "{flows}");
        Ok(())
    });
    eprintln!("{} flows after {:?}", size * EACH, began.elapsed());
    let mut ends = Ends::new(&alone);
    let took = alone.bed.kube(async |client| {
        let objects = Objects::new(client, 1, 1);
        let mut took = Samples::default();
        for k in 0..changes {
            let n = spread(k, size);
            let event = objects.next_event(n).await.expect("a watch");
            objects.replace(n, 1).await.expect("another endpoint");
            let told = event.await.expect("a task").expect("an event");
            let ended = (0..EACH).map(|_| ends.next(&format!(" dst={} ", address(n))));
            let last = ended.max().expect("flows");
            took.push(last.saturating_duration_since(told));
        }
        took
    });
    eprintln!("from the API's event to the end of a service's {EACH} flows: {took}");
    let left = count(&alone).expect("a number");
    assert_eq!(left, (size - changes) * EACH, "flows that are left");
}

/// A packet to each service from each of some sockets.
fn send(services: usize) -> anyhow::Result<()> {
    for place in 0..EACH {
        let from = SOURCES[place % SOURCES.len()];
        let socket = UdpSocket::bind(SocketAddrV4::new(from, 0))?;
        for n in 0..services {
            socket.send_to(b"?", SocketAddrV4::new(address(n), 80))?;
            if n % 100 == 0 {
                // Not more at once than links and their other ends hold.
                std::thread::sleep(MOMENT);
            }
        }
    }
    Ok(())
}

/// Number of flows to the services.
fn count(alone: &Alone) -> anyhow::Result<usize> {
    let all = "conntrack -L -p udp --orig-port-dst 80 2>/dev/null | grep -c ' dst=10.96.' || true";
    Ok(alone.node.sh(all)?.trim().parse()?)
}

/// The kernel's word on flows that end.
struct Ends {
    child: Child,
    lines: mpsc::Receiver<(Instant, String)>,
}

impl Ends {
    fn new(alone: &Alone) -> Self {
        let mut command = alone.node.command("conntrack");
        command.args(["-E", "-e", "DESTROY", "-p", "udp"]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("conntrack");
        let out = child.stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        // It says nothing of having begun: a flow that is ended for it does.
        let probe = "conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 1 -t 60 && conntrack -D -p udp -s 192.0.2.1";
        eventually("flows' ends are told", secs(20), || {
            alone.node.sh(probe)?;
            lines.recv_timeout(MOMENT * 100)?;
            Ok(())
        });
        while lines.recv_timeout(MOMENT * 100).is_ok() {}
        Self { child, lines }
    }

    /// When the next flow ended, which must be one to an address.
    #[track_caller]
    fn next(&mut self, to: &str) -> Instant {
        let (at, line) = self.lines.recv_timeout(secs(30)).expect("a flow ends");
        assert!(line.contains(to), "not{to}but {line}");
        at
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
