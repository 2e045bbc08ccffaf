//! Which sysctls a pod may set. Source: "Using sysctls in a Kubernetes Cluster"; texts are upstream's.

use k8s_openapi::api::core::v1::PodSpec;

/// Namespaced, and without influence on other pods or the node.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Refuses what is neither safe nor allowed, and what would change the node because the pod shares the namespace.
pub fn check(spec: &PodSpec, allowed: &[String]) -> Result<(), String> {
    let wanted = spec
        .security_context
        .iter()
        .flat_map(|s| s.sysctls.iter().flatten());
    for name in wanted.map(|s| s.name.replace('/', ".")) {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        };
        if !SAFE.contains(&name.as_str()) && !allowed.iter().any(matches) {
            return Err(format!("\"{name}\" not allowlisted"));
        }
        let shared = match name.starts_with("net.") {
            true if spec.host_network == Some(true) => "net",
            false if spec.host_ipc == Some(true) => "ipc",
            _ => continue,
        };
        return Err(format!("\"{name}\" not allowed with host {shared} enabled"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sysctls() {
        let rows = [
            ("net.ipv4.tcp_syncookies", json!({}), Ok(())),
            ("net/ipv4/tcp_syncookies", json!({}), Ok(())),
            (
                "kernel.shm_rmid_forced",
                json!({"hostNetwork": true}),
                Ok(()),
            ),
            (
                "kernel.msgmax",
                json!({}),
                Err("\"kernel.msgmax\" not allowlisted"),
            ),
            (
                "vm.swappiness",
                json!({}),
                Err("\"vm.swappiness\" not allowlisted"),
            ),
            ("net.core.somaxconn", json!({}), Ok(())),
            ("kernel.sem", json!({}), Ok(())),
            (
                "kernel.semx",
                json!({}),
                Err("\"kernel.semx\" not allowlisted"),
            ),
            (
                "net.core.somaxconn",
                json!({"hostNetwork": true}),
                Err("\"net.core.somaxconn\" not allowed with host net enabled"),
            ),
            (
                "kernel.shm_rmid_forced",
                json!({"hostIPC": true}),
                Err("\"kernel.shm_rmid_forced\" not allowed with host ipc enabled"),
            ),
        ];
        let allowed = ["net.core.*".to_owned(), "kernel.sem".to_owned()];
        for (name, mut spec, want) in rows {
            spec["containers"] = json!([]);
            spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
            let spec: PodSpec = serde_json::from_value(spec).expect("spec");
            assert_eq!(
                check(&spec, &allowed),
                want.map_err(str::to_owned),
                "{name}"
            );
        }
    }
}
