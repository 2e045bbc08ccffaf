//! Datagrams: answered one after the other in the task that reads them; only what others have to be asked gets a task of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{Core, Step, Transport};
use crate::metrics::{By, Recorder};
use crate::query;
use crate::reply;

/// Datagrams answered before others on this thread get their turn.
const BATCH: usize = 64;
/// Bytes of the largest question looked at. None is as large; what is cut off is malformed.
const DATAGRAM: usize = 4096;

/// Answers until shutdown.
pub(crate) async fn serve(
    socket: std::net::UdpSocket,
    core: Arc<Core>,
    recorder: Arc<Recorder>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::from_std(socket)?);
    let (question, answer) = (vec![0; DATAGRAM], Vec::new());
    let mut server = Server {
        socket,
        core,
        recorder,
        shutdown,
        turn: 0,
        question,
        answer,
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
    question: Vec<u8>,
    answer: Vec<u8>,
}

impl Server {
    fn batch(&mut self) {
        for _ in 0..BATCH {
            match self.socket.try_recv_from(&mut self.question) {
                Ok((len, from)) => self.take(len, from),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Of an answer sent before, not of the socket.
                Err(error) => tracing::debug!(%error, "receive a datagram"),
            }
        }
    }

    fn take(&mut self, len: usize, from: SocketAddr) {
        let start = Instant::now();
        let wire = self.question.get(..len).unwrap_or_default();
        self.turn = self.turn.wrapping_add(1);
        let (kind, step) = self
            .core
            .step(wire, Transport::Udp, self.turn, &mut self.answer);
        match step {
            Step::Silence => {}
            Step::Done(code, by) => {
                // A full send buffer loses it, as the network might.
                let _ = self.socket.try_send_to(&self.answer, from);
                self.recorder.request(kind);
                self.recorder.response(code, by, start.elapsed());
            }
            Step::Ask(asking) => {
                self.recorder.request(kind);
                let Ok(room) = self.core.waiting.clone().try_acquire_owned() else {
                    self.core.metrics.rejected.inc();
                    if let Ok(query) = query::read(wire) {
                        reply::write_code(&query.head, ResponseCode::ServFail, &mut self.answer);
                        let _ = self.socket.try_send_to(&self.answer, from);
                        self.recorder.response(
                            ResponseCode::ServFail,
                            By::Upstream,
                            start.elapsed(),
                        );
                    }
                    return;
                };
                let (socket, core, recorder) = (
                    self.socket.clone(),
                    self.core.clone(),
                    self.recorder.clone(),
                );
                let (wire, turn, shutdown) = (wire.to_vec(), self.turn, self.shutdown.clone());
                self.core.tasks.spawn(async move {
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
    }
}
