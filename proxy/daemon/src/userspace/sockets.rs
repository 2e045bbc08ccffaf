//! Sockets that listen, and datagrams with the address they were sent to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};

use keelson_proxy_plan::model::Family;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn,
    SockaddrIn6, SockaddrLike, SockaddrStorage, bind, recvmsg, send, sendmsg, setsockopt, socket,
    sockopt,
};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// Clients that may wait for a listener; the kernel takes less where `somaxconn` is lower.
const BACKLOG: u32 = 4096;

/// Files that are left for all but connections.
const RESERVED_FILES: u64 = 1024;

/// Lets the process have as many open files as it may; gives how many connections that is, each being two.
pub(super) fn raise_file_limit() -> usize {
    let Ok((mut soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 256;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        soft = hard;
    }
    let connections = soft.saturating_sub(RESERVED_FILES) / 2;
    usize::try_from(connections).unwrap_or(usize::MAX).max(256)
}

/// Listens for TCP on all addresses of a family.
pub(super) fn tcp(family: Family, ports: Option<RangeInclusive<u16>>) -> io::Result<TcpListener> {
    first_free(ports, |port| {
        let socket = match family {
            Family::V4 => TcpSocket::new_v4()?,
            Family::V6 => TcpSocket::new_v6()?,
        };
        if family == Family::V6 {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        // Connections of a listener that ended may still have its port.
        socket.set_reuseaddr(true)?;
        socket.bind(any(family, port))?;
        socket.listen(BACKLOG)
    })
}

/// Receives UDP on all addresses of a family; each datagram tells which it was sent to.
pub(super) fn udp(family: Family, ports: Option<RangeInclusive<u16>>) -> io::Result<UdpSocket> {
    first_free(ports, |port| {
        let kind = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket: OwnedFd = socket(kind, SockType::Datagram, flags, None)?;
        if family == Family::V6 {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        bind(
            socket.as_raw_fd(),
            &SockaddrStorage::from(any(family, port)),
        )?;
        UdpSocket::from_std(socket.into())
    })
}

fn any(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
        Family::V6 => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

/// The first port of a range that is free; without a range the kernel chooses.
fn first_free<T>(
    ports: Option<RangeInclusive<u16>>,
    open: impl Fn(u16) -> io::Result<T>,
) -> io::Result<T> {
    let Some(ports) = ports else { return open(0) };
    let mut last = io::ErrorKind::AddrInUse.into();
    for port in ports {
        match open(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            done => return done,
        }
    }
    Err(last)
}

/// What upstream's connections have: small writes leave at once, and a peer that is gone is noticed in the end.
pub(super) fn tune(stream: &TcpStream) {
    const IDLE_SECONDS: u32 = 15;
    const PROBES: u32 = 9;
    // A connection works without these too.
    _ = stream.set_nodelay(true);
    _ = setsockopt(stream, sockopt::KeepAlive, &true);
    _ = setsockopt(stream, sockopt::TcpKeepIdle, &IDLE_SECONDS);
    _ = setsockopt(stream, sockopt::TcpKeepInterval, &IDLE_SECONDS);
    _ = setsockopt(stream, sockopt::TcpKeepCount, &PROBES);
}

/// Takes a datagram: its size, who sent it, and to which address of this node.
pub(super) fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, IpAddr)> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let fd = socket.as_raw_fd();
    let got = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::empty())?;
    let mut to = None;
    for message in got.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
    }
    let from = got.address.as_ref().and_then(address);
    let missing = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "a datagram without its addresses",
        )
    };
    let (from, to) = from.zip(to).ok_or_else(missing)?;
    Ok((got.bytes, from, to))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    match storage.family()? {
        AddressFamily::Inet => storage.as_sockaddr_in().map(|a: &SockaddrIn| {
            let a = std::net::SocketAddrV4::from(*a);
            a.into()
        }),
        AddressFamily::Inet6 => storage.as_sockaddr_in6().map(|a: &SockaddrIn6| {
            let a = std::net::SocketAddrV6::from(*a);
            a.into()
        }),
        _ => None,
    }
}

/// Sends a datagram on a connected socket, without waiting. (Tokio would have to have waited for it once.)
pub(super) fn pass(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

/// Sends a datagram from one address of this node: the answer must come from where the question went.
pub(super) fn send_from(
    socket: &UdpSocket,
    bytes: &[u8],
    from: IpAddr,
    to: SocketAddr,
) -> io::Result<()> {
    let parts = [IoSlice::new(bytes)];
    let to = SockaddrStorage::from(to);
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT;
    match from {
        IpAddr::V4(from) => {
            let address = libc::in_addr {
                s_addr: u32::from(from).to_be(),
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: address,
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &control, flags, Some(&to))?;
        }
        IpAddr::V6(from) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: from.octets(),
                },
                ipi6_ifindex: 0,
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &control, flags, Some(&to))?;
        }
    }
    Ok(())
}
