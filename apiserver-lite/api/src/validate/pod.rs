//! Validation of pods and pod templates.

use serde_json::Value;

use super::field::{At, Errors};
use super::{Seen, check, container, meta, names, quantity, resize, scheduling, volume};
use crate::status::Cause;

/// A pod.
pub(crate) fn pod(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| pod_spec(&at.child("spec"), errs))
}

/// A PodTemplate.
pub(crate) fn pod_template(v: &Value) -> Vec<Cause> {
    check(v, |at, errs| template(&at.child("template"), errs))
}

/// The template of a workload: labels, annotations and spec.
pub(super) fn template(at: &At<'_>, errs: &mut Errors) {
    meta::labels(&at.child("metadata.labels"), errs);
    meta::annotations(&at.child("metadata.annotations"), errs);
    pod_spec(&at.child("spec"), errs);
}

/// The `spec` of a pod.
pub(super) fn pod_spec(spec: &At<'_>, errs: &mut Errors) {
    let volumes = volume::volumes(spec, errs);
    container::containers(spec, &volumes, errs);
    errs.required_one_of(
        &spec.child("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        "",
    );
    dns(spec, errs);
    super::meta::labels(&spec.child("nodeSelector"), errs);
    security(spec, errs);
    host_aliases(spec, errs);
    names_of(spec, errs);
    scheduling::tolerations(spec, errs);
    scheduling::affinity(&spec.child("affinity"), errs);
    scheduling::spread(spec, errs);
    gates(spec, errs);
    resize::pod_level(spec, errs);
    resize::host_users(spec, errs);
    let deadline = spec.child("activeDeadlineSeconds");
    if deadline
        .int()
        .is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n))
    {
        errs.invalid(&deadline, "must be between 1 and 2147483647, inclusive");
    }
    errs.non_negative(&spec.child("terminationGracePeriodSeconds"));
    for (key, q) in spec.entries("overhead") {
        errs.check(
            &At::new(q.value, q.path.clone()),
            names::qualified_name(key),
        );
        quantity(&q, errs);
    }
}

fn names_of(spec: &At<'_>, errs: &mut Errors) {
    type Check = fn(&str) -> Vec<String>;
    let fields: [(&str, Check); 6] = [
        ("serviceAccountName", names::dns_subdomain),
        ("nodeName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
    ];
    for (field, check) in fields {
        let at = spec.child(field);
        if !at.text().is_empty() {
            errs.check(&at, check(at.text()));
        }
    }
}

fn dns(spec: &At<'_>, errs: &mut Errors) {
    let policy = spec.child("dnsPolicy");
    errs.required_one_of(
        &policy,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        "",
    );
    let config = spec.child("dnsConfig");
    let servers = config.child("nameservers");
    let count = servers.value.as_array().map_or(0, Vec::len);
    if policy.text() == "None" && count == 0 {
        if config.is_set() {
            errs.required(
                &servers,
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
        } else {
            errs.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
    }
    if count > 3 {
        errs.invalid(&servers, "must not have more than 3 nameservers");
    }
    for s in config.items("nameservers") {
        errs.check(&s, names::ip(s.text()));
    }
    let searches: Vec<At<'_>> = config.items("searches").collect();
    if searches.len() > 32 {
        errs.invalid(
            &config.child("searches"),
            "must not have more than 32 search paths",
        );
    }
    for s in searches {
        let name = s.text().strip_suffix('.').unwrap_or(s.text());
        if !name.is_empty() {
            errs.check(&s, names::dns_subdomain(name));
        }
    }
    for o in config.items("options") {
        if o.child("name").text().is_empty() {
            errs.required(&o, "must not be empty");
        }
    }
}

fn security(spec: &At<'_>, errs: &mut Errors) {
    let context = spec.child("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(&context.child(field), errs);
    }
    for group in context.items("supplementalGroups") {
        id(&group, errs);
    }
    errs.one_of(
        &context.child("fsGroupChangePolicy"),
        &["Always", "OnRootMismatch"],
    );
    container::seccomp(&context.child("seccompProfile"), errs);
    let mut seen = Seen::default();
    for s in context.items("sysctls") {
        let name = s.child("name");
        if name.text().is_empty() {
            errs.required(&name, "");
        } else if name.text().len() > 253 || !is_sysctl(name.text()) {
            errs.invalid(&name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        }
        seen.unique(&name, errs);
    }
    if spec.child("hostPID").flag() && spec.child("shareProcessNamespace").flag() {
        errs.invalid(
            &spec.child("shareProcessNamespace"),
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
}

/// A user's or group's number.
pub(super) fn id(at: &At<'_>, errs: &mut Errors) {
    if at
        .int()
        .is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n))
    {
        errs.invalid(at, "must be between 0 and 2147483647, inclusive");
    }
}

fn is_sysctl(name: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.split(['.', '/']).all(|part| {
        let b = part.as_bytes();
        b.first().copied().is_some_and(alnum)
            && b.last().copied().is_some_and(alnum)
            && b.iter().all(|c| alnum(*c) || matches!(c, b'-' | b'_'))
    })
}

fn host_aliases(spec: &At<'_>, errs: &mut Errors) {
    for alias in spec.items("hostAliases") {
        errs.check(&alias.child("ip"), names::ip(alias.child("ip").text()));
        for host in alias.items("hostnames") {
            errs.check(&host, names::dns_subdomain(host.text()));
        }
    }
}

fn gates(spec: &At<'_>, errs: &mut Errors) {
    for gate in spec.items("readinessGates") {
        let kind = gate.child("conditionType");
        errs.check(&kind, names::qualified_name(kind.text()));
    }
    let mut seen = Seen::default();
    for gate in spec.items("schedulingGates") {
        let name = gate.child("name");
        errs.check(&name, names::qualified_name(name.text()));
        seen.unique(&name, errs);
    }
    let has_gates = spec.items("schedulingGates").next().is_some();
    if has_gates && !spec.child("nodeName").text().is_empty() {
        errs.forbidden(
            &spec.child("nodeName").path,
            "cannot be set until all schedulingGates have been cleared",
        );
    }
}
