//! Joining a client to a container's own streams.

use std::sync::Arc;
use std::time::Duration;

use keelson_agent_io::endpoint::{ExecOptions, Refusal, Session, TerminalSize};
use keelson_runtime::{Attached, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::shared::{Shared, chain};

/// Bytes on their way.
const PIPE: usize = 64 << 10;
/// How often is looked whether the container still runs: its streams outlive it.
const LOOK: Duration = Duration::from_millis(200);

/// A session over a container's streams; `None` when it was made without any to join.
pub(crate) async fn session(
    shared: Arc<Shared>,
    id: &str,
    options: &ExecOptions,
) -> Result<Option<Session>, Refusal> {
    let attached = shared.runtime.attach(id, options.stdin).await;
    let Some(attached) = attached.map_err(|e| Refusal::internal(chain(&e)))? else {
        return Ok(None);
    };
    let Attached {
        output,
        stdin,
        once,
    } = attached;
    let stdin = stdin.map(|mut to| {
        let (ours, mut from) = tokio::io::duplex(PIPE);
        let (shared, id) = (shared.clone(), id.to_owned());
        tokio::spawn(async move {
            // Ends when the client closes its side, or the process no longer reads.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            drop(to);
            if once && let Err(error) = shared.runtime.container_close_stdin(&id).await {
                tracing::debug!(container = id, error = %chain(&error), "input not closed");
            }
        });
        Box::new(ours) as _
    });
    let (out_to, out) = tokio::io::duplex(PIPE);
    let (err_to, err) = tokio::io::duplex(PIPE);
    tokio::spawn(split(
        output,
        options.stdout.then_some(out_to),
        options.stderr.then_some(err_to),
    ));
    let (resize, sizes) = mpsc::channel(4);
    tokio::spawn(follow_sizes(shared.clone(), id.to_owned(), sizes));
    let id = id.to_owned();
    Ok(Some(Session {
        stdin,
        stdout: options.stdout.then_some(Box::new(out) as _),
        stderr: options.stderr.then_some(Box::new(err) as _),
        resize: Some(resize),
        exit: Box::pin(async move {
            while is_running(&shared, &id).await {
                tokio::time::sleep(LOOK).await;
            }
            // As upstream: how the container ended is told by its status.
            Ok(0)
        }),
    }))
}

async fn is_running(shared: &Shared, id: &str) -> bool {
    let found = shared.runtime.container(id).await;
    matches!(
        found.map(|c| c.map(|c| c.state)),
        Ok(Some(State::Running { .. }))
    )
}

async fn follow_sizes(shared: Arc<Shared>, id: String, mut sizes: mpsc::Receiver<TerminalSize>) {
    while let Some(size) = sizes.recv().await {
        let resized = shared
            .runtime
            .container_resize(&id, size.width, size.height)
            .await;
        if let Err(error) = resized {
            tracing::debug!(container = id, error = %chain(&error), "terminal not resized");
        }
    }
}

/// Takes frames apart. A stream that nobody reads is thrown away.
async fn split(mut from: UnixStream, mut out: Option<DuplexStream>, mut err: Option<DuplexStream>) {
    let mut bytes = Vec::new();
    while let Ok(number) = from.read_u8().await {
        let Ok(length) = from.read_u32().await else {
            return;
        };
        bytes.resize(usize::try_from(length).unwrap_or(0).min(PIPE), 0);
        if from.read_exact(&mut bytes).await.is_err() {
            return;
        }
        let to = if number == 1 { &mut out } else { &mut err };
        if let Some(stream) = to
            && stream.write_all(&bytes).await.is_err()
        {
            *to = None;
        }
    }
}
