//! Ends all pods of this node without an API: what `keelson cleanup` calls when the agent does not run.

use std::collections::BTreeSet;
use std::path::Path;

use keelson_agent_io::volumes::Volumes;
use keelson_runtime::Runtime;

use crate::config::Config;
use crate::{devices, image_volume};

/// Kills and removes every container of ours, then networks, namespaces, volumes, cgroups and logs. Goes on after
/// errors and gives them all; can be repeated. With `images`, those that we brought into containerd go too. Without a containerd only its part is left out.
pub async fn cleanup(config: Config, images: bool) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    let mut logs = BTreeSet::new();
    let connect = tokio::time::timeout(CONNECT, Runtime::connect(config.runtime())).await;
    match connect
        .map_err(anyhow::Error::from)
        .and_then(|r| r.map_err(Into::into))
    {
        Ok(runtime) => {
            end_containers(&runtime, &mut logs, &mut errors).await;
            let cni = config.cni().swept();
            errors.extend(cni.gc(Vec::new).await.into_iter().map(Into::into));
            end_sandboxes(&runtime, &mut errors).await;
            let volumes = Volumes::new(&config.root_dir);
            for uid in volumes.list().unwrap_or_default() {
                let released = image_volume::release(&volumes, &runtime, &uid).await;
                errors.extend(released.err().map(anyhow::Error::msg));
            }
            errors.extend(runtime.cgroups_remove().err().map(Into::into));
            errors.extend(runtime.leases_remove().await.err().map(Into::into));
            if images {
                let left = runtime.images_remove().await;
                errors.extend(left.into_iter().map(Into::into));
                errors.extend(runtime.namespace_remove().await.err().map(Into::into));
            }
        }
        Err(error) => errors.push(error.context("connect to containerd")),
    }
    end_volumes(&config.root_dir, &mut errors);
    let sockets = [&config.device_plugins_dir, &config.pod_resources_dir];
    let left = devices::cleanup(sockets.map(|d| d.as_path()));
    let named = |e| anyhow::Error::new(e).context("remove the socket of device plugins");
    errors.extend(left.into_iter().map(named));
    note(
        &mut errors,
        "remove logind's configuration",
        crate::shutdown::cleanup(),
    );
    let conf = config.cni_conf_dir.join(crate::conflist::CONF_FILE);
    if config.cni_bridge.is_some() && conf.exists() {
        note(
            &mut errors,
            "remove the cni configuration",
            std::fs::remove_file(&conf),
        );
    }
    for dir in logs {
        note(&mut errors, "remove logs", std::fs::remove_dir_all(&dir));
    }
    errors
}

/// containerd answers in milliseconds or does not run.
pub(crate) const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// Between two tries.
const AGAIN: std::time::Duration = std::time::Duration::from_millis(300);

/// Kills and removes a container.
pub(crate) async fn end_container(
    runtime: &Runtime,
    id: &str,
) -> Result<(), keelson_runtime::Error> {
    // One that has ended can't be killed; removing tells what matters.
    let _ = runtime.container_kill(id, "KILL", true).await;
    // A shim that ends while it is asked answers with a closed connection: the second time it is gone.
    match runtime.container_remove(id).await {
        Err(_) => {
            tokio::time::sleep(AGAIN).await;
            runtime.container_remove(id).await
        }
        removed => removed,
    }
}

async fn end_containers(
    runtime: &Runtime,
    logs: &mut BTreeSet<std::path::PathBuf>,
    errors: &mut Vec<anyhow::Error>,
) {
    let containers = match runtime.containers().await {
        Ok(containers) => containers,
        Err(error) => return errors.push(error.into()),
    };
    // All at once: each waits for its shim.
    let ends = containers.iter().map(|c| end_container(runtime, &c.id));
    let ended = futures::future::join_all(ends).await;
    errors.extend(ended.into_iter().filter_map(Result::err).map(Into::into));
    // `<log dir>/<namespace>_<pod>_<uid>/<container>/<attempt>.log`
    let pods = containers
        .iter()
        .filter_map(|c| c.log_path.ancestors().nth(2))
        .filter(|d| !d.as_os_str().is_empty());
    logs.extend(pods.map(Path::to_path_buf));
}

async fn end_sandboxes(runtime: &Runtime, errors: &mut Vec<anyhow::Error>) {
    match runtime.sandboxes() {
        Ok(uids) => {
            for uid in uids {
                errors.extend(runtime.sandbox_remove(&uid).await.err().map(Into::into));
            }
        }
        Err(error) => errors.push(error.into()),
    }
}

fn end_volumes(root: &Path, errors: &mut Vec<anyhow::Error>) {
    let volumes = Volumes::new(root);
    match volumes.list() {
        Ok(uids) => {
            for uid in uids {
                errors.extend(volumes.teardown(&uid).err().map(Into::into));
            }
        }
        Err(error) => errors.push(error.into()),
    }
    errors.extend(volumes.unstage_all().into_iter().map(Into::into));
}

fn note(errors: &mut Vec<anyhow::Error>, action: &'static str, done: std::io::Result<()>) {
    match done {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            errors.push(anyhow::Error::new(e).context(action))
        }
        _ => {}
    }
}
