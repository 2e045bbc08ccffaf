//! What to do, as values.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use crate::event::Event;
use crate::resources::Figures;

/// One step. Each can be repeated: the daemon skips one that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the pod's containers the devices they ask for.
    AssignDevices,
    /// Make the pod's cgroup.
    CreateCgroup,
    /// Make the pod's volumes.
    MaterializeVolumes,
    /// Make the namespaces and call the CNI plugins.
    CreateSandbox,
    /// Look the image up and pull it where the policy says so.
    EnsureImage {
        /// The container it is for.
        container: String,
        /// The attempt it is for.
        attempt: u32,
    },
    /// Make a container, start it and run its `postStart` hook.
    CreateContainer {
        /// The container.
        container: String,
        /// The attempt; the daemon grows the restart back-off when it is a restart.
        attempt: u32,
    },
    /// Start a container that was made before (by an agent that ended in between).
    StartContainer {
        /// The container.
        container: String,
        /// The attempt.
        attempt: u32,
    },
    /// `preStop`, the stop signal, and SIGKILL when the grace is over.
    KillContainer(Kill),
    /// Write the pod's cgroup.
    UpdateCgroup(Figures),
    /// Give a running container what is allocated to it.
    UpdateContainer {
        /// The container.
        container: String,
        /// The attempt.
        attempt: u32,
    },
    /// Forget a run that is over.
    RemoveContainer {
        /// The container.
        container: String,
        /// The attempt.
        attempt: u32,
    },
    /// Call the CNI plugins and remove the namespaces.
    RemoveSandbox,
    /// Unmount and remove the volumes.
    TeardownVolumes,
    /// Remove the pod's cgroup.
    RemoveCgroup,
    /// Remove the pod's log directory: nothing else of it is left.
    RemoveLogs,
    /// Delete the pod from the API with grace 0, after its last status was written.
    DeletePod,
    /// Tell people.
    Event(Event),
}

/// A container to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The container.
    pub container: String,
    /// The attempt.
    pub attempt: u32,
    /// Seconds from now to SIGKILL; `preStop` is inside of them.
    pub grace: i64,
    /// Why, for the event `Killing`.
    pub message: String,
    /// It is started again whatever the policy says.
    pub anew: bool,
}

/// What to do now, what to report, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order; independent ones may run at the same time.
    pub actions: Vec<Action>,
    /// The pod's status as it is now.
    pub status: PodStatus,
    /// The next time something changes by itself.
    pub wake_at: Option<Timestamp>,
    /// Nothing of the pod is left here and the API does not know it any more: its worker can end.
    pub finished: bool,
}

impl Plan {
    /// Look again at `at`, if that is the earliest.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}
