//! Roles and bindings, ready for questions; kept current one object at a time.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{Rule, missing, rules_of};
use crate::{Attributes, Decision, User};
use keelson_api::json::{items, text};

/// A role's or binding's namespace (empty: cluster) and name.
type Key = (String, String);

/// Roles and bindings.
#[derive(Clone, Default)]
pub struct Index {
    roles: HashMap<Key, Vec<Rule>>,
    /// By namespace, then by name; the cluster's under the empty namespace. Ordered, so that reasons are stable.
    bindings: HashMap<String, BTreeMap<String, Binding>>,
}

#[derive(Clone)]
struct Binding {
    role_kind: String,
    role: String,
    subjects: Vec<Subject>,
}

#[derive(Clone)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { name: String, namespace: String },
}

impl Subject {
    fn parse(value: &Value, binding_namespace: &str) -> Option<Self> {
        let name = text(value, "/name").to_owned();
        match text(value, "/kind") {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let namespace = match text(value, "/namespace") {
                    "" => binding_namespace,
                    some => some,
                };
                (!namespace.is_empty()).then(|| Self::ServiceAccount {
                    name,
                    namespace: namespace.to_owned(),
                })
            }
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.in_group(name),
            Self::ServiceAccount { name, namespace } => {
                let rest = user.name.strip_prefix("system:serviceaccount:");
                rest.and_then(|r| r.split_once(':')) == Some((namespace, name))
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::ServiceAccount { name, namespace } => {
                format!("ServiceAccount \"{name}/{namespace}\"")
            }
        }
    }
}

/// What a user may do in a namespace, as SelfSubjectRulesReview answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Rules, in order of bindings.
    pub rules: Vec<Rule>,
    /// Bindings whose roles don't exist: the list is incomplete for that reason.
    pub errors: Vec<String>,
}

/// A binding that is the user's, with what to say about it.
struct Match<'a> {
    binding: &'a Binding,
    namespace: &'a str,
    name: &'a str,
    subject: &'a Subject,
}

impl Match<'_> {
    fn reason(&self) -> String {
        let Binding {
            role_kind, role, ..
        } = self.binding;
        let subject = self.subject.describe();
        let binding = match self.namespace {
            "" => format!("ClusterRoleBinding {:?}", self.name),
            namespace => format!("RoleBinding \"{}/{namespace}\"", self.name),
        };
        format!("RBAC: allowed by {binding} of {role_kind} {role:?} to {subject}")
    }
}

impl Index {
    /// Takes in a ClusterRole, Role, ClusterRoleBinding or RoleBinding, new or changed.
    pub fn apply(&mut self, object: &Value) {
        let (namespace, name) = (
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
        );
        match text(object, "/kind") {
            "ClusterRole" => self.set_role("", name, object),
            "Role" => self.set_role(namespace, name, object),
            "ClusterRoleBinding" => self.set_binding("", name, object),
            "RoleBinding" => self.set_binding(namespace, name, object),
            _ => {}
        }
    }

    /// Forgets an object; `kind` as in [`Index::apply`].
    pub fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        match kind {
            "ClusterRole" | "Role" => {
                self.roles.remove(&(namespace.to_owned(), name.to_owned()));
            }
            "ClusterRoleBinding" | "RoleBinding" => {
                if let Some(all) = self.bindings.get_mut(namespace) {
                    all.remove(name);
                    if all.is_empty() {
                        self.bindings.remove(namespace);
                    }
                }
            }
            _ => {}
        }
    }

    fn set_role(&mut self, namespace: &str, name: &str, object: &Value) {
        self.roles
            .insert((namespace.to_owned(), name.to_owned()), rules_of(object));
    }

    fn set_binding(&mut self, namespace: &str, name: &str, object: &Value) {
        let subjects = items(object, "/subjects")
            .iter()
            .filter_map(|s| Subject::parse(s, namespace));
        let binding = Binding {
            role_kind: text(object, "/roleRef/kind").to_owned(),
            role: text(object, "/roleRef/name").to_owned(),
            subjects: subjects.collect(),
        };
        self.bindings
            .entry(namespace.to_owned())
            .or_default()
            .insert(name.to_owned(), binding);
    }

    /// May the user do this? Never [`Decision::Deny`]: RBAC only allows.
    pub fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let mut absent = Vec::new();
        for found in self.matches(user, &attributes.namespace) {
            match self.rules(&found) {
                Some(rules) if rules.iter().any(|r| r.allows(attributes)) => {
                    return Decision::Allow(found.reason());
                }
                Some(_) => {}
                None => absent.push(not_found(&found)),
            }
        }
        let reason = match absent.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision::NoOpinion(reason)
    }

    /// All rules that hold for a user in a namespace (empty: cluster-wide only).
    pub fn rules_for(&self, user: &User, namespace: &str) -> Allowed {
        let mut allowed = Allowed::default();
        for found in self.matches(user, namespace) {
            match self.rules(&found) {
                Some(rules) => allowed.rules.extend(rules.iter().cloned()),
                None => allowed.errors.push(not_found(&found)),
            }
        }
        allowed
    }

    /// The rules a `roleRef` (kind and name, seen from a namespace) stands for; `None`: there is no such role.
    pub fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&[Rule]> {
        let namespace = if kind == "Role" { namespace } else { "" };
        self.roles
            .get(&(namespace.to_owned(), name.to_owned()))
            .map(Vec::as_slice)
    }

    /// Whether the user has everything that `rules` allow in a namespace (empty: everywhere), and so may write a role of
    /// them or bind it. The error is upstream's text for the refusal. `escalate` and `bind` are asked before, with
    /// [`Index::authorize`].
    pub fn may_grant(&self, user: &User, namespace: &str, rules: &[Rule]) -> Result<(), String> {
        let held = self.rules_for(user, namespace);
        let lacking = missing(&held.rules, rules);
        if lacking.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = lacking.iter().map(Rule::to_string).collect();
        let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
        let mut message = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups.join(" "),
            lines.join("\n"),
        );
        if !held.errors.is_empty() {
            message += &format!("; resolution errors: [{}]", held.errors.join(", "));
        }
        Err(message)
    }

    fn matches<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = Match<'a>> {
        let of = |namespace: &str| self.bindings.get_key_value(namespace);
        let scopes = [
            of(""),
            if namespace.is_empty() {
                None
            } else {
                of(namespace)
            },
        ];
        scopes
            .into_iter()
            .flatten()
            .flat_map(move |(namespace, bindings)| {
                bindings.iter().filter_map(move |(name, binding)| {
                    let subject = binding.subjects.iter().find(|s| s.is(user))?;
                    Some(Match {
                        binding,
                        namespace,
                        name,
                        subject,
                    })
                })
            })
    }

    fn rules(&self, found: &Match<'_>) -> Option<&[Rule]> {
        self.role(
            &found.binding.role_kind,
            found.namespace,
            &found.binding.role,
        )
    }
}

fn not_found(found: &Match<'_>) -> String {
    let Binding {
        role_kind, role, ..
    } = found.binding;
    format!(
        "{}.rbac.authorization.k8s.io {role:?} not found",
        role_kind.to_lowercase()
    )
}
