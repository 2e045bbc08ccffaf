//! Addresses from Debian's plugins that have no part of ours: `static`, and `dhcp` with a server on the network.

use std::path::PathBuf;
use std::process::{Child, Command};

use keelson_tests::wait::{eventually, secs};
use serde_json::{Value, json};

use crate::bed::{Bed, CLIENT, DEBIANS, addresses, ip, with};
use crate::traffic::reaches;

/// Two addresses that are fixed. Debian's plugins know no 1.1.0, which the configuration may be in.
fn fixed() -> Value {
    json!({"type": "static", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}], "addresses": [
        {"address": "10.99.0.7/24", "gateway": "10.99.0.1"}, {"address": "fd99::7/64", "gateway": "fd99::1"}]})
}

#[test]
fn fixed_addresses_are_had_by_either_type() {
    let bed = Bed::new();
    bed.program("debian:static");
    for (plugin, version) in [
        ("bridge", "0.2.0"),
        ("bridge", "0.4.0"),
        ("bridge", "1.1.0"),
        ("ptp", "1.1.0"),
    ] {
        let pod = bed.pod(&format!("{plugin}-{}", version.replace('.', "-")));
        let of_type = json!({"type": plugin, "ipam": fixed(), "cniVersion": version});
        let conf = bed.bridge_with(of_type);
        let result = bed.call(plugin, "ADD", &pod, &conf).expect(version);
        assert_eq!(result["cniVersion"], version);
        let have = ip(&format!("-n {pod} addr show eth0"));
        assert!(
            have.contains("10.99.0.7/24") && have.contains("fd99::7/64"),
            "{have}"
        );
        for gateway in ["10.99.0.1", "fd99::1"] {
            assert!(reaches(&pod, gateway), "{plugin} {version}: {gateway}");
            let family = if gateway.contains(':') { "-6" } else { "-4" };
            let routes = ip(&format!("-n {pod} {family} route"));
            assert!(
                routes.contains(&format!("default via {gateway}")),
                "{routes}"
            );
        }
        let after = with(conf, json!({"prevResult": result}));
        if version != "0.2.0" {
            bed.call(plugin, "CHECK", &pod, &after).expect("check");
        }
        bed.call(plugin, "DEL", &pod, &after).expect("del");
        assert_eq!(bed.ports(), 0, "{plugin} {version}");
        // The next type's host end has the gateway's address too.
        bed.sh("ip link del keelson0");
    }
    let conf = bed.bridge_with(json!({"ipam": fixed()}));
    bed.call("bridge", "STATUS", "", &conf).expect("status");
}

#[test]
fn what_is_asked_for_reaches_the_plugin_that_gives_it() {
    let asked = [
        (
            json!({"runtimeConfig": {"ips": ["10.99.0.8/24"]}, "capabilities": {"ips": true}}),
            "",
            vec!["10.99.0.8"],
        ),
        (
            json!({"args": {"cni": {"ips": ["10.99.0.9/24"]}}}),
            "",
            vec!["10.99.0.9"],
        ),
        (
            json!({}),
            "IgnoreUnknown=1;IP=10.99.0.10/24,fd99::10/64;GATEWAY=10.99.0.1",
            vec!["10.99.0.10", "fd99::10"],
        ),
    ];
    for (fields, args, want) in asked {
        let bed = Bed::new();
        let pod = bed.pod("a");
        let conf = with(bed.bridge_with(json!({"ipam": {"type": "static"}})), fields);
        let added = bed.call_with("bridge", "ADD", &pod, &conf, &[("CNI_ARGS", args)]);
        let result = added.unwrap_or_else(|e| panic!("{want:?}: {e}"));
        assert_eq!(addresses(&result), want);
        let have = ip(&format!("-n {pod} addr show eth0"));
        assert!(want.iter().all(|a| have.contains(a)), "{have}");
    }
}

#[test]
fn a_plugin_that_is_not_there_is_told() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    for ipam in ["no-such-plugin", "../static"] {
        let conf = bed.bridge_with(json!({"ipam": {"type": ipam}}));
        let missing = bed.call("bridge", "ADD", &pod, &conf).expect_err(ipam);
        assert_eq!(missing["code"], 103, "{missing}");
        assert_eq!(bed.ports(), 0, "undone");
    }
}

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(ns: &str, program: &str, args: &str) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", ns, program]);
        let child = command.args(args.split_whitespace()).spawn();
        Self(child.expect("ip"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The network outside is the pods' too: the node's link there is a port of the bridge. The client serves addresses
/// there, and the node has the plugin's daemon, which asks for them and holds them.
struct Lan {
    bed: Bed,
    leases: PathBuf,
    server: Option<Running>,
    _daemon: Running,
}

impl Lan {
    fn new() -> Self {
        let bed = Bed::new();
        let made = bed.sh(
            "ip link add keelson0 address 02:00:00:00:00:01 type bridge && ip link set keelson0 up && \
            ip addr flush dev out && ip link set out master keelson0",
        );
        assert_eq!(made, "");
        let (dir, leases) = (bed.dir.path().display(), bed.dir.path().join("leases"));
        let server = Running::start(
            &bed.client(),
            "dnsmasq",
            &format!(
                "--keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --port=0 --no-ping \
                --interface=out --bind-interfaces --dhcp-authoritative --dhcp-leasefile={} \
                --dhcp-range=198.51.100.50,198.51.100.60,255.255.255.0,1h --dhcp-option=option:router,{}",
                leases.display(),
                CLIENT[0]
            ),
        );
        let args = format!("daemon -socketpath {dir}/dhcp.sock -timeout 2s -resendmax 1s");
        let program = format!("{DEBIANS}/dhcp");
        bed.program("debian:dhcp");
        let daemon = Running::start(&bed.node, &program, &args);
        eventually("server and daemon", secs(20), || {
            anyhow::ensure!(leases.exists(), "dnsmasq (Debian: dnsmasq-base)");
            anyhow::ensure!(bed.dir.path().join("dhcp.sock").exists(), "the dhcp daemon");
            Ok(())
        });
        Self {
            bed,
            leases,
            server: Some(server),
            _daemon: daemon,
        }
    }

    fn conf(&self) -> Value {
        let socket = self.bed.dir.path().join("dhcp.sock");
        let ipam = json!({"type": "dhcp", "daemonSocketPath": socket});
        self.bed
            .bridge_with(json!({"ipam": ipam, "isGateway": false, "mtu": 1500}))
    }

    /// Addresses that are leased, each with whose it is.
    fn leased(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(&self.leases).expect("leases");
        let lease = |line: &str| {
            let mut words = line.split_whitespace().skip(1).map(str::to_owned);
            words.next().zip(words.next())
        };
        text.lines().filter_map(lease).collect()
    }
}

#[test]
fn addresses_are_leased_and_given_back() {
    let lan = Lan::new();
    let bed = &lan.bed;
    let conf = lan.conf();
    let pods = [bed.pod("a"), bed.pod("b")];
    let results = pods.each_ref().map(|pod| {
        let added = bed.call("bridge", "ADD", pod, &conf);
        added.unwrap_or_else(|e| panic!("{pod}: {e}"))
    });
    let mut want = Vec::new();
    for (pod, result) in pods.iter().zip(&results) {
        let address = addresses(result).remove(0);
        assert!(reaches(pod, CLIENT[0]) && reaches(&bed.client(), &address));
        let routes = ip(&format!("-n {pod} route"));
        let default = format!("default via {}", CLIENT[0]);
        assert!(routes.contains(&default), "{routes}");
        let mac = result["interfaces"][2]["mac"].as_str().expect("mac");
        want.push((mac.to_owned(), address));
        let after = with(conf.clone(), json!({"prevResult": result}));
        bed.call("bridge", "CHECK", pod, &after).expect("check");
    }
    assert!(reaches(&pods[0], &want[1].1), "{want:?}");
    let mut leased = lan.leased();
    leased.sort();
    want.sort();
    assert_eq!(leased, want);
    for pod in &pods {
        bed.call("bridge", "DEL", pod, &conf).expect("del");
        bed.call("bridge", "DEL", pod, &conf).expect("again");
    }
    eventually("leases are given back", secs(10), || {
        let leased = lan.leased();
        anyhow::ensure!(leased.is_empty(), "{leased:?}");
        Ok(())
    });
    assert_eq!(bed.ports(), 0);
}

#[test]
fn a_server_that_does_not_answer_leaves_nothing() {
    let mut lan = Lan::new();
    lan.server = None;
    let (bed, pod) = (&lan.bed, lan.bed.pod("a"));
    let refused = bed.call("bridge", "ADD", &pod, &lan.conf());
    let refused = refused.expect_err("nobody gives an address");
    assert!(refused["code"].as_u64() >= Some(100), "{refused}");
    assert_eq!(bed.ports(), 0, "undone");
}
