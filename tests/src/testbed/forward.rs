//! A port of this machine's loopback interface that leads into a machine of a bed.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

/// A forwarded port; it ends with the process.
pub(super) struct Forward {
    port: u16,
    /// A process of the machine that it leads to.
    pid: Arc<AtomicU32>,
}

impl Forward {
    /// Begins to listen; connections lead to this port of the machine's loopback interface.
    ///
    /// # Errors
    /// When no port is free.
    pub(super) fn new(to: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let port = listener.local_addr()?.port();
        let pid = Arc::new(AtomicU32::new(0));
        let current = Arc::clone(&pid);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let pid = current.load(Ordering::Relaxed);
                std::thread::spawn(move || {
                    if let Err(error) = join(&client, pid, to) {
                        eprintln!("a connection to port {to}: {error:#}");
                    }
                });
            }
        });
        Ok(Self { port, pid })
    }

    /// Where it listens.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// From now on connections lead into the network of this process.
    pub(super) fn lead_to(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }
}

/// Passes on what both sides say until both have ended.
fn join(client: &TcpStream, pid: u32, port: u16) -> anyhow::Result<()> {
    let server = std::thread::spawn(move || connect(pid, port));
    let server = server
        .join()
        .map_err(|_| anyhow::anyhow!("connecting panicked"))??;
    std::thread::scope(|scope| {
        scope.spawn(|| pass(client, &server));
        pass(&server, client);
    });
    Ok(())
}

/// Connects from within the network of a process; on a thread of its own, which stays there.
fn connect(pid: u32, port: u16) -> anyhow::Result<TcpStream> {
    let net = File::open(format!("/proc/{pid}/ns/net")).context("the machine is not there")?;
    setns(net, CloneFlags::CLONE_NEWNET).context("enter its network")?;
    Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)
}

/// One direction; a side that has gone ends it.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
