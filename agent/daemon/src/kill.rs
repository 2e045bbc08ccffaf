//! Ending a container: `preStop`, the stop signal, and SIGKILL when the grace is over.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;
use keelson_agent_plan::{Kill, event};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::hooks::{self, Hook};
use crate::shared::{Shared, chain};
use crate::worker::Worker;

/// What is left for the process after a `preStop` hook that used up the grace, as upstream gives.
const LEAST_AFTER_HOOK: Duration = Duration::from_secs(2);
/// How often SIGKILL is repeated while a process is stuck in the kernel.
const STUCK: Duration = Duration::from_secs(5);

/// A kill under way, as its worker holds it.
pub(crate) struct Handle {
    deadline: watch::Sender<Instant>,
    gone: CancellationToken,
}

impl Handle {
    /// Moves the deadline closer.
    pub(crate) fn shorten(&self, grace: i64) {
        let at = Instant::now() + seconds(grace);
        self.deadline
            .send_if_modified(|d| std::mem::replace(d, at.min(*d)) > at);
    }

    /// The process is gone.
    pub(crate) fn ended(&self) {
        self.gone.cancel();
    }
}

/// The work of a kill.
pub(crate) struct Job {
    shared: Arc<Shared>,
    id: String,
    container: String,
    signal: Option<String>,
    image: String,
    hook: Option<(Hook, LifecycleHandler)>,
    deadline: watch::Receiver<Instant>,
    gone: CancellationToken,
    worker: hooks::Owner,
}

fn seconds(grace: i64) -> Duration {
    Duration::from_secs(u64::try_from(grace).unwrap_or(0))
}

/// Prepares a kill.
pub(crate) fn prepare(worker: &Worker, id: &str, kill: &Kill) -> (Handle, Job) {
    let (deadline, receiver) = watch::channel(Instant::now() + seconds(kill.grace));
    let gone = CancellationToken::new();
    let spec = worker.spec_of(&kill.container);
    let spec = spec.as_deref();
    let lifecycle = spec.and_then(|c| c.lifecycle.as_ref());
    let pre_stop = lifecycle.and_then(|l| l.pre_stop.clone());
    let job = Job {
        shared: worker.shared.clone(),
        id: id.to_owned(),
        container: kill.container.clone(),
        signal: lifecycle.and_then(|l| l.stop_signal.clone()),
        image: spec.and_then(|c| c.image.clone()).unwrap_or_default(),
        hook: spec
            .zip(pre_stop)
            .map(|(c, handler)| (Hook::new(worker, c, id), handler)),
        deadline: receiver,
        gone: gone.clone(),
        worker: hooks::Owner::new(worker),
    };
    (Handle { deadline, gone }, job)
}

impl Job {
    /// Runs until the process is gone.
    pub(crate) async fn run(mut self) {
        self.pre_stop().await;
        if self.gone.is_cancelled() {
            return;
        }
        let signal = self.stop_signal().await;
        self.send(&signal, false).await;
        let least = Instant::now() + LEAST_AFTER_HOOK;
        self.wait(if self.hook.is_some() {
            Some(least)
        } else {
            None
        })
        .await;
        while !self.gone.is_cancelled() {
            self.send("SIGKILL", true).await;
            tokio::select! {
                () = self.gone.cancelled() => {}
                () = tokio::time::sleep(STUCK) => self.look().await,
            }
        }
    }

    /// The exit event may have been missed while containerd was away.
    async fn look(&self) {
        use keelson_runtime::State;
        let found = self.shared.runtime.container(&self.id).await;
        if matches!(
            found.map(|c| c.map(|c| c.state)),
            Ok(None | Some(State::Exited { .. } | State::Created))
        ) {
            self.gone.cancel();
        }
    }

    async fn pre_stop(&mut self) {
        let Some((hook, handler)) = &self.hook else {
            return;
        };
        let run = hook.run(handler);
        let gone = self.gone.clone();
        let late = expiry(&mut self.deadline, None);
        let result = tokio::select! {
            r = run => r,
            () = gone.cancelled() => Ok(()),
            () = late => Err("its grace period is over".to_owned()),
        };
        if let Err(error) = result {
            self.worker.event(
                &self.shared,
                event::pre_stop_failed(&self.container, &error),
            );
        }
    }

    async fn wait(&mut self, least: Option<Instant>) {
        let gone = self.gone.clone();
        tokio::select! {
            () = gone.cancelled() => {}
            () = expiry(&mut self.deadline, least) => {}
        }
    }

    /// The container's own, else the image's, else SIGTERM.
    async fn stop_signal(&self) -> String {
        if let Some(signal) = &self.signal {
            return signal.clone();
        }
        let image = self.shared.runtime.image(&self.image).await.ok().flatten();
        let signal = image
            .map(|i| i.config.stop_signal)
            .filter(|s| !s.is_empty());
        signal.unwrap_or_else(|| "SIGTERM".to_owned())
    }

    async fn send(&self, signal: &str, all: bool) {
        match self
            .shared
            .runtime
            .container_kill(&self.id, signal, all)
            .await
        {
            Ok(()) => {}
            Err(error) if error.is_not_found() => self.gone.cancel(),
            Err(error) => {
                tracing::warn!(container = self.id, signal, error = %chain(&error), "signal not sent")
            }
        }
    }
}

/// Ends at the deadline, also when that moves; not before `least`.
async fn expiry(deadline: &mut watch::Receiver<Instant>, least: Option<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        let at = least.map_or(at, |l| l.max(at));
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            // The sender lives as long as the worker; without it the deadline stands.
            changed = deadline.changed() => if changed.is_err() {
                return tokio::time::sleep_until(at).await;
            },
        }
    }
}
