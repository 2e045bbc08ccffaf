//! The service dataplane from outside: names, answers about connections, rules that others damage, modes that change.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use keelson_tests::images::ECHO;
use keelson_tests::stream::during;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Suite, eventually};

pub(super) const NODE_PORT: &str = "10.88.0.11:30080";

#[test]
fn dataplane() {
    let bed = Bed::cluster(1);
    let mut suite = Suite::new();
    super::deploy(&bed);
    bed.kubectl(&format!(
        "run ask --image={ECHO} --restart=Never --command -- sleep 3600"
    ));
    bed.kubectl("wait pod ask --for=condition=Ready --timeout=60s");
    suite.step("names of services are answered in pods", || names(&bed));
    suite.step("a connection is explained from the live rules", || {
        explained(&bed)
    });
    suite.step("what others change is told and mended", || mended(&bed));
    super::explain::steps(&bed, &mut suite);
    super::hostports::steps(&bed, &mut suite);
    suite.step("modes change under traffic", || modes(&bed));
    suite.step("connections live through a change of modes", || lives(&bed));
    suite.done();
}

fn in_pod(bed: &Bed, command: &str) -> String {
    bed.kubectl(&format!("exec ask -- {command}"))
}

fn names(bed: &Bed) {
    bed.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: each}\nspec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}\n",
    );
    let ip = bed.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    let resolv = in_pod(bed, "cat /etc/resolv.conf");
    assert!(resolv.contains("nameserver 10.43.0.10"), "{resolv}");
    let service = bed.kubectl("get service kube-dns -n kube-system -o jsonpath={.spec.clusterIP}");
    assert_eq!(service, "10.43.0.10");
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        // By the C library's search path, as programs do it.
        let answer = in_pod(bed, &format!("/bin/busybox wget -qO- http://{name}/"));
        assert!(answer.contains("pod=web-"), "{name}: {answer}");
    }
    let found = in_pod(
        bed,
        "/bin/busybox nslookup -type=a web.default.svc.cluster.local",
    );
    assert!(found.contains(&ip), "{found}");
    eventually("a headless service has its pods", secs(10), || {
        let found = in_pod(
            bed,
            "/bin/busybox nslookup -type=a each.default.svc.cluster.local",
        );
        let pods = bed.kubectl("get pods -l app=web -o jsonpath='{.items[*].status.podIP}'");
        let all = pods.split_whitespace().all(|ip| found.contains(ip));
        anyhow::ensure!(all, "{found}");
        Ok(())
    });
    let none = bed
        .try_kubectl("exec ask -- /bin/busybox nslookup -type=a nobody.default.svc.cluster.local");
    assert!(
        !none.ok && none.out.contains("NXDOMAIN"),
        "{} {}",
        none.out,
        none.err
    );
}

fn keelson(bed: &Bed, line: &str) -> String {
    let program = keelson_tests::bins::program("keelson");
    bed.server().sh(&format!("{} {line}", program.display()))
}

fn explained(bed: &Bed) {
    let ip = bed.kubectl("get service web -o jsonpath={.spec.clusterIP}");
    let told = keelson(
        bed,
        "explain --node-name n1 connection default/ask default/web",
    );
    let pods = bed.kubectl("get pods -l app=web -o jsonpath='{.items[*].status.podIP}'");
    for word in [
        "service default/web, cluster address, 2 endpoints",
        "50.0 %",
        &ip,
        "which sees who asks",
    ] {
        assert!(told.contains(word), "{word} in {told}");
    }
    for pod in pods.split_whitespace() {
        assert!(told.contains(&format!("to {pod}:8080")), "{pod} in {told}");
    }
    let told = keelson(
        bed,
        &format!("explain --node-name n1 connection 10.88.0.1 {NODE_PORT}"),
    );
    assert!(
        told.contains("node port") && told.contains("which sees this node"),
        "{told}"
    );
    let told = keelson(
        bed,
        &format!("explain --node-name n1 connection default/ask {ip}:81"),
    );
    assert!(told.contains("refused"), "{told}");
}

fn mended(bed: &Bed) {
    let table = "ip keelson-proxy";
    // 1: something differs.
    let diff = || keelson(bed, "proxy diff --node-name n1 || [ $? = 1 ]");
    eventually("nothing differs", secs(10), || {
        let diff = diff();
        anyhow::ensure!(diff.is_empty(), "{diff}");
        Ok(())
    });
    bed.server().sh(&format!(
        "nft delete element {table} node-ports {{ tcp . 30080 }}"
    ));
    let told = diff();
    assert!(
        told.is_empty() || told.contains("add element node-ports tcp . 30080"),
        "{told}"
    );
    eventually("it is there again", secs(30), || {
        let list = bed.server().sh(&format!("nft list map {table} node-ports"));
        anyhow::ensure!(list.contains("30080"), "{list}");
        Ok(())
    });
}

pub(super) fn switch(bed: &Bed, mode: &str) {
    bed.server().stop();
    bed.server().set_option("--proxy-mode", mode);
    super::again(bed);
    let of = |there: bool| if there { "there" } else { "gone" };
    eventually("only this mode's rules are there", secs(30), || {
        let chains = bed
            .server()
            .sh("iptables-save -t nat | grep -c KUBE || true")
            .trim()
            != "0";
        let table = bed
            .server()
            .sh("nft list tables ip")
            .contains("keelson-proxy");
        let want = (mode != "nftables", mode == "nftables");
        anyhow::ensure!(
            (chains, table) == want,
            "chains {}, table {}",
            of(chains),
            of(table)
        );
        Ok(())
    });
}

fn modes(bed: &Bed) {
    for mode in ["iptables", "nftables"] {
        let seen = during(&bed.client, 2, NODE_PORT.parse().expect("address"), || {
            switch(bed, mode)
        });
        let (failures, first) = (seen.failures.len(), seen.failures.first());
        assert!(
            failures == 0,
            "to {mode}: {failures} of {:?}: {first:?}",
            seen.pods
        );
    }
    // What goes through a process ends with it, so only new connections are asked for.
    switch(bed, "userspace");
    let seen = during(&bed.client, 2, NODE_PORT.parse().expect("address"), || {
        bed.kubectl("get nodes");
    });
    assert!(seen.failures.is_empty(), "{:?}", seen.failures.first());
    switch(bed, "nftables");
}

fn lives(bed: &Bed) {
    for mode in ["iptables", "nftables"] {
        let mut open = bed.client.enter(|| {
            let mut tcp = TcpStream::connect(NODE_PORT).expect("connect");
            tcp.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n")
                .expect("half a request");
            tcp
        });
        switch(bed, mode);
        open.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        open.write_all(b"Host: x\r\n\r\n").expect("the other half");
        let mut answer = String::new();
        open.read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("pod=web-"), "to {mode}: {answer}");
    }
}
