//! The cluster's names answered by pods instead of nodes, as CoreDNS does it: here by Debian's dnsmasq.

use std::path::Path;

use keelson_tests::images::{self, ECHO};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

const PROGRAM: &str = "/usr/sbin/dnsmasq";
const IMAGE: &str = "keelson.test/dns:1";

const SERVER: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: dns, namespace: kube-system}
spec:
  replicas: 2
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      dnsPolicy: Default
      terminationGracePeriodSeconds: 1
      containers:
      - name: dns
        image: keelson.test/dns:1
        args: [--keep-in-foreground, --user=root, --group=root, --no-resolv, --no-hosts, --log-facility=-,
          --address=/web.default.svc.cluster.local/192.0.2.7]
        ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53, protocol: TCP, name: tcp}]
        readinessProbe: {tcpSocket: {port: tcp}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: 10.43.0.10
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]
";

#[test]
fn names_by_pods() {
    assert!(
        Path::new(PROGRAM).exists(),
        "{PROGRAM} is missing: apt-get install dnsmasq-base"
    );
    let bed = Bed::bare();
    let (passwd, group) = (bed.folder().join("passwd"), bed.folder().join("group"));
    std::fs::write(&passwd, "root:x:0:0::/:/bin/sh\n").unwrap();
    std::fs::write(&group, "root:x:0:\n").unwrap();
    let files: [(&Path, &str); 2] = [(&passwd, "/etc/passwd"), (&group, "/etc/group")];
    images::make(
        &bed.server().images(),
        IMAGE,
        Path::new(PROGRAM),
        PROGRAM,
        &files,
    );
    let args = ["server", "--no-dns", "--cluster-dns", "10.43.0.10"];
    bed.server().start_keelson(&args);
    bed.server().wait_for(keelson_tests::bed::KUBECONFIG);
    bed.wait_ready();
    bed.wait_node_ready(bed.server());

    let ours = bed.try_kubectl("get service kube-dns -n kube-system");
    assert!(!ours.ok && ours.err.contains("NotFound"), "{ours:?}");
    let listening = bed.server().sh("ss -Hlnu src 10.43.0.10");
    assert_eq!(listening, "", "nodes leave it alone");
    bed.apply(SERVER);
    bed.kubectl("rollout status deployment dns -n kube-system --timeout=60s");
    bed.kubectl(&format!(
        "run ask --image={ECHO} --restart=Never --command -- sleep 3600"
    ));
    bed.kubectl("wait pod ask --for=condition=Ready --timeout=60s");
    // By the search path, over UDP.
    let ask = || {
        bed.try_kubectl("exec ask -- /bin/busybox nslookup -type=a web.default.svc.cluster.local")
    };
    let found = ask();
    assert!(found.out.contains("192.0.2.7"), "{found:?}");
    bed.kubectl("exec ask -- sh -c 'nc -w 5 10.43.0.10 53 </dev/null'");

    bed.kubectl("rollout restart deployment dns -n kube-system");
    bed.kubectl("rollout status deployment dns -n kube-system --timeout=60s");
    eventually("the new ones are asked", secs(10), || {
        let found = ask();
        anyhow::ensure!(found.out.contains("192.0.2.7"), "{found:?}");
        Ok(())
    });
}
