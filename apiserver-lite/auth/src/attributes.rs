//! A request as authorization sees it.

use std::collections::BTreeMap;

/// An authenticated user (or node, or service account).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name, such as `system:node:a`.
    pub name: String,
    /// UID, of service accounts.
    pub uid: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// More, such as `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A component of the control plane in this process, such as `system:kube-scheduler`.
    pub fn component(name: &str, groups: &[&str]) -> Self {
        let groups = groups
            .iter()
            .copied()
            .chain(["system:authenticated"])
            .map(str::to_owned)
            .collect();
        Self {
            name: name.to_owned(),
            groups,
            ..Self::default()
        }
    }

    /// A ServiceAccount, such as a controller in this process that acts as its own account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = [
            "system:serviceaccounts",
            &format!("system:serviceaccounts:{namespace}"),
        ];
        Self::component(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &groups,
        )
    }

    /// Somebody who showed nothing.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            ..Self::default()
        }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What is asked: a verb on a resource, or on a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `create`, ...; for paths the HTTP method in lower case.
    pub verb: String,
    /// API group, `""` for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural; empty for a path.
    pub resource: String,
    /// Subresource or empty.
    pub subresource: String,
    /// Namespace or empty.
    pub namespace: String,
    /// Name or empty.
    pub name: String,
    /// URL path, for requests that are not for a resource.
    pub path: String,
    /// For lists and watches: fields and the values the selector says they must have.
    pub demands: Vec<(String, String)>,
}

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and by which rule.
    Allow(String),
    /// No, whatever others say.
    Deny(String),
    /// Nothing said; the reason is shown when nobody allows.
    NoOpinion(String),
}
