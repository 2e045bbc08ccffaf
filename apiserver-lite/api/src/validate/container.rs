//! Validation of containers: names, images, ports, environment, mounts, resources, security.

use super::field::{At, Errors};
use super::{Seen, handler, names, pod, port, quantity, resize};
use crate::quantity::Quantity;

/// The containers of a pod's `spec`; `volumes` are the names that mounts may refer to.
pub(super) fn containers(spec: &At<'_>, volumes: &Seen, errs: &mut Errors) {
    let mut seen = Seen::default();
    let host_network = spec.child("hostNetwork").flag();
    let never = spec.child("restartPolicy").text() == "Never";
    if spec.items("containers").next().is_none() {
        errs.required(&spec.child("containers"), "");
    }
    let mut host_ports = Seen::default();
    for c in spec.items("containers") {
        container(&c, volumes, &mut seen, errs);
        ports(&c, host_network, Some(&mut host_ports), errs);
        handler::probes(&c, errs);
        resize::restart(&c, errs);
        resize::policies(&c, never, errs);
    }
    for c in spec.items("initContainers") {
        container(&c, volumes, &mut seen, errs);
        ports(&c, host_network, None, errs);
        init(&c, errs);
        resize::policies(
            &c,
            never && c.child("restartPolicy").text() != "Always",
            errs,
        );
    }
    for c in spec.items("ephemeralContainers") {
        container(&c, volumes, &mut seen, errs);
        for field in [
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "restartPolicy",
            "restartPolicyRules",
            "resizePolicy",
        ] {
            if !c.child(field).is_zero() {
                errs.forbidden(
                    &c.child(field).path,
                    "cannot be set for an Ephemeral Container",
                );
            }
        }
    }
}

/// Init containers run to their end, unless they are sidecars (`restartPolicy: Always`, KEP-753).
fn init(c: &At<'_>, errs: &mut Errors) {
    let policy = c.child("restartPolicy");
    resize::restart(c, errs);
    if policy.text() == "Always" {
        handler::probes(c, errs);
        return;
    }
    for field in [
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        if c.child(field).is_set() {
            errs.forbidden(
                &c.child(field).path,
                "may not be set for init containers without restartPolicy=Always",
            );
        }
    }
}

fn container(c: &At<'_>, volumes: &Seen, seen: &mut Seen, errs: &mut Errors) {
    let (name, image) = (c.child("name"), c.child("image"));
    if name.text().is_empty() {
        errs.required(&name, "");
    } else {
        errs.check(&name, names::dns_label(name.text()));
    }
    seen.unique(&name, errs);
    if image.text().is_empty() {
        errs.required(&image, "");
    } else if image.text().trim() != image.text() {
        errs.invalid(&image, "must not have leading or trailing whitespace");
    }
    errs.required_one_of(
        &c.child("terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
        "",
    );
    errs.required_one_of(
        &c.child("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        "",
    );
    env(c, errs);
    mounts(c, volumes, errs);
    resources(&c.child("resources"), errs);
    security(&c.child("securityContext"), errs);
    handler::lifecycle(c, errs);
}

fn ports(c: &At<'_>, host_network: bool, host_ports: Option<&mut Seen>, errs: &mut Errors) {
    let mut seen = Seen::default();
    let mut ignored = Seen::default();
    let host_ports = host_ports.unwrap_or(&mut ignored);
    for p in c.items("ports") {
        let (name, number, host) = (
            p.child("name"),
            p.child("containerPort"),
            p.child("hostPort"),
        );
        if !name.text().is_empty() {
            errs.check(&name, names::port_name(name.text()));
            seen.unique(&name, errs);
        }
        match number.int() {
            None | Some(0) => errs.required(&number, ""),
            Some(_) => port(&number, errs),
        }
        let protocol = p.child("protocol");
        errs.required_one_of(&protocol, &["SCTP", "TCP", "UDP"], "");
        let Some(n) = host.int().filter(|n| *n != 0) else {
            continue;
        };
        port(&host, errs);
        if host_network && number.int() != Some(n) {
            errs.invalid(&number, "must match `hostPort` when `hostNetwork` is true");
        }
        let key = format!("{}/{}/{n}", protocol.text(), p.child("hostIP").text());
        if host_ports.has(&key) {
            errs.duplicate(&At::new(&serde_json::json!(key), host.path.clone()));
        }
        host_ports.0.insert(key);
    }
}

fn env(c: &At<'_>, errs: &mut Errors) {
    for e in c.items("env") {
        let (name, from) = (e.child("name"), e.child("valueFrom"));
        if name.text().is_empty() {
            errs.required(&name, "");
        } else {
            errs.check(&name, names::env_name(name.text()));
        }
        if from.is_set() {
            value_from(&e, &from, errs);
        }
    }
    for e in c.items("envFrom") {
        let sources: Vec<At<'_>> = ["configMapRef", "secretRef"]
            .map(|f| e.child(f))
            .into_iter()
            .filter(At::is_set)
            .collect();
        match sources.as_slice() {
            [] => errs.invalid_value(
                &e.path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            [one] => name_of(one, errs),
            _ => errs.invalid_value(
                &e.path,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

/// Fields of the downward API as environment.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Resources of the downward API.
/// How the resources of huge pages begin.
const HUGE: &str = "hugepages-";

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn value_from(e: &At<'_>, from: &At<'_>, errs: &mut Errors) {
    let kinds = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ];
    let count = kinds.iter().filter(|k| from.child(k).is_set()).count();
    if count == 0 {
        errs.invalid_value(
            &from.path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !e.child("value").text().is_empty() {
        errs.invalid_value(
            &from.path,
            "",
            "may not be specified when `value` is not empty",
        );
    } else if count > 1 {
        errs.invalid_value(
            &from.path,
            "",
            "may not have more than one field specified at a time",
        );
    }
    let field = from.child("fieldRef");
    if field.is_set() {
        field_ref(&field, ENV_FIELDS, errs);
    }
    let resource = from.child("resourceFieldRef.resource");
    if from.child("resourceFieldRef").is_set() {
        resource_ref(&resource, errs);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let at = from.child(kind);
        if !at.is_set() {
            continue;
        }
        name_of(&at, errs);
        let key = at.child("key");
        if key.text().is_empty() {
            errs.required(&key, "");
        } else {
            errs.check(&key, names::config_key(key.text()));
        }
    }
}

/// `fieldRef`: one of the fields, or a label or annotation by its key.
pub(super) fn field_ref(at: &At<'_>, fields: &[&str], errs: &mut Errors) {
    let path = at.child("fieldPath");
    if path.text().is_empty() {
        errs.required(&path, "");
        return;
    }
    if let Some((_, key)) = path
        .text()
        .strip_suffix(']')
        .and_then(|p| p.split_once("['"))
    {
        let key = key.trim_end_matches('\'');
        if path.text().starts_with("metadata.labels[")
            || path.text().starts_with("metadata.annotations[")
        {
            errs.check(&path, names::qualified_name(&key.to_lowercase()));
            return;
        }
    }
    errs.one_of(&path, fields);
}

/// `resourceFieldRef.resource`.
pub(super) fn resource_ref(at: &At<'_>, errs: &mut Errors) {
    if at.text().is_empty() {
        errs.required(at, "");
    } else if !at.text().contains(".hugepages-") {
        errs.one_of(at, RESOURCE_FIELDS);
    }
}

fn name_of(at: &At<'_>, errs: &mut Errors) {
    let name = at.child("name");
    if name.text().is_empty() {
        errs.required(&name, "");
    } else {
        errs.check(&name, names::dns_subdomain(name.text()));
    }
}

fn mounts(c: &At<'_>, volumes: &Seen, errs: &mut Errors) {
    let mut paths = Seen::default();
    for m in c.items("volumeMounts") {
        let (name, path) = (m.child("name"), m.child("mountPath"));
        if name.text().is_empty() {
            errs.required(&name, "");
        } else if !volumes.has(name.text()) {
            errs.not_found(&name);
        }
        if path.text().is_empty() {
            errs.required(&path, "");
        }
        if !path.text().is_empty() && !paths.0.insert(path.text().to_owned()) {
            errs.invalid(&path, "must be unique");
        }
        for sub in [m.child("subPath"), m.child("subPathExpr")] {
            relative(&sub, errs);
        }
        if !m.child("subPath").text().is_empty() && !m.child("subPathExpr").text().is_empty() {
            errs.invalid(
                &m.child("subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        errs.one_of(
            &m.child("mountPropagation"),
            &["Bidirectional", "HostToContainer", "None"],
        );
    }
    for d in c.items("volumeDevices") {
        if !volumes.has(d.child("name").text()) {
            errs.not_found(&d.child("name"));
        }
        if d.child("devicePath").text().is_empty() {
            errs.required(&d.child("devicePath"), "");
        }
    }
}

/// A path that stays below where it starts.
pub(super) fn relative(at: &At<'_>, errs: &mut Errors) {
    if at.text().starts_with('/') {
        errs.invalid(at, "must be a relative path");
    }
    if at.text().split('/').any(|p| p == "..") {
        errs.invalid(at, "must not contain '..'");
    }
}

/// `resources`: quantities, and requests within limits.
pub(super) fn resources(at: &At<'_>, errs: &mut Errors) {
    let asks = |wanted: fn(&str) -> bool| {
        let mut both = at.entries("limits").chain(at.entries("requests"));
        both.any(|(key, _)| wanted(key))
    };
    if asks(|key| key.starts_with(HUGE)) && !asks(|key| matches!(key, "cpu" | "memory")) {
        errs.forbidden(&at.path, "HugePages require cpu or memory");
    }
    let limits: Vec<(&str, Option<Quantity>)> = at
        .entries("limits")
        .map(|(k, q)| (k, resource(k, &q, errs)))
        .collect();
    for (key, at) in at.entries("requests") {
        let Some(request) = resource(key, &at, errs) else {
            continue;
        };
        let limit = limits.iter().find(|(k, _)| *k == key).and_then(|(_, q)| *q);
        let overcommit = matches!(key, "cpu" | "memory" | "ephemeral-storage");
        match limit {
            Some(limit) if request > limit => {
                errs.invalid_value(
                    &at.path,
                    request.to_string(),
                    &format!("must be less than or equal to {key} limit of {limit}"),
                );
            }
            Some(limit) if !overcommit && request != limit => {
                errs.invalid_value(
                    &at.path,
                    request.to_string(),
                    &format!("must be equal to {key} limit of {limit}"),
                );
            }
            None if !overcommit => errs.required(
                &At::new(at.value, at.path.replace("requests", "limits")),
                "Limit must be set for non overcommitable resources",
            ),
            _ => {}
        }
    }
}

fn resource(key: &str, at: &At<'_>, errs: &mut Errors) -> Option<Quantity> {
    for why in names::qualified_name(key) {
        errs.invalid_value(&at.path, key, &why);
    }
    let standard =
        matches!(key, "cpu" | "memory" | "ephemeral-storage" | "storage") || key.starts_with(HUGE);
    if !key.contains('/') && !standard {
        errs.invalid_value(&at.path, key, "must be a standard resource for containers");
    }
    let q = quantity(at, errs)?;
    if !standard && !q.is_integer() {
        errs.invalid(at, "must be an integer");
    }
    if let Some(size) = key.strip_prefix(HUGE) {
        let page: Option<Quantity> = size.parse().ok();
        if !page.is_some_and(|page| q.is_multiple_of(page)) {
            let why = format!("{q} is not positive integer multiple of {key}");
            errs.invalid_value(&at.path, q.to_string(), &why);
        }
    }
    Some(q)
}

fn security(at: &At<'_>, errs: &mut Errors) {
    for field in ["runAsUser", "runAsGroup"] {
        pod::id(&at.child(field), errs);
    }
    errs.one_of(&at.child("procMount"), &["Default", "Unmasked"]);
    seccomp(&at.child("seccompProfile"), errs);
    let escalation = at.child("allowPrivilegeEscalation");
    if escalation.value == false {
        if at.child("privileged").flag() {
            errs.invalid(
                &escalation,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if at
            .items("capabilities.add")
            .any(|c| matches!(c.text(), "CAP_SYS_ADMIN" | "SYS_ADMIN"))
        {
            errs.invalid(&escalation, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
}

/// `seccompProfile`.
pub(super) fn seccomp(at: &At<'_>, errs: &mut Errors) {
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.child("type"), at.child("localhostProfile"));
    errs.required_one_of(
        &kind,
        &["Localhost", "RuntimeDefault", "Unconfined"],
        "type is required when seccompProfile is set",
    );
    match (kind.text(), profile.text()) {
        ("Localhost", "") => errs.required(&profile, "must be set when seccomp type is Localhost"),
        ("Localhost", _) => relative(&profile, errs),
        (_, "") => {}
        _ => errs.invalid(&profile, "can only be set when seccomp type is Localhost"),
    }
}
