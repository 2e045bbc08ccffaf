//! When a request is too old to be kept. The ages are kube-controller-manager's.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use keelson_auth::cert::not_after;

use super::{certificate, has};

const DONE: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// What a request's age means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// It goes.
    Over,
    /// It stays for so long.
    Left(Duration),
}

/// Judges a request by its age: an hour after it was decided, a day if it never was.
pub(super) fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Age {
    let conditions = request
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref());
    let decided = conditions.unwrap_or_default().iter();
    let decided = decided
        .filter_map(|c| c.last_update_time.as_ref().map(|t| t.0))
        .max();
    let created = request.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let is_done =
        certificate(request).is_some() || has(request, "Denied") || has(request, "Failed");
    let (since, keep) = match decided.filter(|_| is_done) {
        Some(at) => (Some(at), DONE),
        None => (created, PENDING),
    };
    let expired = certificate(request)
        .and_then(|c| not_after(&String::from_utf8_lossy(&c.0)))
        .is_some_and(|end| end <= now);
    let age = since.map_or(0, |s| now.as_second() - s.as_second());
    let age = Duration::from_secs(u64::try_from(age).unwrap_or_default());
    match keep.checked_sub(age).filter(|l| !l.is_zero()) {
        Some(left) if !expired => Age::Left(left),
        _ => Age::Over,
    }
}
