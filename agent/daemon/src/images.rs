//! Images: archives imported at start, and pulls.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use keelson_agent_plan::pull::{self, Decision};
use keelson_agent_plan::{ImageFailure, event};
use keelson_runtime::{Auth, Image};
use kube::Api;

use crate::shared::{Shared, chain};

/// Imports every archive of the directory; one that fails is reported and the others go on.
pub(crate) async fn import_all(shared: Arc<Shared>) {
    if let Some(dir) = &shared.config.images_dir {
        let archives = match archives(dir) {
            Ok(archives) => archives,
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "image archives cannot be listed");
                Vec::new()
            }
        };
        for archive in archives {
            let began = std::time::Instant::now();
            match shared.runtime.import(&archive).await {
                Ok(names) => {
                    let ms = began.elapsed().as_millis();
                    tracing::info!(archive = %archive.display(), ?names, ms, "images imported");
                    shared.preloaded().extend(names);
                }
                Err(error) => {
                    tracing::error!(archive = %archive.display(), error = %chain(&error), "import failed")
                }
            }
        }
    }
    shared.imported.send_replace(true);
}

fn archives(dir: &std::path::Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        r => r?,
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_file())
        .collect();
    paths.sort();
    Ok(paths)
}

fn failure(reason: &str, message: String) -> ImageFailure {
    let at = Timestamp::now();
    // The worker sets the time of the next try: it knows how often this failed.
    ImageFailure {
        reason: reason.to_owned(),
        message,
        at,
        retry_at: at,
    }
}

/// Makes sure that a container's image is there, as its policy says.
pub(crate) async fn ensure(shared: &Shared, pod: &Pod, c: &Container) -> Result<(), ImageFailure> {
    let name = c.image.as_deref().unwrap_or_default();
    let tell = |event| shared.events.pod(pod, event);
    // Fails only when the agent shuts down.
    let _ = shared.imported.subscribe().wait_for(|done| *done).await;
    if !pull::valid_name(name) {
        let message = event::invalid_image_message(name);
        tell(event::inspect_failed(&c.name, &message));
        tell(event::failed(&c.name, "InvalidImageName"));
        return Err(failure("InvalidImageName", message));
    }
    let present = shared
        .runtime
        .image(name)
        .await
        .map_err(|e| failure("ImageInspectError", chain(&e)))?;
    match pull::decide(c.image_pull_policy.as_deref(), name, present.is_some()) {
        Decision::Use => {
            tell(event::image_present(&c.name, name));
            Ok(())
        }
        Decision::NeverPull => {
            tell(event::never_pull(&c.name, name));
            tell(event::failed(&c.name, "ErrImageNeverPull"));
            Err(failure(
                "ErrImageNeverPull",
                event::never_pull_message(name),
            ))
        }
        Decision::Pull => pull(shared, pod, c, name).await,
    }
}

async fn pull(shared: &Shared, pod: &Pod, c: &Container, name: &str) -> Result<(), ImageFailure> {
    let tell = |event| shared.events.pod(pod, event);
    tell(event::pulling(&c.name, name));
    let asked = Timestamp::now();
    let done = pull_now(shared, pod, name).await;
    match done {
        Ok((image, took)) => {
            let waited = Timestamp::now().duration_since(asked);
            tell(event::pulled(&c.name, name, took, waited, image.size));
            Ok(())
        }
        Err(message) => {
            tell(event::pull_failed(&c.name, name, &message));
            tell(event::failed(&c.name, "ErrImagePull"));
            Err(failure("ErrImagePull", message))
        }
    }
}

async fn pull_now(
    shared: &Shared,
    pod: &Pod,
    name: &str,
) -> Result<(Image, SignedDuration), String> {
    let auth = credentials(shared, pod).await;
    let _slot = shared.pulls.acquire().await.map_err(|e| e.to_string())?;
    let began = Timestamp::now();
    let image = shared
        .runtime
        .pull(name, &auth)
        .await
        .map_err(|e| chain(&e))?;
    Ok((image, Timestamp::now().duration_since(began)))
}

/// Credentials of the pod's `imagePullSecrets`. A secret that is missing or malformed is skipped, as upstream
/// does: the registry may not need it.
async fn credentials(shared: &Shared, pod: &Pod) -> Vec<Auth> {
    let refs = pod
        .spec
        .iter()
        .flat_map(|s| s.image_pull_secrets.iter().flatten());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(shared.client.clone(), namespace);
    let mut all = Vec::new();
    for r in refs {
        let secret = match api.get_opt(&r.name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(namespace, secret = r.name, %error, "image pull secret cannot be read");
                continue;
            }
        };
        let data = secret.data.unwrap_or_default();
        let file = [".dockerconfigjson", ".dockercfg"]
            .into_iter()
            .find_map(|k| data.get(k));
        match file.map(|f| Auth::from_docker_config(&f.0)) {
            Some(Ok(auths)) => all.extend(auths),
            Some(Err(error)) => {
                tracing::warn!(namespace, secret = r.name, %error, "image pull secret is malformed")
            }
            None => {}
        }
    }
    all
}
