//! Credential provider plugins: programs that are asked for the credentials of an image (kubelet.config.k8s.io/v1
//! `CredentialProviderConfig`, and the credentialprovider.kubelet.k8s.io API over standard input and output).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::auth::{self, Auth};
use crate::error::Error;

/// How long a plugin may take, as upstream has it.
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG_VERSIONS: [&str; 3] = [
    "kubelet.config.k8s.io/v1",
    "kubelet.config.k8s.io/v1beta1",
    "kubelet.config.k8s.io/v1alpha1",
];
const API_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    token_attributes: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

/// What a plugin answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    api_version: String,
    kind: String,
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Login>,
}

#[derive(Debug, Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Which images an answer is kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Image(String),
    Registry(String),
    Global,
}

type Key = (String, Scope);

/// The plugins that are configured, and what they have answered.
#[derive(Debug, Default)]
pub struct Providers {
    dir: PathBuf,
    all: Vec<(Provider, Duration)>,
    answers: Mutex<HashMap<Key, (Instant, Vec<Auth>)>>,
}

impl Providers {
    /// Reads the configuration. The plugins must be in `dir`.
    pub fn load(config: &Path, dir: &Path) -> Result<Providers, Error> {
        let text = std::fs::read_to_string(config)
            .map_err(Error::io("read credential providers", config.display()))?;
        let invalid =
            |why: String| Error::invalid("credential providers", config.display().to_string(), why);
        let all = parse(&text).map_err(invalid)?;
        for (provider, _) in &all {
            let program = dir.join(&provider.name);
            if !program.is_file() {
                let why = format!(
                    "plugin binary executable {} did not exist",
                    program.display()
                );
                return Err(Error::invalid("credential provider", &provider.name, why));
            }
        }
        Ok(Providers {
            dir: dir.to_owned(),
            all,
            answers: Mutex::default(),
        })
    }

    /// What the plugins say of a repository such as `docker.io/library/busybox`. A plugin that fails is reported and
    /// the others are asked.
    pub async fn credentials(&self, repository: &str) -> Vec<Auth> {
        let mut found = Vec::new();
        let is_for = |p: &Provider| p.match_images.iter().any(|m| auth::matches(m, repository));
        for (provider, keep) in self.all.iter().filter(|(p, _)| is_for(p)) {
            match self.ask(provider, *keep, repository).await {
                Ok(answer) => found.extend(answer),
                Err(error) => {
                    tracing::warn!(
                        provider = provider.name,
                        image = repository,
                        error,
                        "credential provider failed"
                    );
                }
            }
        }
        found.retain(|a: &Auth| a.is_for(repository));
        found
    }

    async fn ask(
        &self,
        provider: &Provider,
        keep: Duration,
        repository: &str,
    ) -> Result<Vec<Auth>, String> {
        let key = |scope| (provider.name.clone(), scope);
        {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.retain(|_, (end, _)| *end > Instant::now());
            let mut known = scopes(repository).into_iter();
            if let Some((_, auth)) = known.find_map(|scope| answers.get(&key(scope))) {
                return Ok(auth.clone());
            }
        }
        let output = self.run(provider, repository).await?;
        let (scope, keep, auth) = read(&output, provider, keep, repository)?;
        if keep > Duration::ZERO {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.insert(key(scope), (Instant::now() + keep, auth.clone()));
        }
        Ok(auth)
    }

    async fn run(&self, provider: &Provider, repository: &str) -> Result<Vec<u8>, String> {
        let request = json!({
            "kind": "CredentialProviderRequest", "apiVersion": provider.api_version, "image": repository,
        });
        let mut child = Command::new(self.dir.join(&provider.name))
            .args(&provider.args)
            .envs(provider.env.iter().map(|v| (&v.name, &v.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| e.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read may answer all the same.
            let _ = stdin.write_all(request.to_string().as_bytes()).await;
        }
        let done = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let done = done.map_err(|_| format!("no answer within {}s", PATIENCE.as_secs()))?;
        let done = done.map_err(|e| e.to_string())?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            return Err(format!("{}: {}", done.status, said.trim()));
        }
        Ok(done.stdout)
    }
}

fn parse(text: &str) -> Result<Vec<(Provider, Duration)>, String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
    if file.kind != "CredentialProviderConfig" || !CONFIG_VERSIONS.contains(&&*file.api_version) {
        return Err(format!(
            "{}, {} is no CredentialProviderConfig of kubelet.config.k8s.io/v1",
            file.api_version, file.kind
        ));
    }
    if file.providers.is_empty() {
        return Err("at least 1 item in plugins is required".to_owned());
    }
    file.providers.into_iter().map(check).collect()
}

fn check(provider: Provider) -> Result<(Provider, Duration), String> {
    let name = provider.name.clone();
    let refuse = |why: &str| Err(format!("provider {name:?}: {why}"));
    if name.is_empty() || name.contains(['/', ' ']) || name == "." || name == ".." {
        return refuse("the name is that of a program, without path and spaces");
    }
    if provider.match_images.is_empty() {
        return refuse("at least 1 item in matchImages is required");
    }
    if !API_VERSIONS.contains(&&*provider.api_version) {
        return refuse("apiVersion must be credentialprovider.kubelet.k8s.io/v1");
    }
    if provider.token_attributes.is_some() {
        return refuse(
            "tokenAttributes is not supported: leave it out, plugins get no service account tokens here",
        );
    }
    match provider.default_cache_duration.as_deref().map(duration) {
        Some(Some(keep)) => Ok((provider, keep)),
        _ => refuse("defaultCacheDuration is required, such as 10m"),
    }
}

fn read(
    output: &[u8],
    provider: &Provider,
    keep: Duration,
    repository: &str,
) -> Result<(Scope, Duration, Vec<Auth>), String> {
    let answer: Response = serde_json::from_slice(output).map_err(|e| e.to_string())?;
    if answer.kind != "CredentialProviderResponse" || answer.api_version != provider.api_version {
        return Err(format!(
            "apiVersion from credential plugin response did not match expected apiVersion {}",
            provider.api_version
        ));
    }
    let [image, registry, global] = scopes(repository);
    let scope = match answer.cache_key_type.as_str() {
        "Image" => image,
        "Registry" => registry,
        "Global" => global,
        other => {
            return Err(format!(
                "credential provider plugin did not return a valid cacheKeyType: {other:?}"
            ));
        }
    };
    let keep = match answer.cache_duration.as_deref() {
        None => keep,
        Some(text) => {
            duration(text).ok_or_else(|| format!("cacheDuration {text:?} is no duration"))?
        }
    };
    let logins = answer.auth.into_iter().rev();
    let auth = logins.map(|(registry, login)| Auth {
        registry,
        username: login.username,
        password: login.password,
    });
    Ok((scope, keep, auth.collect()))
}

fn scopes(repository: &str) -> [Scope; 3] {
    let registry = repository.split('/').next().unwrap_or_default();
    [
        Scope::Image(repository.to_owned()),
        Scope::Registry(registry.to_owned()),
        Scope::Global,
    ]
}

/// A duration as Go writes it: `1h30m`, `0s`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(unit);
        let end = tail.find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, tail) = tail.split_at(end.unwrap_or(tail.len()));
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let seconds = number.parse::<f64>().ok()? * unit;
        sum = sum.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const CONFIG: &str = r#"
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plugin
  matchImages: ["*.example", "127.0.0.1:5000/private"]
  defaultCacheDuration: 10m
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [KIND]
  env: [{name: WHO, value: me}]
"#;

    fn plugin(kind: &str) -> (tempfile::TempDir, Providers) {
        let dir = tempfile::tempdir().expect("directory");
        let script = r#"#!/bin/sh
cat >"${0%/*}/request"
echo x >>"${0%/*}/count"
[ "$1" = fails ] && { echo 'no luck' >&2; exit 3; }
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"'$1'","auth":{"*.example":{"username":"'$WHO'","password":"p"},"*.example/team":{"username":"team","password":"p"},"other.test":{"username":"o","password":"p"}}}'
"#;
        let program = dir.path().join("plugin");
        std::fs::write(&program, script).expect("plugin");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let config = dir.path().join("config.yaml");
        std::fs::write(&config, CONFIG.replace("KIND", kind)).expect("config");
        let providers = Providers::load(&config, dir.path()).expect("valid");
        (dir, providers)
    }

    #[tokio::test]
    async fn answers_are_kept_for_what_they_are_for() {
        for (kind, runs) in [
            ("Image", 3),
            ("Registry", 2),
            ("Global", 1),
            ("fails", 3),
            ("Nothing", 3),
        ] {
            let (dir, providers) = plugin(kind);
            let mut users = Vec::new();
            for image in [
                "a.example/team/x",
                "a.example/team/x",
                "a.example/y",
                "b.example/z",
                "r.test/x",
            ] {
                let found = providers.credentials(image).await;
                users.push(
                    found
                        .into_iter()
                        .map(|a| a.username)
                        .collect::<Vec<_>>()
                        .join(","),
                );
            }
            let told = match kind {
                "fails" | "Nothing" => ["", "", "", "", ""],
                _ => ["team,me", "team,me", "me", "me", ""],
            };
            assert_eq!(users, told, "{kind}");
            let count = std::fs::read_to_string(dir.path().join("count")).expect("count");
            let failed = usize::from(matches!(kind, "fails" | "Nothing"));
            assert_eq!(count.lines().count(), runs + failed, "{kind}");
            let request = std::fs::read(dir.path().join("request")).expect("request");
            let request: serde_json::Value = serde_json::from_slice(&request).expect("JSON");
            assert_eq!(request["kind"], "CredentialProviderRequest");
        }
    }

    #[test]
    fn wrong_configurations_are_refused() {
        for (from, to, word) in [
            ("kubelet.config.k8s.io/v1", "v1", "CredentialProviderConfig"),
            ("name: plugin", "name: ../plugin", "without path"),
            (
                "[\"*.example\", \"127.0.0.1:5000/private\"]",
                "[]",
                "matchImages",
            ),
            ("10m", "soon", "defaultCacheDuration"),
            ("credentialprovider.kubelet.k8s.io/v1", "v2", "apiVersion"),
            ("args: [KIND]", "tokenAttributes: {}", "tokenAttributes"),
            ("args: [KIND]", "arguments: []", "arguments"),
        ] {
            let error = parse(&CONFIG.replace(from, to)).expect_err(to);
            assert!(error.contains(word), "{to}: {error}");
        }
        let missing = Providers::load(Path::new("/nowhere"), Path::new("/"));
        assert!(missing.is_err());
    }

    #[test]
    fn durations() {
        for (text, want) in [
            ("10m", Some(600.0)),
            ("1h30m", Some(5400.0)),
            ("0s", Some(0.0)),
            ("1.5s", Some(1.5)),
            ("5", None),
            ("", None),
            ("5x", None),
            ("-5s", None),
        ] {
            assert_eq!(duration(text).map(|d| d.as_secs_f64()), want, "{text:?}");
        }
    }
}
