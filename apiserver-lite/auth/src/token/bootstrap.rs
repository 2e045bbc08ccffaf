//! Bootstrap tokens (`id.secret`, kept as Secrets `bootstrap-token-<id>` in kube-system) and the join token that
//! carries one to a new node together with the hash of the authority it may trust.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Error;
use crate::User;
use keelson_api::json::text;

/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";
/// The Secrets' type.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// The group of everybody who shows such a token.
pub const GROUP: &str = "system:bootstrappers";
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// What every join token begins with.
const JOIN_PREFIX: &str = "K10";

/// A bootstrap token. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Six letters or digits; not secret.
    pub id: String,
    /// Sixteen letters or digits.
    pub secret: String,
}

impl Token {
    /// A new random one.
    pub fn generate() -> Self {
        let mut rng = rand::rng();
        let mut random = |n: usize| -> String {
            (0..n)
                .filter_map(|_| ALPHABET.get(rng.random_range(0..ALPHABET.len())))
                .map(|b| char::from(*b))
                .collect()
        };
        Self {
            id: random(6),
            secret: random(16),
        }
    }

    /// The name of its Secret.
    pub fn secret_name(&self) -> String {
        format!("bootstrap-token-{}", self.id)
    }

    /// Its Secret, valid until `expires` (forever if `None`). Groups must begin with `system:bootstrappers:`.
    pub fn to_secret(
        &self,
        description: &str,
        expires: Option<Timestamp>,
        groups: &[&str],
    ) -> Value {
        let mut data = json!({
            "token-id": self.id,
            "token-secret": self.secret,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "description": description,
            "auth-extra-groups": groups.join(","),
        });
        if let Some(end) = expires.and_then(|t| Timestamp::from_second(t.as_second()).ok()) {
            data["expiration"] = json!(end.to_string());
        }
        for value in data
            .as_object_mut()
            .into_iter()
            .flat_map(|m| m.values_mut())
        {
            *value = json!(STANDARD.encode(value.as_str().unwrap_or_default()));
        }
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": self.secret_name(), "namespace": NAMESPACE },
            "type": SECRET_TYPE,
            "data": data,
        })
    }

    /// Whether the Secret lets the token in, and as whom.
    pub fn check(&self, secret: &Value, now: Timestamp) -> Result<User, Error> {
        let data = |key: &str| -> String {
            let bytes = STANDARD
                .decode(text(secret, &format!("/data/{key}")))
                .unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        };
        let refuse = |why| Err(Error::Bootstrap(why));
        if !text(secret, "/metadata/deletionTimestamp").is_empty() {
            return refuse("is being deleted");
        }
        if text(secret, "/type") != SECRET_TYPE || data("token-id") != self.id {
            return refuse("has a Secret of another type or id");
        }
        // Digests are compared, so that the time it takes says nothing about the secret.
        let expected = data("token-secret");
        if expected.is_empty() || Sha256::digest(&expected) != Sha256::digest(&self.secret) {
            return refuse("has another secret");
        }
        let end = data("expiration");
        if !end.is_empty() && end.parse::<Timestamp>().map_or(true, |end| end <= now) {
            return refuse("has expired");
        }
        if data("usage-bootstrap-authentication") != "true" {
            return refuse("is not for authentication");
        }
        let extra = data("auth-extra-groups");
        let extra: Vec<&str> = extra.split(',').filter(|g| !g.is_empty()).collect();
        if extra
            .iter()
            .any(|g| !g.starts_with("system:bootstrappers:"))
        {
            return refuse("names a group outside of system:bootstrappers:");
        }
        let groups: Vec<&str> = [GROUP].into_iter().chain(extra).collect();
        Ok(User::component(
            &format!("system:bootstrap:{}", self.id),
            &groups,
        ))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.****)", self.id)
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let good =
            |part: &str, n: usize| part.len() == n && part.bytes().all(|b| ALPHABET.contains(&b));
        match s.split_once('.') {
            Some((id, secret)) if good(id, 6) && good(secret, 16) => Ok(Self {
                id: id.to_owned(),
                secret: secret.to_owned(),
            }),
            _ => Err(Error::Malformed(
                "a bootstrap token is six, a dot, and sixteen of a-z and 0-9",
            )),
        }
    }
}

/// `K10<hex SHA-256 of the authority's certificate>::<id>.<secret>`: a new node fetches the authority's certificate
/// without trust, and goes on only if it has this hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Hex SHA-256 of the authority's certificate (DER).
    pub ca_hash: String,
    /// The bootstrap token.
    pub token: Token,
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{JOIN_PREFIX}{}::{}", self.ca_hash, self.token)
    }
}

impl FromStr for Join {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let shape = Error::Malformed("a join token is K10<64 hex digits>::<id>.<secret>");
        let parts = s
            .trim()
            .strip_prefix(JOIN_PREFIX)
            .and_then(|s| s.split_once("::"));
        let Some((hash, token)) = parts else {
            return Err(shape);
        };
        if hash.len() != 64 || hex::decode(hash).is_err() {
            return Err(shape);
        }
        Ok(Self {
            ca_hash: hash.to_ascii_lowercase(),
            token: token.parse()?,
        })
    }
}
