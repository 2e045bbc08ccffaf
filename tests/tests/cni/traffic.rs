//! Packets between namespaces.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// Runs code in a namespace.
pub(crate) fn inside<T: Send>(ns: &str, code: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{ns}")).expect("namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET).expect("enter");
            code()
        });
        thread.join().expect("thread")
    })
}

const PATIENCE: Duration = Duration::from_secs(3);

/// Serves a TCP and a UDP port in a namespace: to whoever comes it says its own name and their address.
pub(crate) fn serve(ns: &str, name: &'static str, port: u16) {
    let any = SocketAddr::from(([0u16; 8], port));
    let (tcp, udp) = inside(ns, || (TcpListener::bind(any), UdpSocket::bind(any)));
    let (tcp, udp) = (tcp.expect("tcp"), udp.expect("udp"));
    let say = move |peer: SocketAddr| format!("{name} {}", peer.ip().to_canonical());
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = tcp.accept() {
            let _ = stream.write_all(say(peer).as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(say(peer).as_bytes(), peer);
        }
    });
}

/// What a TCP server says to somebody in a namespace, if it can be reached.
pub(crate) fn tcp(ns: &str, to: SocketAddr) -> Option<String> {
    inside(ns, || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    })
}

/// A socket in a namespace that asks a UDP server.
pub(crate) fn udp_socket(ns: &str, to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = inside(ns, || UdpSocket::bind(any)).expect("socket");
    socket.connect(to).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// What a UDP server says, if it answers. What a datagram before met is not of interest.
pub(crate) fn ask(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 64];
    let _ = socket.take_error();
    socket.send(b"?").ok()?;
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Whether somebody answers at this address: that nobody listens there is an answer too.
pub(crate) fn reaches(ns: &str, to: &str) -> bool {
    let to: IpAddr = to.parse().expect("an address");
    let refused = |e: std::io::Error| e.kind() == ErrorKind::ConnectionRefused;
    let tried = inside(ns, || TcpStream::connect_timeout(&(to, 9).into(), PATIENCE));
    tried.is_err_and(refused)
}
