//! CertificateSigningRequests of nodes (and, approved by hand, of other clients): approved, signed, cleaned away.

mod clean;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keelson_auth::{User, csr};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use serde_json::json;

use crate::action::{Action, Target};
use crate::caches::Caches;
use crate::informer::Key;
use crate::runner::{Controller, Outcome, Work};

pub use keelson_auth::pki::CsrUsage as Usage;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const NODES: &str = "system:nodes";
/// The shortest validity there is (upstream's, with which requests are checked).
const SHORTEST: Duration = Duration::from_secs(600);
/// How soon to look again at a serving request whose node has not told its addresses yet.
const ADDRESSES: Duration = Duration::from_secs(5);

/// Signs a request (PEM), for no longer than it asks for if it does; gives the certificate (PEM).
type Signer = dyn Fn(&str, Usage, Option<Duration>) -> anyhow::Result<String> + Send + Sync;

/// A signer that is shared.
pub type Sign = Arc<Signer>;

/// The controller.
pub struct Requests {
    caches: Arc<Caches>,
    client: Client,
    sign: Sign,
}

impl Requests {
    /// Wires the controller to the caches.
    pub fn new(caches: &Arc<Caches>, client: Client, sign: Sign) -> (Self, Work) {
        let work = Work::default();
        let queue = work.clone();
        caches
            .requests
            .subscribe(move |c| c.new.into_iter().for_each(|r| queue.add(Key::of(r))));
        let caches = caches.clone();
        let it = Self {
            caches,
            client,
            sign,
        };
        (it, work)
    }

    /// The node of a serving request, as the API knows it now: what it may be called decides what is signed.
    async fn node(&self, request: &CertificateSigningRequest) -> anyhow::Result<Option<Node>> {
        let name = request.spec.username.as_deref();
        let name = name.and_then(|u| u.strip_prefix("system:node:"));
        match name.filter(|_| request.spec.signer_name == NODE_SERVING) {
            Some(name) => Ok(Api::all(self.client.clone()).get_opt(name).await?),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Controller for Requests {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Outcome> {
        let Some(request) = self.caches.requests.get(key) else {
            return Ok(Outcome::default());
        };
        let now = Timestamp::now();
        let age = clean::plan(&request, now);
        if matches!(age, clean::Age::Over) {
            return Ok(vec![Action::delete(Target::of(request.as_ref()))].into());
        }
        let node = match has(&request, "Approved") {
            true => None,
            false => self.node(&request).await?,
        };
        let mut outcome = plan(&request, node.as_ref(), &*self.sign, now)?;
        if let clean::Age::Left(left) = age {
            outcome.again = Some(outcome.again.map_or(left, |a| a.min(left)));
        }
        Ok(outcome)
    }

    fn wrote(&self, resource: &ApiResource, object: DynamicObject) {
        self.caches.wrote(resource, object);
    }
}

pub(super) fn has(request: &CertificateSigningRequest, type_: &str) -> bool {
    let status = request.status.as_ref();
    let all = status.and_then(|s| s.conditions.as_deref());
    all.unwrap_or_default().iter().any(|c| c.type_ == type_)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&ByteString> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate).filter(|c| !c.0.is_empty())
}

/// Decides for a request; `node`: the one that asks for a serving certificate.
pub fn plan(
    request: &CertificateSigningRequest,
    node: Option<&Node>,
    sign: &Signer,
    now: Timestamp,
) -> anyhow::Result<Outcome> {
    let done = certificate(request).is_some() || has(request, "Denied") || has(request, "Failed");
    if done || request.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::default());
    }
    if !has(request, "Approved") {
        return Ok(approve(request, node, now));
    }
    let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
    let target = Target::of(request).unchanged(request);
    let checked = match check(request, &pem) {
        Ok(Some(usage)) => usage,
        Ok(None) => return Ok(Outcome::default()),
        Err(why) => {
            let conditions = with(request, "Failed", "SignerValidationFailure", &why, now);
            let patch = json!({ "conditions": conditions });
            return Ok(vec![Action::status(target, patch)].into());
        }
    };
    let certificate = ByteString(sign(&pem, checked, lasts(request))?.into_bytes());
    Ok(vec![Action::status(
        target,
        json!({ "certificate": certificate }),
    )]
    .into())
}

/// How long the certificate is to be valid (`spec.expirationSeconds`, KEP-2784), if the request says.
fn lasts(request: &CertificateSigningRequest) -> Option<Duration> {
    let seconds = request.spec.expiration_seconds?;
    Some(Duration::from_secs(u64::try_from(seconds).ok()?).max(SHORTEST))
}

fn requestor(request: &CertificateSigningRequest) -> User {
    User {
        name: request.spec.username.clone().unwrap_or_default(),
        groups: request.spec.groups.clone().unwrap_or_default(),
        ..User::default()
    }
}

/// What an approved request is to be signed for; `Ok(None)`: not by us. Its own signer's rules hold however it
/// was approved.
fn check(request: &CertificateSigningRequest, pem: &str) -> Result<Option<Usage>, String> {
    let usages = request.spec.usages.clone().unwrap_or_default();
    let who = requestor(request);
    match request.spec.signer_name.as_str() {
        NODE_CLIENT => csr::check_client(pem, &usages, &who)
            .map(|_| Some(Usage::Client))
            .map_err(|e| e.to_string()),
        NODE_SERVING => csr::check_serving(pem, &usages, &who)
            .map(|_| Some(Usage::Serving))
            .map_err(|e| e.to_string()),
        CLIENT => {
            csr::parse(pem).map_err(|e| e.to_string())?;
            let allowed = ["digital signature", "key encipherment", "client auth"];
            let fine = usages.iter().all(|u| allowed.contains(&u.as_str()))
                && usages.iter().any(|u| u == "client auth");
            fine.then_some(Some(Usage::Client))
                .ok_or_else(|| format!("usages did not match {allowed:?}"))
        }
        _ => Ok(None),
    }
}

/// Approves what nodes ask for themselves, and what a bootstrap token asks for a node. All else waits for a person.
fn approve(request: &CertificateSigningRequest, node: Option<&Node>, now: Timestamp) -> Outcome {
    let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
    let usages = request.spec.usages.clone().unwrap_or_default();
    let who = requestor(request);
    let message = match request.spec.signer_name.as_str() {
        NODE_CLIENT => match csr::check_client(&pem, &usages, &who) {
            Ok(asked) if asked.own && who.in_group(NODES) => {
                "Auto approving self kubelet client certificate after SubjectAccessReview."
            }
            Ok(asked) if !asked.own && who.in_group(BOOTSTRAPPERS) => {
                "Auto approving kubelet client certificate after SubjectAccessReview."
            }
            _ => return Outcome::default(),
        },
        NODE_SERVING => match csr::check_serving(&pem, &usages, &who) {
            Ok(asked) if who.in_group(NODES) => {
                if !node.is_some_and(|n| is_called(n, &asked)) {
                    return Outcome {
                        actions: Vec::new(),
                        again: Some(ADDRESSES),
                    };
                }
                "Auto approving kubelet serving certificate: its names are the node's."
            }
            _ => return Outcome::default(),
        },
        _ => return Outcome::default(),
    };
    let conditions = with(request, "Approved", "AutoApproved", message, now);
    vec![Action::Patch {
        target: Target::of(request).unchanged(request),
        patch: json!({"status": { "conditions": conditions }}),
        subresource: Some("approval"),
    }]
    .into()
}

/// Whether all names that a node asks for are its own.
fn is_called(node: &Node, asked: &csr::Node) -> bool {
    let status = node.status.as_ref();
    let addresses = status.and_then(|s| s.addresses.as_deref());
    let mut own: Vec<&str> = addresses
        .unwrap_or_default()
        .iter()
        .map(|a| a.address.as_str())
        .collect();
    own.push(&asked.name);
    let ip = |ip: &std::net::IpAddr| own.iter().any(|o| o.parse() == Ok(*ip));
    asked.asked.dns.iter().all(|d| own.contains(&d.as_str())) && asked.asked.ips.iter().all(ip)
}

fn with(
    request: &CertificateSigningRequest,
    type_: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<CertificateSigningRequestCondition> {
    let status = request.status.as_ref();
    let mut all = status
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default();
    all.push(CertificateSigningRequestCondition {
        type_: type_.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    all
}

#[cfg(test)]
mod tests;
