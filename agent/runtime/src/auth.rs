//! Registry credentials, as image pull secrets carry them.

use base64::Engine;
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::error::Error;

/// Credentials of one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// Registry as in the secret: host, `host:port`, optionally with a path that limits it, or the
    /// historical `https://index.docker.io/v1/`.
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

    /// Whether these credentials are meant for `repository` (without tag) at `registry`.
    pub(crate) fn matches(&self, registry: &str, repository: &str) -> bool {
        let wanted = self.registry.trim_start_matches("https://");
        let wanted = wanted.trim_start_matches("http://").trim_end_matches('/');
        let (host, path) = wanted.split_once('/').unwrap_or((wanted, ""));
        let path = if matches!(path, "v1" | "v2") {
            ""
        } else {
            path
        };
        let canonical = |host: &str| match host {
            "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            other => other.to_owned(),
        };
        let below = repository
            .strip_prefix(path)
            .is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        canonical(host) == canonical(registry) && below
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
        let plain = base64::engine::general_purpose::STANDARD
            .decode(self.auth.trim())
            .map_err(|error| format!("auth of {registry}: {error}"))?;
        let plain =
            String::from_utf8(plain).map_err(|_| format!("auth of {registry}: not UTF-8"))?;
        let (username, password) = plain
            .split_once(':')
            .ok_or_else(|| format!("auth of {registry}: no colon"))?;
        Ok(Auth {
            registry,
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_apply_to_their_registry_and_path() {
        let table = [
            (
                "https://index.docker.io/v1/",
                "docker.io",
                "library/busybox",
                true,
            ),
            ("docker.io", "docker.io", "library/busybox", true),
            ("ghcr.io", "docker.io", "library/busybox", false),
            ("127.0.0.1:5000", "127.0.0.1:5000", "a", true),
            ("127.0.0.1:5000", "127.0.0.1:5001", "a", false),
            ("https://r.example/team", "r.example", "team/app", true),
            ("r.example/team", "r.example", "teams/app", false),
            ("r.example/team", "r.example", "other", false),
        ];
        for (entry, registry, repository, expected) in table {
            let auth = Auth {
                registry: entry.into(),
                username: String::new(),
                password: String::new(),
            };
            assert_eq!(
                auth.matches(registry, repository),
                expected,
                "{entry} for {registry}/{repository}"
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
