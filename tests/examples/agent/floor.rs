//! The bare floor: the containers a pod would have, by containerd's own client calls and nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, KillRequest, ReadContentRequest, StartRequest, WaitRequest,
};
use containerd_client::services::v1::{GetImageRequest, images_client::ImagesClient};
use containerd_client::tonic::metadata::AsciiMetadataValue;
use containerd_client::tonic::{Request, transport::Channel};
use containerd_client::{Client, with_namespace};
use futures::TryStreamExt;
use keelson_tests::images::ECHO;
use oci_spec::runtime::{LinuxBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder};
use prost_types::Any;
use serde_json::Value;

const NAMESPACE: &str = "k8s.io";
const SNAPSHOTTER: &str = "overlayfs";
const LEASE: &str = "floor";

/// A connection, and what every container of the echo image starts from.
pub(crate) struct Floor {
    client: Client,
    parent: String,
    spec: Vec<u8>,
}

impl Floor {
    /// Connects; the image has to be there, unpacked.
    pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let channel = containerd_client::connect(socket).await?;
        let client = Client::from(channel.clone());
        let layers = layers(channel, &client).await?;
        let [layer] = layers.as_slice() else {
            anyhow::bail!("the image has {} layers, one is expected", layers.len());
        };
        // Else the garbage collector takes a snapshot before its container is made.
        let message = CreateRequest {
            id: LEASE.into(),
            ..CreateRequest::default()
        };
        let request = with_namespace!(message, NAMESPACE);
        client.leases().create(request).await?;
        Ok(Self {
            client,
            parent: layer.clone(),
            spec: serde_json::to_vec(&spec()?)?,
        })
    }

    /// Makes and starts a container; how long that took.
    pub(crate) async fn start(&self, id: &str) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let message = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.into(),
            parent: self.parent.clone(),
            ..PrepareSnapshotRequest::default()
        };
        let mut request = with_namespace!(message, NAMESPACE);
        let lease = AsciiMetadataValue::from_static(LEASE);
        request.metadata_mut().insert("containerd-lease", lease);
        let rootfs = self.client.snapshots().prepare(request).await?.into_inner();
        let container = Container {
            id: id.into(),
            image: ECHO.into(),
            runtime: Some(Runtime {
                name: "io.containerd.runc.v2".into(),
                options: None,
            }),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
                value: self.spec.clone(),
            }),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: id.into(),
            ..Container::default()
        };
        let message = CreateContainerRequest {
            container: Some(container),
        };
        let request = with_namespace!(message, NAMESPACE);
        self.client.containers().create(request).await?;
        let message = CreateTaskRequest {
            container_id: id.into(),
            rootfs: rootfs.mounts,
            ..CreateTaskRequest::default()
        };
        let request = with_namespace!(message, NAMESPACE);
        self.client.tasks().create(request).await?;
        let message = StartRequest {
            container_id: id.into(),
            ..StartRequest::default()
        };
        let request = with_namespace!(message, NAMESPACE);
        self.client.tasks().start(request).await?;
        Ok(begin.elapsed())
    }

    /// Ends and removes a container.
    pub(crate) async fn remove(&self, id: &str) -> anyhow::Result<()> {
        let container_id = id.to_owned();
        let message = KillRequest {
            container_id: container_id.clone(),
            signal: 9,
            all: true,
            ..KillRequest::default()
        };
        let request = with_namespace!(message, NAMESPACE);
        self.client.tasks().kill(request).await?;
        let message = WaitRequest {
            container_id: container_id.clone(),
            ..WaitRequest::default()
        };
        let request = with_namespace!(message, NAMESPACE);
        self.client.tasks().wait(request).await?;
        let message = DeleteTaskRequest { container_id };
        let request = with_namespace!(message, NAMESPACE);
        self.client.tasks().delete(request).await?;
        let message = DeleteContainerRequest { id: id.into() };
        let request = with_namespace!(message, NAMESPACE);
        self.client.containers().delete(request).await?;
        let message = RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.into(),
        };
        let request = with_namespace!(message, NAMESPACE);
        self.client.snapshots().remove(request).await?;
        Ok(())
    }
}

/// The image's layers, uncompressed digests. Of one layer it is the name of the snapshot, too.
async fn layers(channel: Channel, client: &Client) -> anyhow::Result<Vec<String>> {
    let request = with_namespace!(GetImageRequest { name: ECHO.into() }, NAMESPACE);
    let image = ImagesClient::new(channel).get(request).await?.into_inner();
    let target = image.image.and_then(|i| i.target).context("no target")?;
    let mut object = read(client, &target.digest).await?;
    if let Some(first) = object.pointer("/manifests/0/digest") {
        object = read(client, first.as_str().context("a digest")?).await?;
    }
    let config = object.pointer("/config/digest").and_then(Value::as_str);
    let config = read(client, config.context("no configuration")?).await?;
    let layers = config.pointer("/rootfs/diff_ids").context("no layers")?;
    Ok(serde_json::from_value(layers.clone())?)
}

async fn read(client: &Client, digest: &str) -> anyhow::Result<Value> {
    let message = ReadContentRequest {
        digest: digest.into(),
        ..ReadContentRequest::default()
    };
    let request = with_namespace!(message, NAMESPACE);
    let parts = client.content().read(request).await?.into_inner();
    let parts: Vec<_> = parts.map_ok(|p| p.data).try_collect().await?;
    Ok(serde_json::from_slice(&parts.concat())?)
}

/// The process with namespaces of its own, a network among them: as a pod's container, but no interface in it.
fn spec() -> anyhow::Result<Spec> {
    let process = ProcessBuilder::default()
        .args(["/echo".to_owned()])
        .cwd("/")
        .build()?;
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(false)
        .build()?;
    let linux = LinuxBuilder::default()
        .namespaces(oci_spec::runtime::get_default_namespaces())
        .build()?;
    let spec = SpecBuilder::default()
        .process(process)
        .root(root)
        .mounts(oci_spec::runtime::get_default_mounts())
        .linux(linux);
    Ok(spec.build()?)
}
