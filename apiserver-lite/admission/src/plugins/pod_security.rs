//! Pod Security Standards, enforced by a namespace's `pod-security.kubernetes.io/enforce` label.

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::text;
use serde_json::Value;

use crate::pod_security::{Level, violations};
use crate::{Lookup, Operation, Plugin, Request};

/// `PodSecurity`.
pub(crate) struct PodSecurity;

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        pod: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        const ENFORCE: &str = "/metadata/labels/pod-security.kubernetes.io~1enforce";
        let writes = match (req.op, req.subresource) {
            (Operation::Create | Operation::Update, "") => true,
            (Operation::Update, sub) => sub == "ephemeralcontainers",
            _ => false,
        };
        let same = req
            .old
            .is_some_and(|old| old.get("spec") == pod.get("spec"));
        if !writes || same || !req.is("", "pods") {
            return Ok(());
        }
        let namespace = lookup
            .get("", "v1", "namespaces", "", req.namespace)
            .await?
            .unwrap_or_default();
        let label = text(&namespace, ENFORCE);
        let level = Level::parse(label);
        let broken = violations(level, pod);
        if broken.is_empty() {
            return Ok(());
        }
        let why = format!(
            "violates PodSecurity \"{}:latest\": {}",
            level.name(),
            broken.join(", ")
        );
        Err(req.forbidden(&why))
    }
}
