//! With what images are pulled: the pod's secrets first, then what the node has for every pod.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Secret as ApiSecret};
use keelson_agent_plan::access::{Pulled, Secret};
use keelson_runtime::{Auth, Providers};
use kube::Api;

use crate::pulled::hash;
use crate::shared::{Shared, chain};

/// One login, and the secret it comes from; none when the node has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Credential {
    pub(crate) auth: Auth,
    secret: Option<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Source {
    uid: String,
    namespace: String,
    name: String,
}

impl Credential {
    /// The secret, as records of pulls have it.
    fn secret(&self) -> Option<Secret> {
        let source = self.secret.as_ref()?;
        let auth = &self.auth;
        Some(Secret {
            uid: source.uid.clone(),
            namespace: source.namespace.clone(),
            name: source.name.clone(),
            hash: hash(&[&auth.registry, &auth.username, &auth.password]),
        })
    }
}

/// The secrets among credentials.
pub(crate) fn secrets(all: &[Credential]) -> Vec<Secret> {
    all.iter().filter_map(Credential::secret).collect()
}

/// What a pull has shown: which of the pod's secrets open the image, or that nothing of the pod's is needed. Several
/// secrets may hold the login that the registry took.
pub(crate) fn shown(all: &[Credential], by: Option<&Auth>) -> Pulled {
    let Some(by) = by else {
        return Pulled::ByAnybody;
    };
    let took: Vec<&Credential> = all.iter().filter(|c| c.auth == *by).collect();
    if took.iter().any(|c| c.secret.is_none()) {
        return Pulled::ByAnybody;
    }
    Pulled::With(took.into_iter().filter_map(Credential::secret).collect())
}

/// Those that are for a repository (normalised, without tag): first the pod's, then the node's; of each the most
/// specific first.
pub(crate) async fn all(shared: &Shared, pod: &Pod, repository: &str) -> Vec<Credential> {
    let mut own = of_pod(shared, pod, repository).await;
    let mut node = of_files(&shared.config.docker_configs);
    node.retain(|a| a.is_for(repository));
    node.extend(of_plugins(&shared.providers, repository).await);
    let mut node: Vec<Credential> = node
        .into_iter()
        .map(|auth| Credential { auth, secret: None })
        .collect();
    sort(&mut node);
    own.append(&mut node);
    own
}

fn sort(all: &mut [Credential]) {
    all.sort_by_key(|c| std::cmp::Reverse(c.auth.registry.len()));
}

async fn of_plugins(providers: &Option<Arc<Providers>>, repository: &str) -> Vec<Auth> {
    match providers {
        Some(providers) => providers.credentials(repository).await,
        None => Vec::new(),
    }
}

/// The docker configurations of the node; one that is missing says nothing.
fn of_files(paths: &[PathBuf]) -> Vec<Auth> {
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).ok()?;
        let read = Auth::from_docker_config(&bytes);
        read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "docker configuration is malformed"))
            .ok()
    };
    paths.iter().filter_map(read).flatten().collect()
}

/// The pod's own for a repository, the most specific first.
pub(crate) async fn of_pod(shared: &Shared, pod: &Pod, repository: &str) -> Vec<Credential> {
    let mut own = of_secrets(shared, pod).await;
    own.retain(|c| c.auth.is_for(repository));
    sort(&mut own);
    own
}

/// Credentials of the pod's `imagePullSecrets`. A secret that is missing or malformed is skipped, as upstream does: the
/// registry may not need it.
async fn of_secrets(shared: &Shared, pod: &Pod) -> Vec<Credential> {
    let refs = pod
        .spec
        .iter()
        .flat_map(|s| s.image_pull_secrets.iter().flatten());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<ApiSecret> = Api::namespaced(shared.client.clone(), namespace);
    let mut all = Vec::new();
    for r in refs {
        let secret = match api.get_opt(&r.name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                tracing::warn!(namespace, secret = r.name, "image pull secret is missing");
                continue;
            }
            Err(error) => {
                tracing::warn!(namespace, secret = r.name, %error, "image pull secret cannot be read");
                continue;
            }
        };
        let source = Source {
            uid: secret.metadata.uid.clone().unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: r.name.clone(),
        };
        let data = secret.data.unwrap_or_default();
        let file = [".dockerconfigjson", ".dockercfg"]
            .into_iter()
            .find_map(|k| data.get(k));
        match file.map(|f| Auth::from_docker_config(&f.0)) {
            Some(Ok(auths)) => all.extend(auths.into_iter().map(|auth| Credential {
                auth,
                secret: Some(source.clone()),
            })),
            Some(Err(error)) => {
                tracing::warn!(namespace, secret = r.name, error = %chain(&error), "image pull secret is malformed")
            }
            None => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opened_an_image() {
        let auth = |user: &str| Auth {
            registry: "r.example".into(),
            username: user.into(),
            password: "p".into(),
        };
        let of = |user: &str, secret: Option<&str>| Credential {
            auth: auth(user),
            secret: secret.map(|name| Source {
                uid: name.into(),
                namespace: "ns".into(),
                name: name.into(),
            }),
        };
        let all = [
            of("mine", Some("one")),
            of("mine", Some("two")),
            of("both", Some("three")),
            of("both", None),
            of("node", None),
        ];
        let names = |pulled| match pulled {
            Pulled::ByAnybody => "anybody".to_owned(),
            Pulled::With(secrets) => {
                let names: Vec<String> = secrets.into_iter().map(|s: Secret| s.name).collect();
                names.join(",")
            }
        };
        for (by, want) in [
            (None, "anybody"),
            (Some("node"), "anybody"),
            (Some("both"), "anybody"),
            (Some("mine"), "one,two"),
        ] {
            let by = by.map(auth);
            assert_eq!(names(shown(&all, by.as_ref())), want, "{by:?}");
        }
        assert_eq!(secrets(&all).len(), 3);
    }
}
