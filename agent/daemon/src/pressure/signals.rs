//! What the node's signals are at a moment.

use std::path::PathBuf;
use std::sync::Arc;

use keelson_agent_io::node::{file_system, read_figures};
use keelson_agent_plan::eviction::{Observation, Observations, Signal};
use keelson_agent_plan::reserve;

use super::space;
use crate::shared::{Shared, chain};

/// Signals, and where images are.
pub(super) struct Seen {
    /// Those that could be read.
    pub(super) signals: Observations,
    /// Images have a file system of their own.
    pub(super) dedicated: bool,
}

/// Where images are, once containerd has told.
#[derive(Default)]
pub(super) struct Roots {
    images: Option<Option<PathBuf>>,
}

impl Roots {
    /// Reads the signals.
    pub(super) async fn read(&mut self, shared: &Arc<Shared>) -> Result<Seen, String> {
        if self.images.is_none() {
            match shared.runtime.image_root().await {
                Ok(None) => {
                    tracing::warn!(
                        "containerd does not tell where images are: their disk is not watched"
                    );
                    self.images = Some(None);
                }
                Ok(root) => self.images = Some(root),
                // It is asked again the next time.
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "containerd does not tell where images are")
                }
            }
        }
        let (shared, images) = (shared.clone(), self.images.clone().flatten());
        let read = move || read(&shared, images.as_deref());
        let done = tokio::task::spawn_blocking(read).await;
        done.unwrap_or_else(|e| Err(e.to_string()))
    }
}

fn read(shared: &Shared, images: Option<&std::path::Path>) -> Result<Seen, String> {
    let facts = read_figures(&shared.roots).map_err(|e| chain(&e))?;
    let node = file_system(&shared.roots.data).map_err(|e| chain(&e))?;
    let images = images.map(file_system).transpose().map_err(|e| chain(&e))?;
    let [space_left, inodes] = space(&node);
    let mut signals: Observations = [
        (
            Signal::MemoryAvailable,
            Observation {
                available: facts.memory_available,
                capacity: facts.memory,
            },
        ),
        (Signal::NodefsAvailable, space_left),
        (Signal::NodefsInodesFree, inodes),
        (
            Signal::PidAvailable,
            Observation {
                available: facts.pids.saturating_sub(facts.pids_used),
                capacity: facts.pids,
            },
        ),
    ]
    .into();
    if let Some(images) = &images {
        let [space_left, inodes] = space(images);
        signals.insert(Signal::ImagefsAvailable, space_left);
        signals.insert(Signal::ImagefsInodesFree, inodes);
    }
    if shared.config.enforce_pods {
        match shared.runtime.pods_stats() {
            Ok(stats) => {
                let limit = facts.memory.saturating_sub(shared.config.reserved.memory);
                let left = reserve::allocatable_memory(limit, stats.memory_working_set);
                signals.insert(Signal::AllocatableMemoryAvailable, left);
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "memory of all pods cannot be read")
            }
        }
    }
    Ok(Seen {
        dedicated: images.is_some_and(|i| i.device != node.device),
        signals,
    })
}
