//! Port forwarding by SPDY: for each connection the client opens a pair of streams, one for data and one for
//! an error, which share a request's id.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, unfold};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::super::spdy::{Connection, Headers, Reader, Stream as Incoming, Writer};
use super::{Client, Target, forward};

/// How long the second stream of a pair is awaited, as upstream has it.
const PAIR: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// What a stream's headers say.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    kind: Kind,
    port: u16,
    id: String,
}

impl Request {
    /// Clients from before there were ids open the error stream first and the data stream next.
    fn new(stream: u32, headers: &Headers) -> Option<Self> {
        let port = headers.get("port")?.parse().ok().filter(|p| *p > 0)?;
        let (kind, first) = match headers.get("streamtype")? {
            "error" => (Kind::Error, stream),
            "data" => (Kind::Data, stream.saturating_sub(2)),
            _ => return None,
        };
        let id = headers
            .get("requestid")
            .map_or_else(|| first.to_string(), str::to_owned);
        Some(Self { kind, port, id })
    }
}

/// A stream that was accepted.
struct Half {
    kind: Kind,
    port: u16,
    reader: Reader,
    writer: Writer,
}

/// Forwards until the client goes.
pub(super) async fn run<I>(io: I, target: Target)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let connection =
        Connection::new(io).inspect_err(|e| tracing::warn!(error = %e, "endpoint: SPDY"));
    let Ok(mut connection) = connection else {
        return;
    };
    let (target, mut jobs) = (Arc::new(target), JoinSet::new());
    let mut waiting: HashMap<String, oneshot::Sender<Half>> = HashMap::new();
    loop {
        let stream = tokio::select! {
            stream = connection.next() => stream,
            Some(_) = jobs.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        let Some((request, half)) = accept(stream).await else {
            continue;
        };
        waiting.retain(|_, other| !other.is_closed());
        match waiting.remove(&request) {
            // A half whose other has just given up ends with it.
            Some(other) => _ = other.send(half),
            None => {
                let (send, other) = oneshot::channel();
                waiting.insert(request, send);
                jobs.spawn(pair(target.clone(), half, other));
            }
        }
    }
    connection.close().await;
}

async fn accept(stream: Incoming) -> Option<(String, Half)> {
    let Some(Request { kind, port, id }) = Request::new(stream.id, &stream.headers) else {
        stream.refuse().await;
        return None;
    };
    let (reader, writer) = stream.accept().await;
    Some((
        id,
        Half {
            kind,
            port,
            reader,
            writer,
        },
    ))
}

/// Waits for the other half, then forwards.
async fn pair(target: Arc<Target>, first: Half, other: oneshot::Receiver<Half>) {
    let other = tokio::time::timeout(PAIR, other)
        .await
        .ok()
        .and_then(Result::ok);
    let (data, error) = match (first.kind, other) {
        (Kind::Data, Some(other)) if other.kind == Kind::Error => (Some(first), Some(other)),
        (Kind::Error, Some(other)) if other.kind == Kind::Data => (Some(other), Some(first)),
        (Kind::Data, other) => (Some(first), other.filter(|o| o.kind == Kind::Error)),
        (Kind::Error, _) => (None, Some(first)),
    };
    let done = match (data, &error) {
        (Some(mut data), Some(_)) => {
            let input = read(data.reader);
            let done = forward(&target, data.port, input, &mut data.writer).await;
            data.writer.finish().await;
            done
        }
        (Some(mut data), None) => {
            data.writer.finish().await;
            Ok(())
        }
        (None, _) => Err("timed out waiting for streams".to_owned()),
    };
    let Some(Half { mut writer, .. }) = error else {
        return;
    };
    if let Err(message) = done {
        tracing::debug!(pod = %target.pod, error = message, "endpoint: port forward");
        _ = writer.send(message.as_bytes()).await;
    }
    writer.finish().await;
}

fn read(reader: Reader) -> impl Stream<Item = Bytes> {
    unfold(reader, |mut reader| async {
        reader.next().await.map(|bytes| (bytes, reader))
    })
}

impl Client for Writer {
    async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        Self::send(self, data).await
    }

    async fn finish(&mut self) {
        Self::finish(self).await;
    }

    async fn gone(&self) {
        Self::gone(self).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_to_requests() {
        let request = |kind, port, id: &str| {
            Some(Request {
                kind,
                port,
                id: id.into(),
            })
        };
        let table: [(&[(&str, &str)], _); 7] = [
            (
                &[("streamType", "error"), ("port", "80"), ("requestID", "4")],
                request(Kind::Error, 80, "4"),
            ),
            (
                &[("streamType", "data"), ("port", "80"), ("requestID", "4")],
                request(Kind::Data, 80, "4"),
            ),
            (
                &[("streamType", "error"), ("port", "80")],
                request(Kind::Error, 80, "7"),
            ),
            (
                &[("streamType", "data"), ("port", "80")],
                request(Kind::Data, 80, "5"),
            ),
            (&[("streamType", "stdin"), ("port", "80")], None),
            (&[("streamType", "data"), ("port", "0")], None),
            (&[("streamType", "data"), ("port", "65536")], None),
        ];
        for (pairs, want) in table {
            let headers = pairs.iter().copied().collect();
            assert_eq!(Request::new(7, &headers), want, "{pairs:?}");
        }
    }
}
