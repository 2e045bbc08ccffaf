//! Sockets on the addresses given, which may appear later than we do.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Bytes of datagrams that wait while we do something else: some thousand questions.
const BUFFER: usize = 1 << 20;
/// How often a port that the kernel chose is tried for both.
const TRIES: usize = 16;

/// Sockets of one address.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) address: SocketAddr,
    pub(crate) udp: Vec<UdpSocket>,
    pub(crate) tcp: TcpListener,
}

/// Listens on an address, with so many sockets for datagrams. With port 0 the kernel chooses one that is free for both.
pub(crate) fn bind(address: SocketAddr, sockets: usize) -> io::Result<Pair> {
    for _ in 1..TRIES {
        match bind_once(address, sockets) {
            Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    bind_once(address, sockets)
}

fn bind_once(address: SocketAddr, sockets: usize) -> io::Result<Pair> {
    let tcp = open(address, SocketType::STREAM)?;
    // Connections of a server that went before us linger on the address.
    sockopt::set_socket_reuseaddr(&tcp, true)?;
    rustix::net::bind(&tcp, &address)?;
    rustix::net::listen(&tcp, BACKLOG)?;
    let tcp = TcpListener::from(tcp);
    let address = tcp.local_addr()?;
    let udp = (0..sockets.max(1))
        .map(|_| datagrams(address, sockets > 1))
        .collect::<io::Result<_>>()?;
    Ok(Pair { address, udp, tcp })
}

fn datagrams(address: SocketAddr, several: bool) -> io::Result<UdpSocket> {
    let socket = open(address, SocketType::DGRAM)?;
    sockopt::set_socket_reuseport(&socket, several)?;
    // The usual bound is smaller; root may pass it.
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

fn open(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(
        family,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    if address.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else {
        sockopt::set_ipv6_freebind(&socket, true)?;
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}
