//! From a [`ContainerSpec`] to containerd's snapshot and container object.

use std::collections::HashMap;

use containerd_client::services::v1::container::Runtime as OciRuntime;
use containerd_client::services::v1::snapshots::{MountsRequest, PrepareSnapshotRequest};
use containerd_client::services::v1::{
    Container as Object, CreateContainerRequest, GetContainerRequest,
};
use containerd_client::types::Mount;
use prost_types::Any;

use super::{id, label};
use crate::cgroup::is_slice;
use crate::client::{Lease, QUICK, ask, or_absent, or_exists};
use crate::error::Error;
use crate::failpoint;
use crate::image::Image;
use crate::model::{ContainerSpec, Handler};
use crate::runtime::Runtime;
use crate::spec;

const RUNC: &str = "io.containerd.runc.v2";
/// What `io.containerd.runc.v2` takes as options, and the numbers of its fields.
const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
const BINARY_NAME: u32 = 6;
const SYSTEMD_CGROUP: u32 = 9;
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// A container object that is there, to be started.
#[derive(Debug)]
pub struct Created {
    /// The container's id.
    pub id: String,
    /// What a start would have to ask for: known of a container that was made a moment ago.
    pub(super) fresh: Option<Fresh>,
}

/// A new container, and how its snapshot is mounted.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) object: Object,
    pub(super) rootfs: Vec<Mount>,
}

impl Created {
    /// One that was made before.
    pub fn earlier(id: impl Into<String>) -> Self {
        let (id, fresh) = (id.into(), None);
        Self { id, fresh }
    }
}

impl Runtime {
    /// Makes snapshot and container object from an image that [`Runtime::image`] gave. A container that exists
    /// already, or whose creation stopped half-way, is completed.
    pub async fn container_create(
        &self,
        spec: &ContainerSpec,
        image: &Image,
    ) -> Result<Created, Error> {
        let id = id(&spec.pod.uid, &spec.name, spec.attempt);
        let rootfs = self.prepare(&id, &image.top_snapshot).await?;
        failpoint::pass("snapshot prepared");
        let object = self.describe(&id, spec, image, &rootfs)?;
        let message = CreateContainerRequest {
            container: Some(object),
        };
        let made = or_exists(ask!(
            self.client(),
            containers.create(message),
            QUICK,
            "create container",
            &id
        ))?;
        failpoint::pass("container created");
        let object = made.and_then(|answer| answer.container);
        let fresh = object.map(|object| Fresh { object, rootfs });
        Ok(Created { id, fresh })
    }

    /// The group of a pod's containers: those of one group run under one shim.
    pub fn shim_group(&self, uid: &str) -> String {
        self.inner.shims.group(uid)
    }

    /// The writable snapshot of a container: new, or left by an earlier attempt. Until the container refers to it
    /// a lease holds it.
    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Error> {
        let prepare = async |lease: &Lease| {
            let message = PrepareSnapshotRequest {
                snapshotter: self.config().snapshotter().into(),
                key: key.to_owned(),
                parent: parent.to_owned(),
                labels: HashMap::new(),
            };
            or_exists(ask!(
                lease => self.client(),
                snapshots.prepare(message),
                QUICK,
                "prepare snapshot for container",
                key
            ))
        };
        let lease = self.inner.lease.held(self.client()).await?;
        let prepared = match prepare(&lease).await {
            // Somebody may have deleted the lease; without the image it fails again.
            Err(error) if error.is_not_found() => {
                prepare(&self.inner.lease.anew(self.client()).await?).await
            }
            settled => settled,
        };
        match prepared? {
            Some(answer) => Ok(answer.mounts),
            None => self.rootfs(key).await,
        }
    }

    /// How a container's snapshot is mounted.
    pub(crate) async fn rootfs(&self, key: &str) -> Result<Vec<Mount>, Error> {
        let message = MountsRequest {
            snapshotter: self.config().snapshotter().into(),
            key: key.to_owned(),
        };
        let answer = ask!(
            self.client(),
            snapshots.mounts(message),
            QUICK,
            "look up snapshot of container",
            key
        )?;
        Ok(answer.mounts)
    }

    fn describe(
        &self,
        id: &str,
        spec: &ContainerSpec,
        image: &Image,
        rootfs: &[Mount],
    ) -> Result<Object, Error> {
        let facts = self.facts(spec, &image.config.user, rootfs)?;
        let oci = spec::build(id, spec, &image.config, &facts)?;
        Ok(Object {
            image: spec.image.clone(),
            snapshotter: self.config().snapshotter().into(),
            snapshot_key: id.to_owned(),
            ..self.describe_bare(id, spec, &image.id, &oci)?
        })
    }

    /// containerd's object of a container without an image.
    pub(super) fn describe_bare(
        &self,
        id: &str,
        spec: &ContainerSpec,
        image_id: &str,
        oci: &oci_spec::runtime::Spec,
    ) -> Result<Object, Error> {
        let json = serde_json::to_vec(oci)
            .map_err(|error| Error::invalid("oci spec", id, error.to_string()))?;
        Ok(Object {
            id: id.to_owned(),
            labels: labels(id, spec, image_id, &self.inner.life),
            runtime: Some(runtime(&spec.handler, is_slice(&spec.cgroup_parent))),
            spec: Some(Any {
                type_url: SPEC_TYPE.into(),
                value: json,
            }),
            ..Object::default()
        })
    }

    /// containerd's object of a container.
    pub(crate) async fn object(&self, id: &str) -> Result<Option<Object>, Error> {
        let message = GetContainerRequest { id: id.to_owned() };
        let answer = ask!(
            self.client(),
            containers.get(message),
            QUICK,
            "get container",
            id
        );
        Ok(or_absent(answer)?.and_then(|answer| answer.container))
    }
}

/// `systemd`: runc is to have systemd make the container's cgroup.
fn runtime(handler: &Handler, systemd: bool) -> OciRuntime {
    let kind = match handler.runtime_type.as_str() {
        "" => RUNC,
        other => other,
    };
    let mut value = Vec::new();
    if !handler.binary.is_empty() {
        prost::encoding::string::encode(BINARY_NAME, &handler.binary, &mut value);
    }
    if systemd && kind == RUNC {
        prost::encoding::bool::encode(SYSTEMD_CGROUP, &true, &mut value);
    }
    let options = (!value.is_empty()).then(|| Any {
        type_url: RUNC_OPTIONS.into(),
        value,
    });
    OciRuntime {
        name: kind.into(),
        options,
    }
}

fn labels(id: &str, spec: &ContainerSpec, image_id: &str, life: &str) -> HashMap<String, String> {
    let own = [
        (label::POD_UID, spec.pod.uid.clone()),
        (label::POD_NAME, spec.pod.name.clone()),
        (label::POD_NAMESPACE, spec.pod.namespace.clone()),
        (label::NAME, spec.name.clone()),
        (label::KIND, spec.kind.as_str().to_owned()),
        (label::ATTEMPT, spec.attempt.to_string()),
        (label::CGROUP, spec::cgroup_path(id, spec)),
        (label::IMAGE_ID, image_id.to_owned()),
        (label::LOG, spec.log_path.display().to_string()),
        (label::TTY, spec.tty.to_string()),
        (label::LIFE, life.to_owned()),
        (
            label::STDIN,
            match (spec.stdin, spec.stdin_once) {
                (false, _) => String::new(),
                (true, false) => "true".into(),
                (true, true) => "once".into(),
            },
        ),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
    spec.labels.clone().into_iter().chain(own).collect()
}
