//! Where containerd keeps images and containers' own layers, and what these take.

use std::path::PathBuf;

use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::snapshots::UsageRequest;

use crate::client::{QUICK, ask};
use crate::error::Error;
use crate::runtime::Runtime;

/// What a container's own layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerUsage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Runtime {
    /// The snapshotter's directory: its file system is the one that images fill. `None` when containerd does not
    /// tell, as for snapshotters that are programs of their own.
    pub async fn image_root(&self) -> Result<Option<PathBuf>, Error> {
        let id = self.config().snapshotter();
        let message = PluginsRequest {
            filters: vec![format!("type==io.containerd.snapshotter.v1,id=={id}")],
        };
        let answer = ask!(
            self.client(),
            introspection.plugins(message),
            QUICK,
            "look up snapshotter",
            id
        )?;
        let mut roots = answer
            .plugins
            .into_iter()
            .filter_map(|mut p| p.exports.remove("root"));
        Ok(roots.next().map(PathBuf::from))
    }

    /// What a container's own layer takes. containerd walks it: not to be asked often for large ones.
    pub async fn layer_usage(&self, id: &str) -> Result<LayerUsage, Error> {
        let message = UsageRequest {
            snapshotter: self.config().snapshotter().into(),
            key: id.to_owned(),
        };
        let answer = ask!(
            self.client(),
            snapshots.usage(message),
            QUICK,
            "measure snapshot of container",
            id
        )?;
        let positive = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(LayerUsage {
            bytes: positive(answer.size),
            inodes: positive(answer.inodes),
        })
    }
}
