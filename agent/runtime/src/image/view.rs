//! An image's files without a container: what an image volume shows (KEP-4639).

use std::collections::HashMap;

use containerd_client::services::v1::snapshots::ViewSnapshotRequest;

use crate::client::{QUICK, ask, or_exists};
use crate::error::Error;
use crate::runtime::Runtime;

/// containerd's garbage collector leaves what carries this label.
const ROOT: &str = "containerd.io/gc.root";

/// How a view is mounted, as containerd says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewMount {
    /// Such as `overlay` or `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// As in fstab.
    pub options: Vec<String>,
}

impl Runtime {
    /// A read-only view of an image's files, kept until it is removed by its key. Can be repeated.
    ///
    /// # Errors
    /// The image is not there.
    pub async fn image_view(&self, key: &str, image: &str) -> Result<Vec<ViewMount>, Error> {
        let found = self.image(image).await?;
        let found = found.ok_or_else(|| Error::not_found("image", image))?;
        let message = ViewSnapshotRequest {
            snapshotter: self.config().snapshotter().into(),
            key: key.to_owned(),
            parent: found.top_snapshot,
            labels: HashMap::from([(ROOT.to_owned(), "keelson".to_owned())]),
        };
        let made = or_exists(ask!(
            self.client(),
            snapshots.view(message),
            QUICK,
            "view image for volume",
            key
        ))?;
        let mounts = match made {
            Some(answer) => answer.mounts,
            None => self.rootfs(key).await?,
        };
        let mount = |m: containerd_client::types::Mount| ViewMount {
            kind: m.r#type,
            source: m.source,
            options: m.options,
        };
        Ok(mounts.into_iter().map(mount).collect())
    }

    /// Removes a view; one that is not there is removed.
    pub async fn image_view_remove(&self, key: &str) -> Result<(), Error> {
        self.remove_snapshot(key).await
    }
}
