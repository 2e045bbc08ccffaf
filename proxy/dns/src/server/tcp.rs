//! Connections: several questions on each, a bound on their number and on the time that nothing is asked.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Core, Step, Transport};
use crate::metrics::{By, Recorder};

/// Time in which a next question has to come, and an answer has to be taken; CoreDNS's.
const IDLE: Duration = Duration::from_secs(10);
/// Bytes of the largest question read. None is as large.
const MAX_QUESTION: usize = 4096;
/// Time to wait when no more connections can be had of the system.
const PAUSE: Duration = Duration::from_millis(100);

/// A quarter of the connections is the most that one asker may have: a pod that opens many and says nothing must not keep others from
/// theirs.
const SHARE: usize = 4;

/// Room for connections.
#[derive(Debug)]
pub(crate) struct Room {
    most: usize,
    /// Of whom there are how many.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's room, given back with it.
struct Place {
    room: Arc<Room>,
    from: IpAddr,
}

impl Room {
    /// For so many.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Mutex::default(),
        }
    }

    fn take(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&from).copied().unwrap_or_default();
        if all >= self.most || own >= self.most.div_ceil(SHARE) {
            return None;
        }
        taken.insert(from, own + 1);
        Some(Place {
            room: self.clone(),
            from,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .room
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.from) {
            *own -= 1;
        }
        if taken.get(&self.from) == Some(&0) {
            taken.remove(&self.from);
        }
    }
}

/// Connections of one address.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) core: Arc<Core>,
    pub(crate) recorder: Arc<Recorder>,
    /// Room for connections, shared by all addresses.
    pub(crate) room: Arc<Room>,
    pub(crate) shutdown: CancellationToken,
}

impl Listener {
    /// Answers until shutdown.
    pub(crate) async fn serve(self, listener: std::net::TcpListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // One too many is closed at once: its asker may try again, those that are served go on.
            let Some(place) = self.room.take(from.ip()) else {
                continue;
            };
            let (core, recorder, shutdown) = (
                self.core.clone(),
                self.recorder.clone(),
                self.shutdown.clone(),
            );
            self.core.tasks.spawn(async move {
                let served = shutdown
                    .run_until_cancelled(converse(stream, &core, &recorder))
                    .await;
                if let Some(Err(error)) = served {
                    tracing::debug!(%error, "connection ended");
                }
                drop(place);
            });
        }
    }
}

/// Answers one question after the other.
async fn converse(mut stream: TcpStream, core: &Core, recorder: &Recorder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut question, mut answer, mut framed) = (Vec::new(), Vec::new(), Vec::new());
    let mut turn = 0_usize;
    while timeout(IDLE, read(&mut stream, &mut question)).await?? {
        let start = Instant::now();
        turn = turn.wrapping_add(1);
        let (kind, step) = core.step(&question, Transport::Tcp, turn, &mut answer);
        let (code, by) = match step {
            Step::Silence => return Ok(()),
            Step::Done(code, by) => (Some(code), by),
            Step::Ask(asking) => {
                let code = core
                    .ask(&question, &asking, Transport::Tcp, turn, &mut answer)
                    .await;
                (code, By::Upstream)
            }
        };
        recorder.request(kind);
        let (Some(code), Ok(len)) = (code, u16::try_from(answer.len())) else {
            return Ok(());
        };
        framed.clear();
        framed.extend(len.to_be_bytes());
        framed.extend(&answer);
        timeout(IDLE, stream.write_all(&framed)).await??;
        recorder.response(code, by, start.elapsed());
    }
    Ok(())
}

/// Reads a message with its length in front. `false`: the asker is done, or says what no question is.
async fn read(stream: &mut TcpStream, question: &mut Vec<u8>) -> io::Result<bool> {
    let len = match stream.read_u16().await {
        Ok(len) => usize::from(len),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if len == 0 || len > MAX_QUESTION {
        return Ok(false);
    }
    question.resize(len, 0);
    stream.read_exact(question).await?;
    Ok(true)
}
