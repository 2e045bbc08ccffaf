//! Holding a PID namespace for a pod's containers: process 1 of it, which the kernel needs, and which has to reap what
//! others leave behind.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Reaps until it is killed. Every signal is blocked: whoever ends the namespace does so with SIGKILL.
pub(crate) fn run() -> io::Result<()> {
    SigSet::all().thread_block()?;
    let mut child = SigSet::empty();
    child.add(Signal::SIGCHLD);
    loop {
        reap()?;
        match child.wait() {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One signal may stand for many ends.
fn reap() -> io::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
