//! Ephemeral containers (KEP-277): added to a pod that runs, to look around in it. They start at once, whatever the
//! others do, are never started again, and count neither for the phase nor for readiness.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

/// A pod's ephemeral containers as containers.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = Container> {
    spec.ephemeral_containers.iter().flatten().map(container)
}

/// One by its name.
pub fn find(spec: &PodSpec, name: &str) -> Option<Container> {
    let mut all = spec.ephemeral_containers.iter().flatten();
    all.find(|c| c.name == name).map(container)
}

/// The container whose processes an ephemeral one joins.
pub fn target<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a str> {
    let mut all = spec.ephemeral_containers.iter().flatten();
    let found = all.find(|c| c.name == name)?;
    found
        .target_container_name
        .as_deref()
        .filter(|t| !t.is_empty())
}

/// Only what an ephemeral container may have: no ports, probes, hooks, resources or restart policy.
fn container(c: &EphemeralContainer) -> Container {
    let c = c.clone();
    Container {
        name: c.name,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        command: c.command,
        args: c.args,
        working_dir: c.working_dir,
        env: c.env,
        env_from: c.env_from,
        volume_mounts: c.volume_mounts,
        volume_devices: c.volume_devices,
        security_context: c.security_context,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        ..Container::default()
    }
}
