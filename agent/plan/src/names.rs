//! Names and paths, all derived from the pod's UID, the container and the attempt.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

/// A pod in messages: `name_namespace(uid)`.
pub fn pod_ref(pod: &Pod) -> String {
    let m = &pod.metadata;
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    format!("{}_{}({})", text(&m.name), text(&m.namespace), text(&m.uid))
}

/// A pod's log directory: `<root>/<namespace>_<name>_<uid>`.
pub fn log_dir(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// The UID of the pod whose log directory has this name.
pub fn log_dir_uid(dir: &str) -> Option<&str> {
    // Names and namespaces have no underscores.
    match dir.split('_').collect::<Vec<_>>()[..] {
        [_, _, uid] if is_path_element(uid) => Some(uid),
        _ => None,
    }
}

/// A container's log directory: `<pod's log directory>/<container>`.
pub fn container_log_dir(root: &Path, pod: &Pod, container: &str) -> PathBuf {
    let m = &pod.metadata;
    let [namespace, name, uid] =
        [&m.namespace, &m.name, &m.uid].map(|o| o.as_deref().unwrap_or_default());
    log_dir(root, namespace, name, uid).join(container)
}

/// A run's log file: `<container's log directory>/<attempt>.log`.
pub fn log_path(root: &Path, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    container_log_dir(root, pod, container).join(format!("{attempt}.log"))
}

/// A file path is one element: no separator, and not the directory itself or its parent.
pub fn is_path_element(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Linux takes 64 bytes with the terminating zero.
const HOSTNAME_MAX: usize = 63;

/// A pod's host name and its domain (empty without a subdomain).
/// Source: "DNS for Services and Pods"; a name that is too long is cut, as upstream does.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    let own = spec
        .and_then(|s| s.hostname.as_deref())
        .filter(|h| !h.is_empty());
    let name = own.or(pod.metadata.name.as_deref()).unwrap_or_default();
    let host = cut(name);
    let sub = spec
        .and_then(|s| s.subdomain.as_deref())
        .filter(|s| !s.is_empty());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = sub
        .map(|s| format!("{s}.{namespace}.svc.{cluster_domain}"))
        .unwrap_or_default();
    (host, domain)
}

/// The name the sandbox gets: the full one with `setHostnameAsFQDN`.
pub fn sandbox_hostname(pod: &Pod, cluster_domain: &str) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec
        .and_then(|s| s.hostname_override.clone())
        .filter(|n| !n.is_empty())
    {
        return name;
    }
    let (host, domain) = hostname(pod, cluster_domain);
    let full = spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true) && !domain.is_empty();
    if full {
        format!("{host}.{domain}")
    } else {
        host
    }
}

/// Linux takes no longer host name.
const FQDN_MAX: usize = 64;

/// Refuses a full name (`setHostnameAsFQDN`) that is too long; the text is upstream's.
pub fn check_hostname(pod: &Pod, cluster_domain: &str) -> Result<(), String> {
    let name = sandbox_hostname(pod, cluster_domain);
    match name.len() {
        0..=FQDN_MAX => Ok(()),
        n => Err(format!(
            "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long ({FQDN_MAX} characters is the max, {n} characters requested)"
        )),
    }
}

/// Refuses a pod that wants users of its own (`hostUsers: false`, KEP-127): its volumes would need mounts with mapped
/// owners, which runc makes from 1.2 on.
pub fn check_users(pod: &Pod) -> Result<(), String> {
    let spec = pod.spec.as_ref();
    match spec.is_some_and(|s| s.host_users == Some(false)) {
        true => Err("RuntimeClass handler \"runc\" does not support user namespaces".to_owned()),
        false => Ok(()),
    }
}

fn cut(name: &str) -> String {
    let end = name
        .char_indices()
        .map(|(i, c)| i + c.len_utf8())
        .take_while(|end| *end <= HOSTNAME_MAX)
        .last();
    name[..end.unwrap_or(0)]
        .trim_end_matches(['-', '.'])
        .to_owned()
}

/// Containers that wait, with the reason.
pub(crate) fn waiting_reasons(status: &PodStatus) -> Vec<(&str, &str)> {
    fn reason(s: &ContainerStatus) -> Option<(&str, &str)> {
        let waiting = s.state.as_ref()?.waiting.as_ref()?;
        Some((s.name.as_str(), waiting.reason.as_deref()?))
    }
    let all = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    all.filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    #[test]
    fn log_directories_name_their_pods() {
        let rows = [
            ("default_web-0_0b4f9c1e", Some("0b4f9c1e")),
            ("default_web-0", None),
            ("a_b_c_d", None),
            ("a_b_", None),
            ("a_b_..", None),
            ("", None),
        ];
        for (dir, want) in rows {
            assert_eq!(log_dir_uid(dir), want, "{dir:?}");
        }
        let own = log_dir(Path::new("/l"), "ns", "web", "uid");
        let name = own.file_name().and_then(|n| n.to_str());
        assert_eq!(name.and_then(log_dir_uid), Some("uid"));
        let pod = serde_json::json!({"metadata": {"namespace": "ns", "name": "web", "uid": "uid"}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let log = log_path(Path::new("/l"), &pod, "c", 3);
        assert_eq!(log, Path::new("/l/ns_web_uid/c/3.log"));
    }

    #[test]
    fn hostnames() {
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        let rows = [
            ("name", "web-0", None, None, false, "web-0"),
            ("own", "web-0", Some("h"), None, false, "h"),
            ("fqdn needs a subdomain", "web-0", None, None, true, "web-0"),
            (
                "fqdn",
                "web-0",
                None,
                Some("web"),
                true,
                "web-0.web.ns.svc.cluster.local",
            ),
            (
                "cut, no trailing dash",
                long.as_str(),
                None,
                None,
                false,
                &long[..62],
            ),
        ];
        for (name, pod_name, own, sub, full, want) in rows {
            let mut pod = Pod::default();
            pod.metadata.name = Some(pod_name.into());
            pod.metadata.namespace = Some("ns".into());
            pod.spec = Some(PodSpec {
                hostname: own.map(Into::into),
                subdomain: sub.map(Into::into),
                set_hostname_as_fqdn: Some(full),
                ..Default::default()
            });
            assert_eq!(sandbox_hostname(&pod, "cluster.local"), want, "{name}");
        }
    }

    #[test]
    fn full_names_have_a_limit() {
        // name, subdomain, full, whether it is refused
        let rows = [
            ("p", "sub", true, false),
            (&*"p".repeat(60), "sub", false, false),
            (&*"p".repeat(60), "sub", true, true),
            (&*"p".repeat(60), "", true, false),
        ];
        for (name, sub, full, refused) in rows {
            let mut pod = Pod::default();
            pod.metadata.name = Some(name.into());
            pod.metadata.namespace = Some("ns".into());
            pod.spec = Some(PodSpec {
                subdomain: (!sub.is_empty()).then(|| sub.into()),
                set_hostname_as_fqdn: Some(full),
                ..PodSpec::default()
            });
            let checked = check_hostname(&pod, "cluster.local");
            assert_eq!(checked.is_err(), refused, "{name} {sub} {full}");
        }
    }
}
