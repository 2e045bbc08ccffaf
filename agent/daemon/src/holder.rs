//! The holder of a shared PID namespace belongs to the sandbox: it comes and goes with it, and its end is the
//! sandbox's.

use k8s_openapi::api::core::v1::Pod;
use keelson_agent_io::cni::Attachment;
use keelson_agent_plan::{Stage, backoff, event};
use keelson_runtime::{Container, Kind, Namespaces, PodRef, State};

use crate::shared::{Shared, chain};
use crate::worker::Worker;
use crate::{network, resize, sources};

/// Whether the pod's containers share one PID namespace of their own.
pub(crate) fn is_wanted(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.is_some_and(|s| s.share_process_namespace == Some(true) && s.host_pid != Some(true))
}

/// A namespace whose first process has ended can't be joined: the whole sandbox is made anew.
pub(crate) async fn clear(shared: &Shared, pod: &Pod, uid: &str) -> Result<(), String> {
    let found = shared.runtime.holder(uid).await.map_err(|e| chain(&e))?;
    match found.map(|h| h.state) {
        Some(State::Exited { .. }) => {}
        Some(State::Created | State::Running { .. }) | None => return Ok(()),
    }
    let netns = shared.config.run_dir.join("ns").join(uid).join("net");
    let attachment = Attachment::from_pod(pod, netns);
    network::leave(shared, &attachment).await?;
    let removed = shared.runtime.sandbox_remove(uid).await;
    removed.map_err(|e| chain(&e))?;
    let removed = shared.runtime.holder_remove(uid).await;
    removed.map_err(|e| chain(&e))
}

/// Starts the holder, or finds it.
pub(crate) async fn start(
    shared: &Shared,
    pod: &Pod,
    uid: &str,
    namespaces: &Namespaces,
) -> Result<(), String> {
    let handler = sources::handler(shared, pod).await?;
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let of = PodRef {
        uid: uid.to_owned(),
        namespace: text(&pod.metadata.namespace),
        name: text(&pod.metadata.name),
    };
    let parent = resize::cgroup_of(shared, uid, pod);
    let started = shared
        .runtime
        .holder_start(&of, &parent, namespaces, &handler);
    started.await.map(drop).map_err(|e| chain(&e))
}

impl Worker {
    /// Takes the holder out of the containers of the pod.
    pub(crate) fn take_holder(&mut self, all: Vec<Container>) -> Vec<Container> {
        let (holders, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|c| c.kind == Kind::Holder);
        for holder in holders {
            self.note_holder(Some(holder));
        }
        others
    }

    /// Reads the holder back, if there is to be one: it may have ended before anybody listened.
    pub(crate) async fn look_at_holder(&mut self) {
        if !is_wanted(&self.pod) {
            return;
        }
        match self.shared.runtime.holder(&self.uid).await {
            Ok(found) => self.note_holder(found),
            // The runtime's events say when it is back; everything is listed again then.
            Err(error) => {
                tracing::warn!(uid = self.uid, error = %chain(&error), "holder cannot be read");
            }
        }
    }

    /// What has become of the holder.
    pub(crate) fn note_holder(&mut self, found: Option<Container>) {
        self.holder = true;
        let id = keelson_runtime::container::holder_id(&self.uid);
        self.shared.owners().insert(id, self.uid.clone());
        let state = found.map(|h| h.state);
        let runs = matches!(state, Some(State::Running { .. }));
        let stands = self.observed.sandbox.ready().is_some();
        if runs || !stands {
            return;
        }
        tracing::warn!(
            pod = self.pod.metadata.name,
            uid = self.uid,
            ?state,
            "holder of the pod's processes has ended"
        );
        let message = event::SANDBOX_CHANGED.to_owned();
        let mut failure = self.failure("holder", backoff::SANDBOX, "", message);
        // The first time at once.
        let again = self.backoffs.get("holder").map(|b| b.delay);
        if again == Some(backoff::SANDBOX.initial) {
            failure.retry_at = failure.at;
        }
        self.observed.sandbox = Stage::Failed(failure);
    }
}
