//! The resolver that most programs have, with the search path that pods have.
#![allow(missing_docs)]

mod support;

use std::net::SocketAddr;

use keelson_dns::Config;
use serde_json::json;
use support::{Reply, Server, Upstream, answer, nothing};
use tokio::process::Command;

#[tokio::test]
async fn names_are_found_by_search_path_and_addresses_have_names() {
    // Port 53 of an address of this test alone: glibc asks no other.
    let address = SocketAddr::from(([127, 54, (std::process::id() % 251) as u8, 1], 53));
    let upstream = Upstream::on_loopback(|question, _| {
        let asked = question.queries[0].name.to_ascii();
        match asked.as_str() {
            "www.example.org." => Reply::Say(answer(question, 60, &[[198, 51, 100, 7]])),
            _ => Reply::Say(nothing(question, hickory_proto::op::ResponseCode::NXDomain)),
        }
    })
    .await;
    let config = Config {
        listen: vec![address],
        upstreams: vec![upstream.address],
        ..Config::default()
    };
    let server = Server::start(config).await;
    server.service("web", json!({"clusterIPs": ["10.43.0.9", "fd43::9"]}));
    server.service("db", json!({"clusterIP": "None"}));
    let pods: Vec<_> = (0..100).map(|i| format!("10.42.0.{i}")).collect();
    server.slice("db", &pods);
    server.service(
        "out",
        json!({"type": "ExternalName", "externalName": "www.example.org"}),
    );

    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("resolv.conf");
    let search = "search ns.svc.cluster.local svc.cluster.local cluster.local example.com";
    std::fs::write(
        &file,
        format!("nameserver {}\n{search}\noptions ndots:5\n", address.ip()),
    )
    .expect("file");
    let find = async |database: &str, name: &str| {
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec getent \"$1\" \"$2\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script])
            .arg(&file)
            .args([database, name]);
        let output = command.output().await.expect("unshare");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<_> = text
            .lines()
            .filter_map(|l| l.split_whitespace().next().map(str::to_owned))
            .collect();
        lines.dedup();
        (lines, text)
    };
    for name in [
        "web",
        "web.ns",
        "web.ns.svc",
        "WEB.ns.svc.cluster.local",
        "web.ns.svc.cluster.local.",
    ] {
        let (mut addresses, _) = find("ahosts", name).await;
        addresses.sort();
        assert_eq!(addresses, ["10.43.0.9", "fd43::9"], "{name}");
    }
    assert_eq!(
        find("ahostsv4", "db").await.0.len(),
        100,
        "those that fit no datagram come over a connection"
    );
    assert_eq!(find("ahostsv4", "out").await.0, ["198.51.100.7"]);
    assert_eq!(
        find("ahostsv4", "www.example.org").await.0,
        ["198.51.100.7"]
    );
    assert!(find("ahosts", "nobody").await.0.is_empty());
    let (_, named) = find("hosts", "10.43.0.9").await;
    assert!(named.contains("web.ns.svc.cluster.local"), "{named}");
    let (_, named) = find("hosts", "10.42.0.7").await;
    assert!(
        named.contains("10-42-0-7.db.ns.svc.cluster.local"),
        "{named}"
    );
    server.stop().await;
}
