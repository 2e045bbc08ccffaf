//! Lanes: a client and a server, and between them any number of nodes, each with a network of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keelson_tests::Worker;
use keelson_tests::space::Space;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket,
};

use crate::plan::{CLOSED, OPEN, SERVICES, TARGET};

/// Connections that wait to be taken.
const BACKLOG: i32 = 4096;
/// How often they are taken: seldom, so that the listener does not run while a connection is measured.
const TAKEN: Duration = Duration::from_millis(2);

/// The client, the server and the way in.
pub(crate) struct Lanes {
    /// Where connections begin.
    pub(crate) knocker: Worker,
    client: Space,
    server: Space,
    over: Arc<AtomicBool>,
    _listener: Worker,
    made: u8,
}

/// A node between client and server.
pub(crate) struct Lane {
    /// What it is called in tables.
    pub(crate) name: String,
    /// How many services it has; none: no rules at all.
    pub(crate) services: usize,
    /// The client's device that leads to it.
    pub(crate) device: String,
    /// Its address on that side.
    pub(crate) address: Ipv4Addr,
    /// Its namespaces.
    pub(crate) node: Space,
}

impl Lanes {
    /// A client and a server.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let client = Space::new(
            "client",
            "sysctl -qw net.ipv4.ip_local_port_range='1024 65535'",
            &[],
        )?;
        let local =
            format!("ip route add local {OPEN} dev lo; ip route add local {SERVICES} dev lo");
        let server = Space::new("server", &local, &[])?;
        // Each on a processor of its own where there are two.
        let processors = std::thread::available_parallelism()?.get();
        let knocker = Worker::new(&client, Some(processors - 1))?;
        let listener = Worker::new(&server, Some(0))?;
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        listener.begin(move || match listening() {
            Ok(socket) => {
                let _ = sender.send(Ok(()));
                take(&socket, &told);
            }
            Err(error) => _ = sender.send(Err(error)),
        });
        receiver.recv()??;
        Ok(Self {
            knocker,
            client,
            server,
            over,
            _listener: listener,
            made: 0,
        })
    }

    /// A node with no rules yet.
    pub(crate) fn add(&mut self, name: &str, services: usize) -> anyhow::Result<Lane> {
        self.made += 1;
        let (k, device) = (self.made, format!("lane{}", self.made));
        // What programs keep below /run is their own, and /proc/sys this network's.
        let node = Space::new(&device, "mount -t tmpfs tmpfs /run", &[])?;
        self.client.wire(&device, &node, "client")?;
        self.server.wire(&device, &node, "server")?;
        self.client.sh(&format!(
            "ip address add 10.244.{k}.2/24 dev {device}
            for to in {SERVICES} {OPEN} {CLOSED}; do ip route add $to via 10.244.{k}.1 dev {device} metric {k}; done"
        ))?;
        self.server.sh(&format!(
            "ip address add 10.245.{k}.2/24 dev {device}; ip route add 10.244.{k}.0/24 via 10.245.{k}.1 dev {device}"
        ))?;
        node.sh(&format!(
            "ip address add 10.244.{k}.1/24 dev client; ip address add 10.245.{k}.1/24 dev server
            for to in {SERVICES} {OPEN}; do ip route add $to via 10.245.{k}.2 dev server; done
            ip route add local {CLOSED} dev lo
            sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_tcp_timeout_close=1"
        ))?;
        Ok(Lane {
            name: name.into(),
            services,
            device,
            address: Ipv4Addr::new(10, 244, k, 1),
            node,
        })
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn listening() -> anyhow::Result<TcpListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    bind(listener.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, TARGET))?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(listener))
}

/// Takes connections and ends them, until it is over.
fn take(listener: &TcpListener, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        while listener.accept().is_ok() {}
        std::thread::sleep(TAKEN);
    }
}
