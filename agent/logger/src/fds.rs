//! The descriptors containerd's shim hands over.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

const STDOUT: RawFd = 3;
const STDERR: RawFd = 4;
const READY: RawFd = 5;

/// Takes over stdout, stderr and the ready pipe. To be called once, before anything else is opened
/// that could get these numbers.
pub(crate) fn inherited() -> io::Result<(OwnedFd, OwnedFd, OwnedFd)> {
    Ok((take(STDOUT)?, take(STDERR)?, take(READY)?))
}

fn take(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_GETFD takes no pointer and fails on a descriptor that is not open.
    if unsafe { libc::fcntl(raw, libc::F_GETFD) } < 0 {
        return Err(io::Error::other(format!(
            "descriptor {raw} was not handed over"
        )));
    }
    // SAFETY: it is open, was inherited, and nothing else in this process knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
