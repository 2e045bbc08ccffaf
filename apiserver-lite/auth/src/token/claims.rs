//! What a ServiceAccount token says, in upstream's layout.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::User;

/// An object by name and UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl Ref {
    /// From name and UID.
    pub fn new(name: &str, uid: &str) -> Self {
        Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
        }
    }
}

/// What to sign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The account's namespace.
    pub namespace: String,
    /// The account.
    pub account: Ref,
    /// Whom the token is for; none: the API server.
    pub audiences: Vec<String>,
    /// How long it is valid, in seconds.
    pub seconds: i64,
    /// The pod it lives and dies with.
    pub pod: Option<Ref>,
    /// The Secret it lives and dies with.
    pub secret: Option<Ref>,
    /// The node it lives and dies with, or the pod's node.
    pub node: Option<Ref>,
    /// Seconds after which a use is logged as stale, for tokens that are valid longer than was asked for.
    pub warn_after: Option<i64>,
}

/// A verified token. Whether the account and the objects it is bound to still live, with the same UIDs, is the caller's
/// to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The account's namespace.
    pub namespace: String,
    /// The account; the UID must be the live account's.
    pub account: Ref,
    /// Audiences; none for tokens of Secrets.
    pub audiences: Vec<String>,
    /// Seconds since 1970; `None`: never (tokens of Secrets).
    pub expires: Option<i64>,
    /// The token's own id.
    pub jti: String,
    /// Bound to this pod.
    pub pod: Option<Ref>,
    /// Bound to this Secret. Its UID is empty for a token that lives in the Secret: there the Secret must hold this
    /// very token.
    pub secret: Option<Ref>,
    /// Bound to this node, or the node of the pod.
    pub node: Option<Ref>,
    /// Seconds since 1970 after which a use is stale.
    pub warn_after: Option<i64>,
    /// Of a Secret of type `kubernetes.io/service-account-token`.
    pub legacy: bool,
}

impl Claims {
    /// The user the token stands for.
    pub fn user(&self) -> User {
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            extra.insert(
                format!("authentication.kubernetes.io/{key}"),
                vec![value.to_owned()],
            );
        };
        for (kind, object) in [("pod", &self.pod), ("node", &self.node)] {
            if let Some(object) = object {
                add(&format!("{kind}-name"), &object.name);
                add(&format!("{kind}-uid"), &object.uid);
            }
        }
        if !self.jti.is_empty() {
            add("credential-id", &format!("JTI={}", self.jti));
        }
        User {
            uid: self.account.uid.clone(),
            extra,
            ..User::service_account(&self.namespace, &self.account.name)
        }
    }
}

/// A token's claims on the wire.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Wire {
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    pub(super) aud: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iat: Option<i64>,
    pub(super) iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) jti: String,
    #[serde(
        rename = "kubernetes.io",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(super) private: Option<Private>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<i64>,
    pub(super) sub: String,
    #[serde(flatten)]
    pub(super) legacy: Option<Legacy>,
}

/// `kubernetes.io`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Private {
    pub(super) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Ref>,
    pub(super) serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) warnafter: Option<i64>,
}

/// The flat claims of a Secret's token.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Legacy {
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(super) namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(super) secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(super) name: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(super) uid: String,
}

/// RFC 7519 lets a single audience be a string.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}
