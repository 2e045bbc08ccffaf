//! A container's environment, command and arguments.
//! Sources: "Define environment variables", "Expose Pod information through environment variables";
//! error texts are upstream's.

pub mod downward;
pub mod expand;
pub mod services;

use std::cell::RefCell;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, VolumeMount,
};

pub use downward::Facts;
pub use services::ServiceEnv;

/// Why an environment cannot be made; the container waits with `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A ConfigMap or Secret is not there.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key is not there.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    MissingKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The key.
        key: String,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
    },
    /// A value that is no text.
    #[error("environment variable {0}: value is not valid UTF-8")]
    NotText(String),
    /// A field reference that does not exist.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// A resource reference that cannot be resolved.
    #[error("{0}")]
    Resource(String),
    /// A `subPathExpr` names a variable that the container does not have.
    #[error("missing value for \"{0}\"")]
    NoValue(String),
    /// A source this agent does not offer.
    #[error("environment variable {0}: its source is not supported by this node agent")]
    Unsupported(String),
}

/// An object a container's environment refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// A ConfigMap of the pod's namespace.
    ConfigMap(String),
    /// A Secret of the pod's namespace.
    Secret(String),
}

/// What the environment is made of, fetched by the caller. An object that is absent does not exist.
#[derive(Clone, Default)]
pub struct Sources {
    /// By name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// By name.
    pub secrets: BTreeMap<String, Secret>,
    /// Variables of the services the pod may see.
    pub services: ServiceEnv,
}

/// What must be fetched for a container.
pub fn references(c: &Container) -> Vec<Reference> {
    let from = c.env_from.iter().flatten().flat_map(|f| {
        let map = f
            .config_map_ref
            .as_ref()
            .map(|r| Reference::ConfigMap(r.name.clone()));
        map.into_iter().chain(
            f.secret_ref
                .as_ref()
                .map(|r| Reference::Secret(r.name.clone())),
        )
    });
    let single = c
        .env
        .iter()
        .flatten()
        .filter_map(|e| e.value_from.as_ref())
        .flat_map(|v| {
            let map = v
                .config_map_key_ref
                .as_ref()
                .map(|r| Reference::ConfigMap(r.name.clone()));
            map.into_iter().chain(
                v.secret_key_ref
                    .as_ref()
                    .map(|r| Reference::Secret(r.name.clone())),
            )
        });
    let mut all: Vec<_> = from.chain(single).collect();
    all.sort();
    all.dedup();
    all
}

/// The environment, in order: `envFrom`, then `env` (later wins), then services under names still free.
pub fn environment(
    pod: &Pod,
    c: &Container,
    sources: &Sources,
    facts: &Facts,
) -> Result<Vec<(String, String)>, Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut env = Env::default();
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            let optional = r.optional == Some(true);
            for (k, v) in config_map(sources, &r.name, optional)?
                .iter()
                .flat_map(|m| m.data.iter().flatten())
            {
                env.set(format!("{prefix}{k}"), v.clone());
            }
        }
        if let Some(r) = &from.secret_ref {
            let optional = r.optional == Some(true);
            for (k, v) in secret(sources, &r.name, optional)?
                .iter()
                .flat_map(|s| s.data.iter().flatten())
            {
                let name = format!("{prefix}{k}");
                let text = text(&name, &v.0)?;
                env.set(name, text);
            }
        }
    }
    let services: BTreeMap<&str, &str> = sources
        .services
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    for var in c.env.iter().flatten() {
        let value = value(pod, c, var, sources, facts, namespace, &|name| {
            env.get(name)
                .or_else(|| services.get(name).copied())
                .map(str::to_owned)
        })?;
        if let Some(value) = value {
            env.set(var.name.clone(), value);
        }
    }
    for (name, value) in &sources.services {
        if env.get(name).is_none() {
            env.set(name.clone(), value.clone());
        }
    }
    Ok(env.list)
}

/// A mount's part of its volume: `subPath`, or `subPathExpr` with the container's variables, each of which must be
/// there (KEP-559). `None`: the whole volume.
pub fn sub_path(m: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, Error> {
    let filled = |o: &Option<String>| o.clone().filter(|s| !s.is_empty());
    let Some(text) = filled(&m.sub_path_expr) else {
        return Ok(filled(&m.sub_path));
    };
    let missing = RefCell::new(None);
    let find = |name: &str| {
        let found = env.iter().find(|(k, _)| k == name);
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found.map(|(_, v)| v.clone())
    };
    let path = expand::expand(&text, &find);
    match missing.into_inner() {
        None => Ok(Some(path)),
        Some(name) => Err(Error::NoValue(name)),
    }
}

/// Command and arguments with `$(NAME)` replaced.
pub fn command(list: Option<&[String]>, env: &[(String, String)]) -> Vec<String> {
    let find = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    list.unwrap_or_default()
        .iter()
        .map(|text| expand::expand(text, &find))
        .collect()
}

/// Variables in the order they first appeared.
#[derive(Default)]
struct Env {
    list: Vec<(String, String)>,
}

impl Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.list
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    fn set(&mut self, name: String, value: String) {
        match self.list.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.list.push((name, value)),
        }
    }
}

/// A variable's value; `None` when an optional source is not there.
fn value(
    pod: &Pod,
    c: &Container,
    var: &EnvVar,
    sources: &Sources,
    facts: &Facts,
    namespace: &str,
    find: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, Error> {
    let Some(from) = &var.value_from else {
        return Ok(Some(expand::expand(
            var.value.as_deref().unwrap_or_default(),
            find,
        )));
    };
    match from {
        EnvVarSource {
            field_ref: Some(f), ..
        } => downward::field(pod, &f.field_path, facts).map(Some),
        EnvVarSource {
            resource_field_ref: Some(r),
            ..
        } => downward::resource(pod, Some(c), r, facts).map(Some),
        EnvVarSource {
            config_map_key_ref: Some(r),
            ..
        } => {
            let optional = r.optional == Some(true);
            let Some(map) = config_map(sources, &r.name, optional)? else {
                return Ok(None);
            };
            let found = map.data.as_ref().and_then(|d| d.get(&r.key)).cloned();
            key(found, optional, "ConfigMap", &r.key, namespace, &r.name)
        }
        EnvVarSource {
            secret_key_ref: Some(r),
            ..
        } => {
            let optional = r.optional == Some(true);
            let Some(secret) = secret(sources, &r.name, optional)? else {
                return Ok(None);
            };
            let found = secret.data.as_ref().and_then(|d| d.get(&r.key));
            let found = found.map(|v| text(&var.name, &v.0)).transpose()?;
            key(found, optional, "Secret", &r.key, namespace, &r.name)
        }
        _ => Err(Error::Unsupported(var.name.clone())),
    }
}

fn key(
    found: Option<String>,
    optional: bool,
    kind: &'static str,
    key: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<String>, Error> {
    if found.is_some() || optional {
        return Ok(found);
    }
    Err(Error::MissingKey {
        kind,
        key: key.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

fn config_map<'a>(
    sources: &'a Sources,
    name: &str,
    optional: bool,
) -> Result<Option<&'a ConfigMap>, Error> {
    match sources.config_maps.get(name) {
        None if !optional => Err(Error::Missing {
            kind: "configmap",
            name: name.to_owned(),
        }),
        found => Ok(found),
    }
}

fn secret<'a>(
    sources: &'a Sources,
    name: &str,
    optional: bool,
) -> Result<Option<&'a Secret>, Error> {
    match sources.secrets.get(name) {
        None if !optional => Err(Error::Missing {
            kind: "secret",
            name: name.to_owned(),
        }),
        found => Ok(found),
    }
}

fn text(name: &str, bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::NotText(name.to_owned()))
}

#[cfg(test)]
mod tests;
