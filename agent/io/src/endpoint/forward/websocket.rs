//! Port forwarding by WebSocket channels: each port has a data channel and an error channel, and each begins
//! with the port's number (two bytes, little endian). A client can't end its side of a port.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, SplitSink};
use futures::{SinkExt, StreamExt};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::tungstenite::Message;

use super::super::upgrade::Io;
use super::super::websocket::{Frame, Protocol, Socket, farewell, socket};
use super::{Client, Target, forward};

type Sink = Mutex<SplitSink<Socket, Message>>;

struct Channel<'a> {
    sink: &'a Sink,
    protocol: Protocol,
    number: u8,
    /// Dropped when the pod has ended: the client can't, so its side ends with the pod's.
    open: Option<oneshot::Sender<Infallible>>,
}

impl Client for Channel<'_> {
    async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let message = self.protocol.encode(self.number, data);
        self.sink
            .lock()
            .await
            .send(message)
            .await
            .map_err(io::Error::other)
    }

    async fn finish(&mut self) {
        self.open = None;
    }

    async fn gone(&self) {
        std::future::pending().await
    }
}

/// Forwards until the client goes or every port's connection has ended.
pub(super) async fn run(io: Io, protocol: Protocol, target: &Target, ports: &[u16]) {
    let (sink, mut stream) = socket(io).await.split();
    let sink = Mutex::new(sink);
    let (writers, readers): (Vec<_>, Vec<_>) = ports.iter().map(|_| mpsc::channel(4)).unzip();
    let jobs = (0u8..).step_by(2).zip(ports).zip(readers);
    let jobs: FuturesUnordered<_> = jobs
        .map(|((number, port), data)| channel(&sink, protocol, number, target, *port, data))
        .collect();
    let input = async {
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                return;
            }
            match protocol.decode(message) {
                Ok(Some(Frame::Data(channel, data))) if channel % 2 == 0 => {
                    if let Some(writer) = writers.get(usize::from(channel / 2)) {
                        _ = writer.send(data).await;
                    }
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = input => {}
        () = jobs.collect::<()>() => {}
    }
    _ = sink.lock().await.send(farewell()).await;
}

async fn channel(
    sink: &Sink,
    protocol: Protocol,
    number: u8,
    target: &Target,
    port: u16,
    data: mpsc::Receiver<Bytes>,
) {
    let (open, closed) = oneshot::channel();
    let mut data_channel = Channel {
        sink,
        protocol,
        number,
        open: Some(open),
    };
    let mut error_channel = Channel {
        sink,
        protocol,
        number: number.saturating_add(1),
        open: None,
    };
    for channel in [&mut data_channel, &mut error_channel] {
        _ = channel.send(&port.to_le_bytes()).await;
    }
    let input = ReceiverStream::new(data).take_until(closed);
    if let Err(message) = forward(target, port, input, &mut data_channel).await {
        _ = error_channel.send(message.as_bytes()).await;
    }
}
