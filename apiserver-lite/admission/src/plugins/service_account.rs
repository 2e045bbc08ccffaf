//! Every pod runs as a ServiceAccount, and unless it says otherwise has the account's token mounted.

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, has, items, set, text};
use rand::Rng;
use serde_json::{Value, json};

use super::{array, makes_pod};
use crate::{Lookup, Plugin, Request};

/// `ServiceAccount`.
pub(crate) struct ServiceAccount;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// An hour and seven seconds: upstream's mark of a token that was mounted without being asked for.
const TOKEN_SECONDS: i64 = 3607;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        pod: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        // Mirror pods show what a node runs already; `validate` looks at them.
        if !makes_pod(req) || has(pod, MIRROR) {
            return Ok(());
        }
        let name = match text(pod, "/spec/serviceAccountName") {
            "" => "default".to_owned(),
            some => some.to_owned(),
        };
        let namespace = req.namespace;
        let account = lookup
            .get("", "v1", "serviceaccounts", namespace, &name)
            .await?;
        let Some(account) = account else {
            let why = format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            );
            return Err(req.forbidden(&why));
        };
        apply(
            pod,
            &account,
            &name,
            &format!("{VOLUME_PREFIX}{}", suffix()),
        );
        Ok(())
    }

    async fn validate(&self, req: &Request<'_>, pod: &Value, _: &dyn Lookup) -> Result<(), Status> {
        if !makes_pod(req) || !has(pod, MIRROR) {
            return Ok(());
        }
        if !text(pod, "/spec/serviceAccountName").is_empty() {
            return Err(req.forbidden("a mirror pod may not reference service accounts"));
        }
        let secret = items(pod, "/spec/volumes")
            .iter()
            .any(|v| has(v, "/secret"));
        if secret {
            return Err(req.forbidden("a mirror pod may not reference secrets"));
        }
        let projected = items(pod, "/spec/volumes")
            .iter()
            .flat_map(|v| items(v, "/projected/sources"));
        if projected
            .into_iter()
            .any(|s| has(s, "/serviceAccountToken"))
        {
            return Err(
                req.forbidden("a mirror pod may not use ServiceAccountToken volume projections")
            );
        }
        Ok(())
    }
}

/// Five letters and digits of those that spell no words.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5)
        .filter_map(|_| ALPHABET.get(rng.random_range(0..ALPHABET.len())))
        .map(|b| char::from(*b))
        .collect()
}

/// Names the account in the pod, mounts its token, and hands its pull secrets on. `volume`: the name of the volume, if
/// one is to be added.
fn apply(pod: &mut Value, account: &Value, name: &str, volume: &str) {
    if let Some(spec) = pod.get_mut("spec") {
        set(spec, "serviceAccountName", name);
        set(spec, "serviceAccount", name);
    }
    let wanted = [
        at(pod, "/spec/automountServiceAccountToken"),
        at(account, "/automountServiceAccountToken"),
    ];
    if wanted.iter().find_map(|v| v.as_bool()).unwrap_or(true) {
        mount_token(pod, volume);
    }
    let secrets = items(account, "/imagePullSecrets");
    if items(pod, "/spec/imagePullSecrets").is_empty() && !secrets.is_empty() {
        let secrets = Value::Array(secrets.to_vec());
        if let Some(spec) = pod.get_mut("spec") {
            set(spec, "imagePullSecrets", secrets);
        }
    }
}

fn mount_token(pod: &mut Value, new: &str) {
    let present = items(pod, "/spec/volumes").iter().map(|v| text(v, "/name"));
    let present = present
        .into_iter()
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume = present.as_deref().unwrap_or(new);
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        let containers = pod
            .pointer_mut(&format!("/spec/{kind}"))
            .and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let taken = items(container, "/volumeMounts")
                .iter()
                .any(|m| text(m, "/mountPath") == MOUNT_PATH);
            if taken {
                continue;
            }
            if let Some(mounts) = array(container, "", "volumeMounts") {
                mounts.push(json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH }));
                mounted = true;
            }
        }
    }
    if mounted
        && present.is_none()
        && let Some(volumes) = array(pod, "spec", "volumes")
    {
        volumes.push(token_volume(new));
    }
}

/// The token, the authority's certificate and the namespace, as files of one directory.
fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}
