//! Images: archives imported at start, and pulls.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use keelson_agent_plan::pull::{self, Decision};
use keelson_agent_plan::{ImageFailure, access, event};
use keelson_runtime::{Auth, Image};
use tokio::sync::Semaphore;

use crate::credentials::{self, Credential};
use crate::once::Once;
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
    // A hidden file is one that somebody is still writing.
    let whole = |e: &std::fs::DirEntry| !e.file_name().to_string_lossy().starts_with('.');
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(whole)
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

/// Makes sure that a container's image is there and that the pod may use it, as its policy says.
pub(crate) async fn ensure(
    shared: &Arc<Shared>,
    pod: &Pod,
    c: &Container,
) -> Result<(), ImageFailure> {
    let name = c.image.as_deref().unwrap_or_default();
    let tell = |event| shared.events.pod(pod, event);
    // Fails only when the agent shuts down.
    let _ = shared.imported.subscribe().wait_for(|done| *done).await;
    let whole = keelson_runtime::image::normalise(name).ok();
    let Some(whole) = whole.filter(|_| pull::valid_name(name)) else {
        let message = event::invalid_image_message(name);
        tell(event::inspect_failed(&c.name, &message));
        tell(event::failed(&c.name, "InvalidImageName"));
        return Err(failure("InvalidImageName", message));
    };
    let present = shared
        .runtime
        .image(name)
        .await
        .map_err(|e| failure("ImageInspectError", chain(&e)))?;
    let allowed = match &present {
        Some(image) => allowed(shared, pod, &whole, image).await,
        None => true,
    };
    let policy = c.image_pull_policy.as_deref();
    match pull::decide(policy, name, present.is_some() && allowed) {
        Decision::Use => {
            tell(event::image_present(&c.name, name));
            Ok(())
        }
        Decision::NeverPull => {
            let message = match allowed {
                true => event::never_pull_message(name),
                false => event::never_verified_message(name),
            };
            tell(event::never_pull(&c.name, &message));
            tell(event::failed(&c.name, "ErrImageNeverPull"));
            Err(failure("ErrImageNeverPull", message))
        }
        Decision::Pull => pull(shared, pod, c, whole).await,
    }
}

/// Makes sure that an image is there which no container runs: a volume's.
pub(crate) async fn present(
    shared: &Arc<Shared>,
    pod: &Pod,
    name: &str,
    policy: Option<&str>,
) -> Result<(), String> {
    let _ = shared.imported.subscribe().wait_for(|done| *done).await;
    let whole = keelson_runtime::image::normalise(name).ok();
    let Some(whole) = whole.filter(|_| pull::valid_name(name)) else {
        return Err(event::invalid_image_message(name));
    };
    let found = shared.runtime.image(name).await.map_err(|e| chain(&e))?;
    let allowed = match &found {
        Some(image) => allowed(shared, pod, &whole, image).await,
        None => true,
    };
    match pull::decide(policy, name, found.is_some() && allowed) {
        Decision::Use => Ok(()),
        Decision::NeverPull if allowed => Err(event::never_pull_message(name)),
        Decision::NeverPull => Err(event::never_verified_message(name)),
        Decision::Pull => {
            let asked = Asked {
                credentials: credentials::all(shared, pod, pull::repository(&whole)).await,
                name: whole,
            };
            shared.pulls.pull(shared, asked).await.map(drop)
        }
    }
}

async fn pull(
    shared: &Arc<Shared>,
    pod: &Pod,
    c: &Container,
    whole: String,
) -> Result<(), ImageFailure> {
    let name = c.image.as_deref().unwrap_or_default();
    let tell = |event| shared.events.pod(pod, event);
    tell(event::pulling(&c.name, name));
    let began = Timestamp::now();
    let asked = Asked {
        credentials: credentials::all(shared, pod, pull::repository(&whole)).await,
        name: whole,
    };
    match shared.pulls.pull(shared, asked).await {
        Ok(done) => {
            let waited = Timestamp::now().duration_since(began);
            // Whoever came late to a pull under way has not waited longer than he was here.
            let took = done.took.min(waited);
            tell(event::pulled(&c.name, name, took, waited, done.size));
            Ok(())
        }
        Err(message) => {
            tell(event::pull_failed(&c.name, name, &message));
            tell(event::failed(&c.name, "ErrImagePull"));
            Err(failure("ErrImagePull", message))
        }
    }
}

/// An image, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Asked {
    /// Its whole name.
    name: String,
    /// What the pod has to show for it.
    credentials: Vec<Credential>,
}

/// Whether the pod may use an image that is here. Its secrets are read only when that depends on them.
async fn allowed(shared: &Shared, pod: &Pod, name: &str, image: &Image) -> bool {
    let repository = pull::repository(name);
    let policy = &shared.config.pull_policy;
    let known = shared
        .records
        .known(&image.digest, &image.names, name, repository);
    if access::may_use(policy, repository, &known, &[]) {
        return true;
    }
    let own = credentials::of_pod(shared, pod, repository).await;
    access::may_use(policy, repository, &known, &credentials::secrets(&own))
}

/// What a pull has brought.
#[derive(Clone, Debug)]
struct Done {
    size: u64,
    took: SignedDuration,
}

/// The pulls of this node: so many at a time, and one for all who ask for the same image with the same credentials.
pub(crate) struct Pulls {
    slots: Semaphore,
    running: Once<Asked, Done>,
}

impl Pulls {
    /// At most so many at one time.
    pub(crate) fn new(parallel: usize) -> Pulls {
        Pulls {
            slots: Semaphore::new(parallel.max(1)),
            running: Once::default(),
        }
    }

    async fn pull(&self, shared: &Arc<Shared>, asked: Asked) -> Result<Done, String> {
        let (shared, what) = (shared.clone(), asked.clone());
        let work = || async move { pull_now(&shared, &what).await };
        self.running.run(asked, work).await
    }
}

async fn pull_now(shared: &Shared, asked: &Asked) -> Result<Done, String> {
    let _slot = shared
        .pulls
        .slots
        .acquire()
        .await
        .map_err(|e| e.to_string())?;
    let auth: Vec<Auth> = asked.credentials.iter().map(|c| c.auth.clone()).collect();
    let note = |done: std::io::Result<()>| done.map_err(|e| format!("keep record of pull: {e}"));
    note(shared.records.begin(&asked.name))?;
    let began = Timestamp::now();
    let pulled = shared.runtime.pull(&asked.name, &auth).await;
    let took = Timestamp::now().duration_since(began);
    let got = pulled.as_ref().ok().map(|p| {
        let shown = credentials::shown(&asked.credentials, p.by.as_ref());
        (p.image.digest.as_str(), shown)
    });
    let repository = pull::repository(&asked.name);
    note(shared.records.end(&asked.name, repository, got))?;
    let size = pulled.map_err(|e| chain(&e))?.image.size;
    shared.metrics.pulled(size, took.unsigned_abs());
    Ok(Done { size, took })
}
