//! What the classes' cgroups have: the burstable one the CPU share that its pods ask for together, as the kubelet sets it,
//! and all on the way to a pod the memory that is protected below. The best-effort class keeps the kernel's least.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::PodSpec;
use keelson_agent_plan::memory::{self, Policy};
use keelson_agent_plan::resources::{self, Qos};
use keelson_runtime::{PodResources, Runtime};

use crate::shared::chain;

/// What a pod asks for of its class.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Asked {
    /// Thousandths; only of burstable pods.
    cpu: i64,
    /// Bytes that are kept for it for good.
    min: i64,
    /// Bytes that are kept as long as others can give.
    low: i64,
}

/// What pods that have a cgroup ask for, by UID.
#[derive(Default)]
pub(crate) struct Classes(Mutex<HashMap<String, Asked>>);

impl Classes {
    /// A pod has its cgroup. Writes a file: for threads that may block.
    pub(crate) fn add(&self, runtime: &Runtime, policy: &Policy, uid: &str, spec: &PodSpec) {
        let reserved = |class| memory::reserved(policy, spec, class).unwrap_or(0);
        let asked = Asked {
            cpu: match resources::qos(spec) {
                Qos::Burstable => resources::request(spec, "cpu"),
                _ => 0,
            },
            min: reserved(Qos::Guaranteed),
            low: reserved(Qos::Burstable),
        };
        self.change(runtime, policy, |all| {
            all.insert(uid.to_owned(), asked) != Some(asked)
        });
    }

    /// A pod's cgroup is gone.
    pub(crate) fn remove(&self, runtime: &Runtime, policy: &Policy, uid: &str) {
        self.change(runtime, policy, |all| all.remove(uid).is_some());
    }

    /// One at a time, so that the last sum is what stands.
    fn change(
        &self,
        runtime: &Runtime,
        policy: &Policy,
        change: impl FnOnce(&mut HashMap<String, Asked>) -> bool,
    ) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |all: &HashMap<String, Asked>, of: fn(&Asked) -> i64| all.values().map(of).sum();
        let sums = |all: &_| {
            [
                sum(all, |a| a.cpu),
                sum(all, |a| a.min),
                sum(all, |a| a.low),
            ]
        };
        let before: [i64; 3] = sums(&all);
        if !change(&mut all) || sums(&all) == before {
            return;
        }
        let [cpu, min, low] = sums(&all);
        let kept = |files: &[(&str, i64)]| -> BTreeMap<String, String> {
            let files = files.iter();
            files
                .map(|(f, n)| ((*f).to_owned(), n.to_string()))
                .collect()
        };
        let burstable = PodResources {
            cpu_shares: Some(resources::shares(cpu)),
            unified: match policy.reserve {
                true => kept(&[("memory.low", low)]),
                false => BTreeMap::new(),
            },
            ..PodResources::default()
        };
        let whole = PodResources {
            unified: kept(&[("memory.min", min), ("memory.low", low)]),
            ..PodResources::default()
        };
        use keelson_runtime::Qos::{Burstable, Guaranteed};
        let classes = [(Guaranteed, whole), (Burstable, burstable)];
        for (class, resources) in classes.into_iter().skip(usize::from(!policy.reserve)) {
            if let Err(error) = runtime.qos_cgroup_update(class, &resources) {
                tracing::warn!(?class, error = %chain(&error), "cgroup of a class not set");
            }
        }
    }
}
