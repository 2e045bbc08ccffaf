//! `registries.yaml`, in the form k3s made known: from where images of a registry are pulled, how that is spoken to, and
//! as whom. It is read for each pull, so a change needs no restart.
//!
//! ```yaml
//! mirrors:
//!   docker.io:
//!     endpoint: ["http://mirror.example:5000"]   # tried in this order, then the registry itself
//!     rewrite: {"^library/(.*)": "hub/$1"}       # the repository's name there
//! configs:
//!   mirror.example:5000:
//!     auth: {username: u, password: p}
//!     tls: {ca_file: /etc/ca.pem, insecure_skip_verify: false}
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use super::name;
use crate::auth;
use crate::error::Error;

/// For every registry that has no entry of its own.
const ANY: &str = "*";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mirrors: BTreeMap<String, Option<Mirror>>,
    #[serde(default)]
    configs: BTreeMap<String, Option<Host>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mirror {
    #[serde(default)]
    endpoint: Vec<String>,
    #[serde(default)]
    rewrite: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    #[serde(default)]
    auth: Option<HostAuth>,
    #[serde(default)]
    tls: Option<Tls>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identity_token: String,
}

impl std::fmt::Debug for HostAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAuth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    #[serde(default)]
    cert_file: String,
    #[serde(default)]
    key_file: String,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    insecure_skip_verify: bool,
}

/// Where an image's contents are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`.
    pub(crate) host: String,
    /// Plain HTTP instead of TLS.
    pub(crate) plain: bool,
    /// It is the registry itself, no mirror.
    pub(crate) own: bool,
    /// What the repository is called there.
    pub(crate) repository: String,
    /// User and password by the configuration.
    pub(crate) auth: Option<(String, String)>,
    /// Who signs its certificate, beside the usual ones.
    pub(crate) ca_file: Option<PathBuf>,
    /// Any certificate will do.
    pub(crate) unverified: bool,
}

/// The file's contents.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registries(File);

impl Registries {
    /// Reads the file; nothing is configured when there is none.
    pub(crate) fn read(path: &Path) -> Result<Registries, Error> {
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Registries::default()),
            r => r.map_err(Error::io("read registries", path.display()))?,
        };
        Registries::parse(&text)
            .map_err(|why| Error::invalid("registries", path.display().to_string(), why))
    }

    fn parse(text: &str) -> Result<Registries, String> {
        let file: Option<File> = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
        let file = file.unwrap_or_default();
        for (registry, mirror) in &file.mirrors {
            let mirror = mirror.iter();
            for rewrite in mirror.clone().flat_map(|m| m.rewrite.keys()) {
                let known = Regex::new(rewrite).map(drop);
                known.map_err(|e| format!("mirrors.{registry}.rewrite: {e}"))?;
            }
            for endpoint in mirror.flat_map(|m| &m.endpoint) {
                place(endpoint).map_err(|e| format!("mirrors.{registry}.endpoint: {e}"))?;
            }
        }
        for (host, config) in &file.configs {
            let tls = config.iter().filter_map(|c| c.tls.as_ref());
            if tls
                .clone()
                .any(|t| !t.cert_file.is_empty() || !t.key_file.is_empty())
            {
                return Err(format!(
                    "configs.{host}.tls: client certificates (cert_file, key_file) are not supported: use ca_file or insecure_skip_verify, and auth"
                ));
            }
            let auth = config.iter().filter_map(|c| c.auth.as_ref());
            for auth in auth {
                auth.pair()
                    .map_err(|e| format!("configs.{host}.auth: {e}"))?;
            }
        }
        Ok(Registries(file))
    }

    /// Where an image is asked for, in this order; the registry itself comes last. `insecure` are registries spoken to
    /// over plain HTTP beside those on loopback.
    pub(crate) fn endpoints(
        &self,
        registry: &str,
        repository: &str,
        insecure: &[String],
    ) -> Vec<Endpoint> {
        let mirror = self.0.mirrors.get(registry);
        let mirror = mirror
            .or_else(|| self.0.mirrors.get(ANY))
            .cloned()
            .flatten();
        let mirror = mirror.unwrap_or_default();
        let there = rewritten(&mirror.rewrite, repository);
        // What does not parse has been refused.
        let places = mirror.endpoint.iter().filter_map(|e| place(e).ok());
        let mut all: Vec<Endpoint> = Vec::new();
        for (host, scheme) in places {
            // A registry may be its own mirror, to say that it speaks plain HTTP.
            let own = host == registry;
            let repository = if own { repository } else { &there };
            let plain = scheme.unwrap_or_else(|| name::plain_http(&host, insecure));
            all.push(self.endpoint(host, plain, own, repository));
        }
        if !all.iter().any(|e| e.own) {
            let plain = name::plain_http(registry, insecure);
            all.push(self.endpoint(registry.to_owned(), plain, true, repository));
        }
        all
    }

    fn endpoint(&self, host: String, plain: bool, own: bool, repository: &str) -> Endpoint {
        let scheme = if plain { "http" } else { "https" };
        let configs = &self.0.configs;
        let keys = [host.clone(), format!("{scheme}://{host}"), ANY.to_owned()];
        let config = keys
            .iter()
            .find_map(|key| configs.get(key).cloned().flatten());
        let config = config.unwrap_or_default();
        let tls = config.tls.unwrap_or_default();
        Endpoint {
            host,
            plain,
            own,
            repository: repository.to_owned(),
            auth: config.auth.and_then(|a| a.pair().ok().flatten()),
            ca_file: tls.ca_file,
            unverified: tls.insecure_skip_verify,
        }
    }
}

impl HostAuth {
    fn pair(&self) -> Result<Option<(String, String)>, String> {
        match self {
            a if !a.identity_token.is_empty() => {
                Err("identity_token is not supported: use username and password, or auth".into())
            }
            a if !a.auth.is_empty() => auth::decode(&a.auth).map(Some),
            a if a.username.is_empty() => Ok(None),
            a => Ok(Some((a.username.clone(), a.password.clone()))),
        }
    }
}

/// Host of an endpoint, and whether its scheme says plain HTTP.
fn place(endpoint: &str) -> Result<(String, Option<bool>), String> {
    let (plain, rest) = match endpoint.split_once("://") {
        Some(("http", rest)) => (Some(true), rest),
        Some(("https", rest)) => (Some(false), rest),
        Some(_) => return Err(format!("{endpoint}: only http and https are spoken")),
        None => (None, endpoint),
    };
    let rest = rest.trim_end_matches('/');
    let host = rest.strip_suffix("/v2").unwrap_or(rest);
    match host {
        "" => Err(format!("{endpoint:?} names no host")),
        host if host.contains('/') => Err(format!(
            "{endpoint}: a path other than /v2 is not supported: give the host alone, and the path by rewrite"
        )),
        host => Ok((host.to_owned(), plain)),
    }
}

/// The first expression that fits says what the repository is called.
fn rewritten(rewrite: &BTreeMap<String, String>, repository: &str) -> String {
    let known = rewrite
        .iter()
        .filter_map(|(from, to)| Some((Regex::new(from).ok()?, to)));
    for (from, to) in known {
        if from.is_match(repository) {
            return from.replace_all(repository, to.as_str()).into_owned();
        }
    }
    repository.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["http://mirror.example:5000", "https://second.example/v2"]
    rewrite: {"^library/(.*)": "hub/$1"}
  plain.example:
    endpoint: ["http://plain.example"]
  empty.example:
  "*":
    endpoint: [any.example]
configs:
  mirror.example:5000:
    auth: {username: u, password: p}
  "https://second.example":
    auth: {auth: dTpwOnc=}
    tls: {ca_file: /ca.pem}
  "*":
    tls: {insecure_skip_verify: true}
"#;

    #[test]
    fn mirrors_come_before_the_registry() {
        let registries = Registries::parse(FILE).expect("valid");
        let told = |registry: &str, repository: &str| -> Vec<String> {
            let all = registries.endpoints(registry, repository, &[]);
            let scheme = |e: &Endpoint| if e.plain { "http" } else { "https" };
            let user = |e: &Endpoint| {
                e.auth
                    .clone()
                    .map_or(String::new(), |(u, p)| format!("{u}:{p}@"))
            };
            let tell =
                |e: &Endpoint| format!("{}://{}{}/{}", scheme(e), user(e), e.host, e.repository);
            all.iter().map(tell).collect()
        };
        let table = [
            (
                "docker.io",
                "library/a",
                vec![
                    "http://u:p@mirror.example:5000/hub/a",
                    "https://u:p:w@second.example/hub/a",
                    "https://docker.io/library/a",
                ],
            ),
            (
                "docker.io",
                "team/a",
                vec![
                    "http://u:p@mirror.example:5000/team/a",
                    "https://u:p:w@second.example/team/a",
                    "https://docker.io/team/a",
                ],
            ),
            ("plain.example", "a", vec!["http://plain.example/a"]),
            ("empty.example", "a", vec!["https://empty.example/a"]),
            (
                "other.example",
                "a",
                vec!["https://any.example/a", "https://other.example/a"],
            ),
            (
                "127.0.0.1:5000",
                "a",
                vec!["https://any.example/a", "http://127.0.0.1:5000/a"],
            ),
        ];
        for (registry, repository, want) in table {
            assert_eq!(told(registry, repository), want, "{registry}/{repository}");
        }
        let all = registries.endpoints("docker.io", "a", &[]);
        assert_eq!(all[1].ca_file, Some("/ca.pem".into()));
        assert!(!all[1].unverified && all[2].unverified && all[2].own && !all[0].own);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("mirors: {}", "mirors"),
            (
                "mirrors: {a: {endpoint: ['ftp://x']}}",
                "only http and https",
            ),
            ("mirrors: {a: {endpoint: ['http://x/path']}}", "path"),
            ("mirrors: {a: {endpoint: ['http://']}}", "no host"),
            ("mirrors: {a: {rewrite: {'(': b}}}", "mirrors.a.rewrite"),
            ("configs: {a: {tls: {cert_file: x}}}", "client certificates"),
            ("configs: {a: {auth: {auth: '!!'}}}", "configs.a.auth"),
        ] {
            let error = Registries::parse(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(
            Registries::parse("")
                .expect("empty")
                .endpoints("a", "b", &[])[0]
                .own
        );
    }
}
