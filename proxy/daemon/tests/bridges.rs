//! Packets between pods of one bridge meet rules wherever a proxy runs, whatever its mode.
#![allow(missing_docs)]

use std::fs::{read_to_string, write};
use std::time::Duration;

use keelson_proxy::{Config, Mode};
use nix::sched::{CloneFlags, unshare};
use tokio_util::sync::CancellationToken;

const BRIDGES: [&str; 2] = [
    "/proc/sys/net/bridge/bridge-nf-call-iptables",
    "/proc/sys/net/bridge/bridge-nf-call-ip6tables",
];

fn values() -> Vec<String> {
    let read = |path: &&str| {
        read_to_string(path)
            .expect("br_netfilter")
            .trim()
            .to_owned()
    };
    BRIDGES.iter().map(read).collect()
}

/// Nobody has to answer for that: there is no API server here.
async fn run(mode: Mode) {
    let nowhere = kube::Config::new("http://127.0.0.1:9".parse().expect("URL"));
    let client = kube::Client::try_from(nowhere).expect("client");
    let config = Config {
        mode,
        ..Config::default()
    };
    let shutdown = CancellationToken::new();
    let proxy = tokio::spawn(keelson_proxy::run(config, client, shutdown.clone()));
    for _ in 0..3_000 {
        if values() == ["1", "1"] || proxy.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(values(), ["1", "1"], "{mode:?}");
    shutdown.cancel();
    proxy.await.expect("no panic").expect("no error");
}

#[test]
fn packets_between_pods_of_a_bridge_meet_rules() {
    for mode in [Mode::Nftables, Mode::Iptables, Mode::Ipvs] {
        let thread = std::thread::spawn(move || {
            // The thread's own, and what it starts is in it.
            unshare(CloneFlags::CLONE_NEWNET).expect("run as root");
            BRIDGES
                .iter()
                .for_each(|path| write(path, "0").expect("br_netfilter"));
            assert_eq!(values(), ["0", "0"]);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("runtime").block_on(run(mode));
        });
        thread.join().expect("inside");
    }
}
