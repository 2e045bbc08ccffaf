//! From content to a usable image: snapshots by chain id, and the name that keeps them alive.

use std::collections::HashMap;

use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{
    ApplyRequest, CreateImageRequest, Image as Record, UpdateImageRequest,
};
use containerd_client::types;

use super::manifest::{ConfigFile, Descriptor, Manifest, Platform};
use crate::client::{BULK, Lease, QUICK, ask, or_absent, or_exists};
use crate::error::Error;
use crate::runtime::Runtime;

/// Label of image records that we made: containerd may be shared with others.
pub(super) const OURS: &str = "keelson.io/image";

/// An image's manifest for this machine, with its configuration.
pub(crate) struct Resolved {
    pub(crate) manifest: Manifest,
    pub(crate) manifest_size: u64,
    pub(crate) config_digest: String,
    pub(crate) config: ConfigFile,
}

impl Runtime {
    /// Reads the manifest an image's target leads to, through an index if there is one.
    pub(crate) async fn resolve(&self, target: &str) -> Result<Resolved, Error> {
        let mut digest = target.to_owned();
        for _ in 0..3 {
            let json = self.client().read_blob(&digest).await?;
            let manifest = Manifest::parse(&digest, &json)?;
            let Some(config) = &manifest.config else {
                let chosen = manifest.choose(&Platform::host());
                let chosen = chosen.ok_or_else(|| no_platform(target))?;
                digest = chosen.digest.clone();
                continue;
            };
            let config_digest = config.digest.clone();
            let json_config = self.client().read_blob(&config_digest).await?;
            return Ok(Resolved {
                config: ConfigFile::parse(&config_digest, &json_config)?,
                manifest,
                manifest_size: json.len() as u64,
                config_digest,
            });
        }
        Err(Error::invalid("image", target, "indexes nested too deeply"))
    }

    /// Labels manifest (and index) for garbage collection, unpacks the layers, and names the image.
    pub(crate) async fn finish_image(
        &self,
        lease: &Lease,
        target: &Descriptor,
        names: &[String],
    ) -> Result<(), Error> {
        self.label_tree(&target.digest).await?;
        let resolved = self.resolve(&target.digest).await?;
        self.unpack(lease, &resolved).await?;
        for name in names {
            self.name_image(name, target).await?;
        }
        Ok(())
    }

    async fn label_tree(&self, target: &str) -> Result<(), Error> {
        let mut digest = Some(target.to_owned());
        while let Some(current) = digest {
            let json = self.client().read_blob(&current).await?;
            let manifest = Manifest::parse(&current, &json)?;
            let chosen = manifest.choose(&Platform::host());
            if manifest.is_index() && chosen.is_none() {
                return Err(no_platform(target));
            }
            let labels = manifest.gc_labels(chosen);
            self.client().label_blob(&current, labels).await?;
            digest = chosen.map(|entry| entry.digest.clone());
        }
        Ok(())
    }

    async fn unpack(&self, lease: &Lease, image: &Resolved) -> Result<(), Error> {
        let chain = image.config.chain_ids();
        if chain.len() != image.manifest.layers.len() {
            return Err(Error::invalid(
                "image",
                &image.config_digest,
                format!(
                    "{} layers for {} diff ids",
                    image.manifest.layers.len(),
                    chain.len()
                ),
            ));
        }
        let mut parent = "";
        for (i, (layer, name)) in image.manifest.layers.iter().zip(&chain).enumerate() {
            let diff = image.config.rootfs.diff_ids.get(i);
            self.unpack_layer(lease, layer, parent, name, diff.map_or("", String::as_str))
                .await?;
            parent = name;
        }
        if let Some(top) = chain.last() {
            let key = format!(
                "containerd.io/gc.ref.snapshot.{}",
                self.config().snapshotter()
            );
            let labels = HashMap::from([(key, top.clone())]);
            self.client()
                .label_blob(&image.config_digest, labels)
                .await?;
        }
        Ok(())
    }

    async fn unpack_layer(
        &self,
        lease: &Lease,
        layer: &Descriptor,
        parent: &str,
        name: &str,
        diff_id: &str,
    ) -> Result<(), Error> {
        if self.snapshot_exists(name).await? {
            return Ok(());
        }
        let key = format!("extract-{:016x} {name}", rand::random::<u64>());
        let applied = self.apply_layer(lease, layer, parent, &key, diff_id).await;
        let committed = match applied {
            Ok(()) => {
                let message = CommitSnapshotRequest {
                    snapshotter: self.config().snapshotter().into(),
                    name: name.into(),
                    key: key.clone(),
                    labels: HashMap::new(),
                };
                or_exists(ask!(
                    lease => self.client(),
                    snapshots.commit(message),
                    BULK,
                    "commit snapshot",
                    name
                ))
            }
            Err(error) => Err(error),
        };
        // Somebody else committed the same layer, or applying failed: ours is of no use.
        if !matches!(committed, Ok(Some(()))) {
            self.remove_snapshot(&key).await?;
        }
        committed.map(|_| ())
    }

    async fn apply_layer(
        &self,
        lease: &Lease,
        layer: &Descriptor,
        parent: &str,
        key: &str,
        diff_id: &str,
    ) -> Result<(), Error> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.config().snapshotter().into(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let mounts = ask!(
            lease => self.client(),
            snapshots.prepare(message),
            QUICK,
            "prepare snapshot",
            key
        )?
        .mounts;
        let message = ApplyRequest {
            diff: Some(wire(layer)),
            mounts,
            ..ApplyRequest::default()
        };
        let applied = ask!(
            lease => self.client(),
            diff.apply(message),
            BULK,
            "apply layer",
            &layer.digest
        )?;
        let found = applied
            .applied
            .map(|found| found.digest)
            .unwrap_or_default();
        if found == diff_id {
            return Ok(());
        }
        Err(Error::invalid(
            "layer",
            &layer.digest,
            format!("unpacks to {found}, the configuration says {diff_id}"),
        ))
    }

    async fn snapshot_exists(&self, key: &str) -> Result<bool, Error> {
        let message = StatSnapshotRequest {
            snapshotter: self.config().snapshotter().into(),
            key: key.to_owned(),
        };
        let answer = ask!(
            self.client(),
            snapshots.stat(message),
            QUICK,
            "look up snapshot",
            key
        );
        Ok(or_absent(answer)?.is_some())
    }

    /// Removes a snapshot; success when there is none.
    pub(crate) async fn remove_snapshot(&self, key: &str) -> Result<(), Error> {
        let message = RemoveSnapshotRequest {
            snapshotter: self.config().snapshotter().into(),
            key: key.to_owned(),
        };
        let answer = match self.inner.lease.peek().await {
            Some(lease) => ask!(
                &lease => self.client(),
                snapshots.remove(message),
                QUICK,
                "remove snapshot",
                key
            ),
            None => ask!(
                self.client(),
                snapshots.remove(message),
                QUICK,
                "remove snapshot",
                key
            ),
        };
        or_absent(answer).map(|_| ())
    }

    /// Points a name to an image, moving it when it pointed elsewhere.
    async fn name_image(&self, name: &str, target: &Descriptor) -> Result<(), Error> {
        let record = Record {
            name: name.to_owned(),
            target: Some(wire(target)),
            labels: HashMap::from([(OURS.to_owned(), "true".to_owned())]),
            ..Record::default()
        };
        let message = CreateImageRequest {
            image: Some(record.clone()),
            source_date_epoch: None,
        };
        let created = ask!(
            self.client(),
            images.create(message),
            QUICK,
            "create image",
            name
        );
        if or_exists(created)?.is_none() {
            let message = UpdateImageRequest {
                image: Some(record),
                update_mask: Some(prost_types::FieldMask {
                    paths: vec!["target".into()],
                }),
                source_date_epoch: None,
            };
            ask!(
                self.client(),
                images.update(message),
                QUICK,
                "update image",
                name
            )?;
        }
        Ok(())
    }
}

fn no_platform(target: &str) -> Error {
    let host = Platform::host();
    Error::Pull {
        image: target.to_owned(),
        kind: crate::error::PullKind::NoPlatform,
        message: format!("no manifest for {}/{}", host.os, host.architecture),
    }
}

fn wire(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.clone(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: HashMap::new(),
    }
}
