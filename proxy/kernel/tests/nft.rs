//! Our nftables tables in the kernel: written, listed by nft, read back, mended.
#![allow(missing_docs)]

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use keelson_proxy_kernel::nft::Nftables;
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::nft::services::{Live, TABLE, table};
use keelson_proxy_plan::nft::table::Table;
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options::{Options, Pods};
use keelson_proxy_plan::state::{Here, State};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// Runs in a network namespace of its own, which goes with it.
fn in_fresh_namespace(f: impl FnOnce() + Send + 'static) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ksnf{}-{n}", std::process::id());
    let ip = |args: &[&str]| {
        let status = Command::new("ip").args(args).status();
        assert!(status.expect("ip (Debian: iproute2)").success(), "{args:?}");
    };
    ip(&["netns", "add", &name]);
    let file = File::open(format!("/run/netns/{name}")).expect("namespace");
    let done = std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
        f();
    });
    let done = done.join();
    ip(&["netns", "del", &name]);
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

fn options() -> Options {
    Options {
        pods: Pods::Within(
            ["10.42.0.0/16", "fd42::/48"]
                .map(|n| n.parse().expect("net"))
                .into(),
        ),
        node_port_nets: [
            "192.168.0.0/16",
            "10.0.0.0/30",
            "255.255.255.0/24",
            "fd01::/64",
        ]
        .map(|n| n.parse().expect("net"))
        .into(),
        ..Options::default()
    }
}

fn service(id: u8, change: impl Fn(&mut Value)) -> Value {
    let mut service = json!({"metadata": {"namespace": "d", "name": format!("s{id}")},
        "spec": {"type": "LoadBalancer", "clusterIPs": [format!("10.43.0.{id}"), format!("fd43::{id}")],
            "ports": [{"name": "t", "port": 80, "nodePort": 30_000 + u16::from(id)}, {"name": "u", "port": 80, "protocol": "UDP"},
                {"name": "s", "port": 80, "protocol": "SCTP"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{id}")}]}}});
    change(&mut service);
    service
}

fn slice(id: u8, kind: &str, endpoints: &[String]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|e| json!({"addresses": [e], "nodeName": "me"}))
        .collect();
    json!({"metadata": {"namespace": "d", "name": format!("s{id}-{kind}"), "labels": {"kubernetes.io/service-name": format!("s{id}")}},
        "addressType": kind, "endpoints": endpoints,
        "ports": [{"name": "t", "port": 8080}, {"name": "u", "port": 8080, "protocol": "UDP"}, {"name": "s", "port": 8080, "protocol": "SCTP"}]})
}

/// Services of every form that the table knows.
fn state() -> State {
    let mut state = State::default();
    let changes: &[fn(&mut Value)] = &[
        |_| (),
        |v| v["spec"]["externalTrafficPolicy"] = json!("Local"),
        |v| v["spec"]["internalTrafficPolicy"] = json!("Local"),
        |v| v["spec"]["sessionAffinity"] = json!("ClientIP"),
        |v| {
            v["spec"]["loadBalancerSourceRanges"] = json!([
                "203.0.113.0/24",
                "203.0.114.0/24",
                "0.0.0.0/8",
                "255.0.0.0/8"
            ])
        },
        |v| {
            v["spec"]["externalTrafficPolicy"] = json!("Local");
            v["spec"]["sessionAffinity"] = json!("ClientIP");
            v["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/24"]);
        },
    ];
    for (id, change) in (1..).zip(changes) {
        let service = serde_json::from_value(service(id, change)).expect("service");
        state.set_service(&service);
        for (kind, net) in [("IPv4", "10.42.0."), ("IPv6", "fd42::")] {
            let endpoints: Vec<String> = (1..id).map(|e| format!("{net}{e}")).collect();
            let slice = serde_json::from_value(slice(id, kind, &endpoints)).expect("slice");
            state.set_slice(&slice, &Here::from("me"));
        }
    }
    state
}

fn wanted(state: &State, family: Family) -> Table {
    let entries: Vec<Entry> = state.all().flatten().collect();
    table(entries.iter(), family, &options())
}

fn left(kernel: &Nftables, want: &Table) -> String {
    let have = kernel.read(TABLE, want.family).expect("read");
    Transaction::between(have.as_ref(), want).render(want)
}

fn nft(args: &str) -> String {
    let out = Command::new("nft").args(args.split(' ')).output();
    let out = out.expect("nft (Debian: nftables)");
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "nft {args}: {error}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn what_is_written_is_read_back_and_listed() {
    in_fresh_namespace(|| {
        let kernel = Nftables::open().expect("socket");
        let state = state();
        for family in [Family::V4, Family::V6] {
            assert!(kernel.read(TABLE, family).expect("read").is_none());
            let want = wanted(&state, family);
            kernel
                .apply(&Transaction::between(None, &want), &want)
                .expect("apply");
            assert_eq!(left(&kernel, &want), "");
        }
        let listed = nft("list ruleset");
        for word in [
            "10.43.0.1 . tcp . 80",
            "fd43::2 . udp . 80",
            "30004",
            "203.0.113.0-203.0.114.255",
            "sctp",
            "meta priority set ip daddr . meta l4proto . th dport map @services meta priority vmap @paths",
            "meta priority set none",
            "elements = { 10.43.0.1 . tcp . 80 : ",
        ] {
            assert!(listed.contains(word), "{word} in {listed}");
        }
        for family in [Family::V4, Family::V6] {
            kernel.remove(TABLE, family).expect("remove");
            kernel.remove(TABLE, family).expect("again");
        }
        assert_eq!(nft("list ruleset"), "");
    });
}

#[test]
fn a_change_writes_its_elements_and_leaves_everything_else() {
    in_fresh_namespace(|| {
        let kernel = Nftables::open().expect("socket");
        let mut state = state();
        let entries: Vec<Entry> = state.all().flatten().collect();
        let mut live = Live::new(Family::V4, options());
        live.reset(entries.iter());
        let frame = wanted(&State::default(), Family::V4);
        let want = wanted(&state, Family::V4);
        kernel
            .apply(&Transaction::between(None, &want), &want)
            .expect("apply");
        state.forget_changes();
        let handles = || nft("-a list chain ip keelson-proxy nat-prerouting");
        let before = handles();
        for endpoints in [
            &["10.42.0.9"][..],
            &[],
            &["10.42.0.1", "10.42.0.7", "10.42.0.8"],
        ] {
            let endpoints: Vec<String> = endpoints.iter().map(|e| (*e).to_owned()).collect();
            for id in [1, 4, 6] {
                let slice = serde_json::from_value(slice(id, "IPv4", &endpoints)).expect("slice");
                state.set_slice(&slice, &Here::from("me"));
            }
            let transaction = live.update(&state.take_changes());
            kernel.apply(&transaction, &frame).expect("apply");
            assert_eq!(left(&kernel, &wanted(&state, Family::V4)), "");
        }
        for id in 1..=6 {
            state.remove_service("d", &format!("s{id}"));
        }
        kernel
            .apply(&live.update(&state.take_changes()), &frame)
            .expect("apply");
        assert_eq!(left(&kernel, &frame), "");
        assert_eq!(handles(), before, "no rule was written anew");
    });
}

#[test]
fn what_others_change_is_found_and_mended() {
    in_fresh_namespace(|| {
        let kernel = Nftables::open().expect("socket");
        let want = wanted(&state(), Family::V4);
        kernel
            .apply(&Transaction::between(None, &want), &want)
            .expect("apply");
        let damages = [
            "delete element ip keelson-proxy services { 10.43.0.2 . tcp . 80 }",
            "add element ip keelson-proxy cluster-ips { 10.43.9.9 }",
            "delete element ip keelson-proxy pods { 10.42.0.0/16 }",
            "flush chain ip keelson-proxy nat-output",
            "insert rule ip keelson-proxy nat-postrouting counter accept",
            "add chain ip keelson-proxy theirs",
            "add set ip keelson-proxy theirs { type ether_addr; }",
            "delete table ip keelson-proxy",
        ];
        for damage in damages {
            let generation = kernel.generation().expect("generation");
            nft(damage);
            assert_ne!(
                kernel.generation().expect("generation"),
                generation,
                "{damage}"
            );
            let have = kernel.read(TABLE, Family::V4).expect("read");
            let transaction = Transaction::between(have.as_ref(), &want);
            assert!(!transaction.is_empty(), "{damage} is seen");
            assert!(!transaction.anew, "{damage} is mended, not made anew");
            kernel
                .apply(&transaction, have.as_ref().unwrap_or(&want))
                .expect(damage);
            assert_eq!(left(&kernel, &want), "", "{damage}");
        }
        // A table of another form, as another version of this program might leave it.
        nft("delete table ip keelson-proxy");
        nft("add table ip keelson-proxy");
        nft("add map ip keelson-proxy services { type ipv4_addr : verdict; }");
        let have = kernel.read(TABLE, Family::V4).expect("read");
        let transaction = Transaction::between(have.as_ref(), &want);
        assert!(transaction.anew);
        kernel.apply(&transaction, &want).expect("apply");
        assert_eq!(left(&kernel, &want), "");
    });
}

#[test]
fn what_the_kernel_refuses_is_named_and_nothing_of_it_is_done() {
    in_fresh_namespace(|| {
        let kernel = Nftables::open().expect("socket");
        let want = wanted(&state(), Family::V4);
        kernel
            .apply(&Transaction::between(None, &want), &want)
            .expect("apply");
        let mut transaction = Transaction::new(TABLE, Family::V4);
        transaction.add_element(
            "cluster-ips".into(),
            [10, 43, 7, 7].into(),
            keelson_proxy_plan::nft::table::Value::None,
        );
        // Several things that it refuses, and it says so of each.
        transaction.delete_chain("refuse".into());
        transaction.delete_chain("drop".into());
        transaction.delete_sets.push("services".into());
        let error = kernel
            .apply(&transaction, &want)
            .expect_err("others refer to it");
        assert!(error.to_string().contains("delete chain refuse"), "{error}");
        assert_eq!(left(&kernel, &want), "");
    });
}
