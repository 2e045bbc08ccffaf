//! Validation of namespaces, nodes, events, leases, quotas and classes.

use serde_json::Value;

use super::field::At;
use super::{Seen, check, check_update, names, quantity};
use crate::status::Cause;

/// A Namespace.
pub(crate) fn namespace(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        for f in at.items("spec.finalizers") {
            errs.check(&f, names::qualified_name(f.text()));
        }
    })
}

/// A Node.
pub(crate) fn node(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let mut seen = Seen::default();
        for t in at.items("spec.taints") {
            let (key, effect) = (t.child("key"), t.child("effect"));
            errs.check(&key, names::qualified_name(key.text()));
            errs.check(
                &t.child("value"),
                names::label_value(t.child("value").text()),
            );
            errs.required_one_of(
                &effect,
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
                "",
            );
            if !seen.0.insert(format!("{}:{}", key.text(), effect.text())) {
                errs.duplicate(&t);
            }
        }
        let cidrs: Vec<At<'_>> = at.items("spec.podCIDRs").collect();
        for cidr in &cidrs {
            errs.check(cidr, names::cidr(cidr.text()));
        }
        let all = at.child("spec.podCIDRs");
        if cidrs.len() > 2 {
            errs.invalid(&all, "may specify no more than one CIDR for each IP family");
        }
        for map in ["status.capacity", "status.allocatable"] {
            for (_, q) in at.entries(map) {
                quantity(&q, errs);
            }
        }
    })
}

/// A change of a Node: its CIDRs and its provider's name for it are given once.
pub(crate) fn node_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let (cidrs, had) = (new.child("spec.podCIDRs"), old.child("spec.podCIDRs"));
        if !had.is_zero() && cidrs.value != had.value {
            errs.forbidden(
                &cidrs.path,
                "node updates may not change podCIDR except from \"\" to valid",
            );
        }
        let (id, had) = (new.child("spec.providerID"), old.child("spec.providerID"));
        if !had.is_zero() && id.value != had.value {
            errs.forbidden(
                &id.path,
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    })
}

/// An Event.
pub(crate) fn event(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let (involved, ns) = (
            at.child("involvedObject.namespace"),
            at.child("metadata.namespace"),
        );
        let cluster = involved.text().is_empty();
        if !cluster && involved.text() != ns.text() {
            errs.invalid(&involved, "does not match event.namespace");
        }
        if cluster
            && !matches!(
                ns.text(),
                "" | "default" | "kube-system" | "kube-node-lease" | "kube-public"
            )
        {
            errs.invalid_value(&involved.path, "", "does not match event.namespace");
        }
        if at.child("message").text().len() > 1024 && at.child("eventTime").is_set() {
            errs.invalid_value("message", "", "can have at most 1024 characters");
        }
    })
}

/// An Event that came as `events.k8s.io/v1`, which says more than `v1` had to; in the stored form, the fields by the
/// names they came with.
pub(crate) fn event_v1(v: &Value) -> Vec<Cause> {
    let mut causes = event(v);
    causes.extend(check(v, |at, errs| {
        let named = |stored: &str, came: &str| At::new(at.child(stored).value, came);
        let controller = named("reportingComponent", "reportingController");
        for (field, longest) in [
            (named("eventTime", "eventTime"), usize::MAX),
            (controller, usize::MAX),
            (named("reportingInstance", "reportingInstance"), 128),
            (named("action", "action"), 128),
            (named("reason", "reason"), 128),
        ] {
            if field.is_zero() {
                errs.required(&field, "");
            } else if field.text().len() > longest {
                let why = format!("can have at most {longest} characters");
                errs.invalid_value(&field.path, "", &why);
            }
        }
        if !["Normal", "Warning"].contains(&at.child("type").text()) {
            errs.invalid(&at.child("type"), "has invalid value: ");
        }
    }));
    causes
}

/// A Lease.
pub(crate) fn lease(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let (seconds, transitions) = (
            at.child("spec.leaseDurationSeconds"),
            at.child("spec.leaseTransitions"),
        );
        if seconds.int().is_some_and(|n| n <= 0) {
            errs.invalid(&seconds, "must be greater than 0");
        }
        errs.non_negative(&transitions);
    })
}

/// A ResourceQuota.
pub(crate) fn resource_quota(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        for (key, q) in at.entries("spec.hard") {
            let wrong = names::qualified_name(key);
            for why in &wrong {
                errs.invalid_value(&q.path, key, why);
            }
            if wrong.is_empty() && !key.contains('/') && !COUNTED.contains(&key) {
                let known = ["requests.", "limits.", "hugepages-"];
                let extended = known.iter().any(|k| key.starts_with(k));
                if !extended {
                    errs.invalid_value(&q.path, key, "must be a standard resource for quotas");
                }
            }
            quantity(&q, errs);
        }
        let known = [
            "BestEffort",
            "CrossNamespacePodAffinity",
            "NotBestEffort",
            "NotTerminating",
            "PriorityClass",
            "Terminating",
            "VolumeAttributesClass",
        ];
        for scope in at.items("spec.scopes") {
            errs.one_of(&scope, &known);
        }
        let has = |scope| at.items("spec.scopes").any(|s| s.text() == scope);
        for (one, other) in [
            ("BestEffort", "NotBestEffort"),
            ("Terminating", "NotTerminating"),
        ] {
            if has(one) && has(other) {
                errs.invalid(&at.child("spec.scopes"), "conflicting scopes");
            }
        }
    })
}

/// What a quota may limit besides `count/...` and requests, limits and huge pages.
const COUNTED: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// A change of a ResourceQuota: what it is about stays.
pub(crate) fn resource_quota_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let scopes = |at: &At<'_>| -> Vec<String> {
            let mut all: Vec<_> = at
                .items("spec.scopes")
                .map(|s| s.text().to_owned())
                .collect();
            all.sort();
            all
        };
        if scopes(new) != scopes(old) {
            errs.invalid(&new.child("spec.scopes"), "field is immutable");
        }
    })
}

/// A PriorityClass: only the system's own may be above the rest.
pub(crate) fn priority_class(v: &Value) -> Vec<Cause> {
    const HIGHEST: i64 = 1_000_000_000;
    const SYSTEM: &[(&str, i64)] = &[
        ("system-node-critical", 2 * HIGHEST + 1000),
        ("system-cluster-critical", 2 * HIGHEST),
    ];
    check(v, |at, errs| {
        let (name, value) = (
            at.child("metadata.name"),
            at.child("value").int().unwrap_or_default(),
        );
        if name.text().starts_with("system-") {
            if !SYSTEM.contains(&(name.text(), value)) {
                errs.forbidden(&name.path, "priority class names with 'system-' prefix are reserved for system use only. error: unknown system priority class");
            }
        } else if value > HIGHEST {
            errs.forbidden(
                "value",
                &format!("maximum allowed value of a user defined priority is {HIGHEST}"),
            );
        }
        errs.required_one_of(
            &at.child("preemptionPolicy"),
            &["Never", "PreemptLowerPriority"],
            "",
        );
    })
}

/// A change of a PriorityClass.
pub(crate) fn priority_class_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        if new.child("value").int().unwrap_or_default()
            != old.child("value").int().unwrap_or_default()
        {
            errs.forbidden("value", "may not be changed in an update.");
        }
        errs.immutable(
            &new.child("preemptionPolicy"),
            old.child("preemptionPolicy").value,
        );
    })
}

/// A RuntimeClass.
pub(crate) fn runtime_class(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        errs.check(
            &at.child("handler"),
            names::dns_label(at.child("handler").text()),
        )
    })
}

/// A change of a RuntimeClass.
pub(crate) fn runtime_class_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        errs.immutable(&new.child("handler"), old.child("handler").value)
    })
}

/// A CertificateSigningRequest.
pub(crate) fn certificate_signing_request(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        for field in ["request", "signerName", "usages"] {
            let at = at.child("spec").child(field);
            if at.is_zero() {
                errs.required(&at, "");
            }
        }
        let seconds = at.child("spec.expirationSeconds");
        if seconds.int().is_some_and(|n| n < 600) {
            errs.invalid(
                &seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            );
        }
    })
}

/// A ClusterTrustBundle: its name begins with its signer's, slashes as colons, or has no colon. Its certificates are
/// looked at by the admission plugin that knows X.509.
pub(crate) fn cluster_trust_bundle(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| {
        let (name, signer) = (at.child("metadata.name"), at.child("spec.signerName"));
        let prefix = format!("{}:", signer.text().replace('/', ":"));
        if signer.text().is_empty() {
            if name.text().contains(':') {
                let why = "ClusterTrustBundle without signer name must not have \":\" in its name";
                errs.invalid(&name, why);
            }
        } else if !signer.text().contains('/') {
            errs.invalid(
                &signer,
                "must be a fully qualified domain and path of the form \"example.com/signer-name\"",
            );
        } else if !name.text().starts_with(&prefix) || name.text().len() == prefix.len() {
            let why = format!(
                "ClusterTrustBundle for signerName {} must be named with prefix {prefix}",
                signer.text()
            );
            errs.invalid(&name, &why);
        }
        let bundle = at.child("spec.trustBundle");
        if bundle.text().is_empty() {
            errs.required(&bundle, "");
        } else if bundle.text().len() > MAX_BUNDLE {
            errs.invalid_value(
                &bundle.path,
                "",
                &format!("must be at most {MAX_BUNDLE} bytes"),
            );
        }
    })
}

/// As upstream: 1 MiB.
const MAX_BUNDLE: usize = 1 << 20;

/// A change of a ClusterTrustBundle: its signer stays.
pub(crate) fn cluster_trust_bundle_update(new: &Value, old: &Value) -> Vec<Cause> {
    check_update(new, old, |new, old, errs| {
        let signer = "spec.signerName";
        errs.immutable(&new.child(signer), old.child(signer).value)
    })
}
