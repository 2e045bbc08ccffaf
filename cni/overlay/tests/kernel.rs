//! Routes and masquerade in network namespaces of the test's own.
#![allow(missing_docs)]

use std::process::Command;

use keelson_overlay::{Node, Options, cleanup, run};
use tokio::sync::watch;

fn ip(args: &str) -> String {
    let out = Command::new("ip")
        .args(args.split_whitespace())
        .output()
        .expect("ip (Debian: iproute2)");
    assert!(
        out.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn nft() -> String {
    let out = Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .expect("nft (Debian: nftables)");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn node(name: &str, cidr: &str, address: &str) -> Node {
    Node {
        name: name.into(),
        pod_cidrs: vec![cidr.parse().expect("cidr")],
        addresses: vec![address.parse().expect("ip")],
    }
}

/// Runs in a fresh network namespace: sockets, `ip` and `nft` alike, since all start from this thread.
fn in_namespace(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("run as root");
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime")
            .block_on(test());
    });
    thread.join().expect("test");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..250 {
        if holds() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("never {what}: {}\n{}", ip("route"), nft());
}

#[test]
fn routes_follow_the_nodes_and_foreign_ones_stay() {
    in_namespace(async || {
        ip("link add seg type veth peer name seg-peer");
        ip("link set seg up");
        ip("addr add 192.168.7.1/24 dev seg");
        ip("route add 10.42.9.0/24 via 192.168.7.9 proto static");
        let options = Options {
            node: "a".into(),
            cluster_cidrs: vec!["10.42.0.0/16".parse().expect("cidr")],
        };
        let own = node("a", "10.42.0.0/24", "192.168.7.1");
        let (send, nodes) = watch::channel(Some(vec![
            own.clone(),
            node("b", "10.42.1.0/24", "192.168.7.2"),
        ]));
        let task = tokio::spawn(run(options.clone(), nodes));
        until("routed", || {
            ip("route").contains("10.42.1.0/24 via 192.168.7.2")
        })
        .await;
        let rules = nft();
        assert!(
            rules.contains("ip saddr 10.42.0.0/24 ip daddr 10.42.0.0/16 accept"),
            "{rules}"
        );
        assert!(rules.contains("masquerade"), "{rules}");

        send.send(Some(vec![
            own.clone(),
            node("b", "10.42.1.0/24", "192.168.7.3"),
        ]))
        .expect("running");
        until("moved", || {
            ip("route").contains("10.42.1.0/24 via 192.168.7.3")
        })
        .await;
        // One that starts and does not know the nodes yet leaves all as it is.
        let (unknown, nodes) = watch::channel(None);
        let other = tokio::spawn(run(options, nodes));
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(ip("route").contains("10.42.1.0/24 via 192.168.7.3"));
        drop(unknown);
        other.await.expect("task").expect("ends well");

        send.send(Some(vec![own, node("c", "10.42.2.0/24", "10.1.1.1")]))
            .expect("running");
        until("removed", || !ip("route").contains("10.42.1.0/24")).await;
        assert!(
            !ip("route").contains("10.42.2.0/24"),
            "a node beyond the segment has no route"
        );

        drop(send);
        task.await.expect("task").expect("ends well");
        assert!(nft().contains("keelson-pods"), "a stop interrupts nothing");
        assert!(cleanup("keelson0").await.is_empty());
        assert!(cleanup("keelson0").await.is_empty(), "can be repeated");
        assert!(!nft().contains("keelson-pods"));
        assert!(
            ip("route").contains("10.42.9.0/24 via 192.168.7.9"),
            "not ours"
        );
    });
}
