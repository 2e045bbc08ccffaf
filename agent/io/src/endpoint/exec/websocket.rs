//! A client of exec by WebSocket: a channel a stream.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::super::lines::Origin;
use super::super::upgrade::Io;
use super::super::websocket::{Frame, Protocol, Socket, farewell, socket};
use super::{Client, Input, Refusal, Session, ending};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// How long the client's closing frame is awaited.
const FAREWELL: Duration = Duration::from_secs(5);

struct Channels {
    sink: SplitSink<Socket, Message>,
    protocol: Protocol,
}

impl Client for Channels {
    async fn write(&mut self, origin: Origin, data: &[u8]) -> io::Result<()> {
        let channel = match origin {
            Origin::Stdout => STDOUT,
            Origin::Stderr => STDERR,
        };
        let message = self.protocol.encode(channel, data);
        self.sink.send(message).await.map_err(io::Error::other)
    }

    async fn exit(&mut self, exit: &Result<i32, Refusal>) {
        let last = ending(exit, self.protocol.status);
        let last = self.protocol.encode(ERROR, last.as_bytes());
        for message in [last, farewell()] {
            _ = self.sink.send(message).await;
        }
    }
}

pub(super) async fn join(io: Io, protocol: Protocol, session: Session) {
    let (mut sink, stream) = socket(io).await.split();
    // An empty frame tells the client that the streams stand, as upstream does.
    let lowest = match (&session.stdout, &session.stderr) {
        (Some(_), _) => STDOUT,
        (None, Some(_)) => STDERR,
        (None, None) => ERROR,
    };
    if sink.send(protocol.encode(lowest, &[])).await.is_err() {
        return;
    }
    let (here, gone) = oneshot::channel::<Infallible>();
    let gone = async { _ = gone.await };
    let state = Incoming {
        stream,
        protocol,
        _here: here,
    };
    // Asked once more after its end when the client went first.
    let mut input = Box::pin(futures::stream::unfold(state, Incoming::next).fuse());
    let mut client = Channels { sink, protocol };
    super::join(&mut input, gone, &mut client, session).await;
    // Closing on unread input would reset the connection, and the client might lose the exit code.
    let rest = async { while input.next().await.is_some() {} };
    _ = tokio::time::timeout(FAREWELL, rest).await;
}

struct Incoming {
    stream: SplitStream<Socket>,
    protocol: Protocol,
    /// Dropped when the client is gone.
    _here: oneshot::Sender<Infallible>,
}

impl Incoming {
    async fn next(mut self) -> Option<(Input, Self)> {
        loop {
            let message = self.stream.next().await?.ok().filter(|m| !m.is_close())?;
            let input = match self.protocol.decode(message).ok()? {
                Some(Frame::Data(STDIN, data)) => Input::Stdin(data),
                Some(Frame::Close(STDIN)) => Input::StdinClosed,
                Some(Frame::Data(RESIZE, data)) => match serde_json::from_slice(&data) {
                    Ok(size) => Input::Resize(size),
                    Err(_) => continue,
                },
                _ => continue,
            };
            return Some((input, self));
        }
    }
}
