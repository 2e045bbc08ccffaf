//! The CPU share of the burstable class: what its pods ask for together, as the kubelet sets it. The best-effort
//! class keeps the kernel's least.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::PodSpec;
use keelson_agent_plan::resources::{self, Qos};
use keelson_runtime::Runtime;

use crate::shared::chain;

/// Requests of burstable pods that have a cgroup, thousandths of a CPU by UID.
#[derive(Default)]
pub(crate) struct Burstable(Mutex<HashMap<String, i64>>);

impl Burstable {
    /// A pod has its cgroup. Writes a file: for threads that may block.
    pub(crate) fn add(&self, runtime: &Runtime, uid: &str, spec: &PodSpec) {
        if resources::qos(spec) == Qos::Burstable {
            let request = resources::request(spec, "cpu");
            self.change(runtime, |all| {
                all.insert(uid.to_owned(), request) != Some(request)
            });
        }
    }

    /// A pod's cgroup is gone.
    pub(crate) fn remove(&self, runtime: &Runtime, uid: &str) {
        self.change(runtime, |all| all.remove(uid).is_some());
    }

    /// One at a time, so that the last sum is what stands.
    fn change(&self, runtime: &Runtime, change: impl FnOnce(&mut HashMap<String, i64>) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut all) {
            return;
        }
        let shares = resources::shares(all.values().sum());
        if let Err(error) = runtime.qos_cgroup_update(keelson_runtime::Qos::Burstable, shares) {
            tracing::warn!(shares, error = %chain(&error), "share of burstable pods not set");
        }
    }
}
