//! What attach shows when the runtime offers no stream: a container's log, from now on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::super::lines::{Origin, Query, Selection};
use super::super::{ContainerRef, Pods, Refusal, Session, logs};
use super::BLOCK;

/// Whether a container still runs as the same attempt.
pub(in super::super) fn alive(
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

/// A session over a container's log.
pub(in super::super) async fn from_log(
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
