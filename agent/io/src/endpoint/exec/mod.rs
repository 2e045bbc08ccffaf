//! exec and attach: a client joined to a process. The client comes by WebSocket channels or by SPDY streams;
//! both are an [`Input`] stream and a [`Client`].

pub(super) mod log;
mod spdy;
mod websocket;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::lines::Origin;
use super::reply::exit_status;
use super::upgrade::{Agreed, Io};
use super::{ExecOptions, Refusal, Session, TerminalSize};

const BLOCK: usize = 32 * 1024;
/// How long output is awaited after the process has ended: a grandchild may hold the stream open for ever.
const DRAIN: Duration = Duration::from_secs(5);

/// What a client sends.
enum Input {
    Stdin(Bytes),
    StdinClosed,
    Resize(TerminalSize),
}

/// Where a process's output goes.
trait Client: Send {
    /// Sends output.
    fn write(&mut self, origin: Origin, data: &[u8])
    -> impl Future<Output = io::Result<()>> + Send;
    /// Tells how the process ended: a `Status` object, or for older protocols a text.
    fn exit(&mut self, exit: &Result<i32, Refusal>) -> impl Future<Output = ()> + Send;
}

/// Makes a session and joins a client to it until the process ends or the client goes. A session that could
/// not be made is told where its exit would be.
///
/// The session is made only now, after the upgrade is answered: kubectl (1.32) throws away what arrives before
/// it has set up its streams.
pub(super) async fn serve(
    agreed: Agreed,
    io: Io,
    options: ExecOptions,
    session: impl Future<Output = Result<Session, Refusal>>,
) {
    let session = session.await.unwrap_or_else(|refusal| Session {
        stdin: None,
        stdout: None,
        stderr: None,
        resize: None,
        exit: Box::pin(async { Err(refusal) }),
    });
    match agreed {
        Agreed::WebSocket(protocol) => websocket::join(io, protocol, session).await,
        Agreed::Spdy(name) => spdy::join(io, name, &options, session).await,
        // Not among what exec offers.
        Agreed::Tunnel => {}
    }
}

/// Each direction waits for its own reader only: slow output does not hold up input.
async fn join(
    input: impl Stream<Item = Input>,
    gone: impl Future<Output = ()>,
    client: &mut impl Client,
    session: Session,
) {
    let Session {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let input = async {
        feed(input, stdin, resize).await;
        std::future::pending::<()>().await;
    };
    let output = async {
        if let Some(exit) = pump(client, stdout, stderr, exit).await {
            client.exit(&exit).await;
        }
    };
    tokio::select! {
        () = input => {}
        () = output => {}
        () = gone => {}
    }
}

async fn feed(
    input: impl Stream<Item = Input>,
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
) {
    let mut input = std::pin::pin!(input);
    while let Some(input) = input.next().await {
        match input {
            Input::Stdin(data) => {
                let Some(writer) = &mut stdin else { continue };
                let wrote = async {
                    writer.write_all(&data).await?;
                    writer.flush().await
                };
                if wrote.await.is_err() {
                    stdin = None;
                }
            }
            Input::StdinClosed => {
                if let Some(mut writer) = stdin.take() {
                    _ = writer.shutdown().await;
                }
            }
            Input::Resize(size) => {
                // Only the latest size matters: a full queue loses nothing that lasts.
                _ = resize.as_ref().map(|r| r.try_send(size));
            }
        }
    }
}

/// Runs until the process has ended and its output is sent; `None` when the client takes no more.
async fn pump(
    client: &mut impl Client,
    mut stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    mut stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    exit: impl Future<Output = Result<i32, Refusal>>,
) -> Option<Result<i32, Refusal>> {
    tokio::pin!(exit);
    let mut ended = None;
    let (mut out, mut err) = (vec![0; BLOCK], vec![0; BLOCK]);
    while stdout.is_some() || stderr.is_some() || ended.is_none() {
        let (origin, data) = tokio::select! {
            n = read(&mut stdout, &mut out) => (Origin::Stdout, out.get(..n).unwrap_or_default()),
            n = read(&mut stderr, &mut err) => (Origin::Stderr, err.get(..n).unwrap_or_default()),
            code = &mut exit, if ended.is_none() => {
                ended = Some(code);
                continue;
            }
            () = tokio::time::sleep(DRAIN), if ended.is_some() => break,
        };
        if data.is_empty() {
            match origin {
                Origin::Stdout => stdout = None,
                Origin::Stderr => stderr = None,
            }
        } else if client.write(origin, data).await.is_err() {
            return None;
        }
    }
    ended
}

/// Bytes read; 0 at the end or on an error. Never ready without a stream.
async fn read(stream: &mut Option<Box<dyn AsyncRead + Send + Unpin>>, buffer: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

/// How a process ended, as the error channel says it: a `Status` from version 4 on, before it a text.
fn ending(exit: &Result<i32, Refusal>, status: bool) -> String {
    match exit {
        _ if status => exit_status(exit).to_string(),
        Ok(0) => String::new(),
        Ok(code) => format!("command terminated with non-zero exit code: exit code {code}"),
        Err(refusal) => refusal.to_string(),
    }
}

/// Everything a command prints, and its exit code: what `/run` answers.
pub(super) async fn collect(session: Session) -> Result<(Vec<u8>, i32), Refusal> {
    let Session {
        stdout,
        stderr,
        exit,
        ..
    } = session;
    let all = |stream: Option<Box<dyn AsyncRead + Send + Unpin>>| async move {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            _ = stream.read_to_end(&mut bytes).await;
        }
        bytes
    };
    let (mut out, err, code) = tokio::join!(all(stdout), all(stderr), exit);
    out.extend(err);
    Ok((out, code?))
}
