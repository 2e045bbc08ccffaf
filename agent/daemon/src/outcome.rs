//! What wakes a worker.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_agent_plan::eviction::Eviction;
use keelson_agent_plan::probe::Kind;
use keelson_agent_plan::resources::Figures;
use keelson_agent_plan::{ImageFailure, Sandbox};
use keelson_runtime::Container;
use tokio::sync::oneshot;

/// Something a worker should know.
pub(crate) enum Message {
    /// The pod as the API has it now.
    Pod(Arc<Pod>),
    /// The API does not have it any more; the pod as it was last, which says how long it may take to end.
    Gone(Option<Arc<Pod>>),
    /// Its status is to be written again: what shows it in the API is new.
    Shown,
    /// Another pod takes less room now.
    Room,
    /// Something that its volumes are made of changed.
    Refresh,
    /// A container of the pod changed: read it again.
    Container(String),
    /// A container's first process has ended.
    Ended {
        id: String,
        code: i32,
        at: Timestamp,
    },
    /// All of the pod's containers, after events may have been missed.
    Containers(Vec<Container>),
    /// The node ends it; the sender goes when what it held is free.
    Evict(Eviction, oneshot::Sender<()>),
    /// Its devices are not as they were.
    Devices,
    /// Dead containers are not to be kept any longer.
    Reclaim,
    /// A step ended.
    Step(Outcome),
    /// A probe has a new verdict.
    Probe {
        container: String,
        attempt: u32,
        kind: Kind,
        verdict: bool,
    },
}

/// How a step ended. Errors are texts for people.
pub(crate) enum Outcome {
    /// Its containers have their devices.
    Devices(Result<(), String>),
    Cgroup(Result<Figures, String>),
    /// The pod's cgroup was written.
    Figures(Result<Figures, String>),
    /// A running container was given what is allocated to it.
    Updated {
        container: String,
        id: String,
        result: Result<(), String>,
    },
    CgroupRemoved(Result<(), String>),
    /// The error names the volume.
    Volumes(Result<(), (String, String)>),
    VolumesRemoved(Result<(), String>),
    Sandbox(Result<(Sandbox, Option<PathBuf>), String>),
    SandboxRemoved(Result<(), String>),
    Image {
        container: String,
        attempt: u32,
        result: Result<(), ImageFailure>,
    },
    /// A container was made and started, or only started.
    Started {
        container: String,
        attempt: u32,
        id: String,
        result: Result<Box<Container>, StartError>,
    },
    PostStart {
        container: String,
        attempt: u32,
        result: Result<(), String>,
    },
    Killed {
        container: String,
        attempt: u32,
    },
    Removed {
        container: String,
        attempt: u32,
        result: Result<(), String>,
    },
}

/// Why a container does not run.
pub(crate) enum StartError {
    /// Its image is not there any more.
    ImageGone,
    /// It was not made; the reason is a waiting reason.
    Create {
        reason: &'static str,
        message: String,
    },
    /// It was made, but its process could not be started.
    Start(String),
}
