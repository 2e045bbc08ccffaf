//! The topology manager's question where a pod's devices could be, and what it answers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{State, asked};
use crate::topology::{Failure, Hint, Hints, Provider};

/// One pod's admission. Plugins give devices later, when all else of the pod is there: here is only said near which nodes.
/// What an earlier container of the same pod is going to get is not taken off.
pub struct Asking<'a> {
    state: &'a State,
    numa: &'a [u32],
    /// Nodes by container.
    pub near: BTreeMap<String, u64>,
}

impl<'a> Asking<'a> {
    /// Begins. `numa` are the machine's nodes.
    pub fn new(state: &'a State, numa: &'a [u32]) -> Self {
        Self {
            state,
            numa,
            near: BTreeMap::new(),
        }
    }
}

impl Provider for Asking<'_> {
    fn knows(&self, uid: &str) -> bool {
        self.state.assigned.contains_key(uid)
    }

    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let spec = pod.spec.as_ref();
        spec.map(|spec| self.state.hints(spec, uid, container, self.numa))
            .unwrap_or_default()
    }

    fn allocate(&mut self, _: &Pod, container: &Container, hint: Hint) -> Result<(), Failure> {
        let mut own = asked(container).filter(|(name, _)| self.state.is_managed(name));
        if hint.nodes != 0 && own.next().is_some() {
            self.near.insert(container.name.clone(), hint.nodes);
        }
        Ok(())
    }
}
