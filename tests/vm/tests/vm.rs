//! One machine's life: a cluster under systemd beside somebody else's container, limits on cgroup v2, a restart, a
//! reboot, and the way back to how it was. The steps build on each other, so the first that fails ends the test.

use std::collections::BTreeSet;
use std::time::Instant;

use keelson_tests_vm::{Machine, Snapshot};

/// A container in the shared containerd that is none of our business.
const NEIGHBOUR: &str = "
keelson image --name neighbour.local/busybox:1 --file /bin/busybox=/bin/sleep --entrypoint /bin/sleep --output /root/n.tar
ctr -n neighbour images import /root/n.tar
rm /root/n.tar
ctr -n neighbour run -d --null-io neighbour.local/busybox:1 neighbour /bin/sleep 100000";

/// Requests equal limits, so its cgroup is not below `burstable`.
const LIMITED: &str = r#"
kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: keelson.local/echo:1
    command: [/bin/sh, -c, "echo begun; echo complaint >&2; exec /bin/busybox sleep 100000"]
    resources: {limits: {cpu: 200m, memory: 64Mi}}
YAML
kubectl wait pod/limited --for=condition=Ready --timeout=120s"#;

const HUNGRY: &str = r#"
kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: keelson.local/echo:1
    command: [/bin/sh, -c, "x=0123456789abcdef; while :; do x=$x$x; done"]
    resources: {limits: {memory: 32Mi}}
YAML
kubectl wait pod/hungry --for=jsonpath='{.status.phase}'=Failed --timeout=120s >/dev/null
kubectl get pod hungry -o jsonpath='{range .status.containerStatuses[*].state.terminated}{.reason} {.exitCode}{end}'
kubectl delete pod hungry >/dev/null"#;

/// Every running task of the cluster's containers, as `PID`; nothing else differs when none was restarted.
const TASKS: &str = "ctr -n k8s.io tasks ls | awk '$3 == \"RUNNING\" {print $1, $2}' | sort";

/// Pods whose containers all were started again and are ready.
const RESTARTED: &str = r#"kubectl get pods --no-headers -o custom-columns=R:.status.containerStatuses[0].restartCount,\
S:.status.containerStatuses[0].ready | awk '$1 >= 1 && $2 == "true"' | wc -l"#;

/// Who answers at the demo's service, of 40 connections.
const ANSWERS: &str = "ip=$(kubectl get service echo -o jsonpath='{.spec.clusterIP}')
curl -sf -m 60 -H 'Connection: close' \"http://$ip/?[1-40]\" | awk '{print $1}' | sort -u";

#[test]
fn a_cluster_lives_on_a_machine_and_leaves_it() {
    let begin = Instant::now();
    let mut life = Life {
        machine: Machine::boot(),
        begin,
    };
    life.step("booted", systemd_and_cgroup_v2);
    let before = life.step("neighbour", |m| {
        m.sh(NEIGHBOUR);
        Snapshot::of(m)
    });
    let (neighbour, containerd) = life.step("seen", |m| (neighbour(m), containerd(m)));
    life.step("up", up);
    life.step("limits", limits);
    life.step("out of memory", |m| {
        assert_eq!(m.sh(HUNGRY), "pod/hungry created\nOOMKilled 137")
    });
    life.step("logs and exec", logs_and_exec);
    life.step("restart", restart);
    life.step("shared", |m| {
        assert_eq!(
            (self::neighbour(m), self::containerd(m)),
            (neighbour, containerd)
        )
    });
    life.step("reboot", Machine::reboot);
    life.step("pods again", pods_again);
    let neighbour = life.step("neighbour again", |m| {
        m.sh("ctr -n neighbour tasks start -d --null-io neighbour");
        self::neighbour(m)
    });
    life.step("down", |m| {
        println!("{}", m.sh("/opt/keelson/scripts/down"))
    });
    life.step("as it was", |m| {
        let diff = before.diff(&Snapshot::of(m));
        assert!(diff.is_empty(), "scripts/down leaves a difference:\n{diff}");
        assert_eq!(self::neighbour(m), neighbour, "the neighbour was touched");
    });
}

struct Life {
    machine: Machine,
    begin: Instant,
}

impl Life {
    fn step<T>(&mut self, name: &str, step: impl FnOnce(&mut Machine) -> T) -> T {
        let done = step(&mut self.machine);
        println!(
            "{name}: done at {:.0} s",
            self.begin.elapsed().as_secs_f32()
        );
        done
    }
}

fn systemd_and_cgroup_v2(m: &mut Machine) {
    m.until(120, "systemctl is-active containerd");
    assert_eq!(
        m.sh("stat -fc %T /sys/fs/cgroup; ps -o comm= 1"),
        "cgroup2fs\nsystemd"
    );
}

fn neighbour(m: &mut Machine) -> String {
    m.sh("ctr -n neighbour tasks ls | awk '$1 == \"neighbour\" && $3 == \"RUNNING\" {print $2}' | grep .")
}

fn containerd(m: &mut Machine) -> String {
    m.sh("systemctl show -P MainPID containerd")
}

fn up(m: &mut Machine) {
    let text = m.sh("KEELSON_BIN=/opt/keelson/bin KEELSON_SERVER_FLAGS='--pod-pids-limit 100' /opt/keelson/scripts/up");
    assert!(
        text.contains("sharing the containerd that runs here"),
        "{text}"
    );
    assert_eq!(
        m.sh("systemctl is-active keelson; systemctl is-enabled keelson"),
        "active\nenabled"
    );
    assert_eq!(
        m.sh("kubectl get nodes --no-headers | awk '{print $2}'"),
        "Ready"
    );
    assert_answers(m, 3);
}

/// That so many pods, and nobody else, answer at the service.
#[track_caller]
fn assert_answers(m: &mut Machine, pods: usize) {
    let who = m.sh(ANSWERS);
    let pods_of_demo = who.lines().filter(|l| l.starts_with("pod=echo-")).count();
    assert_eq!(
        (pods_of_demo, who.lines().count()),
        (pods, pods),
        "who answers: {who}"
    );
}

fn limits(m: &mut Machine) {
    m.sh(LIMITED);
    let pod =
        "cd /sys/fs/cgroup/kubepods/pod$(kubectl get pod limited -o jsonpath='{.metadata.uid}')";
    let values = m.sh(&format!(
        "{pod}; cat memory.max cpu.max pids.max; cd */; cat memory.max cpu.max cpu.weight"
    ));
    // 200m are 204 shares, which runc turns into a weight of 1 + (204 - 2) * 9999 / 262142.
    assert_eq!(
        values,
        "67108864\n20000 100000\n100\n67108864\n20000 100000\n8"
    );
    let inside = m.sh(&format!(
        "{pod}/*/; cat $(sed 's#^#/proc/#; s#$#/comm#' cgroup.procs)"
    ));
    assert_eq!(inside, "busybox", "the container is not in its cgroup");
}

fn logs_and_exec(m: &mut Machine) {
    assert_eq!(m.sh("kubectl logs limited"), "begun\ncomplaint");
    assert_eq!(
        m.sh("echo said | kubectl exec -i limited -- /bin/sh -c 'cat /proc/sys/kernel/hostname -'"),
        "limited\nsaid"
    );
    assert_eq!(m.run("kubectl exec limited -- /bin/sh -c 'exit 7'").code, 7);
}

fn restart(m: &mut Machine) {
    let before = m.sh(TASKS);
    m.sh("systemctl restart keelson");
    m.until(120, "kubectl scale deployment echo --replicas=4");
    m.sh("kubectl rollout status deployment echo --timeout=120s");
    let after = m.sh(TASKS);
    let [before, after] = [&before, &after].map(|t| t.lines().collect::<BTreeSet<_>>());
    assert_eq!(before.len(), 4);
    assert_eq!(after.len(), 5, "{after:?}");
    assert!(
        before.is_subset(&after),
        "containers were restarted: {before:?}, {after:?}"
    );
}

fn pods_again(m: &mut Machine) {
    m.until(
        240,
        &format!("n=$({RESTARTED}); echo $n; [ $n = 5 ] || {{ kubectl get pods; exit 1; }}"),
    );
    assert_answers(m, 4);
    assert_eq!(
        m.sh("kubectl logs limited; kubectl logs limited --previous"),
        "begun\ncomplaint\nbegun\ncomplaint"
    );
    let things = [
        "ls /run/keelson/ns",
        "ip -o link show type veth",
        "find /sys/fs/cgroup/kubepods -mindepth 1 -maxdepth 2 -name 'pod*'",
        "ctr -n k8s.io tasks ls -q",
        "find /var/lib/keelson/agent/cni-addresses -name '10.*'",
    ];
    for thing in things {
        let found = m.sh(thing);
        assert_eq!(found.lines().count(), 5, "{thing}:\n{found}");
    }
}
