//! ResourceQuota: its status tells what is used. Admission counts for itself and does not wait for this.
//!
//! Pods, services and claims are counted by what they say; all other kinds by their number, which the garbage
//! collector knows already.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use keelson_admission::quota::{Usage, add, in_scope, show, usage};
use kube::api::{ApiResource, DynamicObject};
use serde::Serialize;
use serde_json::{Value, json};

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::gc::GarbageCollector;
use crate::informer::{Change, Key};
use crate::runner::{Controller, Outcome, Work};

/// Names of quotas that are numbers of objects, as they were before `count/`.
const PLAIN: &[&str] = &[
    "configmaps",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
];

/// The controller.
pub struct Quotas {
    caches: Arc<Caches>,
    collector: Arc<GarbageCollector>,
}

impl Quotas {
    /// Wires the controller to the caches and to the garbage collector, which knows all objects.
    pub fn new(caches: &Arc<Caches>, collector: &Arc<GarbageCollector>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .quotas
            .subscribe(move |c| c.states().for_each(|q| queue.add(Key::of(q))));
        let (queue, quotas) = (work.clone(), caches.quotas.clone());
        let wake = move |namespace: &str| {
            if !namespace.is_empty() {
                let all = quotas.list(namespace);
                all.iter().for_each(|q| queue.add(Key::of(q.as_ref())));
            }
        };
        let all = wake.clone();
        collector.on_presence(move |_, namespace| all(namespace));
        let all = wake.clone();
        caches.pods.subscribe(move |c| waken(c, &all));
        let all = wake.clone();
        caches.services.subscribe(move |c| waken(c, &all));
        caches.claims.subscribe(move |c| waken(c, &wake));
        let it = Self {
            caches: caches.clone(),
            collector: collector.clone(),
        };
        (it, work)
    }
}

fn waken<K: kube::Resource>(change: &Change<'_, K>, wake: &dyn Fn(&str)) {
    let state = change.new.or(change.old);
    if let Some(namespace) = state.and_then(|o| o.meta().namespace.as_deref()) {
        wake(namespace);
    }
}

#[async_trait]
impl Controller for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(quota) = self.caches.quotas.get(key) else {
            return Ok(Outcome::default());
        };
        // Half a picture would tell too little.
        self.collector.complete().await;
        let namespace = key.namespace.as_str();
        let said = json!(*quota);
        let c = &self.caches;
        let used = [
            sum(&said, "pods", c.pods.list(namespace)),
            sum(&said, "services", c.services.list(namespace)),
            sum(&said, "persistentvolumeclaims", c.claims.list(namespace)),
        ];
        let used = used.into_iter().fold(Usage::new(), add);
        let count = |group: &str, plural: &str| self.collector.count(group, plural, namespace);
        Ok(plan(&quota, &used, &count))
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// What objects of a kind use that are in a quota's scope.
fn sum<K: Serialize>(quota: &Value, plural: &str, objects: Vec<Arc<K>>) -> Usage {
    let objects = objects.iter().map(|o| json!(**o));
    let counted = objects.filter(|o| in_scope(quota, plural, o));
    counted.fold(Usage::new(), |sum, o| add(sum, usage("", plural, &o)))
}

/// Decides for a quota: `used` is what pods, services and claims use, `count` numbers objects of a group and kind.
pub fn plan(quota: &ResourceQuota, used: &Usage, count: &dyn Fn(&str, &str) -> usize) -> Outcome {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone());
    let tell = |name: &String| {
        let counted = name
            .strip_prefix("count/")
            .or_else(|| PLAIN.contains(&name.as_str()).then_some(name.as_str()));
        let text = match (used.get(name), counted) {
            (Some(amount), _) => show(*amount),
            (None, Some(kind)) => {
                let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
                // The kinds that are summed are not there at all.
                let summed = ["pods", "services", "persistentvolumeclaims"];
                let none = group.is_empty() && summed.contains(&plural);
                let number = if none { 0 } else { count(group, plural) };
                number.to_string()
            }
            (None, None) => "0".to_owned(),
        };
        (name.clone(), Quantity(text))
    };
    let used = hard.iter().flatten().map(|(name, _)| tell(name)).collect();
    let status = ResourceQuotaStatus {
        used: hard.is_some().then_some(used),
        hard,
    };
    if quota.status.as_ref() == Some(&status) {
        return Outcome::default();
    }
    let target = Target::of(quota);
    vec![Action::whole_status(target, quota.status.as_ref(), &status)].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn what_is_used() {
        let quota: ResourceQuota = from_value(json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": {
            "pods": "5", "requests.cpu": "2", "services": "3", "configmaps": "9", "count/pods": "7", "count/jobs.batch": "4"}}})).expect("quota");
        let said = json!(quota);
        let pod = |phase: &str| {
            Arc::new(json!({"status": {"phase": phase},
                "spec": {"containers": [{"resources": {"requests": {"cpu": "300m"}}}]}}))
        };
        let pods = vec![pod("Running"), pod("Pending"), pod("Failed")];
        let used = sum(&said, "pods", pods);
        let count = |group: &str, plural: &str| match (group, plural) {
            ("", "configmaps") => 2,
            ("batch", "jobs") => 1,
            _ => 99,
        };
        let outcome = plan(&quota, &used, &count);
        let [Action::Patch { patch, .. }] = outcome.actions.as_slice() else {
            panic!("{outcome:?}")
        };
        let want = json!({"pods": "2", "requests.cpu": "600m", "services": "0", "configmaps": "2", "count/pods": "3", "count/jobs.batch": "1"});
        assert_eq!(patch["status"]["used"], want);
        assert_eq!(patch["status"]["hard"], said["spec"]["hard"]);
        let mut known = said;
        known["status"] = patch["status"].clone();
        let known = from_value(known).expect("quota");
        assert_eq!(plan(&known, &used, &count).actions, []);
    }

    #[test]
    fn scopes_leave_pods_out() {
        let quota = json!({"spec": {"hard": {"pods": "5"}, "scopes": ["Terminating"]}});
        let ends =
            |at: Value| Arc::new(json!({"spec": {"activeDeadlineSeconds": at, "containers": []}}));
        let used = sum(&quota, "pods", vec![ends(json!(5)), ends(Value::Null)]);
        assert_eq!(used.get("pods").copied().map(show), Some("1".to_owned()));
    }
}
