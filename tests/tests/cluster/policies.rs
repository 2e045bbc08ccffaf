//! NetworkPolicies between pods of one node and of two.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use keelson_tests::images::ECHO;
use keelson_tests::stream::get;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

use crate::network::{address, all_pods};

/// Denied to everybody; with `from`, allowed to pods of this role by the port's name.
fn ingress(from: Option<&str>) -> String {
    let allowed = from.map(|role| {
        format!(", ingress: [{{from: [{{podSelector: {{matchLabels: {{role: {role}}}}}}}], ports: [{{port: http}}]}}]")
    });
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web}}\nspec: {{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Ingress]{}}}\n",
        allowed.unwrap_or_default()
    )
}

/// Those of `to` that answer a pod, which asks all at one time.
fn reached(bed: &Bed, from: &str, to: &[SocketAddr]) -> BTreeSet<SocketAddr> {
    let script: String = to
        .iter()
        .map(|to| {
            let (ip, port) = (to.ip(), to.port());
            format!(r#"{{ printf "GET / HTTP/1.0\r\n\r\n" | nc -w 2 {ip} {port} | grep -q pod= && echo {to}; }} & "#)
        })
        .collect();
    let output = bed.try_kubectl(&format!("exec {from} -- sh -c '{script} wait; true'"));
    assert!(output.ok, "{output:?}");
    output
        .out
        .lines()
        .map(|l| l.trim().parse().unwrap())
        .collect()
}

/// Waits until a pod reaches all or none.
fn expect(bed: &Bed, from: &str, to: &[SocketAddr], reaches: bool) {
    let all: BTreeSet<_> = to.iter().copied().filter(|_| reaches).collect();
    eventually(&format!("{from} reaches {all:?}"), secs(30), || {
        let found = reached(bed, from, to);
        anyhow::ensure!(found == all, "reached are {found:?}");
        Ok(())
    });
}

pub(crate) fn between_pods(bed: &Bed) {
    let pods = all_pods(bed);
    let mut to: Vec<SocketAddr> = pods.iter().map(|(_, ip)| (*ip, 8080).into()).collect();
    to.push(address(bed, "web", 80));
    let shells = ["shell-n1", "shell-n2"];
    for shell in shells {
        expect(bed, shell, &to, true);
    }
    bed.apply(&ingress(None));
    for shell in shells {
        expect(bed, shell, &to, false);
    }
    // Each node reaches its own pods: they stay ready.
    for node in &bed.nodes {
        let list = bed.kubectl(&format!(
            "get pods -l app=web,at={} -o jsonpath='{{.items[*].status.podIP}}'",
            node.name
        ));
        for ip in list.split(' ') {
            let to = SocketAddr::new(ip.parse().unwrap(), 8080);
            node.space.enter(|| get(to, "/")).unwrap();
        }
    }
    // What others take away comes back: by the next look, or with the next change.
    for node in &bed.nodes {
        node.sh("nft delete table ip keelson-policy");
    }
    for shell in shells {
        expect(bed, shell, &to, false);
    }
    bed.kubectl("label pod shell-n1 role=friend");
    bed.nodes[0].sh("nft delete table ip keelson-policy");
    bed.apply(&ingress(Some("friend")));
    expect(bed, "shell-n1", &to, true);
    expect(bed, "shell-n2", &to, false);
    bed.kubectl("label pod shell-n1 role-");
    bed.kubectl("label pod shell-n2 role=friend");
    expect(bed, "shell-n1", &to, false);
    expect(bed, "shell-n2", &to, true);
    bed.kubectl("label pod shell-n2 role-");
    bed.kubectl("delete networkpolicy web");
    for shell in shells {
        expect(bed, shell, &to, true);
    }
    for node in &bed.nodes {
        eventually("packets meet no table for nothing", secs(10), || {
            let tables = node.sh("nft list tables");
            anyhow::ensure!(!tables.contains("keelson-policy"), "{tables}");
            Ok(())
        });
    }
}

/// A pod's first process asks as soon as it can, and goes on asking; of those that are caged nothing ever comes through.
pub(crate) fn from_the_first_packet(bed: &Bed) {
    bed.apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: caged}\nspec: {podSelector: {matchLabels: {role: caged}}, policyTypes: [Egress]}\n");
    let pods = all_pods(bed);
    let ask: String = pods
        .iter()
        .map(|(_, ip)| format!(r#"{{ printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | nc -w 1 {ip} 8080 | grep -q pod= && echo reached {ip}; }} & "#))
        .collect();
    let mut names = Vec::new();
    for node in &bed.nodes {
        for (role, count) in [("caged", 3), ("free", 1)] {
            for n in 0..count {
                let name = format!("{role}-{}-{n}", node.name);
                bed.apply(&format!(
                    "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{role: {role}}}}}\nspec: {{nodeName: {}, restartPolicy: Never, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{ECHO}', command: [sh, -c, \"{ask} wait; echo asked; sleep infinity\"]}}]}}\n",
                    node.name
                ));
                names.push((role, name));
            }
        }
    }
    for (role, name) in &names {
        let log = bed.wait_contains(&format!("logs {name}"), "asked");
        let reached = log.lines().filter(|l| l.starts_with("reached")).count();
        let wanted = if *role == "free" { pods.len() } else { 0 };
        assert_eq!(reached, wanted, "{name}: {log}");
    }
    // And what runs already is let out when the policy goes.
    let to: Vec<SocketAddr> = pods.iter().map(|(_, ip)| (*ip, 8080).into()).collect();
    expect(bed, "caged-n2-0", &to, false);
    bed.kubectl("delete networkpolicy caged");
    expect(bed, "caged-n2-0", &to, true);
    let names: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
    bed.kubectl(&format!("delete pod {} --timeout=60s", names.join(" ")));
}
