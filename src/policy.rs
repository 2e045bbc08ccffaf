//! Joins the agent, which gives pods addresses, and the proxy's engine, which restricts them.

use std::net::IpAddr;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use keelson_agent::NetworkGuard;
use keelson_proxy::policy::Enforcer;

/// NetworkPolicies as what restricts the agent's pods.
pub(crate) struct Guard(pub(crate) Enforcer);

impl NetworkGuard for Guard {
    fn added(&self, pod: &Pod, ips: &[IpAddr]) -> BoxFuture<'static, Result<(), String>> {
        let (enforcer, pod, ips) = (self.0.clone(), pod.clone(), ips.to_vec());
        let done = async move { enforcer.enforce(&pod, &ips).await };
        done.map(|r| r.map_err(|e| format!("{e:#}"))).boxed()
    }

    fn removed(&self, pod: &Pod) {
        let meta = &pod.metadata;
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
        self.0.released(&namespace, &name, &uid);
    }
}
