//! Parts that end and start again, in any way; and the end of all.

#![allow(clippy::unwrap_used)]

mod alone;
mod away;
mod churn;
mod dataplane;
mod dns;
mod explain;
mod flows;
mod hostports;
mod install;
mod reboot;
mod soak;
mod stuck;
mod traffic;

use std::collections::BTreeMap;

use keelson_tests::bed::{KUBECONFIG, json};
use keelson_tests::bins::program;
use keelson_tests::images::ECHO;
use keelson_tests::snapshot::Snapshot;
use keelson_tests::stream::{during, get};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Suite, eventually};
use nix::sys::signal::Signal;

#[test]
fn restarts() {
    let bed = Bed::cluster(1);
    let mut suite = Suite::new();
    deploy(&bed);
    suite.step(
        "kill -9 and restart: no container restarts, nothing leaks",
        || killed(&bed),
    );
    suite.step("requests go on while keelson is away", || traffic(&bed));
    suite.step("rules are left as they are by a restart", || rules(&bed));
    suite.step("logs go on while keelson is away", || logs(&bed));
    suite.step("what ended while keelson was away is told", || ended(&bed));
    suite.step(
        "what was deleted while keelson was away is torn down",
        || deleted(&bed),
    );
    suite.step("containerd restarts", || containerd(&bed));
    suite.step("killed at any moment of a pod's start and end", || {
        any_moment(&bed)
    });
    suite.step(
        "what nobody has on the network is freed by its plugin",
        || ends_of_nobody(&bed),
    );
    suite.step("doctor finds what is left over", || doctor(&bed));
    suite.step("stopped and started", || stopped(&bed));
    suite.done();
}

/// As `scripts/down` ends: nothing is left, and what was there before is.
#[test]
fn cleanup_leaves_nothing() {
    let bed = Bed::bare();
    let node = bed.server();
    node.sh("iptables -t nat -N MINE; iptables -t nat -A MINE -j RETURN; nft add table inet mine; ip link add mine0 type dummy 2>/dev/null || true");
    let before = Snapshot::of(node);
    bed.start_server();
    deploy(&bed);
    bed.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: hp}}\nspec: {{containers: [{{name: c, image: '{ECHO}', ports: [{{containerPort: 8080, hostPort: 9999}}]}}]}}\n"));
    bed.kubectl("wait pod hp --for=condition=Ready --timeout=60s");
    let within = before.diff(&Snapshot::of(node), &[]);
    for part in [
        "links + ",
        "mounts + ",
        "shims + ",
        "cgroups + ",
        "nftables + ",
        "kubelet + ",
    ] {
        assert!(within.contains(part), "this finds no {part}: {within}");
    }
    node.stop();
    let keelson = program("keelson");
    let args = format!("--cgroup-root {} --data", node.cgroup);
    node.sh(&format!("{} cleanup {args}", keelson.display()));
    let after = Snapshot::of(node);
    assert_eq!(before.diff(&after, &["keelson", "cni"]), "");
    let left: Vec<_> = after
        .section("keelson")
        .iter()
        .filter(|l| *l != KUBECONFIG && *l != "/etc/keelson")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(
        !after.section("cni").iter().any(|l| l.contains("keelson")),
        "{:?}",
        after.section("cni")
    );
    // Again, it is harmless.
    node.sh(&format!("{} cleanup {args}", keelson.display()));
}

#[test]
fn installed_without_systemd() {
    install::life();
}

/// Pods that share shims: few processes, and a shim's death is that of its pods and of no others.
#[test]
fn shims_are_shared() {
    let bed = Bed::split(&["--shim-sharing=4", "--max-pods=8"]);
    let node = &bed.nodes[1];
    let name = &node.name;
    let shims = || {
        let list = node.sh("pgrep -x containerd-shim || true");
        list.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(shims().is_empty());
    for n in 0..8 {
        let pin = format!(
            r#"--overrides='{{"spec":{{"nodeName":"{name}","terminationGracePeriodSeconds":0}}}}'"#
        );
        bed.kubectl(&format!(
            "run share-{n} --image={ECHO} --labels=app=share {pin}"
        ));
    }
    bed.kubectl("wait pods -l app=share --for=condition=Ready --timeout=120s");
    let together = shims();
    assert!((1..=2).contains(&together.len()), "{together:?}");
    let counts = || {
        bed.kubectl("get pods -l app=share -o jsonpath='{range .items[*]}{.metadata.name}={.status.containerStatuses[0].restartCount} {end}'")
    };
    node.sh(&format!("kill -9 {}", together[0]));
    eventually("the pods of the dead shim run again", secs(60), || {
        let again = counts().matches("=1").count();
        anyhow::ensure!(again > 0, "{}", counts());
        Ok(())
    });
    bed.kubectl("wait pods -l app=share --for=condition=Ready --timeout=120s");
    let again = counts();
    assert_eq!(
        again.matches("=1").count() + again.matches("=0").count(),
        8,
        "{again}"
    );
    if together.len() == 2 {
        assert!(again.contains("=0"), "the other shim's pods go on: {again}");
        assert!(shims().contains(&together[1]), "{together:?}");
    }
    bed.kubectl("delete pods -l app=share --timeout=60s");
    eventually("the shims end with their last pods", secs(30), || {
        anyhow::ensure!(shims().is_empty(), "{:?}", shims());
        Ok(())
    });
}

/// The agent ends at every step of a pod's start and end that can be told apart, each time for good; the pod ends right
/// and nothing is left. The first list is passed while a pod starts, the second while it ends.
const POINTS: [&[&str]; 2] = [
    &[
        "CreateCgroup",
        "MaterializeVolumes",
        "CreateSandbox",
        "shared memory mounted",
        "namespaces made",
        "addresses given",
        "network added",
        "EnsureImage",
        "CreateContainer",
        "snapshot prepared",
        "container created",
        "task created",
        "start noted",
        "task started",
        "start ended",
    ],
    &[
        "KillContainer",
        "RemoveContainer",
        "task deleted",
        "container deleted",
        "snapshot removed",
        "RemoveSandbox",
        "network removed",
        "TeardownVolumes",
        "RemoveCgroup",
        "DeletePod",
        "RemoveLogs",
    ],
];

#[test]
fn killed_at_every_step() {
    let bed = Bed::split(&[]);
    let node = &bed.nodes[1];
    let pod = |n: usize| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: point-{n}}}
spec:
  nodeName: {}
  terminationGracePeriodSeconds: 1
  volumes: [{{name: data, emptyDir: {{medium: Memory}}}}, {{name: root, configMap: {{name: kube-root-ca.crt}}}}]
  initContainers: [{{name: first, image: '{ECHO}', command: [sh, -c, 'exit 0']}}]
  containers:
  - name: main
    image: '{ECHO}'
    ports: [{{containerPort: 8080, hostPort: {}}}]
    volumeMounts: [{{name: data, mountPath: /data}}, {{name: root, mountPath: /root-ca}}]
"#,
            node.name,
            9000 + n
        )
    };
    // What is there once for all pods is there before.
    bed.apply(&pod(99));
    bed.kubectl("wait pod point-99 --for=condition=Ready --timeout=60s");
    bed.kubectl("delete pod point-99 --timeout=60s");
    let before = Snapshot::of(node);
    let arm = |point: &str| node.sh(&format!("echo '{point}' >/run/keelson/failpoint"));
    let died = |point: &str| {
        eventually(&format!("the agent ends at {point:?}"), secs(60), || {
            anyhow::ensure!(node.alive().is_err(), "it lives");
            Ok(())
        });
        node.forget();
        node.start_again();
    };
    let [starts, ends] = POINTS;
    for n in 0..starts.len().max(ends.len()) {
        if let Some(point) = starts.get(n) {
            arm(point);
        }
        bed.apply(&pod(n));
        if let Some(point) = starts.get(n) {
            died(point);
        }
        bed.kubectl(&format!(
            "wait pod point-{n} --for=condition=Ready --timeout=60s"
        ));
        let count = "-o jsonpath='{.status.containerStatuses[0].restartCount}'";
        let restarts = bed.kubectl(&format!("get pod point-{n} {count}"));
        assert_eq!(restarts, "0", "{:?}", starts.get(n));
        if let Some(point) = ends.get(n) {
            arm(point);
        }
        bed.kubectl(&format!("delete pod point-{n} --wait=false"));
        if let Some(point) = ends.get(n) {
            died(point);
        }
        bed.kubectl(&format!("wait pod point-{n} --for=delete --timeout=60s"));
    }
    eventually("nothing is left of them", secs(60), || {
        let diff = before.diff(&Snapshot::of(node), &[]);
        anyhow::ensure!(diff.is_empty(), "{diff}");
        Ok(())
    });
}

fn deploy(bed: &Bed) {
    bed.apply(&format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - {{name: echo, image: '{ECHO}', ports: [{{containerPort: 8080}}], readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}}}
      - {{name: talk, image: '{ECHO}', command: [/bin/sh, -c, 'trap exit TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done']}}
      volumes: [{{name: v, emptyDir: {{medium: Memory}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080, nodePort: 30080}}]}}
"
    ));
    bed.kubectl("rollout status deploy/web --timeout=120s");
    eventually("the node port answers", secs(30), || {
        bed.client.enter(|| get("10.88.0.11:30080".parse()?, "/"))
    });
}

/// Every container by pod and name: its ID, restarts and start; and every PID with its command.
fn identity(bed: &Bed) -> (BTreeMap<String, String>, String) {
    let pods = json(&bed.kubectl("get pods -l app=web -o json"));
    let mut all = BTreeMap::new();
    for pod in pods["items"].as_array().unwrap() {
        for status in pod["status"]["containerStatuses"].as_array().unwrap() {
            let name = format!("{}/{}", pod["metadata"]["name"], status["name"]);
            all.insert(
                name,
                format!(
                    "{} {} {}",
                    status["containerID"],
                    status["restartCount"],
                    status["state"]["running"]["startedAt"]
                ),
            );
        }
    }
    // A shell that has forked and not yet become its command looks like itself: a child like its parent does not count.
    let pids = bed.server().sh(
        "ps -eo pid=,ppid=,args= | awk '{pid = $1; parent[pid] = $2; $1 = $2 = \"\"; args[pid] = $0} \
         END {for (pid in args) if (args[parent[pid]] != args[pid]) print pid args[pid]}' \
         | grep -E '^[0-9]+ +([^ ]*containerd-shim|[^ ]*keelson-logger|/echo|/bin/sh -c trap)' | sort",
    );
    (all, pids)
}

fn again(bed: &Bed) {
    bed.server().start_again();
    bed.wait_ready();
    status_flows(bed);
}

/// A pod that is made now comes up and goes.
fn status_flows(bed: &Bed) {
    bed.kubectl(&format!("run flows --image={ECHO} --overrides='{{\"spec\":{{\"terminationGracePeriodSeconds\":0}}}}'"));
    bed.kubectl("wait pod flows --for=condition=Ready --timeout=60s");
    let uid = bed.kubectl("get pod flows -o jsonpath={.metadata.uid}");
    bed.kubectl("delete pod flows --timeout=60s");
    torn_down(bed, &uid);
}

/// With a grace period of 0 the object is gone before the pod is.
fn torn_down(bed: &Bed, uids: &str) {
    eventually("the pods are torn down", secs(60), || {
        for uid in uids.split_whitespace() {
            let left = bed.server().sh(&format!(
                "find /sys/fs/cgroup /run/keelson /var/lib/keelson/agent /var/log/pods -name '*{uid}*' 2>/dev/null || true; ctr -n k8s.io c ls -q | grep {uid} || true; grep {uid} /proc/self/mounts || true; pgrep -af {uid} | grep -v pgrep || true"
            ));
            anyhow::ensure!(left.is_empty(), "{left}");
        }
        Ok(())
    });
}

fn killed(bed: &Bed) {
    status_flows(bed);
    let (before, snapshot) = (identity(bed), Snapshot::of(bed.server()));
    for _ in 0..3 {
        bed.server().kill();
        again(bed);
    }
    let after = identity(bed);
    assert_eq!(before.0, after.0);
    assert_eq!(before.1, after.1);
    eventually("nothing leaked", secs(30), || {
        let diff = snapshot.diff(&Snapshot::of(bed.server()), &[]);
        anyhow::ensure!(diff.is_empty(), "{diff}");
        Ok(())
    });
    assert!(bed.kubectl("get node n1").contains(" Ready"));
}

fn traffic(bed: &Bed) {
    let seen = during(&bed.client, 2, "10.88.0.11:30080".parse().unwrap(), || {
        bed.server().kill();
        again(bed);
    });
    assert!(
        seen.failures.is_empty(),
        "{} of {:?}: {:?}",
        seen.failures.len(),
        seen.pods,
        seen.failures.first()
    );
}

fn rules(bed: &Bed) {
    // With the handles: what is written anew has another one.
    let save = "iptables-save | sed 's/\\[[0-9]*:[0-9]*\\]//; /^#/d'; nft -a -s list table ip keelson-proxy";
    bed.client
        .enter(|| get("10.88.0.11:30080".parse()?, "/"))
        .unwrap();
    let before = bed.server().sh(save);
    assert!(before.contains("30080"), "{before}");
    bed.server().stop();
    assert_eq!(
        before,
        bed.server().sh(save),
        "stopping takes no rules away"
    );
    again(bed);
    eventually("the rules are the same", secs(20), || {
        let now = bed.server().sh(save);
        anyhow::ensure!(now == before, "{now}\nnot\n{before}");
        Ok(())
    });
}

fn logs(bed: &Bed) {
    let pod = bed.kubectl("get pods -l app=web -o jsonpath='{.items[0].metadata.name}'");
    let file = format!("/var/log/pods/default_{pod}_*/talk/0.log");
    let lines = || {
        bed.server()
            .sh(&format!("cat {file} | wc -l"))
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    bed.server().kill();
    let before = lines();
    eventually("the log grows", secs(20), || {
        anyhow::ensure!(lines() > before + 3, "{} lines", lines());
        Ok(())
    });
    again(bed);
    // None is missing.
    let text = bed.kubectl(&format!("logs {pod} -c talk"));
    for (n, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line {n}"));
    }
}

fn ended(bed: &Bed) {
    bed.kubectl(&format!("run ends --image={ECHO} --restart=Never --command -- sh -c 'while [ ! -e /tmp-end ]; do sleep 0.1; done; exit 4'"));
    bed.kubectl("wait pod ends --for=condition=Ready --timeout=60s");
    let pid = bed
        .server()
        .sh("pgrep -f 'while . ! -e /tmp-end' | head -1");
    bed.server().kill();
    bed.server().sh(&format!("kill -9 {}", pid.trim()));
    again(bed);
    bed.wait_for("get pod ends -o jsonpath='{.status.phase}'", "Failed");
    assert_eq!(
        bed.kubectl(
            "get pod ends -o jsonpath='{.status.containerStatuses[0].state.terminated.exitCode}'"
        ),
        "137"
    );
    bed.kubectl("delete pod ends --timeout=60s");
}

/// The server's own API is away with the agent: deleted is as soon as it is back, before the agent has looked.
fn deleted(bed: &Bed) {
    let names = "get pods -l app=web -o jsonpath='{.items[*].metadata.uid}'";
    let uids = bed.kubectl(names);
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    bed.kubectl("delete pods -l app=web --force --grace-period=0");
    bed.kubectl("rollout status deploy/web --timeout=60s");
    torn_down(bed, &uids);
}

fn containerd(bed: &Bed) {
    let before = identity(bed);
    bed.server().end_containerd(Signal::SIGKILL);
    bed.client
        .enter(|| get("10.88.0.11:30080".parse()?, "/"))
        .unwrap();
    bed.server().start_containerd();
    status_flows(bed);
    let after = identity(bed);
    assert_eq!(before, after);
    // Its events are heard again.
    let pod = bed.kubectl("get pods -l app=web -o jsonpath='{.items[0].metadata.name}'");
    bed.try_kubectl(&format!("exec {pod} -c echo -- /bin/busybox kill -9 1"));
    let pid = bed.server().sh("pgrep -f '^/echo' | head -1");
    bed.server().sh(&format!("kill -9 {}", pid.trim()));
    bed.wait_contains(
        "get pods -l app=web -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'",
        "1",
    );
    bed.kubectl("rollout status deploy/web --timeout=60s");
}

fn any_moment(bed: &Bed) {
    let before = Snapshot::of(bed.server());
    // As of a pod whose logs were all that was left when the agent was killed.
    bed.server()
        .sh("mkdir -p /var/log/pods/default_gone_7c9e6679-7425-40de-944b-e07fc1f90ae7/echo");
    for n in 0..8u64 {
        let make = format!("create deploy moment-{n} --image={ECHO} --replicas=2");
        bed.kubectl(&make);
        std::thread::sleep(std::time::Duration::from_millis(n * 60));
        bed.server().kill();
        bed.server().start_again();
        bed.wait_ready();
        bed.kubectl(&format!("delete deploy moment-{n}"));
        std::thread::sleep(std::time::Duration::from_millis(n * 40));
        bed.server().kill();
        bed.server().start_again();
        bed.wait_ready();
    }
    eventually("nothing is left of them", secs(90), || {
        let pods = bed.kubectl("get pods -o name");
        anyhow::ensure!(!pods.contains("moment"), "{pods}");
        let diff = before.diff(&Snapshot::of(bed.server()), &[]);
        anyhow::ensure!(diff.is_empty(), "{diff}");
        Ok(())
    });
}

/// As of a pod that was forgotten half torn down, in every kind that there is. The agent goes on meanwhile.
/// An attachment that the plugin made and the agent knows nothing of; pods that an agent added who spoke an older version
/// of CNI live on, and go.
fn ends_of_nobody(bed: &Bed) {
    let node = bed.server();
    let before = identity(bed);
    let list = json(&node.sh("cat /etc/cni/net.d/10-keelson.conflist"));
    let mut conf = list["plugins"][0].clone();
    conf["name"] = list["name"].clone();
    conf["cniVersion"] = "1.1.0".into();
    node.sh(&format!(
        r#"ip netns add nobody
CNI_COMMAND=ADD CNI_CONTAINERID=nobody CNI_NETNS=/run/netns/nobody CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
  /opt/cni/bin/keelson-cni <<<'{conf}'
ip -n nobody link show eth0
grep -rl nobody /var/lib/keelson/agent/cni-addresses
sed -i 's/"version":"1.1.0"/"version":"1.0.0"/' /var/lib/keelson/agent/cni/results/*
grep -l '"version":"1.0.0"' /var/lib/keelson/agent/cni/results/*"#
    ));
    node.kill();
    again(bed);
    eventually("nobody's end is gone", secs(60), || {
        let left = node.sh("ip -n nobody -o link show type veth; grep -rl nobody /var/lib/keelson/agent/cni-addresses || true");
        anyhow::ensure!(left.is_empty(), "{left}");
        Ok(())
    });
    node.sh("ip netns del nobody");
    assert_eq!(identity(bed).0, before.0);
    bed.client
        .enter(|| get("10.88.0.11:30080".parse()?, "/"))
        .expect("pods are still reached");
    let pod = bed.kubectl(
        "get pods -l app=web -o jsonpath='{.items[0].metadata.name} {.items[0].metadata.uid}'",
    );
    let (name, uid) = pod.split_once(' ').expect("a name and a UID");
    bed.kubectl(&format!("delete pod {name} --timeout=60s"));
    torn_down(bed, uid);
    bed.kubectl("rollout status deploy/web --timeout=60s");
}

fn doctor(bed: &Bed) {
    let node = bed.server();
    let before = identity(bed);
    let ask = |fix: &str| {
        let keelson = program("keelson");
        let keelson = keelson.display();
        node.sh(&format!(
            "{keelson} doctor {fix} --node-name {} --cgroup-root {} 2>&1 && echo well || echo found",
            node.name, node.cgroup
        ))
    };
    node.sh("mkdir -p /run/keelson/io");
    let snapshot = Snapshot::of(node);
    let well = ask("");
    assert!(well.trim().ends_with("well"), "{well}");
    let uid = "7c9e6679-7425-40de-944b-e07fc1f90ae8";
    node.sh(&format!(
        r#"
mkdir -p /var/log/pods/default_gone_{uid}/c /var/lib/keelson/agent/pods/{uid}/volumes/v /run/keelson/ns/{uid}
mkdir -p /run/keelson/io/{uid}-c-0 /run/keelson/started; touch /run/keelson/started/{uid}-c-1
mount -t tmpfs tmpfs /var/lib/keelson/agent/pods/{uid}/volumes/v
touch /run/keelson/ns/{uid}/net; unshare -n mount --bind /proc/self/ns/net /run/keelson/ns/{uid}/net
for top in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -d "$top/{cgroup}" ] && mkdir "$top/{cgroup}/pod{uid}"; done
ctr -n k8s.io c create --label keelson.io/kind=app --label io.kubernetes.pod.uid={uid} {ECHO} {uid}-c-2
record=$(ls -d /var/lib/keelson/agent/cni/results/* | head -1)
own=$(basename "$record" | sed -E 's/^[^-]+-(.*)-eth0$/\1/')
sed "s/$own/{uid}/g" "$record" >/var/lib/keelson/agent/cni/results/keelson-{uid}-eth0
"#,
        cgroup = node.cgroup
    ));
    let found = ask("");
    let kinds = "container network namespaces volumes cgroup logs streams start";
    for kind in kinds.split(' ') {
        let has = |l: &str| l.starts_with(&format!("{kind} ")) && l.contains(uid);
        assert!(found.lines().any(has), "no {kind}: {found}");
    }
    assert!(found.trim().ends_with("found"), "{found}");
    let fixed = ask("--fix");
    assert_eq!(fixed.matches(": removed").count(), 8, "{fixed}");
    assert!(fixed.trim().ends_with("well"), "{fixed}");
    torn_down(bed, uid);
    let diff = snapshot.diff(&Snapshot::of(node), &[]);
    assert_eq!(diff, "");
    assert_eq!(before, identity(bed), "pods that are needed are left alone");
}

fn stopped(bed: &Bed) {
    let before = identity(bed);
    bed.server().stop();
    again(bed);
    assert_eq!(before, identity(bed));
}
