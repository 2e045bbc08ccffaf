//! The Service `kube-dns`, as every cluster has it: it holds the address that pods ask for names, and says where that is.
//! Nodes answer there themselves, so it has no endpoints, and no service proxy is to care for it.

use std::net::IpAddr;

use http::{Method, StatusCode};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{call, ensure, failed};
use crate::Error;
use crate::object;
use crate::router::Router;
use crate::state::Server;

const PATH: &str = "/api/v1/namespaces/kube-system/services/kube-dns";
/// Says whose it is: an administrator's (CoreDNS run as pods) is left alone.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "keelson");
/// Who proxies it (KEP-2447): those who find another name than their own pass it over.
const PROXY: (&str, &str) = (
    "service.kubernetes.io/service-proxy-name",
    "keelson-node-dns",
);

/// Makes it where nodes answer, and takes away ours where they don't.
pub(super) async fn keep(server: &Server, router: &Router) -> Result<(), Error> {
    let config = &server.config;
    match service(&config.dns_addresses, &config.service_cidrs) {
        Some(want) => ensure(server, router, want, |_, _| None).await,
        None => remove_ours(router).await,
    }
}

/// What it is; none where none of the addresses is a service's.
fn service(addresses: &[IpAddr], nets: &[IpNet]) -> Option<Value> {
    let within = |ip: &&IpAddr| nets.iter().any(|net| net.contains(*ip));
    let ips: Vec<&IpAddr> = addresses.iter().filter(within).collect();
    let first = ips.first()?;
    let policy = match ips.iter().any(|ip| ip.is_ipv4() != first.is_ipv4()) {
        true => "RequireDualStack",
        false => "SingleStack",
    };
    Some(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {
            "k8s-app": "kube-dns",
            "kubernetes.io/cluster-service": "true",
            "kubernetes.io/name": "DNS",
            (MANAGED_BY.0): MANAGED_BY.1,
            (PROXY.0): PROXY.1,
        }},
        "spec": {
            "type": "ClusterIP", "clusterIP": first, "clusterIPs": ips, "ipFamilyPolicy": policy,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    }))
}

async fn remove_ours(router: &Router) -> Result<(), Error> {
    let (code, have) = call(router, Method::GET, PATH, None).await?;
    if code != StatusCode::OK || !is_ours(&have) {
        return Ok(());
    }
    let version = json!({"preconditions": {"resourceVersion": object::text(&have, "/metadata/resourceVersion")}});
    let (code, answer) = call(router, Method::DELETE, PATH, Some(&version)).await?;
    match code {
        StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT => Ok(()),
        _ => Err(failed(&have, object::text(&answer, "/message"))),
    }
}

/// Whoever gives it a selector has made it their own.
fn is_ours(service: &Value) -> bool {
    let labels = service.pointer("/metadata/labels");
    let managed_by = labels
        .and_then(|l| l.get(MANAGED_BY.0))
        .and_then(Value::as_str);
    managed_by == Some(MANAGED_BY.1) && service.pointer("/spec/selector").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_addresses_that_are_services() {
        let nets = ["10.43.0.0/16", "fd43::/108"].map(|n| n.parse().expect("net"));
        type Want<'a> = Option<(&'a [&'a str], &'a str)>;
        let cases: &[(&[&str], Want<'_>)] = &[
            (&["10.43.0.10"], Some((&["10.43.0.10"], "SingleStack"))),
            (
                &["10.43.0.10", "fd43::a"],
                Some((&["10.43.0.10", "fd43::a"], "RequireDualStack")),
            ),
            (
                &["169.254.20.10", "fd43::a"],
                Some((&["fd43::a"], "SingleStack")),
            ),
            (&["169.254.20.10"], None),
            (&[], None),
        ];
        for (addresses, want) in cases {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().expect("ip")).collect();
            let service = service(&addresses, &nets);
            let spec = service.as_ref().map(|s| &s["spec"]);
            assert_eq!(
                spec.map(|s| &s["clusterIPs"]),
                want.map(|w| json!(w.0)).as_ref()
            );
            assert_eq!(
                spec.map(|s| &s["ipFamilyPolicy"]),
                want.map(|w| json!(w.1)).as_ref()
            );
        }
    }

    #[test]
    fn what_somebody_else_made_of_it_is_theirs() {
        let nets = ["10.43.0.0/16".parse().expect("net")];
        let ours = service(&["10.43.0.10".parse().expect("ip")], &nets).expect("service");
        assert!(is_ours(&ours));
        let mut selects = ours.clone();
        selects["spec"]["selector"] = json!({"k8s-app": "kube-dns"});
        assert!(!is_ours(&selects));
        let mut other = ours;
        other["metadata"]["labels"] = json!({"k8s-app": "kube-dns"});
        assert!(!is_ours(&other));
    }
}
