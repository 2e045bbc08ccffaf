//! Secrets of type `kubernetes.io/service-account-token`: filled with a token, and removed with their account.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use rand::Rng;
use serde_json::json;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// Letters of generated names: those that make no words (upstream's `rand.String`).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Makes the token of an account that is kept in a Secret.
pub type MakeToken = Arc<dyn Fn(&ServiceAccount, &Secret) -> anyhow::Result<String> + Send + Sync>;

/// Fills token Secrets, by Secret.
pub struct Tokens {
    caches: Arc<Caches>,
    client: Client,
    ca_pem: String,
    make: MakeToken,
}

impl Tokens {
    /// Wires the controller to the caches.
    pub fn new(
        caches: &Arc<Caches>,
        client: Client,
        ca_pem: String,
        make: MakeToken,
    ) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .tokens
            .subscribe(move |c| c.new.into_iter().for_each(|s| queue.add(Key::of(s))));
        let (queue, tokens) = (work.clone(), caches.tokens.clone());
        caches.accounts.subscribe(move |c| {
            for account in c.states() {
                let all = tokens.list(&account.namespace().unwrap_or_default());
                all.iter()
                    .filter(|s| s.annotations().get(NAME) == Some(&account.name_any()))
                    .for_each(|s| queue.add(Key::of(s.as_ref())));
            }
        });
        let caches = caches.clone();
        let it = Self {
            caches,
            client,
            ca_pem,
            make,
        };
        (it, work)
    }

    /// The account of a Secret. That there is none is asked of the API itself, as the Secret would be deleted.
    async fn account(&self, secret: &Secret) -> anyhow::Result<Option<Arc<ServiceAccount>>> {
        let namespace = secret.namespace().unwrap_or_default();
        let Some(name) = secret.annotations().get(NAME) else {
            return Ok(None);
        };
        let uid = secret.annotations().get(UID);
        if let Some(account) = self.caches.accounts.get(&Key::new(&namespace, name))
            && (uid.is_none() || uid == account.metadata.uid.as_ref())
        {
            return Ok(Some(account));
        }
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &namespace);
        Ok(api.get_opt(name).await?.map(Arc::new))
    }
}

#[async_trait]
impl Controller for Tokens {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(secret) = self.caches.tokens.get(key) else {
            return Ok(Outcome::default());
        };
        let account = self.account(&secret).await?;
        Ok(fill(&secret, account.as_deref(), &self.ca_pem, &*self.make)?.into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for a Secret and the account it names.
fn fill(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    ca_pem: &str,
    make: &(dyn Fn(&ServiceAccount, &Secret) -> anyhow::Result<String> + Send + Sync),
) -> anyhow::Result<Vec<Action>> {
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return Ok(Vec::new());
    }
    let uid = secret.annotations().get(UID);
    let owner = account.filter(|a| uid.is_none_or(|u| a.metadata.uid.as_ref() == Some(u)));
    let Some(account) = owner else {
        let target = Target::of(secret).unchanged(secret);
        return Ok(vec![Action::delete(target)]);
    };
    let has = |k: &str| {
        secret
            .data
            .as_ref()
            .and_then(|d| d.get(k))
            .map(|b| &b.0[..])
    };
    let namespace = secret.namespace().unwrap_or_default();
    let mut data = serde_json::Map::new();
    let mut put = |k: &str, v: &str| {
        data.insert(k.to_owned(), json!(ByteString(v.as_bytes().to_vec())));
    };
    if has("token").is_none_or(<[u8]>::is_empty) {
        put("token", &make(account, secret)?);
    }
    for (key, wanted) in [("ca.crt", ca_pem), ("namespace", &namespace)] {
        if has(key) != Some(wanted.as_bytes()) {
            put(key, wanted);
        }
    }
    if data.is_empty() && uid == account.metadata.uid.as_ref() {
        return Ok(Vec::new());
    }
    let mut patch = json!({"metadata": {"annotations": {UID: account.uid()}}});
    if !data.is_empty() {
        patch["data"] = data.into();
    }
    let target = Target::of(secret).unchanged(secret);
    Ok(vec![Action::patch(target, patch)])
}

/// Gives every account a token Secret, as clusters before 1.24 did; by account.
pub struct AccountTokens {
    caches: Arc<Caches>,
}

impl AccountTokens {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .accounts
            .subscribe(move |c| c.new.into_iter().for_each(|a| queue.add(Key::of(a))));
        let queue = work.clone();
        caches.tokens.subscribe(move |c| {
            for secret in c.states() {
                if let Some(name) = secret.annotations().get(NAME) {
                    queue.add(Key::new(secret.namespace().unwrap_or_default(), name));
                }
            }
        });
        let caches = caches.clone();
        (Self { caches }, work)
    }
}

#[async_trait]
impl Controller for AccountTokens {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(account) = self.caches.accounts.get(key) else {
            return Ok(Outcome::default());
        };
        let secrets = self.caches.tokens.list(&key.namespace);
        let suffix: String = (0..5)
            .filter_map(|_| LETTERS.get(rand::rng().random_range(0..LETTERS.len())))
            .map(|b| char::from(*b))
            .collect();
        Ok(give(&account, &secrets, &suffix).into())
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

/// Decides for an account among the token Secrets of its namespace: makes one, and has the account refer to it.
fn give(account: &ServiceAccount, secrets: &[Arc<Secret>], suffix: &str) -> Vec<Action> {
    if account.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let own: Vec<String> = secrets
        .iter()
        .filter(|s| s.annotations().get(NAME) == Some(&account.name_any()))
        .filter(|s| {
            s.annotations()
                .get(UID)
                .is_none_or(|u| Some(u) == account.metadata.uid.as_ref())
        })
        .filter(|s| s.metadata.deletion_timestamp.is_none())
        .map(|s| s.name_any())
        .collect();
    let referred = account.secrets.as_deref().unwrap_or_default();
    let is_own = |name: &Option<String>| name.as_ref().is_some_and(|n| own.contains(n));
    if referred.iter().any(|r| is_own(&r.name)) {
        return Vec::new();
    }
    let generated = format!("{}-token-", account.name_any());
    if let Some(name) = own.iter().find(|n| n.starts_with(&generated)) {
        let mut all = json!(referred);
        if let Some(list) = all.as_array_mut() {
            list.push(json!({ "name": name }));
        }
        let target = Target::of(account).unchanged(account);
        return vec![Action::patch(target, json!({ "secrets": all }))];
    }
    let annotations = [
        (NAME.to_owned(), account.name_any()),
        (UID.to_owned(), account.uid().unwrap_or_default()),
    ];
    vec![Action::create(&Secret {
        metadata: ObjectMeta {
            name: Some(generated + suffix),
            namespace: account.namespace(),
            annotations: Some(BTreeMap::from(annotations)),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.into()),
        ..Secret::default()
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value};

    fn account(secrets: Value) -> ServiceAccount {
        let meta = json!({"name": "a", "namespace": "n", "uid": "u"});
        from_value(json!({"metadata": meta, "secrets": secrets})).expect("account")
    }

    fn secret(name: &str, uid: Option<&str>, data: Value) -> Secret {
        from_value(json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": "1",
            "annotations": json!({NAME: "a", UID: uid}).as_object().expect("map").iter()
                .filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect::<serde_json::Map<_, _>>()},
            "type": TYPE, "data": data}))
        .expect("secret")
    }

    #[test]
    fn a_secret_is_filled_or_goes() {
        // "T", "CA" and "n" in base64.
        let whole = json!({"token": "VA==", "ca.crt": "Q0E=", "namespace": "bg=="});
        let cases = [
            (
                "made by hand",
                Some("u"),
                None,
                json!({}),
                true,
                "patch ca.crt,namespace,token",
            ),
            ("whole", Some("u"), Some("u"), whole.clone(), true, ""),
            (
                "without the uid",
                Some("u"),
                None,
                whole.clone(),
                true,
                "patch ",
            ),
            (
                "another authority",
                Some("u"),
                Some("u"),
                json!({"token": "VA==", "ca.crt": "", "namespace": "bg=="}),
                true,
                "patch ca.crt",
            ),
            (
                "no such account",
                None,
                Some("u"),
                whole.clone(),
                true,
                "delete",
            ),
            ("a namesake", Some("u"), Some("u0"), whole, true, "delete"),
        ];
        for (name, account_uid, uid, data, ok, want) in cases {
            let account = account_uid.map(|_| account(json!([])));
            let result = fill(&secret("s", uid, data), account.as_ref(), "CA", &|_, _| {
                Ok("T".into())
            });
            assert_eq!(result.is_ok(), ok, "{name}");
            let seen: Vec<String> = result
                .into_iter()
                .flatten()
                .map(|a| match a {
                    Action::Patch { patch, .. } => {
                        let keys = patch["data"]
                            .as_object()
                            .into_iter()
                            .flatten()
                            .map(|(k, _)| k.clone());
                        format!("patch {}", keys.collect::<Vec<_>>().join(","))
                    }
                    Action::Delete { .. } => "delete".to_owned(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(seen.join(";"), want, "{name}");
        }
        let refused = fill(
            &secret("s", None, json!({})),
            Some(&account(json!([]))),
            "CA",
            &|_, _| anyhow::bail!("no key"),
        );
        assert!(refused.is_err(), "without a token nothing is written");
    }

    #[test]
    fn an_account_gets_one_secret_and_refers_to_it() {
        let own = || Arc::new(secret("a-token-x", Some("u"), json!({})));
        let by_hand = || Arc::new(secret("mine", Some("u"), json!({})));
        let old = || Arc::new(secret("a-token-y", Some("u0"), json!({})));
        let cases: [(&str, Value, Vec<Arc<Secret>>, &str); 5] = [
            ("none", json!([]), vec![], "create a-token-zzzzz"),
            (
                "made, not referred to",
                json!([{"name": "pull"}]),
                vec![own()],
                r#"[{"name":"pull"},{"name":"a-token-x"}]"#,
            ),
            (
                "referred to",
                json!([{"name": "a-token-x"}]),
                vec![own()],
                "",
            ),
            (
                "only one made by hand",
                json!([]),
                vec![by_hand()],
                "create a-token-zzzzz",
            ),
            (
                "a namesake's",
                json!([]),
                vec![old()],
                "create a-token-zzzzz",
            ),
        ];
        for (name, secrets, existing, want) in cases {
            let actions = give(&account(secrets), &existing, "zzzzz");
            let seen: Vec<String> = actions
                .iter()
                .map(|a| match a {
                    Action::Create { object, .. } => format!(
                        "create {}",
                        object["metadata"]["name"].as_str().expect("name")
                    ),
                    Action::Patch { patch, .. } => patch["secrets"].to_string(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(seen.join(";"), want, "{name}");
        }
    }
}
