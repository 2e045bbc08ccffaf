//! UDP echo on the port of the HTTP server.

use std::net::{SocketAddr, UdpSocket};

use crate::identity;

/// Answers every datagram with who we are, and itself.
pub(crate) fn serve(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        // Errors here are those of earlier answers (port unreachable): the next datagram is fine.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Ok(unspecified) = socket.local_addr() else {
            continue;
        };
        let own = own_address(client).unwrap_or(unspecified);
        let mut answer = format!("{}\n", identity(own, client)).into_bytes();
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let _ = socket.send_to(&answer, client);
    }
}

/// The address we have towards `client`: a wildcard socket does not tell.
fn own_address(client: SocketAddr) -> Option<SocketAddr> {
    let any: SocketAddr = match client {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(client).ok()?;
    socket.local_addr().ok()
}
