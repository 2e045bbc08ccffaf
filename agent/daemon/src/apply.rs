//! Carries actions out, each as a task of its own, and takes their outcomes.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;
use keelson_agent_io::cni::Attachment;
use keelson_agent_plan::resources::Qos;
use keelson_agent_plan::{
    Action, Failure, Hook, Image, Kill, Sandbox, Stage, backoff, event, names, resize as plan,
};
use keelson_runtime::{Container, Created, failpoint};

use crate::metrics::Role;
use crate::outcome::{Message, Outcome, StartError};
use crate::shared::chain;
use crate::volumes::Job;
use crate::worker::Worker;
use crate::{
    container, devices, files, holder, hooks, images, kill, network, resize, sources, sync, volumes,
};

/// When a container that could not be made is tried again: what it lacks may appear at any time.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    /// Begins one step and notes that it is under way.
    pub(crate) fn apply(&mut self, action: Action) {
        tracing::debug!(
            pod = self.pod.metadata.name,
            uid = self.uid,
            ?action,
            "step"
        );
        if cfg!(debug_assertions) {
            let step = format!("{action:?}");
            let name = step.split(|c: char| !c.is_alphanumeric()).next();
            failpoint::pass(name.unwrap_or_default());
        }
        match action {
            Action::AssignDevices => self.assign_devices(),
            Action::CreateCgroup => self.create_cgroup(),
            Action::MaterializeVolumes => {
                self.observed.volumes = Stage::Working;
                self.shared.objects.add(&self.shared, &self.uid, &self.pod);
                let job = Job::new(self);
                self.step(async move { Outcome::Volumes(job.materialize().await) });
            }
            Action::CreateSandbox => self.create_sandbox(),
            Action::EnsureImage { container, attempt } => self.ensure_image(container, attempt),
            Action::CreateContainer { container, attempt } => self.start(container, attempt, true),
            Action::StartContainer { container, attempt } => self.start(container, attempt, false),
            Action::UpdateCgroup(figures) => self.update_cgroup(figures),
            Action::UpdateContainer { container, attempt } => {
                self.update_container(container, attempt);
            }
            Action::KillContainer(kill) => self.kill(kill),
            Action::RemoveContainer { container, attempt } => self.remove(container, attempt),
            Action::RemoveSandbox => self.remove_sandbox(),
            Action::TeardownVolumes => self.teardown_volumes(),
            Action::RemoveCgroup => self.remove_cgroup(),
            Action::RemoveLogs => self.remove_logs(),
            Action::DeletePod => {
                self.shared.devices.release(&self.uid);
                self.delete_pod();
            }
            Action::Event(event) => self.event(event),
        }
    }

    /// Tells people about the pod; nobody is told about one the API has forgotten.
    pub(crate) fn event(&self, event: event::Event) {
        if !self.observed.orphan {
            self.shared.events.pod(&self.pod, event);
        }
    }

    pub(crate) fn step(&self, step: impl Future<Output = Outcome> + Send + 'static) {
        let tx = self.tx.clone();
        tokio::spawn(async move {
            let outcome = step.await;
            // The worker may have ended with the agent's shutdown.
            let _ = tx.send(Message::Step(outcome));
        });
    }

    /// A step that takes away what the pod had. Telling comes first: this takes the processors.
    fn step_down(&self, step: impl Future<Output = Outcome> + Send + 'static) {
        let told = self.told();
        self.step(async move {
            told.await;
            step.await
        });
    }

    fn assign_devices(&mut self) {
        self.observed.devices = Stage::Working;
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        self.step(async move { Outcome::Devices(devices::assign(&shared, &pod).await) });
    }

    /// Without its devices a pod is refused.
    fn devices_assigned(&mut self, result: Result<(), String>) {
        let Err(why) = result else {
            self.observed.devices = Stage::Ready(());
            self.observed.device_health = self.shared.devices.health(&self.uid);
            return;
        };
        self.shared.devices.release(&self.uid);
        self.observed.devices = Stage::Absent;
        if self.observed.terminating_since.is_none() {
            let status = PodStatus::clone(&self.observed.status);
            let refusal = devices::refusal(&why);
            let refused = sync::refuse(&self.shared, &self.pod, refusal, status);
            self.observed.status = Arc::new(refused);
        }
    }

    fn create_cgroup(&mut self) {
        self.observed.cgroup = Stage::Working;
        let (shared, uid, spec) = (self.shared.clone(), self.uid.clone(), self.allocated_spec());
        let figures = self.pod.spec.as_ref().unwrap_or(&spec);
        let figures = plan::pod_figures(figures, &self.observed);
        let work = move || Outcome::Cgroup(resize::write_cgroup(&shared, &uid, &spec, figures));
        self.step(blocking(work, |e| Outcome::Cgroup(Err(e))));
    }

    fn create_sandbox(&mut self) {
        self.observed.sandbox = Stage::Working;
        let (shared, pod, uid) = (self.shared.clone(), self.pod.clone(), self.uid.clone());
        let share = holder::is_wanted(&pod);
        if share {
            // Its end may come before the step's.
            let id = keelson_runtime::container::holder_id(&uid);
            self.shared.owners().insert(id, uid.clone());
            self.holder = true;
        }
        self.step(async move {
            let make = async {
                sources::handler(&shared, &pod).await?;
                names::check_hostname(&pod, &shared.config.cluster_domain)?;
                names::check_users(&pod)?;
                if share {
                    holder::clear(&shared, &pod, &uid).await?;
                }
                let options = files::sandbox_options(&shared, &pod);
                let made = shared
                    .runtime
                    .sandbox_create(&uid, &options)
                    .await
                    .map_err(|e| chain(&e))?;
                failpoint::pass("namespaces made");
                let network = async {
                    let Some(netns) = &made.netns else {
                        return Ok(shared.config.ips());
                    };
                    let added = shared.cni.add(&Attachment::from_pod(&pod, netns)).await;
                    let ips = added.map_err(|e| chain(&e))?.ips;
                    failpoint::pass("addresses given");
                    network::guard(&shared, &pod, &ips).await?;
                    Ok(ips)
                };
                let processes = async {
                    match share {
                        true => holder::start(&shared, &pod, &uid, &made.namespaces).await,
                        false => Ok(()),
                    }
                };
                let (ips, ()) = tokio::try_join!(network, processes)?;
                failpoint::pass("network added");
                let created = files::sandbox_created(&shared, &uid);
                Ok((Sandbox { created, ips }, made.netns))
            };
            Outcome::Sandbox(make.await)
        });
    }

    fn remove_sandbox(&mut self) {
        self.observed.sandbox = Stage::Working;
        let (shared, pod, uid) = (self.shared.clone(), self.pod.clone(), self.uid.clone());
        let netns = self
            .netns
            .clone()
            .unwrap_or_else(|| shared.config.run_dir.join("ns").join(&uid).join("net"));
        let has_holder = self.holder;
        self.step_down(async move {
            let holder = match has_holder {
                true => shared.runtime.holder_remove(&uid).await,
                false => Ok(()),
            };
            let network = network::leave(&shared, &Attachment::from_pod(&pod, netns)).await;
            if let (Ok(()), Some(guard)) = (&network, &shared.config.network_guard) {
                guard.removed(&pod);
            }
            failpoint::pass("network removed");
            let namespaces = shared
                .runtime
                .sandbox_remove(&uid)
                .await
                .map_err(|e| chain(&e));
            Outcome::SandboxRemoved(network.and(namespaces).and(holder.map_err(|e| chain(&e))))
        });
    }

    fn ensure_image(&mut self, name: String, attempt: u32) {
        let Some(c) = self.spec_of(&name).map(Cow::into_owned) else {
            return;
        };
        self.observed.images.insert(name.clone(), Image::Working);
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        self.step(async move {
            let result = images::ensure(&shared, &pod, &c).await;
            Outcome::Image {
                container: name,
                attempt,
                result,
            }
        });
    }

    fn start(&mut self, name: String, attempt: u32, create: bool) {
        self.observed.busy.insert(name.clone());
        let id = keelson_runtime::container::id(&self.uid, &name, attempt);
        // Its first events may come before the step's end.
        self.shared.owners().insert(id.clone(), self.uid.clone());
        if self
            .spec_of(&name)
            .is_some_and(|c| hooks::post_start(&c).is_some())
        {
            self.hooks.insert(id.clone(), Hook::Running);
        }
        let job = container::Job::new(self, &name, attempt);
        self.step(async move {
            let made = match create {
                true => job.create().await,
                false => Ok(Created::earlier(&id)),
            };
            let result = match made {
                Ok(created) => job.start(created).await.map(Box::new),
                Err(e) => Err(e),
            };
            Outcome::Started {
                container: name,
                attempt,
                id,
                result,
            }
        });
    }

    fn kill(&mut self, kill: Kill) {
        let key = (kill.container.clone(), kill.attempt);
        if kill.anew {
            let anew = &mut self.observed.anew;
            anew.insert(kill.container.clone(), kill.attempt);
        }
        self.observed
            .killing
            .insert(kill.container.clone(), kill.grace);
        if let Some(handle) = self.kills.get(&key) {
            handle.shorten(kill.grace);
            return;
        }
        let Some(run) = self.observed.latest(&kill.container) else {
            return;
        };
        self.event(event::killing(&kill.container, &kill.message));
        let (handle, job) = kill::prepare(self, &run.id, &kill);
        self.kills.insert(key, handle);
        self.step(async move {
            job.run().await;
            Outcome::Killed {
                container: kill.container,
                attempt: kill.attempt,
            }
        });
    }

    fn remove(&mut self, container: String, attempt: u32) {
        let runs = self
            .observed
            .containers
            .get(&container)
            .into_iter()
            .flatten();
        let Some(id) = runs
            .into_iter()
            .find(|a| a.attempt == attempt)
            .map(|a| a.id.clone())
        else {
            return;
        };
        self.observed.busy.insert(container.clone());
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        self.step(async move {
            let result = shared
                .runtime
                .container_remove(&id)
                .await
                .map_err(|e| chain(&e));
            let log = names::log_path(&shared.config.log_dir, &pod, &container, attempt);
            if let Err(error) = keelson_agent_io::logs::remove(&log) {
                tracing::warn!(log = %log.display(), %error, "log cannot be removed");
            }
            Outcome::Removed {
                container,
                attempt,
                result,
            }
        });
    }

    fn teardown_volumes(&mut self) {
        self.observed.volumes = Stage::Working;
        self.shared.objects.remove(&self.uid);
        let (shared, uid) = (self.shared.clone(), self.uid.clone());
        self.step_down(
            async move { Outcome::VolumesRemoved(volumes::teardown(&shared, uid).await) },
        );
    }

    fn remove_cgroup(&mut self) {
        self.observed.cgroup = Stage::Working;
        let (shared, uid) = (self.shared.clone(), self.uid.clone());
        let work = move || {
            let removed = shared.runtime.pod_cgroup_remove(&uid);
            let policy = &shared.config.memory;
            shared.classes.remove(&shared.runtime, policy, &uid);
            Outcome::CgroupRemoved(removed.map_err(|e| chain(&e)))
        };
        self.step_down(blocking(work, |e| Outcome::CgroupRemoved(Err(e))));
    }

    fn remove_logs(&self) {
        let dir = &self.shared.config.log_dir;
        let m = &self.pod.metadata;
        let known = (m.namespace.as_deref(), m.name.as_deref());
        let dirs = match known {
            (Some(namespace), Some(name)) if !namespace.is_empty() && !name.is_empty() => {
                vec![names::log_dir(dir, namespace, name, &self.uid)]
            }
            // An orphan's other names may be lost.
            _ => files::logged(dir).remove(&self.uid).unwrap_or_default(),
        };
        for dir in dirs {
            if let Err(error) = remove_dir(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "logs cannot be removed");
            }
        }
    }

    /// Takes the end of a step.
    pub(crate) async fn step_ended(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Devices(r) => self.devices_assigned(r),
            Outcome::Cgroup(r) => {
                if let Ok(figures) = &r {
                    self.observed.figures = Stage::Ready(figures.clone());
                }
                self.observed.cgroup = self.stage("cgroup", r.map(drop));
            }
            Outcome::Figures(r) => self.observed.figures = self.stage("cgroup limits", r),
            Outcome::Updated {
                container,
                id,
                result,
            } => self.update_ended(&container, &id, result).await,
            Outcome::CgroupRemoved(r) => {
                self.observed.cgroup = self.removed("cgroup", r);
                self.observed.figures = Stage::Absent;
            }
            Outcome::VolumesRemoved(r) => self.observed.volumes = self.removed("volumes", r),
            Outcome::SandboxRemoved(r) => {
                self.observed.sandbox = self.removed("sandbox", r);
                self.netns = None;
            }
            Outcome::Volumes(Ok(())) => self.observed.volumes = self.stage("volumes", Ok(())),
            Outcome::Volumes(Err((volume, message))) => {
                self.event(event::mount_failed(&volume, &message));
                self.observed.volumes = self.stage("volumes", Err(message));
            }
            Outcome::Sandbox(Ok((sandbox, netns))) => {
                self.shared
                    .metrics
                    .pods_started
                    .fetch_add(1, Ordering::Relaxed);
                self.netns = netns;
                self.observed.sandbox = self.stage("sandbox", Ok(sandbox));
                self.look_at_holder().await;
            }
            Outcome::Sandbox(Err(message)) => {
                self.event(event::sandbox_failed(&message));
                self.observed.sandbox = self.stage("sandbox", Err(message));
            }
            Outcome::Image {
                container,
                attempt,
                result,
            } => self.image_ended(container, attempt, result),
            Outcome::Started {
                container,
                attempt,
                id,
                result,
            } => self.start_ended(&container, attempt, &id, result).await,
            Outcome::PostStart {
                container,
                attempt,
                result,
            } => self.hook_ended(&container, attempt, result).await,
            Outcome::Killed { container, attempt } => {
                self.kills.remove(&(container.clone(), attempt));
                self.observed.killing.remove(&container);
                let id = keelson_runtime::container::id(&self.uid, &container, attempt);
                self.reread(&id).await;
            }
            Outcome::Removed {
                container,
                attempt,
                result,
            } => self.remove_ended(&container, attempt, result).await,
        }
    }

    fn stage<T>(&mut self, what: &str, result: Result<T, String>) -> Stage<T> {
        match result {
            Ok(t) => {
                self.backoffs.remove(what);
                Stage::Ready(t)
            }
            Err(message) => Stage::Failed(self.step_failed(what, message)),
        }
    }

    fn removed<T>(&mut self, what: &str, result: Result<(), String>) -> Stage<T> {
        match result {
            Ok(()) => Stage::Absent,
            Err(message) => Stage::Failed(self.step_failed(what, message)),
        }
    }

    fn step_failed(&mut self, what: &str, message: String) -> Failure {
        tracing::warn!(
            pod = self.pod.metadata.name,
            uid = self.uid,
            step = what,
            error = message,
            "step failed"
        );
        let curve = if what == "volumes" {
            backoff::VOLUME
        } else {
            backoff::SANDBOX
        };
        self.failure(what, curve, "", message)
    }

    fn image_ended(
        &mut self,
        name: String,
        attempt: u32,
        result: Result<(), keelson_agent_plan::ImageFailure>,
    ) {
        let what = format!("image {name}");
        let image = match result {
            Ok(()) => {
                self.backoffs.remove(&what);
                Image::Ready { attempt }
            }
            Err(mut failure) => {
                let entry = self.failure(
                    &what,
                    backoff::CONTAINER,
                    &failure.reason,
                    failure.message.clone(),
                );
                (failure.at, failure.retry_at) = (entry.at, entry.retry_at);
                Image::Failed(failure)
            }
        };
        self.observed.images.insert(name, image);
    }

    async fn start_ended(
        &mut self,
        name: &str,
        attempt: u32,
        id: &str,
        result: Result<Box<Container>, StartError>,
    ) {
        failpoint::pass("start ended");
        self.observed.busy.remove(name);
        // Only now: while it starts there is nothing it waits for.
        if attempt > 0 {
            self.restarted(name);
        }
        let at = Timestamp::now();
        let role = Role::of(&self.pod, name);
        match result {
            Ok(container) => {
                self.observed.failures.remove(name);
                self.shared.metrics.container_started(role);
                self.shared.pinning.started(&self.pod, name);
                self.event(event::started(name));
                self.post_start(name, attempt, id);
                return self.note_running(*container);
            }
            // It was collected after it had been made sure of: once more.
            Err(StartError::ImageGone) => {
                self.hooks.remove(id);
                self.observed.images.remove(name);
            }
            Err(StartError::Create { reason, message }) => {
                self.shared.metrics.container_refused(role, reason);
                self.event(event::failed(name, &message));
                self.hooks.remove(id);
                let retry_at = at.checked_add(CONFIG_RETRY).unwrap_or(at);
                let failure = Failure {
                    reason: reason.into(),
                    message,
                    at,
                    retry_at,
                };
                self.observed.failures.insert(name.to_owned(), failure);
            }
            Err(StartError::Start(message)) => {
                self.shared
                    .metrics
                    .container_refused(role, "RunContainerError");
                self.event(event::failed(name, &message));
                self.hooks.remove(id);
                self.start_errors.insert(id.to_owned(), (at, message));
            }
        }
        self.reread(id).await;
    }

    fn post_start(&self, name: &str, attempt: u32, id: &str) {
        let Some(c) = self.spec_of(name).map(Cow::into_owned) else {
            return;
        };
        let Some(handler) = hooks::post_start(&c).cloned() else {
            return;
        };
        let hook = hooks::Hook::new(self, &c, id);
        let name = name.to_owned();
        self.step(async move {
            let result = hook.run(&handler).await;
            Outcome::PostStart {
                container: name,
                attempt,
                result,
            }
        });
    }

    async fn hook_ended(&mut self, name: &str, attempt: u32, result: Result<(), String>) {
        let id = keelson_runtime::container::id(&self.uid, name, attempt);
        match result {
            Ok(()) => _ = self.hooks.remove(&id),
            Err(error) => {
                self.event(event::post_start_failed(name, &error));
                self.hooks.insert(id.clone(), Hook::Failed(error));
            }
        }
        self.reread(&id).await;
    }

    async fn remove_ended(&mut self, name: &str, attempt: u32, result: Result<(), String>) {
        let id = keelson_runtime::container::id(&self.uid, name, attempt);
        if let Err(error) = result {
            tracing::warn!(container = id, error, "container cannot be removed");
            // Not at once again: the container stays marked until then.
            let tx = self.tx.clone();
            let (container, wait) = (name.to_owned(), std::time::Duration::from_secs(2));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = tx.send(Message::Step(Outcome::Removed {
                    container,
                    attempt,
                    result: Ok(()),
                }));
            });
            return;
        }
        self.observed.busy.remove(name);
        self.start_errors.remove(&id);
        self.hooks.remove(&id);
        self.reread(&id).await;
    }
}

/// Work that blocks its thread.
pub(crate) async fn blocking(
    work: impl FnOnce() -> Outcome + Send + 'static,
    lost: fn(String) -> Outcome,
) -> Outcome {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| lost(e.to_string()))
}

/// Removes a directory with all in it; one that is not there is fine.
pub(crate) fn remove_dir(dir: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// The plan's class as the runtime names it.
pub(crate) fn qos(class: Qos) -> keelson_runtime::Qos {
    match class {
        Qos::Guaranteed => keelson_runtime::Qos::Guaranteed,
        Qos::Burstable => keelson_runtime::Qos::Burstable,
        Qos::BestEffort => keelson_runtime::Qos::BestEffort,
    }
}
