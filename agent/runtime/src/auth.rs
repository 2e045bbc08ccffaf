//! Registry credentials, as image pull secrets, configuration files and plugins carry them, and which images they are
//! for (upstream's `credentialprovider` keyring).

use base64::Engine;
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::error::Error;

/// Credentials of one registry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Auth {
    /// Registry as in the secret: host, `host:port`, optionally with a path that limits it, each part of the host
    /// possibly with wildcards; or the historical `https://index.docker.io/v1/`.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct File {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

impl Auth {
    /// Reads `.dockerconfigjson` (with `auths`) or the older `.dockercfg` (a bare map).
    pub fn from_docker_config(json: &[u8]) -> Result<Vec<Auth>, Error> {
        let invalid = |reason: String| Error::invalid("pull secret", "docker config", reason);
        let entries = match serde_json::from_slice::<File>(json) {
            Ok(file) => file.auths,
            Err(_) => serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?,
        };
        entries
            .into_iter()
            .map(|(registry, entry)| entry.credentials(registry).map_err(&invalid))
            .collect()
    }

    /// Whether these credentials are meant for an image's repository, such as `docker.io/library/busybox`.
    pub fn is_for(&self, repository: &str) -> bool {
        matches(&self.registry, repository)
    }
}

/// Whether a pattern (a key of a docker configuration, or one of a plugin's `matchImages`) covers a repository with its
/// registry: as many parts of the host, each matching; the same port, or both none; and a path that begins so.
pub fn matches(pattern: &str, repository: &str) -> bool {
    let (host, path) = split(pattern);
    let path = match path {
        "v1" | "v2" => "",
        path => path
            .strip_prefix("v1/")
            .or_else(|| path.strip_prefix("v2/"))
            .unwrap_or(path),
    };
    let (registry, rest) = split(repository);
    let ((host, port), (registry, of)) = (port(canonical(host)), port(canonical(registry)));
    let parts = host.split('.').count() == registry.split('.').count();
    let mut pairs = host.split('.').zip(registry.split('.'));
    port == of && parts && pairs.all(|(p, t)| glob(p, t)) && rest.starts_with(path)
}

/// Host and path, without a scheme.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches("https://");
    let text = text.trim_start_matches("http://").trim_end_matches('/');
    text.split_once('/').unwrap_or((text, ""))
}

fn port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        // An IPv6 address in brackets has colons of its own.
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (host, ""),
    }
}

fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// `*` is any text, `?` any character.
fn glob(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => {
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|at| glob(rest.as_str(), text.get(at..).unwrap_or_default()))
        }
        Some(p) => {
            let mut text = text.chars();
            text.next().is_some_and(|t| p == '?' || p == t) && glob(rest.as_str(), text.as_str())
        }
    }
}

impl Entry {
    fn credentials(self, registry: String) -> Result<Auth, String> {
        if self.auth.is_empty() {
            return Ok(Auth {
                registry,
                username: self.username,
                password: self.password,
            });
        }
        let (username, password) =
            decode(&self.auth).map_err(|why| format!("auth of {registry}: {why}"))?;
        Ok(Auth {
            registry,
            username,
            password,
        })
    }
}

/// User and password of a docker configuration's `auth`.
pub(crate) fn decode(auth: &str) -> Result<(String, String), String> {
    let plain = base64::engine::general_purpose::STANDARD
        .decode(auth.trim())
        .map_err(|error| error.to_string())?;
    let plain = String::from_utf8(plain).map_err(|_| "not UTF-8".to_owned())?;
    let (username, password) = plain.split_once(':').ok_or("no colon")?;
    Ok((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_repositories() {
        let table = [
            (
                "https://index.docker.io/v1/",
                "docker.io/library/busybox",
                true,
            ),
            (
                "index.docker.io/v2/library",
                "docker.io/library/busybox",
                true,
            ),
            ("docker.io", "docker.io/library/busybox", true),
            ("ghcr.io", "docker.io/library/busybox", false),
            ("127.0.0.1:5000", "127.0.0.1:5000/a", true),
            ("127.0.0.1:5000", "127.0.0.1:5001/a", false),
            ("127.0.0.1", "127.0.0.1:5000/a", false),
            ("[::1]:5000", "[::1]:5000/a", true),
            ("[::1]", "[::1]:5000/a", false),
            ("https://r.example/team", "r.example/team/app", true),
            ("r.example/team", "r.example/other", false),
            ("r.example/team/app", "r.example/team", false),
            ("*.example", "r.example/a", true),
            ("*.example", "a.r.example/a", false),
            ("*.*.example", "a.r.example/a", true),
            ("*.example", "example/a", false),
            ("r*y.example:5000", "registry.example:5000/a", true),
            ("r?gistry.example", "registry.example/a", true),
            ("r?gistry.example", "rgistry.example/a", false),
            ("*", "localhost/a", true),
            ("*", "r.example/a", false),
        ];
        for (pattern, repository, expected) in table {
            assert_eq!(
                matches(pattern, repository),
                expected,
                "{pattern} for {repository}"
            );
        }
    }

    #[test]
    fn both_secret_formats_are_read() {
        let new = br#"{"auths":{"r.example":{"auth":"dTpwOnc="}}}"#;
        let old = br#"{"r.example":{"username":"u","password":"p:w"}}"#;
        for json in [&new[..], &old[..]] {
            let auths = Auth::from_docker_config(json).expect("valid");
            assert_eq!(auths.len(), 1);
            assert_eq!(
                (auths[0].username.as_str(), auths[0].password.as_str()),
                ("u", "p:w")
            );
        }
        assert!(Auth::from_docker_config(br#"{"auths":{"r":{"auth":"!!"}}}"#).is_err());
    }
}
