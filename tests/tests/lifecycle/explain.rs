//! Answers about connections and rules, on a node that works: each is compared with what packets do.

use std::io::{Read, Write};
use std::net::TcpStream;

use keelson_tests::bins::program;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Suite, eventually};

use super::dataplane::{NODE_PORT, switch};

/// Which connection; the pod `ask` and the Service `web` are there.
const ASKED: &str = "default/ask default/web";

pub(super) fn steps(bed: &Bed, suite: &mut Suite) {
    suite.step("explain: a policy that refuses is told by its name", || {
        policy(bed)
    });
    suite.step("explain: others' rules are named", || others(bed));
    suite.step("explain: connections that exist are told", || existing(bed));
    suite.step("explain: a client that is remembered is told", || {
        remembered(bed)
    });
    suite.step("explain: errors say what may stand there", || errors(bed));
    suite.step("explain: what others delete differs", || differs(bed));
    suite.step("explain: each mode's rules are walked and compared", || {
        modes(bed)
    });
}

fn explain(bed: &Bed, connection: &str) -> String {
    let keelson = program("keelson");
    let line = format!("explain --node-name n1 connection {connection}");
    bed.server().sh(&format!("{} {line}", keelson.display()))
}

/// Exit code and what is printed.
fn diff(bed: &Bed) -> (String, String) {
    let keelson = program("keelson");
    let line = format!(
        "{} proxy diff --node-name n1 && echo 0 || echo $?",
        keelson.display()
    );
    let printed = bed.server().sh(&line);
    let (changes, code) = match printed.trim_end().rsplit_once('\n') {
        Some((changes, code)) => (changes.to_owned(), code),
        None => (String::new(), printed.trim()),
    };
    (code.to_owned(), changes)
}

fn has(told: &str, words: &[&str]) -> anyhow::Result<()> {
    for word in words {
        anyhow::ensure!(told.contains(word), "{word} in {told}");
    }
    Ok(())
}

/// Whether the pod reaches the service; what it was told instead.
fn reaches(bed: &Bed) -> anyhow::Result<()> {
    let ip = bed.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    let ask = format!("exec ask -- /bin/busybox timeout 3 /bin/busybox wget -qO- http://{ip}/");
    let asked = bed.try_kubectl(&ask);
    anyhow::ensure!(asked.ok, "not reached: {} {}", asked.out, asked.err);
    Ok(())
}

fn policy(bed: &Bed) {
    let told = explain(bed, ASKED);
    has(&told, &["allowed, no policy is for it"]).expect("without policies");
    reaches(bed).expect("nobody is in the way");
    bed.apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: only-friends}\nspec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8080}]}]}\n");
    eventually("the policy is in force and told", secs(20), || {
        let told = explain(bed, ASKED);
        let ip = bed.kubectl("get pod ask -o jsonpath={.status.podIP}");
        let why = format!(
            "refused by policy default/only-friends (allows tcp port 8080, but not from {ip})"
        );
        has(
            &told,
            &[
                &why,
                "table keelson-policy: dropped",
                "refuse: drop",
                "; dropped by network policies",
            ],
        )
    });
    assert!(reaches(bed).is_err(), "told to be refused");
    assert_eq!(diff(bed).0, "0");
    // As a friend it may.
    bed.kubectl("label pod ask app=friend");
    eventually("a friend may", secs(20), || {
        let told = explain(bed, ASKED);
        has(
            &told,
            &[
                "allowed by policy default/only-friends",
                "table keelson-policy: passes",
            ],
        )
    });
    reaches(bed).expect("told to be allowed");
    bed.kubectl("label pod ask app-");
    bed.kubectl("delete networkpolicy only-friends");
    eventually("all may again", secs(20), || {
        has(&explain(bed, ASKED), &["allowed, no policy is for it"])?;
        reaches(bed)
    });
}

fn others(bed: &Bed) {
    let node = bed.server();
    reaches(bed).expect("nobody is in the way");
    node.sh("nft add table inet admin; nft add chain inet admin fence '{ type filter hook forward priority 10; }'; nft add rule inet admin fence ip daddr 10.42.0.0/16 tcp dport 8080 drop");
    let told = explain(bed, ASKED);
    let rule = "other rules: dropped by nft table inet admin, chain fence (forward, priority 10): fence: ip daddr 10.42.0.0/16 tcp dport 8080 drop";
    assert!(told.contains(rule), "{told}");
    assert!(reaches(bed).is_err(), "told to be dropped");
    node.sh("nft delete table inet admin");
    // What is not understood is not judged.
    node.sh("iptables -I FORWARD -p tcp --dport 8080 -m length --length 9000: -j DROP");
    let told = explain(bed, ASKED);
    let rule =
        "not judged: FORWARD: -p tcp -m tcp --dport 8080 -m length --length 9000:65535 -j DROP";
    assert!(
        told.contains(rule) && !told.contains("dropped by"),
        "{told}"
    );
    reaches(bed).expect("no packet is that long");
    node.sh(
        "iptables -F FORWARD; iptables -A FORWARD -s 10.42.0.0/16 -p tcp --dport 8080 -j REJECT",
    );
    let told = explain(bed, ASKED);
    let rule = "chain FORWARD (forward, priority 0): FORWARD: -s 10.42.0.0/16 -p tcp -m tcp --dport 8080 -j REJECT";
    assert!(
        told.contains(rule) && told.contains("refused by iptables"),
        "{told}"
    );
    assert!(reaches(bed).is_err(), "told to be refused");
    node.sh("iptables -F FORWARD");
    reaches(bed).expect("nobody is in the way any more");
}

fn existing(bed: &Bed) {
    let mut open: Vec<TcpStream> = bed.client.enter(|| {
        let connect = |_| TcpStream::connect(NODE_PORT).expect("connect");
        (0..2).map(connect).collect()
    });
    let local = open[0].local_addr().expect("own address");
    let told = explain(bed, &format!("{} {NODE_PORT}", local.ip()));
    let this = format!("from port {} to 10.42.0.", local.port());
    let found = told.lines().find(|l| l.contains(&this));
    let found = found.unwrap_or_else(|| panic!("{this} in {told}"));
    assert!(
        found.ends_with("which sees this node, established"),
        "{found}"
    );
    // That is where it went.
    let mut answer = String::new();
    let stream = &mut open[0];
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("ask");
    stream.read_to_string(&mut answer).expect("an answer");
    let pod = answer.split("pod=").nth(1).expect(&answer);
    let pod = pod.split_whitespace().next().expect(&answer);
    assert!(
        found.contains(&format!("(pod default/{pod})")),
        "{found} {answer}"
    );
}

fn remembered(bed: &Bed) {
    bed.apply("apiVersion: v1\nkind: Service\nmetadata: {name: stay}\nspec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n");
    let asked = "default/ask default/stay";
    eventually("both are to be had", secs(20), || {
        let told = explain(bed, asked);
        has(&told, &["10800 s (session affinity)"])?;
        anyhow::ensure!(told.matches("50.0 %: to ").count() == 2, "{told}");
        Ok(())
    });
    let ip = bed.kubectl("get service stay -o jsonpath={.spec.clusterIP}");
    let answer = bed.kubectl(&format!("exec ask -- /bin/busybox wget -qO- http://{ip}/"));
    let pod = answer.split("pod=").nth(1).expect(&answer);
    let pod = pod.split_whitespace().next().expect(&answer);
    let told = explain(bed, asked);
    let chance = told.lines().find(|l| l.contains("100.0 %: to "));
    let chance = chance.unwrap_or_else(|| panic!("{told}"));
    assert!(chance.contains(&format!("(pod default/{pod})")), "{told}");
    bed.kubectl("delete service stay");
}

fn errors(bed: &Bed) {
    let refused = |connection: &str, want: &str| {
        let keelson = program("keelson");
        let line = format!(
            "{} explain --node-name n1 connection {connection} 2>&1 && echo done || true",
            keelson.display()
        );
        let told = bed.server().sh(&line);
        assert!(
            told.contains(want) && !told.ends_with("done\n"),
            "{want} in {told}"
        );
    };
    bed.apply("apiVersion: v1\nkind: Service\nmetadata: {name: dns}\nspec: {selector: {app: web}, ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: none}\nspec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}]}\n");
    bed.apply("apiVersion: v1\nkind: Service\nmetadata: {name: out}\nspec: {type: ExternalName, externalName: x.example}\n");
    refused("default/ask default/web:81", "no tcp port 81; it has ");
    refused(
        "default/ask default/out",
        "another name of x.example in DNS",
    );
    refused(
        "default/ask default/none",
        "a headless service has no address",
    );
    refused(
        "somebody default/web",
        "\"node\" for a process of this node",
    );
    refused(
        "node default/nobody",
        "NAMESPACE/SERVICE[:PORT] or NAMESPACE/POD:PORT",
    );
    refused("--protocol udp node default/web", "no udp port; it has ");
    let told = explain(bed, "node 203.0.113.9:80");
    assert!(
        told.contains("route") && told.contains("no service has this address"),
        "{told}"
    );
    let told = explain(bed, "--protocol udp default/ask default/dns");
    assert!(told.starts_with("udp from "), "{told}");
    bed.kubectl("delete service out none dns");
}

fn differs(bed: &Bed) {
    eventually("nothing differs", secs(20), || {
        let found = diff(bed);
        anyhow::ensure!(found == ("0".into(), String::new()), "{found:?}");
        Ok(())
    });
    // It is mended within seconds, perhaps before it is looked at: so again, until it is seen.
    eventually("a deleted element differs", secs(60), || {
        let delete = "nft delete element ip keelson-proxy node-ports '{ tcp . 30080 }'";
        bed.server().sh(&format!("{delete} || true"));
        let (code, changes) = diff(bed);
        anyhow::ensure!(code == "1", "{code}: {changes}");
        has(
            &changes,
            &[
                "# table ip keelson-proxy\n",
                "add element node-ports tcp . 30080",
            ],
        )
    });
    let failed = bed.server().sh(&format!(
        "{} proxy diff --node-name nobody && echo 0 || echo $?",
        program("keelson").display()
    ));
    assert_eq!(failed.trim(), "2");
}

fn modes(bed: &Bed) {
    let pods = bed.kubectl("get pods -l app=web -o jsonpath='{.items[*].status.podIP}'");
    for (mode, words, delete, lost) in [
        (
            "iptables",
            "services go by iptables (",
            "iptables -t nat -D KUBE-NODEPORTS 1",
            "-t nat -A KUBE-NODEPORTS ",
        ),
        (
            "userspace",
            "services go by a process of this node, by iptables (",
            "iptables -t nat -D KUBE-PORTALS-HOST 1",
            "-t nat -A KUBE-PORTALS-HOST ",
        ),
    ] {
        switch(bed, mode);
        eventually("each pod has its chance", secs(20), || {
            let told = explain(bed, ASKED);
            has(
                &told,
                &[words, "service default/web, cluster address, 2 endpoints"],
            )?;
            for pod in pods.split_whitespace() {
                has(
                    &told,
                    &[&format!("50.0 %: to {pod}:8080 (pod default/web-")],
                )?;
            }
            Ok(())
        });
        eventually("nothing differs", secs(20), || {
            let found = diff(bed);
            anyhow::ensure!(found == ("0".into(), String::new()), "{mode} {found:?}");
            Ok(())
        });
        eventually("a deleted rule differs", secs(60), || {
            bed.server().sh(&format!("{delete} || true"));
            let (code, changes) = diff(bed);
            anyhow::ensure!(code == "1", "{mode} {code}: {changes}");
            has(&changes, &["# iptables\n", lost])
        });
    }
    switch(bed, "nftables");
    let told = explain(bed, ASKED);
    has(
        &told,
        &["services go by nftables (table keelson-proxy)", "50.0 %"],
    )
    .expect("nftables");
}

/// A pod on a node of its own choosing.
fn place(bed: &Bed, name: &str, node: &str, host: bool) {
    bed.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{nodeName: {node}, hostNetwork: {host}, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{ECHO}'}}]}}\n"));
}

#[test]
fn explained_between_nodes() {
    let bed = Bed::cluster(2);
    place(&bed, "near", "n1", false);
    place(&bed, "far", "n2", false);
    place(&bed, "host", "n1", true);
    bed.kubectl("wait pods --all --for=condition=Ready --timeout=60s");
    let reaches = || {
        let ip = bed.kubectl("get pod far -o jsonpath={.status.podIP}");
        let ask = "exec near -- /bin/busybox timeout 3 /bin/busybox wget -qO-";
        bed.try_kubectl(&format!("{ask} http://{ip}:8080/")).ok
    };
    let out = "route: leaves by eth0 to gateway 10.88.0.12";
    let open = "ingress of pod default/far: node n2's own rules decide; by the policies of the API: allowed, no policy is for it";
    let told = explain(&bed, "default/near default/far:8080");
    has(&told, &["goes where it is sent", open, out]).expect("without policies");
    assert!(reaches(), "told to be allowed");

    bed.apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: alone}\nspec: {podSelector: {matchLabels: {app: far}}}\n");
    eventually("node n2 refuses", secs(20), || {
        anyhow::ensure!(!reaches(), "reached");
        Ok(())
    });
    let refused = "node n2's own rules decide; by the policies of the API: refused by policy default/alone (allows nobody from here)";
    let told = explain(&bed, "default/near default/far:8080");
    has(&told, &[refused, "table keelson-policy: passes", out]).expect("with a policy");
    let told = explain(&bed, "default/host default/far:8080");
    let note = "pod default/host is in the network of node n1";
    has(&told, &[note, "tcp from 10.88.0.11 to ", refused]).expect("from the node's network");
    let told = explain(&bed, "default/far default/near:8080");
    let note = "pod default/far is on node n2, whose rules come first";
    has(&told, &[note, "route: leaves by keelson0"]).expect("from the other node");

    bed.server().sh("ip route add unreachable 203.0.113.0/24");
    let told = explain(&bed, "default/near 203.0.113.1:80");
    let nowhere = "no route leads there: host is unreachable";
    has(&told, &[nowhere, "; no route leads there"]).expect("no route");
}
