//! What the scheduler keeps of the API's objects, parsed once at the edge: a cluster's pods stay in memory, so only
//! what a decision needs is kept.

mod node;
mod pod;
mod resources;
mod selector;

pub use self::node::{Effect, Node, Taint};
pub use self::pod::{HostPort, NodeTerm, Pod, PodTerm, Spread, Toleration};
pub use self::resources::Resources;
pub use self::selector::{Labels, Op, Requirement, Selector};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;

/// Pods that belong together (a Service's, a ReplicaSet's): they are spread over nodes and zones by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The pods' namespace.
    pub namespace: String,
    /// Which pods.
    pub selector: Selector,
}

/// How many of a group of pods may be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The pods' namespace.
    pub namespace: String,
    /// Which pods.
    pub selector: Selector,
    /// How many more may go now.
    pub allowed: i32,
}

impl Budget {
    /// The budget in an API object.
    pub fn parse(budget: &PodDisruptionBudget) -> Self {
        let spec = budget.spec.as_ref();
        let selector = spec.and_then(|spec| spec.selector.as_ref());
        let status = budget.status.as_ref();
        Self {
            namespace: budget.namespace().unwrap_or_default(),
            selector: selector.map_or_else(Selector::nothing, Selector::from_label_selector),
            allowed: status
                .and_then(|status| status.disruptions_allowed)
                .unwrap_or_default(),
        }
    }
}
