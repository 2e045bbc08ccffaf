//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use super::{quantities, tcp, volume};
use crate::json::{
    at, each, fill, fill_int, fill_text, flag, int, items, object, object_at, set, text,
};
use crate::validate::aggregate;

/// A pod: what templates get, and what only pods get.
pub(crate) fn pod(v: &mut Value) {
    let Some(spec) = object_at(v, "/spec") else {
        return;
    };
    pod_spec(spec);
    fill(spec, "enableServiceLinks", true);
    let host_network = flag(spec, "/hostNetwork");
    for list in ["/containers", "/initContainers"] {
        each(spec, list, |c| {
            requests_from_limits(c);
            if list == "/containers" || text(c, "/restartPolicy") == "Always" {
                resize_policy(c);
            }
            if host_network {
                each(c, "/ports", host_port);
            }
        });
    }
    own_requests(spec);
}

/// A container is resized in place unless it says otherwise (KEP-1287).
fn resize_policy(c: &mut Value) {
    for name in ["cpu", "memory"] {
        let figures = ["requests", "limits"];
        let has = |list: &&str| !at(c, &format!("/resources/{list}/{name}")).is_null();
        let said = items(c, "/resizePolicy");
        let said = said.iter().any(|p| text(p, "/resourceName") == name);
        if said || !figures.iter().any(has) {
            continue;
        }
        let policy = json!({"resourceName": name, "restartPolicy": "NotRequired"});
        if let Some(c) = c.as_object_mut() {
            let all = c.entry("resizePolicy").or_insert_with(|| json!([]));
            all.as_array_mut()
                .into_iter()
                .for_each(|all| all.push(policy.clone()));
        }
    }
}

/// What a pod with limits of its own asks for: what its containers do, else its limits (KEP-2837).
fn own_requests(spec: &mut Value) {
    let Some(limits) = at(spec, "/resources/limits").as_object().cloned() else {
        return;
    };
    let mut asked: Vec<(String, Value)> = Vec::new();
    for name in ["cpu", "memory"] {
        let sum = aggregate(spec, name);
        if sum.signum() > 0 {
            asked.push((name.to_owned(), sum.to_string().into()));
        }
    }
    asked.extend(limits);
    let requests = object(spec, "resources").and_then(|r| object(r, "requests"));
    let Some(requests) = requests else { return };
    for (name, value) in asked {
        fill(requests, &name, value);
    }
}

/// The pod template of a workload, at `template` below the value.
pub(crate) fn pod_template(v: &mut Value) {
    if let Some(spec) = object_at(v, "/template/spec") {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Value) {
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "restartPolicy", "Always");
    fill_text(spec, "schedulerName", "default-scheduler");
    fill(spec, "securityContext", json!({}));
    fill(spec, "terminationGracePeriodSeconds", 30);
    mirror_service_account(spec);
    quantities(spec, "/overhead");
    quantities(spec, "/resources/limits");
    quantities(spec, "/resources/requests");
    for list in ["/containers", "/initContainers", "/ephemeralContainers"] {
        each(spec, list, container);
    }
    each(spec, "/volumes", volume::volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both always say the same.
pub(crate) fn mirror_service_account(spec: &mut Value) {
    let name = match text(spec, "/serviceAccountName") {
        "" => text(spec, "/serviceAccount"),
        name => name,
    }
    .to_owned();
    if !name.is_empty() {
        set(spec, "serviceAccountName", name.as_str());
        set(spec, "serviceAccount", name);
    }
}

fn container(c: &mut Value) {
    let policy = pull_policy(text(c, "/image"));
    fill_text(c, "imagePullPolicy", policy);
    fill_text(c, "terminationMessagePath", "/dev/termination-log");
    fill_text(c, "terminationMessagePolicy", "File");
    fill(c, "resources", json!({}));
    quantities(c, "/resources/limits");
    quantities(c, "/resources/requests");
    tcp(c, "/ports");
    each(c, "/env", |e| {
        if let Some(field) = object_at(e, "/valueFrom/fieldRef") {
            fill_text(field, "apiVersion", "v1");
        }
    });
    for name in ["/livenessProbe", "/readinessProbe", "/startupProbe"] {
        if let Some(p) = object_at(c, name) {
            probe(p);
        }
    }
    for name in ["/lifecycle/postStart", "/lifecycle/preStop"] {
        if let Some(handler) = object_at(c, name) {
            http_get(handler);
        }
    }
}

fn probe(p: &mut Value) {
    for (field, default) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        fill_int(p, field, default);
    }
    http_get(p);
    if let Some(grpc) = object_at(p, "/grpc") {
        fill(grpc, "service", "");
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = object_at(handler, "/httpGet") {
        fill_text(get, "path", "/");
        fill_text(get, "scheme", "HTTP");
    }
}

/// `Always` for the tag `latest`, said or meant; a digest needs no tag.
pub(super) fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        None | Some((_, "latest" | "")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn requests_from_limits(c: &mut Value) {
    let Some(limits) = at(c, "/resources/limits").as_object().cloned() else {
        return;
    };
    let Some(requests) = object(c, "resources").and_then(|r| object(r, "requests")) else {
        return;
    };
    for (name, limit) in limits {
        fill(requests, &name, limit);
    }
}

/// On the host's network a container's port is the host's.
fn host_port(p: &mut Value) {
    if let Some(n) = int(p, "/containerPort") {
        fill_int(p, "hostPort", n);
    }
}
