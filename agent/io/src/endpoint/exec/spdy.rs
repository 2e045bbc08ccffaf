//! A client of exec by SPDY: it opens a stream for each of error, stdin, stdout, stderr and resize, and names
//! them by a header.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use futures::stream::{Stream, unfold};
use tokio::io::{AsyncRead, AsyncWrite};

use super::super::lines::Origin;
use super::super::spdy::{Connection, Reader, Writer};
use super::super::{ExecOptions, TerminalSize};
use super::{Client, Input, Refusal, Session, ending};

/// How long the client may take to open its streams, as upstream has it.
const OPEN: Duration = Duration::from_secs(30);
/// More than any size in JSON.
const MAX_SIZE: usize = 4096;

#[derive(Default)]
struct Streams {
    stdin: Option<(Reader, Writer)>,
    resize: Option<(Reader, Writer)>,
    out: Out,
}

#[derive(Default)]
struct Out {
    stdout: Option<(Reader, Writer)>,
    stderr: Option<(Reader, Writer)>,
    error: Option<(Reader, Writer)>,
    /// Whether the exit is told as a `Status`.
    status: bool,
}

/// Serves a client; `name` is the protocol's version.
pub(super) async fn join<I>(io: I, name: &str, options: &ExecOptions, session: Session)
where
    I: AsyncRead + AsyncWrite + Send + 'static,
{
    let connection =
        Connection::new(io).inspect_err(|e| tracing::warn!(error = %e, "endpoint: SPDY"));
    let Ok(mut connection) = connection else {
        return;
    };
    let opened = open(&mut connection, name, options);
    match tokio::time::timeout(OPEN, opened).await {
        Ok(Some(Streams {
            stdin,
            resize,
            mut out,
        })) => {
            // The writing sides are kept to be ended at the end; nothing is sent on them.
            let (stdin, stdin_back) = stdin.unzip();
            let (resize, resize_back) = resize.unzip();
            let input = futures::stream::select(read_stdin(stdin), read_sizes(resize));
            super::join(input, connection.ended(), &mut out, session).await;
            for mut writer in stdin_back.into_iter().chain(resize_back) {
                writer.finish().await;
            }
        }
        Ok(None) => {}
        Err(_) => tracing::debug!("endpoint: timed out waiting for client to create streams"),
    }
    connection.close().await;
}

/// Waits until the client has opened every stream it asked for; `None` when it goes before.
async fn open(connection: &mut Connection, name: &str, options: &ExecOptions) -> Option<Streams> {
    let status = name == "v4.channel.k8s.io";
    let resizes = status || name == "v3.channel.k8s.io";
    let mut streams = Streams {
        out: Out {
            status,
            ..Out::default()
        },
        ..Streams::default()
    };
    let mut missing = 1 + [
        options.stdin,
        options.stdout,
        options.stderr,
        options.tty && resizes,
    ]
    .into_iter()
    .filter(|wanted| *wanted)
    .count();
    while missing > 0 {
        let stream = connection.next().await?;
        let place = match stream.headers.get("streamtype") {
            Some("error") => Some(&mut streams.out.error),
            Some("stdin") if options.stdin => Some(&mut streams.stdin),
            Some("stdout") if options.stdout => Some(&mut streams.out.stdout),
            Some("stderr") if options.stderr => Some(&mut streams.out.stderr),
            Some("resize") if options.tty && resizes => Some(&mut streams.resize),
            _ => None,
        };
        match place.filter(|p| p.is_none()) {
            Some(place) => {
                *place = Some(stream.accept().await);
                missing -= 1;
            }
            None => stream.refuse().await,
        }
    }
    Some(streams)
}

fn read_stdin(reader: Option<Reader>) -> impl Stream<Item = Input> {
    unfold(reader, |reader| async {
        let mut reader = reader?;
        Some(match reader.next().await {
            Some(data) => (Input::Stdin(data), Some(reader)),
            None => (Input::StdinClosed, None),
        })
    })
}

/// Sizes come as JSON objects one behind the other, cut anywhere.
fn read_sizes(reader: Option<Reader>) -> impl Stream<Item = Input> {
    unfold((reader, BytesMut::new()), |(reader, mut text)| async {
        let mut reader = reader?;
        loop {
            if let Some(size) = take_size(&mut text) {
                return Some((Input::Resize(size), (Some(reader), text)));
            }
            text.extend_from_slice(&reader.next().await.filter(|_| text.len() < MAX_SIZE)?);
        }
    })
}

fn take_size(text: &mut BytesMut) -> Option<TerminalSize> {
    let mut sizes = serde_json::Deserializer::from_slice(text).into_iter();
    let size = sizes.next()?.ok()?;
    let used = sizes.byte_offset();
    _ = text.split_to(used);
    Some(size)
}

impl Client for Out {
    async fn write(&mut self, origin: Origin, data: &[u8]) -> io::Result<()> {
        let stream = match origin {
            Origin::Stdout => &mut self.stdout,
            Origin::Stderr => &mut self.stderr,
        };
        match stream {
            Some((_, writer)) => writer.send(data).await,
            None => Ok(()),
        }
    }

    async fn exit(&mut self, exit: &Result<i32, Refusal>) {
        let last = ending(exit, self.status);
        if let Some((_, writer)) = &mut self.error {
            _ = writer.send(last.as_bytes()).await;
        }
        for (_, writer) in [&mut self.stdout, &mut self.stderr, &mut self.error]
            .into_iter()
            .flatten()
        {
            writer.finish().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_cut_anywhere() {
        let mut text = BytesMut::from(&br#"{"Width":80,"Height":24}"#[..]);
        text.extend_from_slice(b"\n{\"Width\":132,\"Hei");
        let size = |width, height| Some(TerminalSize { width, height });
        assert_eq!(
            (take_size(&mut text), take_size(&mut text)),
            (size(80, 24), None)
        );
        text.extend_from_slice(b"ght\":50}\n");
        assert_eq!(
            (take_size(&mut text), take_size(&mut text)),
            (size(132, 50), None)
        );
    }
}
