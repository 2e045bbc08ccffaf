//! Images: names, import of archives, pulls, and what containerd's store says about them.

mod content;
mod import;
pub(crate) mod manifest;
mod name;
mod pull;
mod registries;
mod unpack;
mod view;

pub use view::ViewMount;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use pull::Pulled;

use containerd_client::services::v1::{
    DeleteImageRequest, GetImageRequest, Image as Record, ListImagesRequest,
};

use crate::client::{QUICK, ask, or_absent};
use crate::error::Error;
use crate::runtime::Runtime;

/// What an image says about the processes made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `USER`: name or number, optionally with `:group`.
    pub user: String,
    /// `ENV`, as `NAME=value`.
    pub env: Vec<String>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `WORKDIR`.
    pub working_dir: String,
    /// `VOLUME` paths.
    pub volumes: Vec<String>,
    /// `STOPSIGNAL`, empty when unset.
    pub stop_signal: String,
}

/// An image in containerd's store, unpacked for this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// All names that point to it, normalised (`docker.io/library/busybox:1`), sorted.
    pub names: Vec<String>,
    /// Digest of the manifest or index the names point to.
    pub digest: String,
    /// Digest of the configuration: the image's id.
    pub id: String,
    /// Bytes of manifest, configuration and compressed layers.
    pub size: u64,
    /// Process defaults.
    pub config: ImageConfig,
    /// Snapshot a container's root file system starts from; empty for an image without layers.
    pub top_snapshot: String,
    /// Not for us to collect: pinned, or somebody else has named it.
    pub kept: bool,
}

/// What images that were read say, by digest: content never changes. Their names and labels are not among it.
#[derive(Default)]
pub(crate) struct Known(Mutex<BTreeMap<String, Image>>);

impl Known {
    fn images(&self) -> MutexGuard<'_, BTreeMap<String, Image>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, digest: &str) -> Option<Image> {
        self.images().get(digest).cloned()
    }

    fn put(&self, image: &Image) {
        self.images().insert(image.digest.clone(), image.clone());
    }

    /// Forgets the images that are not there any more.
    fn retain(&self, there: impl Fn(&str) -> bool) {
        self.images().retain(|digest, _| there(digest));
    }
}

/// Completes a name as docker does: `busybox` becomes `docker.io/library/busybox:latest`.
pub fn normalise(name: &str) -> Result<String, Error> {
    Ok(name::parse(name)?.whole())
}

impl Image {
    /// What a container status shows as `imageID`: `<repository>@<digest>` when the image came from
    /// a registry, else the image's id.
    pub fn reference(&self) -> &str {
        let by_digest = self.names.iter().find(|name| name.contains('@'));
        by_digest.unwrap_or(&self.id)
    }
}

impl Runtime {
    /// The image with this name (any form docker takes), digest or id.
    pub async fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        if name::is_digest(name) {
            let images = self.images().await?;
            let is = |image: &Image| image.digest == name || image.id == name;
            return Ok(images.into_iter().find(is));
        }
        let name = name::parse(name)?.whole();
        let message = GetImageRequest { name: name.clone() };
        let answer = ask!(
            self.client(),
            images.get(message),
            QUICK,
            "get image",
            &name
        );
        let Some(record) = or_absent(answer)?.and_then(|answer| answer.image) else {
            return Ok(None);
        };
        let digest = target(&record);
        let filter = format!("target.digest=={digest}");
        let records = self.image_records(vec![filter]).await?;
        or_absent(self.read_image(&digest, &records).await)
    }

    /// All images whose content for this machine is complete.
    pub async fn images(&self) -> Result<Vec<Image>, Error> {
        let mut by_digest: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for record in self.image_records(Vec::new()).await? {
            let records = by_digest.entry(target(&record)).or_default();
            records.push(record);
        }
        self.inner
            .known
            .retain(|digest| by_digest.contains_key(digest));
        let mut images = Vec::new();
        for (digest, records) in by_digest {
            match self.read_image(&digest, &records).await {
                Ok(image) => images.push(image),
                // Others share the namespace: half a pull of theirs is no image of ours.
                Err(error) => tracing::debug!(digest, %error, "incomplete image"),
            }
        }
        Ok(images)
    }

    /// Removes every name that we made, by import or pull, and the ids that containerd's CRI plugin, where it
    /// listens, has named those images by. Goes on after errors and gives them all.
    pub async fn images_remove(&self) -> Vec<Error> {
        let records = match self.image_records(Vec::new()).await {
            Ok(records) => records,
            Err(error) => return vec![error],
        };
        let mut errors = Vec::new();
        for name in removable(&records) {
            errors.extend(self.name_remove(name).await.err());
        }
        errors
    }

    /// Removes a name, or every name of a digest or id; containerd collects what nothing refers to.
    /// Success when there is none.
    pub async fn image_remove(&self, name: &str) -> Result<(), Error> {
        let names = match name::is_digest(name) {
            true => self.image(name).await?.unwrap_or_default().names,
            false => vec![name::parse(name)?.whole()],
        };
        for name in names {
            self.name_remove(&name).await?;
        }
        Ok(())
    }

    async fn name_remove(&self, name: &str) -> Result<(), Error> {
        let message = DeleteImageRequest {
            name: name.to_owned(),
            sync: true,
            target: None,
        };
        let answer = ask!(
            self.client(),
            images.delete(message),
            QUICK,
            "delete image",
            name
        );
        or_absent(answer).map(drop)
    }

    async fn image_records(&self, filters: Vec<String>) -> Result<Vec<Record>, Error> {
        let message = ListImagesRequest { filters };
        let answer = ask!(self.client(), images.list(message), QUICK, "list", "images")?;
        Ok(answer.images)
    }

    async fn read_image(&self, digest: &str, records: &[Record]) -> Result<Image, Error> {
        let mut names: Vec<String> = records.iter().map(|r| r.name.clone()).collect();
        names.sort();
        if let Some(known) = self.inner.known.get(digest) {
            return Ok(Image {
                names,
                kept: is_kept(records),
                ..known
            });
        }
        let resolved = self.resolve(digest).await?;
        let manifest = &resolved.manifest;
        let parts = manifest.config.iter().chain(&manifest.layers);
        let size = parts.map(|part| part.size).sum::<u64>() + resolved.manifest_size;
        let image = Image {
            names: Vec::new(),
            digest: digest.to_owned(),
            id: resolved.config_digest,
            size,
            top_snapshot: resolved.config.chain_ids().pop().unwrap_or_default(),
            config: resolved.config.into(),
            kept: false,
        };
        self.inner.known.put(&image);
        Ok(Image {
            names,
            kept: is_kept(records),
            ..image
        })
    }
}

fn target(record: &Record) -> String {
    let target = record.target.as_ref();
    target
        .map(|target| target.digest.clone())
        .unwrap_or_default()
}

/// Names that we made, and the CRI plugin's names for images that nobody but us has named.
fn removable(records: &[Record]) -> Vec<&str> {
    let ours = |r: &Record| r.labels.contains_key(unpack::OURS);
    let by_cri = |r: &Record| !ours(r) && name::is_digest(&r.name) && r.labels.contains_key(CRI);
    let only_ours = |digest: &str| {
        let mut named = records
            .iter()
            .filter(|r| target(r) == digest && !by_cri(r))
            .peekable();
        named.peek().is_some() && named.all(ours)
    };
    records
        .iter()
        .filter(|r| ours(r) || (by_cri(r) && only_ours(&target(r))))
        .map(|r| r.name.as_str())
        .collect()
}

/// Whether an image of these names is pinned, or one of them is somebody else's.
fn is_kept(records: &[Record]) -> bool {
    let pinned = |r: &Record| r.labels.get(PINNED).is_some_and(|v| v == "pinned");
    records.iter().any(pinned) || removable(records).len() < records.len()
}

/// Label of images that no collector takes, and its value.
const PINNED: &str = "io.cri-containerd.pinned";

/// Label of names that containerd's CRI plugin keeps; it names each image by its id too.
const CRI: &str = "io.cri-containerd.image";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use containerd_client::types::Descriptor;

    use super::*;

    #[test]
    fn what_others_have_named_stays() {
        let record = |name: &str, digest: &str, labels: &[&str]| Record {
            name: name.into(),
            target: Some(Descriptor {
                digest: digest.into(),
                ..Descriptor::default()
            }),
            labels: HashMap::from_iter(labels.iter().map(|l| ((*l).into(), "x".into()))),
            ..Record::default()
        };
        let [one, two, three] = ["1", "2", "3"].map(|d| format!("sha256:{}", d.repeat(64)));
        let records = [
            record("ours:1", "a", &[unpack::OURS, CRI]),
            record(&one, "a", &[CRI]),
            record("ours:2", "b", &[unpack::OURS]),
            record("theirs:2", "b", &[CRI]),
            record(&two, "b", &[CRI]),
            record(&three, "c", &[CRI]),
        ];
        assert_eq!(removable(&records), ["ours:1", &one, "ours:2"]);
        let mut pinned = record("ours:3", "d", &[unpack::OURS]);
        pinned.labels.insert(PINNED.into(), "pinned".into());
        let rows = [
            ("ours, named by CRI too", &records[..2], false),
            ("somebody else's name beside ours", &records[2..5], true),
            ("somebody else's", &records[5..], true),
            ("pinned", std::slice::from_ref(&pinned), true),
        ];
        for (name, records, want) in rows {
            assert_eq!(is_kept(records), want, "{name}");
        }
    }
}
