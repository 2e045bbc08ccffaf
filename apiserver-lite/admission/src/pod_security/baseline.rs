//! The baseline level.

use keelson_api::json::{at, flag, has, int, items, text, texts};
use serde_json::Value;

use super::{Check, containers, offenders};

/// Checks that the restricted level has too.
pub(super) const CHECKS: &[Check] = &[
    ("host namespaces", host_namespaces),
    ("privileged", |pod| {
        offenders(pod, "must not set securityContext.privileged=true", |c| {
            flag(c, "/securityContext/privileged")
        })
    }),
    ("hostPath volumes", host_path),
    ("hostPort", host_ports),
    ("forbidden AppArmor profile", app_armor),
    ("seLinuxOptions", selinux),
    ("procMount", |pod| {
        offenders(
            pod,
            "must not set securityContext.procMount to anything but \"Default\"",
            |c| !["", "Default"].contains(&text(c, "/securityContext/procMount")),
        )
    }),
    ("forbidden sysctls", sysctls),
    ("hostProcess", |pod| {
        let mut found = offenders(
            pod,
            "must not set securityContext.windowsOptions.hostProcess=true",
            |c| flag(c, "/securityContext/windowsOptions/hostProcess"),
        );
        if flag(pod, "/spec/securityContext/windowsOptions/hostProcess") {
            found.push(
                "pod must not set securityContext.windowsOptions.hostProcess=true".to_owned(),
            );
        }
        found
    }),
];

/// Checks that the restricted level replaces by stricter ones.
pub(super) const REPLACED: &[Check] = &[
    ("non-default capabilities", capabilities),
    ("seccompProfile", seccomp),
];

/// What containerd gives a container anyway.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn host_namespaces(pod: &Value) -> Vec<String> {
    let set = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|k| flag(pod, &format!("/spec/{k}")));
    let set: Vec<String> = set.map(|k| format!("{k}=true")).collect();
    if set.is_empty() {
        Vec::new()
    } else {
        vec![set.join(", ")]
    }
}

fn host_path(pod: &Value) -> Vec<String> {
    let found = items(pod, "/spec/volumes")
        .iter()
        .filter(|v| has(v, "/hostPath"));
    found
        .map(|v| format!("volume {:?}", text(v, "/name")))
        .collect()
}

fn host_ports(pod: &Value) -> Vec<String> {
    let each = containers(pod).flat_map(|c| items(c, "/ports").iter().map(move |p| (c, p)));
    let taken = each.filter_map(|(c, p)| Some((c, int(p, "/hostPort").filter(|n| *n != 0)?)));
    taken
        .map(|(c, port)| format!("container {:?} uses hostPort {port}", text(c, "/name")))
        .collect()
}

fn app_armor(pod: &Value) -> Vec<String> {
    let unconfined = |v: &Value| text(v, "/securityContext/appArmorProfile/type") == "Unconfined";
    let mut found = offenders(
        pod,
        "must not set AppArmor profile type to \"Unconfined\"",
        unconfined,
    );
    if unconfined(at(pod, "/spec")) {
        found.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
    }
    found
}

fn selinux(pod: &Value) -> Vec<String> {
    const TYPES: [&str; 5] = [
        "",
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
    ];
    let bad = |v: &Value| {
        let options = at(v, "/securityContext/seLinuxOptions");
        !TYPES.contains(&text(options, "/type"))
            || !text(options, "/user").is_empty()
            || !text(options, "/role").is_empty()
    };
    let mut found = offenders(pod, "set forbidden securityContext.seLinuxOptions", bad);
    if bad(at(pod, "/spec")) {
        found.push("pod set forbidden securityContext.seLinuxOptions".to_owned());
    }
    found
}

fn sysctls(pod: &Value) -> Vec<String> {
    let names = items(pod, "/spec/securityContext/sysctls")
        .iter()
        .map(|s| text(s, "/name"));
    names
        .filter(|n| !SAFE_SYSCTLS.contains(n))
        .map(str::to_owned)
        .collect()
}

fn capabilities(pod: &Value) -> Vec<String> {
    let extra = |c: &Value| -> Vec<String> {
        let added = texts(c, "/securityContext/capabilities/add");
        added
            .into_iter()
            .filter(|a| !DEFAULT_CAPABILITIES.contains(a))
            .map(|a| format!("{a:?}"))
            .collect()
    };
    let found = containers(pod)
        .map(|c| (c, extra(c)))
        .filter(|(_, extra)| !extra.is_empty());
    found
        .map(|(c, extra)| {
            let (name, list) = (text(c, "/name"), extra.join(", "));
            format!(
                "container {name:?} must not include {list} in securityContext.capabilities.add"
            )
        })
        .collect()
}

fn seccomp(pod: &Value) -> Vec<String> {
    let unconfined = |v: &Value| text(v, "/securityContext/seccompProfile/type") == "Unconfined";
    let mut found = offenders(
        pod,
        "must not set securityContext.seccompProfile.type to \"Unconfined\"",
        unconfined,
    );
    if unconfined(at(pod, "/spec")) {
        found.push(
            "pod must not set securityContext.seccompProfile.type to \"Unconfined\"".to_owned(),
        );
    }
    found
}
