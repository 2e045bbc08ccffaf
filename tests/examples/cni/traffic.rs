//! What two pods notice of the network between them.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use keelson_tests::bins::program;
use keelson_tests::figures::Samples;
use keelson_tests::space::Space;
use serde_json::json;

/// A network between two pods.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// A pair of links and nothing else.
    Bare,
    /// Ports of our bridge.
    Bridge,
    /// Our bridges on two nodes of a segment, and routes.
    HostGw,
    /// Our bridges on two nodes, and packets within packets.
    Vxlan,
}

/// What was measured.
pub(crate) struct Traffic {
    gigabits: f64,
    trips: Samples,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gigabits, trips } = self;
        let (p50, p99) = (trips.p50() * 1e3, trips.p99() * 1e3);
        write!(
            f,
            "{gigabits:.2} Gbit/s, round trip p50 {p50:.0} µs, p99 {p99:.0} µs"
        )
    }
}

/// The bridge of a node whose pods are in `10.99.N.0/24`, with a pod.
fn attach(dir: &Path, node: &Space, pod: &Space, number: usize, mtu: u32) -> anyhow::Result<()> {
    let conf = json!({"cniVersion": "1.0.0", "name": format!("pods-{number}"), "bridge": "bench0", "isGateway": true, "mtu": mtu,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.99.{number}.0/24")}]],
            "routes": [{"dst": "0.0.0.0/0"}], "dataDir": dir}});
    let path = dir.join("conf");
    std::fs::write(&path, conf.to_string())?;
    let (pod, program) = (pod.init(), program("keelson-cni"));
    node.enter(|| {
        let output = std::process::Command::new(&program)
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("pod-{pod}"))
            .env("CNI_NETNS", format!("/proc/{pod}/ns/net"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/none")
            .stdin(std::fs::File::open(&path)?)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(output.status.success(), "{}: {said}", program.display());
        Ok(())
    })
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Bare, Self::Bridge, Self::HostGw, Self::Vxlan];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "a bare pair of links",
            Self::Bridge => "our bridge",
            Self::HostGw => "two nodes, host-gw",
            Self::Vxlan => "two nodes, vxlan",
        }
    }

    /// Makes the network and measures it.
    pub(crate) fn measure(self, seconds: u64) -> anyhow::Result<Traffic> {
        let dir = tempfile::tempdir()?;
        let pods = [Space::new("a", "", &[])?, Space::new("b", "", &[])?];
        let [a, b] = &pods;
        let nodes = [Space::new("n1", "", &[])?, Space::new("n2", "", &[])?];
        let [one, two] = &nodes;
        let address = match self {
            Self::Bare => {
                a.wire("eth0", b, "eth0")?;
                a.sh("ip addr add 10.99.1.2/24 dev eth0")?;
                b.sh("ip addr add 10.99.1.3/24 dev eth0")?;
                "10.99.1.3"
            }
            Self::Bridge => {
                attach(dir.path(), one, a, 1, 1500)?;
                attach(dir.path(), one, b, 1, 1500)?;
                "10.99.1.3"
            }
            Self::HostGw | Self::Vxlan => {
                self.join(one, two)?;
                let mtu = if matches!(self, Self::Vxlan) {
                    1450
                } else {
                    1500
                };
                attach(dir.path(), one, a, 1, mtu)?;
                attach(dir.path(), two, b, 2, mtu)?;
                "10.99.2.2"
            }
        };
        let at = SocketAddr::new(address.parse()?, 5000);
        Ok(Traffic {
            gigabits: throughput(a, b, at, seconds)?,
            trips: round_trips(a, b, at)?,
        })
    }

    /// Joins two nodes in the form in which the overlay does.
    fn join(self, one: &Space, two: &Space) -> anyhow::Result<()> {
        one.wire("eth0", two, "eth0")?;
        for (own, other, node) in [(1, 2, one), (2, 1, two)] {
            node.sh(&format!(
                "ip addr add 192.0.2.{own}/24 dev eth0; sysctl -qw net.ipv4.ip_forward=1"
            ))?;
            let way = match self {
                Self::Vxlan => format!(
                    "ip link add vx type vxlan id 107 dstport 4789 local 192.0.2.{own} nolearning
                    ip link set vx address 0a:58:00:00:00:0{own} up
                    ip addr add 10.99.{own}.0/32 dev vx
                    bridge fdb append 0a:58:00:00:00:0{other} dev vx dst 192.0.2.{other}
                    ip neigh add 10.99.{other}.0 lladdr 0a:58:00:00:00:0{other} dev vx
                    ip route add 10.99.{other}.0/24 via 10.99.{other}.0 dev vx onlink"
                ),
                _ => format!("ip route add 10.99.{other}.0/24 via 192.0.2.{other}"),
            };
            node.sh(&way)?;
        }
        Ok(())
    }
}

/// Bytes from one to the other for so long, as many as go.
fn throughput(from: &Space, to: &Space, at: SocketAddr, seconds: u64) -> anyhow::Result<f64> {
    let listener = to.enter(|| TcpListener::bind(at))?;
    let (done, begin) = (AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> anyhow::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let (mut buffer, mut all) = (vec![0; 1 << 18], 0);
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(all),
                    some => all += some as u64,
                }
            }
        });
        let mut stream = from.enter(|| TcpStream::connect(at))?;
        let ends = scope.spawn(|| {
            thread::sleep(Duration::from_secs(seconds));
            done.store(true, Ordering::Relaxed);
        });
        let buffer = vec![0; 1 << 18];
        while !done.load(Ordering::Relaxed) {
            stream.write_all(&buffer)?;
        }
        drop(stream);
        let joined = (ends.join(), reader.join());
        let (Ok(()), Ok(bytes)) = joined else {
            anyhow::bail!("a thread panicked");
        };
        Ok(bytes? as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9)
    })
}

/// A byte there and back.
fn round_trips(from: &Space, to: &Space, at: SocketAddr) -> anyhow::Result<Samples> {
    const TRIPS: usize = 5000;
    let listener = to.enter(|| TcpListener::bind(at))?;
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let mut stream = from.enter(|| TcpStream::connect(at))?;
    stream.set_nodelay(true)?;
    let (mut byte, mut times) = ([0], Vec::with_capacity(TRIPS));
    for _ in 0..TRIPS {
        let begin = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(begin.elapsed());
    }
    drop(stream);
    let ended = echo.join();
    ended.ok().context("the other side panicked")??;
    Ok(times.into_iter().collect())
}
