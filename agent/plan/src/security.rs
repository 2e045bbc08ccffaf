//! The security context that applies to a container: its own over the pod's.

use k8s_openapi::api::core::v1::{Container, Pod};

/// Which system call filter is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// None was named: the node's default, which is no filter.
    #[default]
    Unset,
    /// The runtime's list.
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// A profile below the node's seccomp directory.
    Localhost(String),
}

/// What applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// User id.
    pub run_as_user: Option<i64>,
    /// Primary group id.
    pub run_as_group: Option<i64>,
    /// User 0 is refused.
    pub run_as_non_root: bool,
    /// Supplemental groups, `fsGroup` included.
    pub groups: Vec<i64>,
    /// The image's own groups do not count.
    pub strict_groups: bool,
    /// Group that owns the volumes.
    pub fs_group: Option<i64>,
    /// All of the host's powers.
    pub privileged: bool,
    /// Capabilities to add.
    pub add: Vec<String>,
    /// Capabilities to drop.
    pub drop: Vec<String>,
    /// The root file system is read-only.
    pub read_only_rootfs: bool,
    /// No new privileges by set-uid programs.
    pub no_new_privileges: bool,
    /// `/proc` is not masked.
    pub unmasked: bool,
    /// System call filter.
    pub seccomp: Seccomp,
}

/// Merges the pod's and the container's.
pub fn effective(pod: &Pod, c: &Container) -> Security {
    let p = pod
        .spec
        .as_ref()
        .and_then(|s| s.security_context.clone())
        .unwrap_or_default();
    let own = c.security_context.clone().unwrap_or_default();
    let mut groups = p.supplemental_groups.clone().unwrap_or_default();
    groups.extend(p.fs_group);
    let caps = own.capabilities.unwrap_or_default();
    let profile = own.seccomp_profile.or(p.seccomp_profile);
    let privileged = own.privileged == Some(true);
    Security {
        run_as_user: own.run_as_user.or(p.run_as_user),
        run_as_group: own.run_as_group.or(p.run_as_group),
        run_as_non_root: own.run_as_non_root.or(p.run_as_non_root) == Some(true),
        groups,
        strict_groups: p.supplemental_groups_policy.as_deref() == Some("Strict"),
        fs_group: p.fs_group,
        privileged,
        add: caps.add.unwrap_or_default(),
        drop: caps.drop.unwrap_or_default(),
        read_only_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        unmasked: own.proc_mount.as_deref() == Some("Unmasked"),
        seccomp: match profile.as_ref().map(|p| p.type_.as_str()) {
            _ if privileged => Seccomp::Unconfined,
            None => Seccomp::Unset,
            Some("RuntimeDefault") => Seccomp::RuntimeDefault,
            Some("Localhost") => Seccomp::Localhost(
                profile
                    .and_then(|p| p.localhost_profile)
                    .unwrap_or_default(),
            ),
            Some(_) => Seccomp::Unconfined,
        },
    }
}

/// Refuses a container that must not be root when it would be. `image_user` is the image's `USER` without its
/// group. Texts are upstream's.
pub fn check_non_root(
    security: &Security,
    image_user: &str,
    pod: &str,
    container: &str,
) -> Result<(), String> {
    if !security.run_as_non_root {
        return Ok(());
    }
    let place = format!("(pod: {pod:?}, container: {container})");
    match (security.run_as_user, image_user.parse::<i64>()) {
        (Some(0), _) => Err(format!(
            "container's runAsUser breaks non-root policy {place}"
        )),
        (Some(_), _) => Ok(()),
        (None, Ok(0)) => Err(format!(
            "container has runAsNonRoot and image will run as root {place}"
        )),
        (None, Ok(_)) => Ok(()),
        (None, Err(_)) if image_user.is_empty() => Err(format!(
            "container has runAsNonRoot and image will run as root {place}"
        )),
        (None, Err(_)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {place}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn container_wins_over_pod() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [],
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "fsGroup": 5, "supplementalGroups": [7],
                "seccompProfile": {"type": "RuntimeDefault"}}}}))
        .expect("pod");
        let c: Container = serde_json::from_value(json!({"name": "c", "securityContext":
            {"runAsUser": 2000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}))
        .expect("container");
        let want = Security {
            run_as_user: Some(2000),
            run_as_non_root: true,
            groups: vec![7, 5],
            fs_group: Some(5),
            drop: vec!["ALL".into()],
            no_new_privileges: true,
            seccomp: Seccomp::RuntimeDefault,
            ..Default::default()
        };
        assert_eq!(effective(&pod, &c), want);
    }

    #[test]
    fn non_root() {
        let rows = [
            ("not asked for", false, None, "", true),
            ("own user", true, Some(5), "", true),
            ("own root", true, Some(0), "5", false),
            ("image's number", true, None, "5", true),
            ("image's root", true, None, "0", false),
            ("image without", true, None, "", false),
            ("image's name", true, None, "nginx", false),
        ];
        for (name, asked, user, image, ok) in rows {
            let s = Security {
                run_as_non_root: asked,
                run_as_user: user,
                ..Default::default()
            };
            assert_eq!(
                check_non_root(&s, image, "p_ns(u)", "c").is_ok(),
                ok,
                "{name}"
            );
        }
    }
}
