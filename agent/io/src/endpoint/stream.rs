//! exec and attach: a client's channels joined to a process.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::lines::{Origin, Query, Selection};
use super::reply::exit_status;
use super::websocket::{Frame, Protocol, farewell};
use super::{ContainerRef, Pods, Refusal, Session, TerminalSize, logs};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

const BLOCK: usize = 32 * 1024;
/// How long output is awaited after the process has ended: a grandchild may hold the stream open for ever.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the client's closing frame is awaited.
const FAREWELL: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Sink = SplitSink<Socket, Message>;

/// Joins a client to a session until the process ends or the client goes. Each direction waits for its own
/// reader only: slow output does not hold up input.
pub(super) async fn join(socket: Socket, protocol: Protocol, session: Session) {
    let Session {
        stdin,
        stdout,
        stderr,
        resize,
        exit,
    } = session;
    let (sink, stream) = socket.split();
    let input = read_client(stream, protocol, stdin, resize);
    let output = write_client(sink, protocol, stdout, stderr, exit);
    tokio::pin!(input);
    tokio::select! {
        () = &mut input => {}
        // Closing on unread input would reset the connection, and the client might lose the exit code.
        () = output => {
            _ = tokio::time::timeout(FAREWELL, input).await;
        }
    }
}

/// Runs until the client is gone.
async fn read_client(
    mut stream: SplitStream<Socket>,
    protocol: Protocol,
    mut stdin: Option<Box<dyn tokio::io::AsyncWrite + Send + Unpin>>,
    resize: Option<mpsc::Sender<TerminalSize>>,
) {
    while let Some(Ok(message)) = stream.next().await {
        if message.is_close() {
            return;
        }
        match protocol.decode(message) {
            Ok(Some(Frame::Data(STDIN, data))) => {
                let Some(writer) = &mut stdin else { continue };
                let wrote = async {
                    writer.write_all(&data).await?;
                    writer.flush().await
                };
                if wrote.await.is_err() {
                    stdin = None;
                }
            }
            Ok(Some(Frame::Data(RESIZE, data))) => {
                if let (Some(resize), Ok(size)) = (&resize, serde_json::from_slice(&data)) {
                    // Only the latest size matters: a full queue loses nothing that lasts.
                    _ = resize.try_send(size);
                }
            }
            Ok(Some(Frame::Close(STDIN))) => {
                if let Some(mut writer) = stdin.take() {
                    _ = writer.shutdown().await;
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Runs until the process has ended and its output is sent.
async fn write_client(
    mut sink: Sink,
    protocol: Protocol,
    stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    exit: impl Future<Output = Result<i32, Refusal>>,
) {
    // An empty frame tells the client that the streams stand, as upstream does.
    let lowest = if stdout.is_some() {
        STDOUT
    } else if stderr.is_some() {
        STDERR
    } else {
        ERROR
    };
    if sink.send(protocol.encode(lowest, &[])).await.is_err() {
        return;
    }
    let Some(exit) = pump(&mut sink, protocol, stdout, stderr, exit).await else {
        return;
    };
    let last = if protocol.status {
        protocol.encode(ERROR, exit_status(&exit).to_string().as_bytes())
    } else {
        let text = match exit {
            Ok(0) => String::new(),
            Ok(code) => format!("command terminated with non-zero exit code: exit code {code}"),
            Err(e) => e.to_string(),
        };
        protocol.encode(ERROR, text.as_bytes())
    };
    _ = sink.send(last).await;
    _ = sink.send(farewell()).await;
}

async fn pump(
    sink: &mut Sink,
    protocol: Protocol,
    mut stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    mut stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    exit: impl Future<Output = Result<i32, Refusal>>,
) -> Option<Result<i32, Refusal>> {
    tokio::pin!(exit);
    let mut ended = None;
    let (mut out, mut err) = (vec![0; BLOCK], vec![0; BLOCK]);
    while stdout.is_some() || stderr.is_some() || ended.is_none() {
        let (channel, data) = tokio::select! {
            n = read(&mut stdout, &mut out) => (STDOUT, out.get(..n).unwrap_or_default()),
            n = read(&mut stderr, &mut err) => (STDERR, err.get(..n).unwrap_or_default()),
            code = &mut exit, if ended.is_none() => {
                ended = Some(code);
                continue;
            }
            () = tokio::time::sleep(DRAIN), if ended.is_some() => break,
        };
        if data.is_empty() {
            *(if channel == STDOUT {
                &mut stdout
            } else {
                &mut stderr
            }) = None;
        } else if sink.send(protocol.encode(channel, data)).await.is_err() {
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

/// Whether a container still runs as the same attempt.
pub(super) fn alive(
    pods: Arc<dyn Pods>,
    namespace: String,
    pod: String,
    container: String,
    id: String,
) -> logs::Alive {
    let names = Arc::new((namespace, pod, container, id));
    Box::new(move || {
        let (pods, names) = (pods.clone(), names.clone());
        Box::pin(async move {
            let (namespace, pod, container, id) = &*names;
            let now = pods.container(namespace, pod, container, false).await;
            now.is_ok_and(|c| c.running && c.id == *id)
        })
    })
}

/// A session over a container's log, from now on: what attach shows when the runtime offers no stream.
pub(super) async fn from_log(
    container: &ContainerRef,
    alive: logs::Alive,
    stderr: bool,
) -> Result<Session, Refusal> {
    let query = Query {
        tail_lines: Some(0),
        ..Query::default()
    };
    let selection = Selection::new(&query, jiff::Timestamp::UNIX_EPOCH)?;
    let (send, mut receive) = mpsc::channel::<(Origin, Bytes)>(8);
    let (mut out, out_read) = tokio::io::duplex(BLOCK);
    let (mut err, err_read) = tokio::io::duplex(BLOCK);
    let log = logs::Log::open(container.log_path.clone(), selection, Some(alive)).await;
    let log = log.map_err(Refusal::internal)?;
    tokio::spawn(async move {
        while let Some((origin, data)) = receive.recv().await {
            let wrote = match origin {
                Origin::Stderr if stderr => err.write_all(&data).await,
                Origin::Stderr => Ok(()),
                Origin::Stdout => out.write_all(&data).await,
            };
            if wrote.is_err() {
                return;
            }
        }
    });
    let exit = async move {
        log.send(send).await.map_err(Refusal::internal)?;
        Ok(0)
    };
    Ok(Session {
        stdin: None,
        stdout: Some(Box::new(out_read)),
        stderr: stderr.then(|| Box::new(err_read) as _),
        resize: None,
        exit: Box::pin(exit),
    })
}
