//! Events in upstream's words: `kubectl describe` users and scripts know them.

use jiff::SignedDuration;

use crate::backoff::{go_duration, go_milliseconds};

/// Something people should know about a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// `Warning` instead of `Normal`.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: std::borrow::Cow<'static, str>,
    /// A sentence.
    pub message: String,
    /// The container it is about: its field path becomes `spec.containers{name}`.
    pub container: Option<String>,
}

impl Event {
    /// A normal event of a container.
    pub fn normal(reason: &'static str, container: &str, message: String) -> Self {
        Self {
            warning: false,
            reason: reason.into(),
            message,
            container: Some(container.to_owned()),
        }
    }

    /// A warning about a container.
    pub fn warning(reason: &'static str, container: &str, message: String) -> Self {
        Self {
            warning: true,
            reason: reason.into(),
            message,
            container: Some(container.to_owned()),
        }
    }

    /// A warning about the pod as a whole.
    pub fn pod(reason: &'static str, message: String) -> Self {
        Self {
            warning: true,
            reason: reason.into(),
            message,
            container: None,
        }
    }
}

/// The image was there.
pub fn image_present(container: &str, image: &str) -> Event {
    Event::normal(
        "Pulled",
        container,
        format!(
            "Container image \"{image}\" already present on machine and can be accessed by the pod"
        ),
    )
}

/// A pull begins.
pub fn pulling(container: &str, image: &str) -> Event {
    Event::normal("Pulling", container, format!("Pulling image \"{image}\""))
}

/// A pull has ended well.
pub fn pulled(
    container: &str,
    image: &str,
    took: SignedDuration,
    waited: SignedDuration,
    bytes: u64,
) -> Event {
    let message = format!(
        "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {bytes} bytes.",
        go_milliseconds(took),
        go_milliseconds(waited)
    );
    Event::normal("Pulled", container, message)
}

/// A pull has failed.
pub fn pull_failed(container: &str, image: &str, error: &str) -> Event {
    Event::warning(
        "Failed",
        container,
        format!("Failed to pull image \"{image}\": {error}"),
    )
}

/// A container could not be made, started, or have its image.
pub fn failed(container: &str, error: &str) -> Event {
    Event::warning("Failed", container, format!("Error: {error}"))
}

/// A policy of `Never` and no image.
pub fn never_pull(container: &str, message: &str) -> Event {
    Event::warning("ErrImageNeverPull", container, message.to_owned())
}

/// The message of `ErrImageNeverPull`.
pub fn never_pull_message(image: &str) -> String {
    format!("Container image \"{image}\" is not present with pull policy of Never")
}

/// The message of `ErrImageNeverPull` when the image is there, but not for this pod.
pub fn never_verified_message(image: &str) -> String {
    format!(
        "Container image \"{image}\" is present with pull policy of Never but does not have the proper credentials to access it"
    )
}

/// A name that is no image reference.
pub fn inspect_failed(container: &str, message: &str) -> Event {
    Event::warning("InspectFailed", container, message.to_owned())
}

/// The message of `InvalidImageName`.
pub fn invalid_image_message(image: &str) -> String {
    format!(
        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
    )
}

/// A container was made.
pub fn created(container: &str) -> Event {
    Event::normal(
        "Created",
        container,
        format!("Created container: {container}"),
    )
}

/// A container was started.
pub fn started(container: &str) -> Event {
    Event::normal(
        "Started",
        container,
        format!("Started container {container}"),
    )
}

/// A container is being ended.
pub fn killing(container: &str, message: &str) -> Event {
    Event::normal("Killing", container, message.to_owned())
}

/// A restart has to wait.
pub fn restart_backoff(container: &str, pod: &str) -> Event {
    Event::warning(
        "BackOff",
        container,
        format!("Back-off restarting failed container {container} in pod {pod}"),
    )
}

/// The message of `CrashLoopBackOff`.
pub fn crash_loop_message(delay: SignedDuration, container: &str, pod: &str) -> String {
    format!(
        "back-off {} restarting failed container={container} pod={pod}",
        go_duration(delay)
    )
}

/// A pull has to wait.
pub fn pull_backoff(container: &str, image: &str) -> Event {
    Event::normal(
        "BackOff",
        container,
        format!("Back-off pulling image \"{image}\""),
    )
}

/// A probe failed; `probe` is `Liveness`, `Readiness` or `Startup`.
pub fn unhealthy(container: &str, probe: &str, output: &str) -> Event {
    Event::warning(
        "Unhealthy",
        container,
        format!("{probe} probe failed: {output}"),
    )
}

/// A probe could not be carried out.
pub fn probe_error(container: &str, probe: &str, error: &str) -> Event {
    Event::warning(
        "Unhealthy",
        container,
        format!("{probe} probe errored and resulted in unknown state: {error}"),
    )
}

/// A probe succeeded, but not quite as it should.
pub fn probe_warning(container: &str, probe: &str, output: &str) -> Event {
    Event::warning(
        "ProbeWarning",
        container,
        format!("{probe} probe warning: {output}"),
    )
}

/// The sandbox could not be made.
pub fn sandbox_failed(error: &str) -> Event {
    Event::pod(
        "FailedCreatePodSandBox",
        format!("Failed to create pod sandbox: {error}"),
    )
}

/// What is said of a sandbox that is gone.
pub const SANDBOX_CHANGED: &str = "Pod sandbox changed, it will be killed and re-created.";

/// A step of a resize: `Started`, `Completed`, or a warning that it is `Deferred`, `Infeasible` or failed.
pub fn resize(step: &str, details: &str) -> Event {
    let warning = !matches!(step, "Started" | "Completed");
    let word = match step {
        "Started" => "started",
        "Completed" => "completed",
        "Error" => "error",
        other => other,
    };
    Event {
        warning,
        reason: format!("Resize{step}").into(),
        message: format!("Pod resize {word}: {details}"),
        container: None,
    }
}

/// The sandbox is gone (a reboot): it is made again.
pub fn sandbox_changed() -> Event {
    Event {
        warning: false,
        reason: "SandboxChanged".into(),
        message: SANDBOX_CHANGED.into(),
        container: None,
    }
}

/// A volume could not be made.
pub fn mount_failed(volume: &str, error: &str) -> Event {
    Event::pod(
        "FailedMount",
        format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}"),
    )
}

/// A mounted volume's file system has grown.
pub fn resized(volume: &str) -> Event {
    Event {
        warning: false,
        ..Event::pod(
            "FileSystemResizeSuccessful",
            format!("MountVolume.NodeExpandVolume succeeded for volume \"{volume}\""),
        )
    }
}

/// It has not.
pub fn resize_failed(volume: &str, error: &str) -> Event {
    Event::pod(
        "VolumeResizeFailed",
        format!("NodeExpandVolume failed for volume \"{volume}\" : {error}"),
    )
}

/// The `postStart` hook failed.
pub fn post_start_failed(container: &str, error: &str) -> Event {
    Event::warning(
        "FailedPostStartHook",
        container,
        format!("PostStartHook failed: {error}"),
    )
}

/// The `preStop` hook failed.
pub fn pre_stop_failed(container: &str, error: &str) -> Event {
    Event::warning(
        "FailedPreStopHook",
        container,
        format!("PreStopHook failed: {error}"),
    )
}

/// The pod ran longer than it may.
pub fn deadline_exceeded() -> Event {
    Event {
        warning: false,
        reason: "DeadlineExceeded".into(),
        message: DEADLINE_MESSAGE.into(),
        container: None,
    }
}

/// The status message that goes with `DeadlineExceeded`.
pub const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";
