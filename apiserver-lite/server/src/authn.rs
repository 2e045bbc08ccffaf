//! Who asks: the user of this process, a bearer token, a client certificate, or nobody.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::{Extensions, HeaderMap, header};
use jiff::Timestamp;
use keelson_api::Status;
use keelson_auth::token::bootstrap::Token;
use keelson_auth::token::{Claims, ISSUER, Ref};
use keelson_auth::{Attributes, Decision, User, user_from_cert};
use keelson_serving::Identity;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::handler::get;
use crate::object;
use crate::state::Server;

/// How long a verified signature is remembered, in seconds. Whether what a token is bound to still lives
/// is checked every time.
const REMEMBER: i64 = 600;
/// How many are remembered.
const REMEMBERED: usize = 4096;

/// How long a token outlives the time of death of what it is bound to, in seconds (as upstream): finalizers
/// may still need it.
const DYING: i64 = 60;

/// The user of a request that came from inside this process; only this crate can make one.
#[derive(Clone)]
pub(crate) struct InProcess(pub User);

/// Tokens whose signature was verified, by digest.
#[derive(Default)]
pub(crate) struct TokenCache {
    verified: Mutex<HashMap<[u8; 32], (Claims, i64)>>,
}

/// Finds out who asks. Wrong credentials are refused, none are anonymous.
pub(crate) async fn authenticate(
    server: &Server,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<User, Status> {
    if let Some(InProcess(user)) = extensions.get() {
        return Ok(user.clone());
    }
    if let Some(leaf) = extensions
        .get::<Identity>()
        .and_then(|i| i.certificates.first())
    {
        return user_from_cert(leaf, Timestamp::now()).ok_or_else(unauthorized);
    }
    match bearer(headers) {
        Some(token) => match user_from_token(server, &token, &[]).await {
            Ok(valid) => Ok(valid.user),
            Err(why) => {
                tracing::debug!(why, "refused a bearer token");
                Err(unauthorized())
            }
        },
        None if headers.contains_key(header::AUTHORIZATION) => Err(unauthorized()),
        None => Ok(User::anonymous()),
    }
}

/// 401.
pub(crate) fn unauthorized() -> Status {
    Status::new(401, "Unauthorized", "Unauthorized")
}

/// The token of an `Authorization` header, or of a WebSocket's subprotocol, where browsers have to put it.
fn bearer(headers: &HeaderMap) -> Option<String> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    if let Some(value) = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
    {
        let (scheme, token) = value.split_once(' ')?;
        return scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned());
    }
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|p| {
        p.trim()
            .strip_prefix("base64url.bearer.authorization.k8s.io.")
    })?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// A token that was found valid.
pub(crate) struct Valid {
    /// Who it stands for.
    pub(crate) user: User,
    /// Which of the audiences asked for it is valid for.
    pub(crate) audiences: Vec<String>,
}

/// The user a token stands for, if it is valid for one of the audiences (none: the API server's).
pub(crate) async fn user_from_token(
    server: &Server,
    token: &str,
    audiences: &[&str],
) -> Result<Valid, String> {
    let now = Timestamp::now();
    let asked = if audiences.is_empty() {
        &[ISSUER]
    } else {
        audiences
    };
    let valid_for = |has: &dyn Fn(&str) -> bool| -> Vec<String> {
        asked
            .iter()
            .filter(|a| has(a))
            .map(|a| (*a).to_owned())
            .collect()
    };
    if let Ok(token) = token.parse::<Token>() {
        let user = user_from_bootstrap(server, &token, now).await?;
        let audiences = valid_for(&|a| a == ISSUER);
        if audiences.is_empty() {
            return Err(format!(
                "token audiences [{ISSUER:?}] is invalid for the target audiences {asked:?}"
            ));
        }
        return Ok(Valid { user, audiences });
    }
    let claims = verify(server, token, audiences, now)?;
    alive(server, &claims, token, now).await?;
    let audiences =
        valid_for(&|a| claims.audiences.iter().any(|c| c == a) || claims.legacy && a == ISSUER);
    let user = claims.user();
    Ok(Valid { user, audiences })
}

async fn user_from_bootstrap(
    server: &Server,
    token: &Token,
    now: Timestamp,
) -> Result<User, String> {
    let secret = find(
        server,
        "secrets",
        keelson_auth::token::bootstrap::NAMESPACE,
        &token.secret_name(),
    )
    .await?;
    token.check(&secret, now).map_err(|e| e.to_string())
}

fn verify(
    server: &Server,
    token: &str,
    audiences: &[&str],
    now: Timestamp,
) -> Result<Claims, String> {
    let verify = || {
        server
            .pki
            .token_keys()
            .verify(token, audiences, now)
            .map_err(|e| e.to_string())
    };
    if !audiences.is_empty() {
        return verify();
    }
    let digest: [u8; 32] = Sha256::digest(token).into();
    let seconds = now.as_second();
    let mut verified = server
        .tokens
        .verified
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some((claims, until)) = verified.get(&digest)
        && seconds < *until
    {
        return Ok(claims.clone());
    }
    let claims = verify()?;
    if verified.len() >= REMEMBERED {
        verified.clear();
    }
    let until = claims
        .expires
        .map_or(seconds + REMEMBER, |end| end.min(seconds + REMEMBER));
    verified.insert(digest, (claims.clone(), until));
    Ok(claims)
}

/// Whether the account and what the token is bound to still live, with the same UIDs.
async fn alive(
    server: &Server,
    claims: &Claims,
    token: &str,
    now: Timestamp,
) -> Result<(), String> {
    let ns = claims.namespace.as_str();
    let mut bound: Vec<(&str, &str, &Ref)> = vec![("serviceaccounts", ns, &claims.account)];
    bound.extend(claims.pod.as_ref().map(|r| ("pods", ns, r)));
    if claims.pod.is_none() {
        bound.extend(claims.node.as_ref().map(|r| ("nodes", "", r)));
    }
    for (plural, ns, expected) in bound {
        let live = find(server, plural, ns, &expected.name).await?;
        same(plural, expected, &live, now)?;
    }
    let Some(secret) = &claims.secret else {
        return Ok(());
    };
    let live = find(server, "secrets", ns, &secret.name).await?;
    if claims.legacy {
        holds(&live, token)
    } else {
        same("secrets", secret, &live, now)
    }
}

fn same(plural: &str, expected: &Ref, live: &Value, now: Timestamp) -> Result<(), String> {
    let dies: Option<Timestamp> = object::text(live, "/metadata/deletionTimestamp")
        .parse()
        .ok();
    if dies.is_some_and(|at| at.as_second() + DYING < now.as_second()) {
        return Err(format!("{plural} {:?} is being deleted", expected.name));
    }
    if object::text(live, "/metadata/uid") != expected.uid {
        return Err(format!(
            "{plural} {:?} is not the one the token is bound to",
            expected.name
        ));
    }
    Ok(())
}

fn holds(secret: &Value, token: &str) -> Result<(), String> {
    use base64::Engine;
    let held =
        base64::engine::general_purpose::STANDARD.decode(object::text(secret, "/data/token"));
    if held
        .ok()
        .is_some_and(|h| Sha256::digest(&h) == Sha256::digest(token))
    {
        Ok(())
    } else {
        Err("the token is not in its Secret any more".to_owned())
    }
}

async fn find(server: &Server, plural: &str, ns: &str, name: &str) -> Result<Value, String> {
    let row = server.row("", "v1", plural).map_err(|e| e.to_string())?;
    let found = get::find(server, &row, ns, name)
        .await
        .map_err(|e| e.to_string())?;
    found
        .map(|(_, object)| object)
        .ok_or_else(|| format!("{plural} {name:?} does not exist"))
}

/// The user to act as, if the request asks to act as another and the user may.
pub(crate) fn impersonate(
    server: &Server,
    user: User,
    headers: &HeaderMap,
) -> Result<User, Status> {
    let Some(wanted) = wanted(headers)? else {
        return Ok(user);
    };
    let may = |group: &str, resource: &str, sub: &str, ns: &str, name: &str| {
        let attributes = Attributes {
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: sub.into(),
            namespace: ns.into(),
            name: name.into(),
            ..Attributes::default()
        };
        match server.authorize(&user, &attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => {
                Err(crate::authz::forbidden(&user, &attributes, &why))
            }
        }
    };
    match service_account(&wanted.name) {
        Some((ns, name)) => may("", "serviceaccounts", "", ns, name)?,
        None => may("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        may("", "groups", "", "", group)?;
    }
    if !wanted.uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    Ok(complete(wanted))
}

fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let text = |v: &http::HeaderValue| String::from_utf8(v.as_bytes().to_vec()).unwrap_or_default();
    let all = |name: &str| -> Vec<String> { headers.get_all(name).iter().map(text).collect() };
    let mut user = User {
        groups: all("impersonate-group"),
        ..User::default()
    };
    user.uid = all("impersonate-uid")
        .into_iter()
        .next()
        .unwrap_or_default();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix("impersonate-extra-") {
            let key = crate::query::percent_decode(key, false).unwrap_or_else(|| key.to_owned());
            user.extra.entry(key).or_default().push(text(value));
        }
    }
    user.name = all("impersonate-user")
        .into_iter()
        .next()
        .unwrap_or_default();
    if user.name.is_empty() {
        if user == User::default() {
            return Ok(None);
        }
        return Err(Status::internal(format!(
            "requested {:?} without impersonating a user",
            user.groups
        )));
    }
    Ok(Some(user))
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Adds the groups an authenticated user always has.
fn complete(mut user: User) -> User {
    if let (Some((ns, _)), true) = (
        service_account(&user.name).map(|(a, b)| (a.to_owned(), b)),
        user.groups.is_empty(),
    ) {
        user.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{ns}"),
        ];
    }
    let always = if user.name == "system:anonymous" {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    if !user.in_group(always) && !user.in_group("system:unauthenticated") {
        user.groups.push(always.to_owned());
    }
    user
}
