//! Who may use the endpoint. A client shows a certificate (verified by the TLS layer against the cluster's
//! CA) or a bearer token (asked of the API server by TokenReview); what it may do is asked by
//! SubjectAccessReview on `nodes/<subresource>` of this node. Nothing is open to anonymous clients.
//! Answers are kept for some seconds only: a revoked right ends soon.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use keelson_serving::Identity;
use kube::api::PostParams;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Refusal;

const ALLOWED: Duration = Duration::from_secs(10);
const DENIED: Duration = Duration::from_secs(5);
/// Entries kept at most: a client that tries many tokens must not fill memory.
const KEPT: usize = 1024;

/// The guard before every route.
pub(super) struct Guard {
    node_name: String,
    client: kube::Client,
    tokens: Cache<[u8; 32], Option<UserInfo>>,
    rights: Cache<(String, &'static str, &'static str), bool>,
}

impl Guard {
    pub(super) fn new(node_name: String, client: kube::Client) -> Arc<Self> {
        Arc::new(Self {
            node_name,
            client,
            tokens: Cache::default(),
            rights: Cache::default(),
        })
    }

    async fn authenticate(&self, shown: Shown) -> Result<UserInfo, Refusal> {
        let user = match shown {
            Shown::Certificate(user) => Some(user),
            Shown::Token(token) => self.review_token(&token).await?,
            Shown::Nothing => None,
        };
        user.ok_or_else(|| Refusal::new(401, "Unauthorized", "Unauthorized"))
    }

    async fn review_token(&self, token: &str) -> Result<Option<UserInfo>, Refusal> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(user) = self.tokens.get(&key) {
            return Ok(user);
        }
        let spec = TokenReviewSpec {
            token: token.to_owned(),
            ..TokenReviewSpec::default()
        };
        let review = TokenReview {
            spec,
            ..TokenReview::default()
        };
        let api = kube::Api::<TokenReview>::all(self.client.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|e| unavailable("TokenReview", &e))?;
        let user = answer
            .status
            .filter(|s| s.authenticated == Some(true))
            .and_then(|s| s.user);
        self.tokens.put(
            key,
            user.clone(),
            if user.is_some() { ALLOWED } else { DENIED },
        );
        Ok(user)
    }

    /// The first of `subresources` that the user may use is enough (KEP-2862).
    async fn authorize(
        &self,
        user: &UserInfo,
        verb: &'static str,
        subresources: &[&'static str],
    ) -> Result<(), Refusal> {
        for subresource in subresources {
            if self.review_access(user, verb, subresource).await? {
                return Ok(());
            }
        }
        let name = user.username.as_deref().unwrap_or_default();
        let list = subresources.join(" ");
        let message = format!(
            "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{list}])"
        );
        Err(Refusal::new(403, "Forbidden", message))
    }

    async fn review_access(
        &self,
        user: &UserInfo,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Refusal> {
        // All of the user counts, not the name alone: groups and extra differ between credentials.
        let who = serde_json::to_string(user).map_err(Refusal::internal)?;
        let key = (who, verb, subresource);
        if let Some(allowed) = self.rights.get(&key) {
            return Ok(allowed);
        }
        let attributes = ResourceAttributes {
            verb: Some(verb.into()),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: Some(subresource.into()),
            name: Some(self.node_name.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview {
            spec,
            ..SubjectAccessReview::default()
        };
        let api = kube::Api::<SubjectAccessReview>::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|e| unavailable("SubjectAccessReview", &e))?;
        let allowed = answer
            .status
            .is_some_and(|s| s.allowed && s.denied != Some(true));
        self.rights
            .put(key, allowed, if allowed { ALLOWED } else { DENIED });
        Ok(allowed)
    }
}

fn unavailable(what: &str, error: &kube::Error) -> Refusal {
    tracing::warn!(review = what, error = %error, "endpoint: the API server did not answer");
    Refusal::new(
        500,
        "InternalError",
        format!("Internal Server Error: {what} failed"),
    )
}

/// The middleware: lets a request pass, or answers it.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let user = guard.authenticate(shown(&request)).await?;
    let (verb, subresources) = attributes(request.method(), request.uri().path());
    guard.authorize(&user, verb, subresources).await?;
    Ok(next.run(request).await)
}

/// What a client shows.
enum Shown {
    Certificate(UserInfo),
    Token(String),
    Nothing,
}

fn shown(request: &Request) -> Shown {
    let identity = request.extensions().get::<Identity>();
    let certificate = identity.and_then(|i| i.certificates.first());
    if let Some(user) = certificate.and_then(|c| user_from_certificate(c)) {
        return Shown::Certificate(user);
    }
    let header = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    let bearer = header
        .and_then(|h| h.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match bearer.map(|(_, token)| token.trim()) {
        Some(token) if !token.is_empty() => Shown::Token(token.to_owned()),
        _ => Shown::Nothing,
    }
}

/// Common name and organizations of a verified certificate, unless it has ended since it was verified.
fn user_from_certificate(der: &[u8]) -> Option<UserInfo> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    if !certificate.validity().is_valid() {
        return None;
    }
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .next()?
        .as_str()
        .ok()
        .filter(|n| !n.is_empty())?;
    let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok());
    let groups = organizations
        .chain(["system:authenticated"])
        .map(str::to_owned)
        .collect();
    Some(UserInfo {
        username: Some(name.to_owned()),
        groups: Some(groups),
        ..UserInfo::default()
    })
}

/// Path prefixes and the subresources that open them, the finer first (KEP-2862).
const SUBRESOURCES: [(&str, &[&str]); 8] = [
    ("/stats", &["stats"]),
    ("/metrics", &["metrics"]),
    ("/logs", &["log"]),
    ("/checkpoint", &["checkpoint"]),
    ("/healthz", &["healthz", "proxy"]),
    ("/configz", &["configz", "proxy"]),
    ("/pods", &["pods", "proxy"]),
    ("/runningpods", &["pods", "proxy"]),
];

/// Paths that act inside containers. A WebSocket is opened with GET; who may only look must not get a shell,
/// so these are always `create`, stricter than upstream.
const ACTING: [&str; 4] = ["/exec", "/attach", "/run", "/portForward"];

fn attributes(method: &Method, path: &str) -> (&'static str, &'static [&'static str]) {
    let below = |prefix: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if ACTING.iter().any(|p| below(p)) {
        return ("create", &["proxy"]);
    }
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let row = SUBRESOURCES.iter().find(|(prefix, _)| below(prefix));
    (verb, row.map_or(&["proxy"], |(_, s)| s))
}

/// Answers with an end.
struct Cache<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key)
            .filter(|(end, _)| *end > Instant::now())
            .map(|(_, v)| v.clone())
    }

    fn put(&self, key: K, value: V, keep: Duration) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if map.len() >= KEPT {
            map.retain(|_, (end, _)| *end > now);
        }
        if map.len() < KEPT {
            map.insert(key, (now + keep, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_to_subresources() {
        let table: [(Method, &str, &str, &[&str]); 10] = [
            (Method::GET, "/healthz", "get", &["healthz", "proxy"]),
            (Method::GET, "/pods", "get", &["pods", "proxy"]),
            (Method::GET, "/podsx", "get", &["proxy"]),
            (Method::GET, "/stats/summary", "get", &["stats"]),
            (Method::GET, "/metrics/cadvisor", "get", &["metrics"]),
            (Method::GET, "/containerLogs/a/b/c", "get", &["proxy"]),
            (Method::GET, "/exec/a/b/c", "create", &["proxy"]),
            (Method::GET, "/run/a/b/c", "create", &["proxy"]),
            (Method::GET, "/runningpods/", "get", &["pods", "proxy"]),
            (Method::DELETE, "/anything", "delete", &["proxy"]),
        ];
        for (method, path, verb, subresources) in table {
            assert_eq!(attributes(&method, path), (verb, subresources), "{path}");
        }
    }
}
