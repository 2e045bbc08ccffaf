//! Nothing is made in a namespace that is missing or going away, and three namespaces stay.

use async_trait::async_trait;
use keelson_api::json::{has, text};
use keelson_api::{Cause, Scope, Status};
use serde_json::Value;

use crate::{Lookup, Operation, Plugin, Request};

/// `NamespaceLifecycle`.
pub(crate) struct NamespaceLifecycle;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        _: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        let exempt = req.resource.scope == Scope::Cluster
            || req.namespace.is_empty()
            || req.resource.group == "authorization.k8s.io";
        if req.op != Operation::Create || exempt {
            return Ok(());
        }
        let namespace = lookup
            .get("", "v1", "namespaces", "", req.namespace)
            .await?;
        match namespace {
            None => Err(Status::not_found("", "namespaces", req.namespace)),
            Some(found) if terminating(&found) => Err(refusal(req)),
            Some(_) => Ok(()),
        }
    }

    async fn validate(&self, req: &Request<'_>, _: &Value, _: &dyn Lookup) -> Result<(), Status> {
        let deletes_namespace =
            req.op == Operation::Delete && req.is("", "namespaces") && req.subresource.is_empty();
        if deletes_namespace && IMMORTAL.contains(&req.name) {
            return Err(req.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}

fn terminating(namespace: &Value) -> bool {
    has(namespace, "/metadata/deletionTimestamp")
        || text(namespace, "/status/phase") == "Terminating"
}

fn refusal(req: &Request<'_>) -> Status {
    let namespace = req.namespace;
    let mut status = req.forbidden(&format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    ));
    status.causes.push(Cause {
        reason: "NamespaceTerminating",
        field: "metadata.namespace".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
    });
    status
}
