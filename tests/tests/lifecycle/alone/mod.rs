//! `keelson proxy` alone on a node, as in kube-proxy's place, with a client and endpoints around it.
//!
//! ```text
//!   client 10.244.0.2-5 ── 10.244.0.1 node 10.245.0.1 ── 10.245.0.2 server, 10.160.0.0/12: endpoints
//!                                      │ 10.88.0.101
//!                                 the API server
//! ```

pub(crate) mod crowd;
pub(crate) mod objects;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use keelson_tests::process::{Process, tail};
use keelson_tests::space::Space;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, bins, eventually, stream};
use nix::sys::signal::Signal;

/// Where services are.
const SERVICES: &str = "10.96.0.0/14";
/// Where endpoints are.
const ENDPOINTS: &str = "10.160.0.0/12";
/// Pods' addresses: the client's and the endpoints'.
const PODS: &str = "10.128.0.0/9";
/// The node's address, as clients see it.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The client's addresses.
pub(crate) const SOURCES: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 244, 0, 2),
    Ipv4Addr::new(10, 244, 0, 3),
    Ipv4Addr::new(10, 244, 0, 4),
    Ipv4Addr::new(10, 244, 0, 5),
];
/// Where the proxy tells how it does.
const METRICS: &str = "127.0.0.1:10249";
/// The port that endpoints answer on.
pub(crate) const TARGET: u16 = 8080;

/// All that runs. Dropping it leaves nothing.
pub(crate) struct Alone {
    pub(crate) bed: Bed,
    pub(crate) client: Space,
    pub(crate) server: Space,
    pub(crate) node: Space,
    kubeconfig: PathBuf,
    proxy: Option<Process>,
}

impl Alone {
    /// Everything but the proxy.
    pub(crate) fn new() -> Self {
        let mut bed = Bed::api(&["--service-cidr", SERVICES]);
        let client = Space::new("client", "", &[]).expect("a client");
        let server = Space::new("server", "", &[]).expect("a server");
        // What programs keep below /run is their own, and /proc/sys this network's.
        let node = Space::new("node", "mount -t tmpfs tmpfs /run", &[]).expect("a node");
        client.wire("eth0", &node, "client").expect("a link");
        server.wire("eth0", &node, "server").expect("a link");
        bed.attach(&node, "alone", [10, 88, 0, 101].into());
        let sources = SOURCES.map(|ip| format!("ip address add {ip}/24 dev eth0"));
        let setups = [
            (
                &client,
                format!("{}; ip route add default via {NODE}", sources.join("; ")),
            ),
            (
                &server,
                format!(
                    "ip address add 10.245.0.2/24 dev eth0; ip route add default via 10.245.0.1
                    ip route add local {ENDPOINTS} dev lo; sysctl -qw net.core.somaxconn=4096"
                ),
            ),
            (
                &node,
                format!(
                    "ip address add {NODE}/24 dev client; ip address add 10.245.0.1/24 dev server
                    for to in {SERVICES} {ENDPOINTS}; do ip route add $to via 10.245.0.2 dev server; done
                    sysctl -qw net.ipv4.ip_forward=1"
                ),
            ),
        ];
        for (space, setup) in setups {
            space.sh(&setup).expect("a network");
        }
        Self {
            kubeconfig: bed.kubeconfig_from_elsewhere(),
            bed,
            client,
            server,
            node,
            proxy: None,
        }
    }

    /// Starts the proxy in a mode, and waits until its rules are in place.
    pub(crate) fn start(&mut self, mode: &str) {
        self.start_program(&bins::program("keelson"), mode);
    }

    /// The same from another file.
    pub(crate) fn start_program(&mut self, program: &Path, mode: &str) {
        let config = self.kubeconfig.display().to_string();
        let args = format!(
            "proxy --kubeconfig {config} --mode {mode} --hostname-override alone --nodeport-addresses 0.0.0.0/0 --cluster-cidr {PODS}"
        );
        let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        let process = Process::start(&self.node, program, &args, &self.log()).expect("a proxy");
        self.proxy = Some(process);
        eventually("the rules are in place", secs(120), || {
            self.proxy.as_mut().expect("it was started").alive()?;
            let has = self.ask("/proxyMode")?;
            anyhow::ensure!(has == mode, "the mode is {has}");
            let syncs = self.metric("kubeproxy_sync_proxy_rules_duration_seconds_count")?;
            anyhow::ensure!(syncs > 0.0, "nothing written yet");
            Ok(())
        });
    }

    fn log(&self) -> PathBuf {
        self.bed.folder().join("proxy.log")
    }

    /// The last lines of the proxy's log.
    pub(crate) fn said(&self) -> String {
        tail(&self.log(), 20)
    }

    fn ask(&self, path: &str) -> anyhow::Result<String> {
        let to: SocketAddr = METRICS.parse()?;
        self.node.enter(|| stream::get(to, path))
    }

    /// The sum of a metric's lines.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.ask("/metrics")?;
        let lines = text.lines().filter(|l| l.starts_with(name));
        Ok(lines
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// The proxy's PID, as seen from outside.
    pub(crate) fn pid(&self) -> u32 {
        self.proxy.as_ref().expect("it runs").pid()
    }

    /// Number of the proxy's open files.
    pub(crate) fn files(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        open.expect("it runs").count()
    }

    /// Ends the proxy by a signal.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.proxy.take().expect("it runs").end(signal)
    }

    /// Asks the proxy to end.
    ///
    /// # Panics
    /// When it does not end well.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let status = self.end(Signal::SIGTERM);
        assert!(status.success(), "{status}\n{}", self.said());
    }
}

/// An endpoint's address.
pub(crate) fn endpoint(number: u32) -> SocketAddrV4 {
    let first = u32::from(Ipv4Addr::new(10, 160, 0, 0));
    SocketAddrV4::new(Ipv4Addr::from(first + number), TARGET)
}
