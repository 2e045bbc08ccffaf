//! Datagrams: read and answered many at a time by the task that reads them; only what others have to be asked gets a task of its
//! own.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};
use rustix::io::Errno;
use rustix::net::addr::SocketAddrArg;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Asking, Core, Step, Transport};
use crate::metrics::{By, Recorder};
use crate::reply;

/// Datagrams read, and answered, with one system call.
const BATCH: usize = 32;
/// Bytes of the largest question looked at. None is as large; what is cut off is malformed.
const DATAGRAM: usize = 1024;

/// Answers until shutdown.
pub(crate) async fn serve(
    socket: std::net::UdpSocket,
    core: Arc<Core>,
    recorder: Arc<Recorder>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let mut server = Server {
        socket: Arc::new(UdpSocket::from_std(socket)?),
        core,
        recorder,
        shutdown,
        turn: 0,
        questions: vec![0; BATCH * DATAGRAM],
        answers: vec![Vec::new(); BATCH],
    };
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return Ok(()),
            ready = server.socket.readable() => ready?,
        }
        server.batch();
    }
}

struct Server {
    socket: Arc<UdpSocket>,
    core: Arc<Core>,
    recorder: Arc<Recorder>,
    shutdown: CancellationToken,
    turn: usize,
    /// Room for a batch of questions, one after the other.
    questions: Vec<u8>,
    answers: Vec<Vec<u8>>,
}

impl Server {
    /// Reads what is there, a batch at most, and answers it.
    fn batch(&mut self) {
        let mut came = Vec::with_capacity(BATCH);
        let (fd, questions) = (self.socket.as_raw_fd(), &mut self.questions);
        let read = self.socket.try_io(Interest::READABLE, || {
            receive(fd, questions, &mut came)?;
            // Fewer than fit were all: say so now instead of asking for none.
            if came.len() < BATCH {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(())
            }
        });
        if let Err(error) = read
            && error.kind() != io::ErrorKind::WouldBlock
        {
            // Of an answer sent before, not of the socket.
            tracing::debug!(%error, "receive datagrams");
        }
        let start = Instant::now();
        let mut to = Vec::with_capacity(came.len());
        for (place, (len, from)) in (0..).step_by(DATAGRAM).zip(came) {
            let wire = self.questions.get(place..place + len).unwrap_or_default();
            let Some(answer) = self.answers.get_mut(to.len()) else {
                break;
            };
            self.turn = self.turn.wrapping_add(1);
            let (kind, step) = self.core.step(wire, Transport::Udp, self.turn, answer);
            let done = match step {
                Step::Silence => continue,
                Step::Done(code, by) => Some((code, by)),
                Step::Ask(asking) => match self.core.waiting.clone().try_acquire_owned() {
                    Ok(room) => {
                        let from_others = Waiting {
                            wire: wire.to_vec(),
                            asking,
                            from,
                            start,
                            turn: self.turn,
                        };
                        self.spawn(from_others, room);
                        None
                    }
                    Err(_) => {
                        self.core.metrics.rejected.inc();
                        reply::write_failure(wire, answer);
                        Some((ResponseCode::ServFail, By::Upstream))
                    }
                },
            };
            self.recorder.request(kind);
            if let Some((code, by)) = done {
                self.recorder.response(code, by, start.elapsed());
                to.push(from);
            }
        }
        send(&self.socket, &self.answers, &to);
    }

    /// Asks others in a task of its own.
    fn spawn(&self, waiting: Waiting, room: OwnedSemaphorePermit) {
        let (socket, core, recorder) = (
            self.socket.clone(),
            self.core.clone(),
            self.recorder.clone(),
        );
        let shutdown = self.shutdown.clone();
        self.core.tasks.spawn(async move {
            let Waiting {
                wire,
                asking,
                from,
                start,
                turn,
            } = waiting;
            let mut answer = Vec::new();
            let asked = core.ask(&wire, &asking, Transport::Udp, turn, &mut answer);
            if let Some(Some(code)) = shutdown.run_until_cancelled(asked).await {
                let _ = socket.send_to(&answer, from).await;
                recorder.response(code, By::Upstream, start.elapsed());
            }
            drop(room);
        });
    }
}

/// A question that waits for others.
struct Waiting {
    wire: Vec<u8>,
    asking: Asking,
    from: SocketAddr,
    start: Instant,
    turn: usize,
}

/// Reads datagrams into their places: their lengths and whom they are from.
fn receive(fd: RawFd, buffer: &mut [u8], came: &mut Vec<(usize, SocketAddr)>) -> io::Result<()> {
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut places: Vec<_> = buffer
        .chunks_mut(DATAGRAM)
        .map(|b| [IoSliceMut::new(b)])
        .collect();
    let read = recvmmsg(
        fd,
        &mut headers,
        places.iter_mut(),
        MsgFlags::MSG_DONTWAIT,
        None,
    )?;
    // One that nobody could be answered keeps its place, with nothing in it.
    let nobody = (0, SocketAddr::from(([0; 4], 0)));
    came.extend(read.map(|m| {
        m.address
            .and_then(|from| Some((m.bytes, address(&from)?)))
            .unwrap_or(nobody)
    }));
    Ok(())
}

fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = from.as_sockaddr_in().map(|a| SocketAddrV4::from(*a).into());
    v4.or_else(|| {
        from.as_sockaddr_in6()
            .map(|a| SocketAddrV6::from(*a).into())
    })
}

/// Sends answers. What a full buffer has no room for is lost, as it might be in the network; one that can't be sent, because it was
/// asked for with a forged address, takes no other with it.
fn send(socket: &UdpSocket, answers: &[Vec<u8>], to: &[SocketAddr]) {
    let names: Vec<_> = to.iter().map(SocketAddrArg::as_any).collect();
    let parts: Vec<_> = answers
        .iter()
        .take(to.len())
        .map(|a| [IoSlice::new(a)])
        .collect();
    let mut nothing: Vec<_> = to.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let all = names.iter().zip(&parts).zip(&mut nothing);
    let mut messages: Vec<_> = all
        .map(|((n, p), none)| MMsgHdr::new_with_addr(n, p, none))
        .collect();
    let mut rest = messages.as_mut_slice();
    while !rest.is_empty() {
        let done = match sendmmsg(socket, rest, SendFlags::DONTWAIT) {
            Ok(sent) => sent.max(1),
            Err(Errno::AGAIN) => return,
            Err(error) => {
                tracing::debug!(%error, "send a datagram");
                1
            }
        };
        rest = rest.get_mut(done..).unwrap_or_default();
    }
}
