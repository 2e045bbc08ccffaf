//! What the user may do: attributes of a request, and the refusal in upstream's words.

use std::sync::{PoisonError, RwLock};

use keelson_api::Status;
use keelson_auth::{Attributes, Decision, User, node, rbac};

use crate::request_info::RequestInfo;
use crate::state::Server;

/// What authorization knows of the cluster.
#[derive(Default)]
pub(crate) struct Authority {
    rbac: RwLock<rbac::Index>,
    graph: RwLock<node::Graph>,
}

impl Authority {
    /// Changes the index of roles and bindings.
    pub(crate) fn with_rbac(&self, change: impl FnOnce(&mut rbac::Index)) {
        change(&mut self.rbac.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Changes the graph of what nodes may see.
    pub(crate) fn with_graph(&self, change: impl FnOnce(&mut node::Graph)) {
        change(&mut self.graph.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reads the index of roles and bindings.
    pub(crate) fn read_rbac<T>(&self, read: impl FnOnce(&rbac::Index) -> T) -> T {
        read(&self.rbac.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the authorizers in turn: the privileged group, Node, RBAC.
    pub(crate) fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        if user.in_group("system:masters") {
            return Decision::Allow("the group system:masters may do everything".to_owned());
        }
        let by_node = node::authorize(
            &self.graph.read().unwrap_or_else(PoisonError::into_inner),
            user,
            attributes,
        );
        match by_node {
            Decision::NoOpinion(ref why) => {
                match self.read_rbac(|index| index.authorize(user, attributes)) {
                    Decision::NoOpinion(other) => Decision::NoOpinion(join(why, &other)),
                    decided => decided,
                }
            }
            decided => decided,
        }
    }
}

fn join(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (false, false) => format!("{a}, {b}"),
        _ => format!("{a}{b}"),
    }
}

/// Paths anybody may read.
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version"];

/// A request as authorization sees it.
pub(crate) fn attributes(info: &RequestInfo) -> Attributes {
    if !info.is_resource {
        return Attributes {
            verb: info.verb.clone(),
            path: info.path.clone(),
            ..Attributes::default()
        };
    }
    Attributes {
        verb: info.verb.clone(),
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        namespace: info.namespace.clone(),
        name: info.one().unwrap_or_default().to_owned(),
        path: String::new(),
        demands: info.demands.clone(),
    }
}

/// Whether a path needs no user: these very paths, not what is below them (`/healthz/../api`).
pub(crate) fn public(info: &RequestInfo) -> bool {
    let reads = matches!(info.verb.as_str(), "get" | "head");
    !info.is_resource && reads && PUBLIC.contains(&info.path.as_str())
}

/// Refuses what the user may not do.
pub(crate) fn check(server: &Server, user: &User, info: &RequestInfo) -> Result<(), Status> {
    if public(info) {
        return Ok(());
    }
    let attributes = attributes(info);
    match server.authorize(user, &attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(user, &attributes, &why)),
    }
}

/// 403 in upstream's words.
pub(crate) fn forbidden(user: &User, a: &Attributes, why: &str) -> Status {
    let mut message = format!("User {:?} cannot {} ", user.name, a.verb);
    if a.resource.is_empty() {
        message += &format!("path {:?}", a.path);
    } else {
        let resource = if a.subresource.is_empty() {
            a.resource.clone()
        } else {
            format!("{}/{}", a.resource, a.subresource)
        };
        message += &format!("resource {resource:?} in API group {:?} ", a.group);
        message += &if a.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", a.namespace)
        };
    }
    if !why.is_empty() {
        message += &format!(": {why}");
    }
    if a.resource.is_empty() {
        return Status::new(403, "Forbidden", format!("forbidden: {message}"));
    }
    Status::forbidden(&a.group, &a.resource, &a.name, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let user = User::component("x", &[]);
        let a = Attributes {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "y".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&user, &a, "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#
        );
        let a = Attributes {
            verb: "get".into(),
            path: "/metrics".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&user, &a, "").message,
            r#"forbidden: User "x" cannot get path "/metrics""#
        );
        let a = Attributes {
            verb: "get".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            subresource: "scale".into(),
            name: "d".into(),
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&user, &a, "no").message,
            r#"deployments.apps "d" is forbidden: User "x" cannot get resource "deployments/scale" in API group "apps" at the cluster scope: no"#
        );
    }

    #[test]
    fn public_paths() {
        for (path, want) in [
            ("/healthz", true),
            ("/readyz/ping", false),
            ("/healthz/../api/v1/secrets", false),
            ("/healthzx", false),
            ("/metrics", false),
            ("/version", true),
        ] {
            let info = RequestInfo {
                path: path.into(),
                verb: "get".into(),
                ..RequestInfo::default()
            };
            assert_eq!(public(&info), want, "{path}");
        }
    }
}
