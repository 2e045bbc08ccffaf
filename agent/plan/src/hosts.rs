//! A pod's /etc/hosts. Source: "Adding entries to Pod /etc/hosts with HostAliases".

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::names;

const OWN: &str = "# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// The file's contents; `host` is the node's own file, which pods on the host's network get.
pub fn hosts(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, host: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text = if spec.and_then(|s| s.host_network) == Some(true) {
        format!("# Kubernetes-managed hosts file (host network).\n{host}")
    } else {
        let (name, domain) = names::hostname(pod, cluster_domain);
        let line = |ip: &IpAddr| match domain.as_str() {
            "" => format!("{ip}\t{name}\n"),
            d => format!("{ip}\t{name}.{d}\t{name}\n"),
        };
        OWN.to_owned() + &ips.iter().map(line).collect::<String>()
    };
    let aliases = spec
        .and_then(|s| s.host_aliases.as_deref())
        .unwrap_or_default();
    if !aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
        for a in aliases {
            text += &format!(
                "{}\t{}\n",
                a.ip,
                a.hostnames.as_deref().unwrap_or_default().join("\t")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files() {
        let ips = [
            "10.1.0.2".parse().expect("ip"),
            "fd00::2".parse().expect("ip"),
        ];
        let aliases = json!([{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]);
        let rows = [
            (json!({}), format!("{OWN}10.1.0.2\tp\nfd00::2\tp\n")),
            (
                json!({"subdomain": "web", "hostAliases": aliases}),
                format!(
                    "{OWN}10.1.0.2\tp.web.ns.svc.c.l\tp\nfd00::2\tp.web.ns.svc.c.l\tp\n\n# Entries added by HostAliases.\n192.0.2.9\ta\tb\n"
                ),
            ),
            (
                json!({"hostNetwork": true}),
                "# Kubernetes-managed hosts file (host network).\n127.0.0.1 host\n".to_owned(),
            ),
        ];
        for (mut spec, want) in rows {
            spec["containers"] = json!([]);
            let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
            let pod: Pod = serde_json::from_value(pod).expect("pod");
            assert_eq!(hosts(&pod, &ips, "c.l", "127.0.0.1 host\n"), want);
        }
    }
}
