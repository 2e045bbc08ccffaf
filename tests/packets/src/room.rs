//! A network namespace with a thread of its own, in which tasks run.

use std::fs::File;
use std::process::Command;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Runs a line of a shell.
///
/// # Panics
/// When it fails, with what it said.
#[track_caller]
pub fn sh(script: &str) {
    let out = Command::new("bash").args(["-ec", script]).output();
    let out = out.expect("bash");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{script}\n{said}");
}

/// A namespace. It goes with this value, and so do its tasks.
pub(crate) struct Room {
    name: String,
    tasks: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Room {
    /// Makes the namespace, with addresses that count at once and no patience with who is answered too often.
    pub(crate) fn new(name: String) -> Self {
        sh(&format!(
            "ip netns add {name}; ip netns exec {name} bash -ec '{SYSCTLS}'"
        ));
        let file = File::open(format!("/run/netns/{name}")).expect("namespace");
        let (stop, stopped) = oneshot::channel();
        let (started, handle) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // The namespace is the thread's: all tasks run on this one.
            setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("runtime");
            started.send(runtime.handle().clone()).expect("asked for");
            // Ends either way: when it is told to, and when who would tell is gone.
            let _ = runtime.block_on(stopped);
        });
        Self {
            name,
            tasks: handle.recv().expect("the thread runs"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The namespace's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs one to its end.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (tell, told) = std::sync::mpsc::channel();
        self.tasks.spawn(async move {
            task.await;
            // Who asks waits.
            let _ = tell.send(());
        });
        told.recv().expect("it ends well");
    }

    /// Runs tasks: sockets that they make are the namespace's.
    pub(crate) fn tasks(&self) -> &Handle {
        &self.tasks
    }
}

/// The kernel answers with at most so many errors a second, doubts addresses for a second, and learns shorter ways
/// past the node: none of it is a service's doing.
const SYSCTLS: &str = "
cd /proc/sys/net
echo 0 >ipv6/conf/all/accept_dad; echo 0 >ipv6/conf/default/accept_dad
echo 0 >ipv6/conf/default/dad_transmits
for f in ipv4/conf/{all,default}/{accept,send}_redirects ipv6/conf/{all,default}/accept_redirects; do echo 0 >$f; done
echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit
echo 0 >ipv4/conf/all/rp_filter; echo 0 >ipv4/conf/default/rp_filter
echo 1 >ipv4/conf/all/route_localnet
echo 1 >ipv4/ip_nonlocal_bind; echo 1 >ipv6/ip_nonlocal_bind";

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
        drop(ended);
    }
}
