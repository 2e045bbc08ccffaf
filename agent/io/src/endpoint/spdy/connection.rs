//! The task that joins the streams to a connection.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::streams::{Read, Room, Streams};
use super::{Decoder, Encoder, Error, Frame, Headers, Setting, status};

/// Frames that wait to be written. A client that does not read stops us here.
const QUEUE: usize = 16;
/// Bytes of a data frame of ours, so that streams take turns.
const BLOCK: usize = 16 * 1024;
/// Bytes encoded before they are written.
const BATCH: usize = 64 * 1024;
/// How long the client is given to close after us.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the tasks and the streams share.
struct Shared {
    streams: Mutex<Streams>,
    /// Something about the streams has changed.
    changed: Notify,
    stop: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update<T>(&self, change: impl FnOnce(&mut Streams) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_waiters();
        value
    }

    /// Waits until `look` finds something.
    async fn wait<T>(&self, mut look: impl FnMut(&mut Streams) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Counts from here: a change between the look and the wait is not lost.
            changed.as_mut().enable();
            if let Some(value) = look(&mut self.lock()) {
                return value;
            }
            changed.await;
        }
    }
}

/// A connection's server side. Dropping it ends the connection.
pub(in super::super) struct Connection {
    incoming: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Frame>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Begins to serve.
    pub(in super::super) fn new<I>(io: I) -> Result<Self, Error>
    where
        I: AsyncRead + AsyncWrite + Send + 'static,
    {
        let encoder = Encoder::new()?;
        let shared = Arc::new(Shared {
            streams: Mutex::default(),
            changed: Notify::new(),
            stop: Notify::new(),
        });
        let (frames, queue) = mpsc::channel(QUEUE);
        let (opened, incoming) = mpsc::channel(1);
        let end = End {
            shared: shared.clone(),
            frames: frames.clone(),
        };
        let task = tokio::spawn(drive(io, end, opened, queue, encoder));
        Ok(Self {
            incoming,
            frames,
            shared,
            task,
        })
    }

    /// The next stream that the client opens; `None` when the connection has ended.
    pub(in super::super) async fn next(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Refuses further streams, and waits for the end of the connection.
    pub(in super::super) async fn ended(&mut self) {
        self.incoming.close();
        while self.incoming.recv().await.is_some() {}
        self.join().await;
    }

    async fn join(&mut self) {
        // A handle must not be asked again after it has answered.
        if !self.task.is_finished() {
            _ = (&mut self.task).await;
        }
    }

    /// Says farewell, and gives the client time to close first: closing on unread input would reset the
    /// connection, and the client might lose what we sent last.
    pub(in super::super) async fn close(mut self) {
        let last = self.shared.lock().last();
        let farewell = async {
            _ = self.frames.send(Frame::GoAway { last, status: 0 }).await;
            self.ended().await;
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            self.shared.stop.notify_one();
            _ = tokio::time::timeout(FAREWELL, self.join()).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// However the task ends, streams learn of it.
struct End {
    shared: Arc<Shared>,
    frames: mpsc::Sender<Frame>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.update(Streams::close);
    }
}

async fn drive<I: AsyncRead + AsyncWrite>(
    io: I,
    end: End,
    opened: mpsc::Sender<Stream>,
    mut queue: mpsc::Receiver<Frame>,
    mut encoder: Encoder,
) {
    let (input, mut output) = tokio::io::split(io);
    tokio::select! {
        done = read(input, &end, opened) => match done {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "endpoint: SPDY connection"),
        },
        done = write(&mut output, &mut queue, &mut encoder) => {
            tracing::debug!(error = ?done.err(), "endpoint: SPDY connection");
        }
        () = end.shared.stop.notified() => {}
    }
    _ = tokio::time::timeout(FAREWELL, output.shutdown()).await;
}

async fn write(
    output: &mut (impl AsyncWrite + Unpin),
    queue: &mut mpsc::Receiver<Frame>,
    encoder: &mut Encoder,
) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        encoder
            .encode(&frame, &mut bytes)
            .map_err(io::Error::other)?;
        while bytes.len() < BATCH
            && let Ok(frame) = queue.try_recv()
        {
            encoder
                .encode(&frame, &mut bytes)
                .map_err(io::Error::other)?;
        }
        output.write_all(&bytes).await?;
        output.flush().await?;
        bytes.clear();
    }
    Ok(())
}

async fn read(
    mut input: impl AsyncRead + Unpin,
    end: &End,
    opened: mpsc::Sender<Stream>,
) -> io::Result<()> {
    let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::new());
    loop {
        while let Some(frame) = decoder.decode(&mut bytes).map_err(io::Error::other)? {
            if let Frame::Data { id, .. } = &frame {
                end.shared.wait(|s| s.has_room(*id).then_some(())).await;
            }
            for answer in end.take(frame, &opened).await.map_err(io::Error::other)? {
                end.frames.send(answer).await.map_err(io::Error::other)?;
            }
        }
        bytes.reserve(BLOCK);
        if input.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

impl End {
    /// What a frame changes, and the answers to it.
    async fn take(&self, frame: Frame, opened: &mpsc::Sender<Stream>) -> Result<Vec<Frame>, Error> {
        match frame {
            Frame::SynStream {
                id,
                fin,
                unidirectional,
                headers,
                ..
            } => {
                let taken = self.shared.update(|s| s.open(id, fin, unidirectional))?;
                if !taken || opened.send(self.stream(id, headers)).await.is_err() {
                    self.shared.update(|s| s.reset(id));
                    return Ok(vec![Frame::RstStream {
                        id,
                        status: status::REFUSED_STREAM,
                    }]);
                }
            }
            Frame::Data { id, fin, data } => {
                return Ok(match self.shared.update(|s| s.received(id, &data, fin)) {
                    Some(grants) => updates(grants),
                    // The rest of a stream that we have reset may still be on its way.
                    None if id <= self.shared.lock().last() => Vec::new(),
                    None => vec![Frame::RstStream {
                        id,
                        status: status::INVALID_STREAM,
                    }],
                });
            }
            Frame::Headers { id, fin: true, .. } => {
                self.shared.update(|s| s.received(id, &[], true));
            }
            Frame::RstStream { id, .. } => self.shared.update(|s| s.reset(id)),
            Frame::WindowUpdate { id, delta } => self.shared.update(|s| s.grow(id, delta))?,
            Frame::Settings { settings, .. } => {
                for setting in settings.iter().filter(|s| s.id == Setting::INITIAL_WINDOW) {
                    self.shared.update(|s| s.set_initial(setting.value))?;
                }
            }
            // Odd numbers are the client's own pings.
            Frame::Ping { id } if id % 2 == 1 => return Ok(vec![Frame::Ping { id }]),
            Frame::Ping { .. }
            | Frame::GoAway { .. }
            | Frame::Headers { .. }
            | Frame::SynReply { .. } => {}
        }
        Ok(Vec::new())
    }

    fn stream(&self, id: u32, headers: Headers) -> Stream {
        let side = || Side {
            id,
            shared: self.shared.clone(),
            frames: self.frames.clone(),
        };
        Stream {
            id,
            headers,
            reader: Reader(side()),
            writer: Writer(side()),
        }
    }
}

fn updates(grants: Vec<(u32, u32)>) -> Vec<Frame> {
    grants
        .into_iter()
        .map(|(id, delta)| Frame::WindowUpdate { id, delta })
        .collect()
}

/// A stream that the client has opened and that waits for an answer.
pub(in super::super) struct Stream {
    pub(in super::super) id: u32,
    pub(in super::super) headers: Headers,
    reader: Reader,
    writer: Writer,
}

impl Stream {
    /// Takes the stream.
    pub(in super::super) async fn accept(self) -> (Reader, Writer) {
        let reply = Frame::SynReply {
            id: self.id,
            fin: false,
            headers: Headers::default(),
        };
        _ = self.writer.0.frames.send(reply).await;
        (self.reader, self.writer)
    }

    /// Resets it.
    pub(in super::super) async fn refuse(self) {
        let Side { id, shared, frames } = &self.writer.0;
        shared.update(|s| s.reset(*id));
        _ = frames
            .send(Frame::RstStream {
                id: *id,
                status: status::CANCEL,
            })
            .await;
    }
}

struct Side {
    id: u32,
    shared: Arc<Shared>,
    frames: mpsc::Sender<Frame>,
}

/// What the client sends on a stream. Once dropped, what comes is thrown away.
pub(in super::super) struct Reader(Side);

impl Reader {
    /// What came since; `None` when the client has ended its side or is gone.
    pub(in super::super) async fn next(&mut self) -> Option<Bytes> {
        let Side { id, shared, frames } = &self.0;
        let look = |s: &mut Streams| match s.read(*id) {
            Read::Wait => None,
            Read::End => Some(None),
            Read::Data(data, grants) => Some(Some((data, grants))),
        };
        let (data, grants) = shared.wait(look).await?;
        // The connection may wait for room in this stream.
        shared.changed.notify_waiters();
        for update in updates(grants) {
            _ = frames.send(update).await;
        }
        Some(data)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let grants = self.0.shared.update(|s| s.stop_reading(self.0.id));
        for update in updates(grants) {
            // A full queue loses the grant, and with it only the client's right to send what nobody reads.
            _ = self.0.frames.try_send(update);
        }
    }
}

/// Sends on a stream.
pub(in super::super) struct Writer(Side);

impl Writer {
    /// Sends as the windows allow.
    ///
    /// # Errors
    /// `BrokenPipe` when the client takes no more.
    pub(in super::super) async fn send(&mut self, mut data: &[u8]) -> io::Result<()> {
        let Side { id, shared, frames } = &self.0;
        while !data.is_empty() {
            let look = |s: &mut Streams| match s.send(*id, data.len().min(BLOCK)) {
                Room::Wait => None,
                Room::Gone => Some(0),
                Room::Bytes(n) => Some(n),
            };
            let (now, later) = data
                .split_at_checked(shared.wait(look).await)
                .unwrap_or_default();
            let frame = Frame::Data {
                id: *id,
                fin: false,
                data: Bytes::copy_from_slice(now),
            };
            if now.is_empty() || frames.send(frame).await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            data = later;
        }
        Ok(())
    }

    /// Ends our side.
    pub(in super::super) async fn finish(&mut self) {
        let Side { id, shared, frames } = &self.0;
        if shared.update(|s| s.finish(*id)) {
            _ = frames
                .send(Frame::Data {
                    id: *id,
                    fin: true,
                    data: Bytes::new(),
                })
                .await;
        }
    }

    /// Waits until the client has reset the stream or is gone.
    pub(in super::super) async fn gone(&self) {
        let Side { id, shared, .. } = &self.0;
        shared.wait(|s| s.is_gone(*id).then_some(())).await;
    }
}
