//! Validation of probes and lifecycle handlers.

use super::field::{At, Errors};
use super::{names, port, port_or_name};

/// Liveness, readiness and startup probes of a container.
pub(super) fn probes(c: &At<'_>, errs: &mut Errors) {
    for (name, once) in [
        ("livenessProbe", true),
        ("readinessProbe", false),
        ("startupProbe", true),
    ] {
        let p = c.child(name);
        if !p.is_set() {
            continue;
        }
        handler(&p, errs);
        for field in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            errs.non_negative(&p.child(field));
        }
        let success = p.child("successThreshold");
        if once && success.int() != Some(1) {
            errs.invalid(&success, "must be 1");
        }
        let grace = p.child("terminationGracePeriodSeconds");
        if grace.is_set() && name == "readinessProbe" {
            errs.invalid(&grace, "must not be set for readinessProbes");
        } else if grace.int().is_some_and(|n| n <= 0) {
            errs.invalid(&grace, "must be greater than 0");
        }
    }
}

/// `postStart` and `preStop`.
pub(super) fn lifecycle(c: &At<'_>, errs: &mut Errors) {
    for hook in ["lifecycle.postStart", "lifecycle.preStop"] {
        let at = c.child(hook);
        if at.is_set() {
            handler(&at, errs);
        }
    }
}

/// Exactly one way to ask.
fn handler(at: &At<'_>, errs: &mut Errors) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let mut given = kinds.iter().map(|k| at.child(k)).filter(At::is_set);
    let Some(one) = given.next() else {
        errs.required(at, "must specify a handler type");
        return;
    };
    for more in given {
        errs.forbidden(&more.path, "may not specify more than 1 handler type");
    }
    match one.path.rsplit('.').next().unwrap_or_default() {
        "exec" if one.child("command").is_zero() => errs.required(&one.child("command"), ""),
        "httpGet" => http(&one, errs),
        "tcpSocket" => port_of(&one, errs),
        "grpc" => port(&one.child("port"), errs),
        "sleep" => errs.non_negative(&one.child("seconds")),
        _ => {}
    }
}

fn http(at: &At<'_>, errs: &mut Errors) {
    if at.child("path").text().is_empty() {
        errs.required(&at.child("path"), "");
    }
    port_of(at, errs);
    errs.one_of(&at.child("scheme"), &["HTTP", "HTTPS"]);
    for h in at.items("httpHeaders") {
        let name = h.child("name");
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if name.text().is_empty() || !name.text().bytes().all(token) {
            errs.invalid(&name, "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')");
        }
    }
}

fn port_of(at: &At<'_>, errs: &mut Errors) {
    let p = at.child("port");
    if p.value.is_null() {
        errs.check(&p, names::port(0));
    }
    port_or_name(&p, errs);
}
