//! What users do with a cluster of two machines: install the server as a package and an agent by the script without a
//! network, run pods, reach services from everywhere, change how the proxy works, upgrade under load, reboot, and
//! uninstall so that nothing is left. The steps build on each other.

use std::time::Instant;

use keelson_tests::testbed::{Description, Layout};
use keelson_tests_vm::bed::By;
use keelson_tests_vm::dist::INSIDE;
use keelson_tests_vm::{Bed, Dist, Snapshot};

/// A pod on each node, and services for both.
const PODS: &str = r#"kubectl apply -f - <<'YAML'
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: keelson.test/echo:1
        env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
YAML
kubectl rollout status daemonset/echo --timeout=270s"#;

/// Containers and their first processes: the same as long as none was started again.
const TASKS: &str = "ctr -n k8s.io tasks ls | awk '$3 == \"RUNNING\" {print $1, $2}' | sort";

/// What is left of us on a disk, whatever it is.
const LEFT: &str = "find / -xdev -iname '*keelson*' -not -path '/opt/keelson*' -not -path '/proc/*' 2>/dev/null || true";

#[test]
fn a_cluster_is_installed() {
    let begin = Instant::now();
    let dist = Dist::make().expect("what is installed");
    dist.add_newer().expect("what it is upgraded to");
    let description = Description::of_nodes("install", 2);
    let layout = Layout::of(&description).expect("a layout");
    let mut bed = Bed::boot(layout, &dist).expect("a bed");
    let told = |what: &str| println!("{what}: {:.0} s", begin.elapsed().as_secs_f32());
    told("booted");
    let before = bed.at_once(|_, machine| {
        machine.until(400, "systemctl is-active containerd");
        // The machine's own link-local address comes when nobody else has answered to it.
        machine.until(
            60,
            "ip -6 addr show dev eth0 scope link -tentative | grep -q fe80",
        );
        // containerd's own, from anybody's first container on.
        machine.sh("mkdir -p /run/containerd/runc /run/containerd/s");
        Snapshot::of(machine)
    });
    bed.install("n1", By::Package);
    told("the server is installed");
    bed.install("n2", By::Script);
    told("an agent has joined");
    type Step = (&'static str, fn(&mut Bed));
    let steps: [Step; 6] = [
        ("pods", pods),
        ("services", services),
        ("IPVS", ipvs),
        ("upgrade", upgrade),
        ("reboot", reboot),
        ("uninstall", uninstall),
    ];
    let only = std::env::var("KEELSON_STEP").unwrap_or_default();
    for (name, step) in steps.iter().filter(|(name, _)| name.contains(&only)) {
        step(&mut bed);
        told(name);
    }
    let after = bed.at_once(|_, machine| (machine.sh(LEFT), Snapshot::of(machine)));
    for ((name, before), (left, after)) in bed.names().iter().zip(&before).zip(&after) {
        assert_eq!(left, "", "{name} has files of ours");
        let diff = before.diff(after);
        assert!(diff.is_empty(), "{name} is not as it was:\n{diff}");
    }
}

/// The image came with the release, on both.
fn pods(bed: &mut Bed) {
    bed.user(PODS);
    let on = bed.user(
        "kubectl get pods -l app=echo -o jsonpath='{range .items[*]}{.spec.nodeName}{\"\\n\"}{end}' | sort",
    );
    assert_eq!(on, "n1\nn2");
}

/// Asks forty times; both pods have to answer.
fn both(url: &str) -> String {
    format!(
        "curl -s -m 100 -H 'Connection: close' '{url}?[1-40]' | awk '{{print $1}}' | sort -u | grep -c '^pod=echo-' | grep -x 2"
    )
}

/// From each node by the cluster's address, from a pod by the name, and from beyond the router by each node's port.
fn services(bed: &mut Bed) {
    let ip = bed.user("kubectl get service echo -o jsonpath='{.spec.clusterIP}'");
    bed.at_once(|_, machine| machine.until(400, &both(&format!("http://{ip}/"))));
    for name in bed.names() {
        let address = bed.layout.machine(&name).expect("a node").node_addresses()[0].addr();
        let url = format!("http://{address}:30080/");
        bed.user(&both(&url));
    }
    bed.user_until(
        400,
        "for pod in $(kubectl get pods -l app=echo -o name); do
kubectl exec $pod -- /bin/sh -c 'echo | /bin/busybox nc -w 20 echo.default 80 >/dev/null' || exit 1
done",
    );
}

/// On the agent; the server's node stays as it is.
fn ipvs(bed: &mut Bed) {
    let agent = bed.node("n2");
    agent.sh("keelson-setup --proxy-mode ipvs");
    agent.until(400, "grep -q ' rr ' /proc/net/ip_vs");
    services(bed);
}

/// The same again with newer programs: the package on one, the script on the other; a connection to the other node's
/// pod lives through both.
fn upgrade(bed: &mut Bed) {
    let ip = bed.user("kubectl get pods -l app=echo --field-selector spec.nodeName=n2 -o jsonpath='{.items[0].status.podIP}'");
    let hold = "cat >/root/hold <<'SH'
exec 3<>/dev/tcp/$1/8080 || exit
until [ -e /run/enough ]; do
  printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3
  until [[ $line == pod=* ]]; do read -r -t 20 line <&3 || { echo broken; exit; }; done
  echo alive
  line=
  sleep 1
done
SH
systemd-run -q --collect --unit=hold bash -c";
    bed.server()
        .sh(&format!("{hold} 'bash /root/hold {ip} >/root/held 2>&1'"));
    bed.server().until(30, "grep -q alive /root/held");
    bed.at_once(|name, node| {
        let (unit, script) = newer(name);
        let (tasks, pid) = (node.sh(TASKS), node.sh(&main_pid(unit)));
        assert_eq!(tasks.lines().count(), 1, "a pod has one: {tasks}");
        node.sh(&script);
        node.until(400, &format!("systemctl is-active {unit}"));
        assert_ne!(node.sh(&main_pid(unit)), pid, "{name}: the old one runs");
        assert_eq!(node.sh(TASKS), tasks, "{name}: containers started again");
    });
    bed.user_until(400, "kubectl get --raw /readyz");
    bed.user("kubectl wait node --all --for=condition=Ready --timeout=300s");
    let restarts = "kubectl get pods -l app=echo -o jsonpath='{.items[*].status.containerStatuses[0].restartCount}'";
    assert_eq!(bed.user(restarts), "0 0");
    let held = bed.server().sh("sleep 3; touch /run/enough; sleep 2; sort /root/held | uniq -c; rm /root/held /root/hold /run/enough");
    let lines: Vec<&str> = held.lines().collect();
    assert!(
        matches!(lines.as_slice(), [one] if one.ends_with(" alive")),
        "the connection: {held}"
    );
}

/// A node's unit, and how it comes to newer programs: as it was installed.
fn newer(name: &str) -> (&'static str, String) {
    match name {
        "n1" => ("keelson", format!("dpkg -i {INSIDE}/newer.deb >/dev/null")),
        _ => (
            "keelson-agent",
            format!(
                "cp -r {INSIDE}/release /root/new
echo newer >>/root/new/keelson
/root/new/install.sh --airgap /root/new
rm -r /root/new"
            ),
        ),
    }
}

fn main_pid(unit: &str) -> String {
    format!("systemctl show -P MainPID {unit}")
}

fn reboot(bed: &mut Bed) {
    bed.node("n2").reboot();
    bed.node("n2")
        .until(400, "systemctl is-active keelson-agent");
    bed.user_until(
        400,
        "kubectl get pods -l app=echo --no-headers -o custom-columns=N:.spec.nodeName,R:.status.containerStatuses[0].restartCount,S:.status.containerStatuses[0].ready | grep -E 'n2 +1 +true'",
    );
    services(bed);
}

fn uninstall(bed: &mut Bed) {
    bed.at_once(|name, node| {
        node.sh(match name {
            "n1" => "DEBIAN_FRONTEND=noninteractive dpkg --purge keelson",
            _ => "keelson-uninstall",
        })
    });
}
