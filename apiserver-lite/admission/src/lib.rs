//! Admission: what the API server adds to an object, or refuses, once the user may make the request. A [`Chain`] of
//! small plugins over JSON values, in upstream's order; what they need to know of other objects they ask a [`Lookup`].

use async_trait::async_trait;
use keelson_api::{Resource, Status};
use keelson_auth::{Attributes, Decision, User};
use serde_json::Value;

mod chain;
mod plugins;
pub mod pod_security;
mod quantity;
pub mod quota;
#[cfg(test)]
mod tests;

pub use chain::Chain;

/// Asks whether a user may do something: RBAC and its companions, as the server has them.
pub type Authorizer = std::sync::Arc<dyn Fn(&User, &Attributes) -> Decision + Send + Sync>;

/// Other objects, as the server's caches or store have them.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// One object; `Ok(None)` when it does not exist. `namespace` is empty for cluster-scoped resources.
    async fn get(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status>;

    /// All objects of a namespace, or of the cluster when it is empty.
    async fn list(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
    ) -> Result<Vec<Value>, Status>;
}

/// What the request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST, or PUT and apply on a name that does not exist.
    Create,
    /// PUT, PATCH, apply; also of a subresource.
    Update,
    /// DELETE; `deletecollection` asks once an object.
    Delete,
    /// `exec`, `attach`, `portforward`, `proxy`.
    Connect,
}

/// A request as admission sees it.
#[derive(Clone)]
pub struct Request<'a> {
    /// What it does.
    pub op: Operation,
    /// The row.
    pub resource: &'a Resource,
    /// Subresource or empty.
    pub subresource: &'a str,
    /// Namespace or empty.
    pub namespace: &'a str,
    /// Name; empty when the server is to generate it.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a User,
    /// The object as it is, for updates and deletes.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The time of the request.
    pub now: jiff::Timestamp,
    /// Tells the user something along with the answer.
    pub warn: &'a (dyn Fn(String) + Send + Sync),
}

impl Request<'_> {
    /// Whether the request is for a resource itself or one of its subresources.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.group == group && self.resource.plural == plural
    }

    /// 403 about the request's object, in upstream's form: `pods "x" is forbidden: why`.
    pub fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.resource.group, &self.resource.plural, self.name, why)
    }
}

/// A plugin. `mutate` runs for every plugin before the first `validate`. For deletes and connects the object is
/// `Value::Null`, and nothing is mutated.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name, such as `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Changes the object before it is validated by its kind.
    async fn mutate(
        &self,
        _req: &Request<'_>,
        _object: &mut Value,
        _lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the object after it was validated by its kind.
    async fn validate(
        &self,
        _req: &Request<'_>,
        _object: &Value,
        _lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        Ok(())
    }
}
