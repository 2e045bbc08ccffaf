//! systemd holds the DNS sockets while keelson restarts (its file descriptor store): what is asked meanwhile waits.

use std::os::fd::BorrowedFd;

use keelson_proxy::{DnsKeeper, DnsSockets};
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// What the descriptors are called there.
const NAME: &str = "keelson-dns";

/// The service manager, if one started this process and holds descriptors for it.
#[derive(Debug)]
pub(crate) struct Systemd;

impl Systemd {
    /// Whether there is one.
    pub(crate) fn is_here() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }
}

impl DnsKeeper for Systemd {
    fn take(&self) -> DnsSockets {
        let mut handed = ListenFd::from_env();
        let mut sockets = DnsSockets::default();
        for place in 0..handed.len() {
            // What is neither is nothing of ours and is left.
            if let Ok(Some(socket)) = handed.take_udp_socket(place) {
                sockets.udp.push(socket);
            } else if let Ok(Some(socket)) = handed.take_tcp_listener(place) {
                sockets.tcp.push(socket);
            }
        }
        sockets
    }

    fn keep(&self, sockets: &[BorrowedFd<'_>]) {
        let name = NotifyState::FdName(NAME);
        let forgotten = sd_notify::notify(&[NotifyState::FdStoreRemove, name.clone()]);
        let held = sd_notify::notify_with_fds(&[NotifyState::FdStore, name], sockets);
        if let Err(error) = forgotten.and(held) {
            tracing::warn!(%error, "systemd does not hold the DNS sockets: names are not answered while keelson restarts");
        }
    }
}
