//! Who may approve and sign certificate requests, and what no request may ask for.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keelson_api::json::{at, items, text};
use keelson_api::{Cause, Status};
use keelson_auth::{Attributes, Decision, bundle, csr};
use serde_json::Value;

use super::creates;
use crate::{Authorizer, Lookup, Operation, Plugin, Request};

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";

/// Whether the user has a verb on a signer, by its name or by its domain (`example.com/*`).
fn may(authorizer: &Authorizer, req: &Request<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    [signer.to_owned(), format!("{domain}/*")]
        .into_iter()
        .any(|name| {
            let asked = Attributes {
                verb: verb.to_owned(),
                group: GROUP.to_owned(),
                version: "*".to_owned(),
                resource: "signers".to_owned(),
                name,
                ..Attributes::default()
            };
            matches!(authorizer(req.user, &asked), Decision::Allow(_))
        })
}

/// `CertificateApproval`.
pub(crate) struct CertificateApproval(pub(crate) Authorizer);

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, req: &Request<'_>, _: &Value, _: &dyn Lookup) -> Result<(), Status> {
        if !req.is(GROUP, PLURAL) || req.subresource != "approval" {
            return Ok(());
        }
        // The stored signer counts: an update cannot change it.
        let signer = req.old.map_or("", |old| text(old, "/spec/signerName"));
        if may(&self.0, req, "approve", signer) {
            return Ok(());
        }
        Err(req.forbidden(&format!(
            "user not permitted to approve requests with signerName \"{signer}\""
        )))
    }
}

/// `CertificateSigning`.
pub(crate) struct CertificateSigning(pub(crate) Authorizer);

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, req: &Request<'_>, new: &Value, _: &dyn Lookup) -> Result<(), Status> {
        if !req.is(GROUP, PLURAL) || req.subresource != "status" {
            return Ok(());
        }
        let Some(old) = req.old else { return Ok(()) };
        let failed = |v: &Value| {
            items(v, "/status/conditions")
                .iter()
                .filter(|c| text(c, "/type") == "Failed")
                .count()
        };
        let same = at(old, "/status/certificate") == at(new, "/status/certificate")
            && failed(old) == failed(new);
        let signer = text(old, "/spec/signerName");
        if same || may(&self.0, req, "sign", signer) {
            return Ok(());
        }
        Err(req.forbidden(&format!(
            "user not permitted to sign requests with signerName \"{signer}\""
        )))
    }
}

/// `CertificateSubjectRestriction`.
pub(crate) struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        object: &Value,
        _: &dyn Lookup,
    ) -> Result<(), Status> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        if req.op != Operation::Create
            || !creates(req, GROUP, PLURAL)
            || text(object, "/spec/signerName") != SIGNER
        {
            return Ok(());
        }
        let asked = request(object)
            .ok_or_else(|| req.forbidden("unable to parse the certificate request"))?;
        if asked.organizations.iter().any(|o| o == "system:masters") {
            let why = format!("use of {SIGNER} signer with system:masters group is not allowed");
            return Err(req.forbidden(&why));
        }
        Ok(())
    }
}

/// `ClusterTrustBundleAttest`: who may say what a signer's trust anchors are; and that they are such, as this is where
/// certificates are understood.
pub(crate) struct ClusterTrustBundleAttest(pub(crate) Authorizer);

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    async fn validate(&self, req: &Request<'_>, new: &Value, _: &dyn Lookup) -> Result<(), Status> {
        let writes = matches!(req.op, Operation::Create | Operation::Update);
        if !req.is(GROUP, "clustertrustbundles") || !writes {
            return Ok(());
        }
        let same = |path: &str| req.old.is_some_and(|old| at(old, path) == at(new, path));
        let bundle = text(new, "/spec/trustBundle");
        if !same("/spec/trustBundle")
            && !bundle.is_empty()
            && let Err(why) = bundle::check(bundle)
        {
            let cause = Cause {
                reason: "FieldValueInvalid",
                field: "spec.trustBundle".to_owned(),
                message: format!("Invalid value: \"<value omitted>\": {why}"),
            };
            let kind = &req.resource.kind;
            return Err(Status::invalid(GROUP, kind, req.name, vec![cause]));
        }
        // What changes nothing, as the garbage collector's writes, needs no permission.
        let signer = text(new, "/spec/signerName");
        if signer.is_empty() || same("/spec") || may(&self.0, req, "attest", signer) {
            return Ok(());
        }
        Err(req.forbidden(&format!(
            "user not permitted to attest for signerName \"{signer}\""
        )))
    }
}

/// What `spec.request` asks for.
pub(super) fn request(object: &Value) -> Option<csr::Asked> {
    let pem = STANDARD.decode(text(object, "/spec/request")).ok()?;
    csr::parse(std::str::from_utf8(&pem).ok()?).ok()
}
