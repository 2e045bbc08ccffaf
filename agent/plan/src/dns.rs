//! A pod's resolv.conf. Source: "DNS for Services and Pods", "Pod's DNS config".

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// What the node and cluster say.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// The cluster DNS service's addresses; empty: there is none.
    pub servers: Vec<IpAddr>,
    /// Such as `cluster.local`.
    pub domain: String,
}

/// glibc reads no more nameservers than this.
const MAX_SERVERS: usize = 3;
const MAX_SEARCH: usize = 32;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Conf {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

/// The file's contents; `host` is the node's own resolv.conf.
pub fn resolv_conf(pod: &Pod, cluster: &Cluster, host: &str) -> String {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|s| s.host_network) == Some(true);
    let policy = spec
        .and_then(|s| s.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let from_cluster = match policy {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut conf = match policy {
        "None" => Conf::default(),
        // Without a cluster DNS a pod falls back to the node's, as upstream does.
        _ if from_cluster && !cluster.servers.is_empty() => cluster_first(pod, cluster, host),
        _ => parse(host),
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        merge(&mut conf.servers, own.nameservers.iter().flatten());
        merge(&mut conf.search, own.searches.iter().flatten());
        for o in own.options.iter().flatten() {
            let Some(name) = &o.name else { continue };
            conf.options
                .retain(|have| have.split(':').next() != Some(name));
            conf.options.push(
                o.value
                    .as_ref()
                    .map_or_else(|| name.clone(), |v| format!("{name}:{v}")),
            );
        }
    }
    render(&conf)
}

fn cluster_first(pod: &Pod, cluster: &Cluster, host: &str) -> Conf {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = &cluster.domain;
    let mut search = vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    merge(&mut search, parse(host).search.iter());
    Conf {
        servers: cluster.servers.iter().map(ToString::to_string).collect(),
        search,
        options: vec!["ndots:5".into()],
    }
}

fn merge<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn parse(text: &str) -> Conf {
    let mut conf = Conf::default();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|l| !l.starts_with(['#', ';']))
    {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => conf.servers.extend(words.next()),
            // The last of several lines counts.
            Some("search") => conf.search = words.filter(|w| w != ".").collect(),
            Some("options") => conf.options.extend(words),
            _ => {}
        }
    }
    conf
}

fn render(conf: &Conf) -> String {
    let mut text = String::new();
    if !conf.search.is_empty() {
        text += &format!(
            "search {}\n",
            conf.search[..conf.search.len().min(MAX_SEARCH)].join(" ")
        );
    }
    for s in conf.servers.iter().take(MAX_SERVERS) {
        text += &format!("nameserver {s}\n");
    }
    if !conf.options.is_empty() {
        text += &format!("options {}\n", conf.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn policies() {
        let host = "# generated\nnameserver 192.0.2.53\nsearch corp.example\noptions edns0\n";
        let node = "search corp.example\nnameserver 192.0.2.53\noptions edns0\n";
        let first = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.43.0.10\noptions ndots:5\n";
        let own = json!({"nameservers": ["192.0.2.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        let rows: [(&str, Value, &str); 6] = [
            ("default policy", json!({}), first),
            ("host network", json!({"hostNetwork": true}), node),
            (
                "host network, cluster first",
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                first,
            ),
            ("node's", json!({"dnsPolicy": "Default"}), node),
            (
                "none",
                json!({"dnsPolicy": "None", "dnsConfig": own}),
                "search a\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
            ),
            (
                "merged",
                json!({"dnsPolicy": "ClusterFirst", "dnsConfig": own}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example a\nnameserver 10.43.0.10\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
            ),
        ];
        let cluster = Cluster {
            servers: vec!["10.43.0.10".parse().expect("ip")],
            domain: "cluster.local".into(),
        };
        for (name, mut spec, want) in rows {
            spec["containers"] = json!([]);
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"namespace": "ns"}, "spec": spec}))
                    .expect("pod");
            assert_eq!(resolv_conf(&pod, &cluster, host), want, "{name}");
        }
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": []}}))
            .expect("pod");
        assert_eq!(
            resolv_conf(&pod, &Cluster::default(), host),
            node,
            "no cluster DNS"
        );
    }
}
