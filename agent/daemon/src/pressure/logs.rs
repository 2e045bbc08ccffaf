//! Rotates the logs of containers that run.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use keelson_agent_plan::names;

use crate::shared::Shared;

/// Looks at every log once.
pub(super) async fn rotate(shared: &Arc<Shared>) {
    let policy = shared.config.logs;
    if policy.max_size.is_none() {
        return;
    }
    let logs = running(shared);
    let work = move || {
        for log in logs {
            match keelson_agent_io::logs::rotate(&log, &policy, Timestamp::now()) {
                Ok(true) => tracing::debug!(log = %log.display(), "log rotated"),
                Ok(false) => {}
                Err(error) => tracing::warn!(log = %log.display(), %error, "log cannot be rotated"),
            }
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::warn!(%error, "logs cannot be rotated");
    }
}

fn running(shared: &Shared) -> Vec<PathBuf> {
    let mut logs = Vec::new();
    for entry in shared.entries().values() {
        for (container, runs) in entry.containers.iter() {
            let running = runs.last().filter(|r| r.is_running());
            let log =
                |attempt| names::log_path(&shared.config.log_dir, &entry.pod, container, attempt);
            logs.extend(running.map(|r| log(r.attempt)));
        }
    }
    logs
}
