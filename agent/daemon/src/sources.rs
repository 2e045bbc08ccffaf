//! ConfigMaps, Secrets, trust anchors and tokens, fetched when needed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount, Volume};
use k8s_openapi::api::node::v1::RuntimeClass;
use keelson_agent_io::volumes::{Bundles, Data, Want, wants};
use keelson_agent_plan::env::{Reference, Sources};
use keelson_runtime::Handler;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::shared::Shared;

type Key = (String, i64);

/// Tokens of a pod, each with the time it should be replaced.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, (String, Timestamp)>>);

/// What a container's environment refers to. What does not exist is left out.
pub(crate) async fn references(
    shared: &Shared,
    namespace: &str,
    list: &[Reference],
) -> Result<Sources, String> {
    let mut found = Sources::default();
    for r in list {
        match r {
            Reference::ConfigMap(name) => {
                found.config_maps.extend(
                    config_map(shared, namespace, name)
                        .await?
                        .map(|m| (name.clone(), m)),
                );
            }
            Reference::Secret(name) => {
                found.secrets.extend(
                    secret(shared, namespace, name)
                        .await?
                        .map(|s| (name.clone(), s)),
                );
            }
        }
    }
    Ok(found)
}

async fn config_map(
    shared: &Shared,
    namespace: &str,
    name: &str,
) -> Result<Option<ConfigMap>, String> {
    let api: Api<ConfigMap> = Api::namespaced(shared.client.clone(), namespace);
    api.get_opt(name)
        .await
        .map_err(|e| format!("get configmap {namespace}/{name}: {e}"))
}

async fn secret(shared: &Shared, namespace: &str, name: &str) -> Result<Option<Secret>, String> {
    let api: Api<Secret> = Api::namespaced(shared.client.clone(), namespace);
    api.get_opt(name)
        .await
        .map_err(|e| format!("get secret {namespace}/{name}: {e}"))
}

/// Handlers that need no entry in the configuration.
const HANDLERS: [&str; 2] = ["", "runc"];

/// What runs a pod: what its RuntimeClass names.
///
/// # Errors
/// When the class does not exist, or asks for a runtime that is not here.
pub(crate) async fn handler(shared: &Shared, pod: &Pod) -> Result<Handler, String> {
    let name = pod
        .spec
        .as_ref()
        .and_then(|s| s.runtime_class_name.as_deref());
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Ok(Handler::default());
    };
    let api: Api<RuntimeClass> = Api::all(shared.client.clone());
    let class = api.get(name).await;
    let class = class.map_err(|e| format!("failed to get RuntimeClass {name:?}: {e}"))?;
    let known = shared.config.runtime_handlers.get(&class.handler);
    match HANDLERS.contains(&class.handler.as_str()) {
        true => Ok(known.cloned().unwrap_or_default()),
        false => known.cloned().ok_or_else(|| {
            format!(
                "failed to get sandbox runtime: no runtime for {:?} is configured",
                class.handler
            )
        }),
    }
}

/// What a volume is made of.
pub(crate) async fn of_volume(
    shared: &Shared,
    pod: &Pod,
    tokens: &Tokens,
    volume: &Volume,
) -> Result<Data, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut data = Data::default();
    for want in wants(volume) {
        match want {
            Want::ConfigMap { name, .. } => {
                data.config_maps.extend(
                    config_map(shared, namespace, &name)
                        .await?
                        .map(|m| (name, m)),
                );
            }
            Want::Secret { name, .. } => {
                data.secrets
                    .extend(secret(shared, namespace, &name).await?.map(|s| (name, s)));
            }
            Want::Token {
                audience,
                expiration_seconds,
            } => {
                let key = (audience, expiration_seconds);
                data.tokens
                    .insert(key.clone(), tokens.get(shared, pod, &key).await?);
            }
            Want::Trust(bundles) => {
                let found = trust(shared, &bundles).await?;
                data.trust.insert(bundles, found);
            }
        }
    }
    Ok(data)
}

/// What the bundles hold that a volume asks for, by their names' order.
async fn trust(shared: &Shared, asked: &Bundles) -> Result<Vec<String>, String> {
    let Some((fields, labels)) = asked.selectors() else {
        return Ok(Vec::new());
    };
    let api: Api<ClusterTrustBundle> = Api::all(shared.client.clone());
    let which = ListParams::default().fields(&fields).labels(labels);
    let found = api.list(&which).await;
    let mut found = found
        .map_err(|e| format!("list clustertrustbundles: {e}"))?
        .items;
    found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(found.into_iter().map(|b| b.spec.trust_bundle).collect())
}

impl Tokens {
    /// Whether one of them should be replaced.
    pub(crate) fn due(&self, now: Timestamp) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().any(|(_, renew)| *renew <= now)
    }

    /// A token that is good for a while: a new one when four fifths of the old one's life are over, as
    /// upstream does.
    async fn get(&self, shared: &Shared, pod: &Pod, key: &Key) -> Result<String, String> {
        let known = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned();
        if let Some((token, renew)) = known
            && renew > Timestamp::now()
        {
            return Ok(token);
        }
        let (token, renew) = request(shared, pod, key).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(key.clone(), (token.clone(), renew));
        Ok(token)
    }
}

async fn request(
    shared: &Shared,
    pod: &Pod,
    (audience, seconds): &Key,
) -> Result<(String, Timestamp), String> {
    let m = &pod.metadata;
    let namespace = m.namespace.as_deref().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.as_deref());
    let account = account.filter(|a| !a.is_empty()).unwrap_or("default");
    let spec = TokenRequestSpec {
        audiences: (!audience.is_empty()).then(|| vec![audience.clone()]),
        expiration_seconds: Some(*seconds),
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: m.name.clone(),
            uid: m.uid.clone(),
        }),
    };
    let body = TokenRequest {
        spec: Some(spec),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(shared.client.clone(), namespace);
    let made = api
        .create_token_request(account, &PostParams::default(), &body)
        .await;
    let made = made.map_err(|e| {
        format!("failed to fetch token for service account {namespace}/{account}: {e}")
    })?;
    let missing = || format!("no token for service account {namespace}/{account}");
    let status = made.status.ok_or_else(missing)?;
    let token = status.token.ok_or_else(missing)?;
    let now = Timestamp::now();
    let life = status
        .expiration_timestamp
        .map_or(SignedDuration::ZERO, |t| t.0.duration_since(now));
    let renew = now
        .checked_add(SignedDuration::from_secs(life.as_secs() * 4 / 5))
        .unwrap_or(now);
    Ok((token, renew))
}
