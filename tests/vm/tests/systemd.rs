//! A machine whose systemd keeps the pods' cgroups, and whose shutdown waits for pods: systemd's and logind's own word
//! on both. The steps build on each other.

use keelson_tests_vm::{Machine, Snapshot};

const CONFIG: &str = "cat >/root/keelson.yaml <<'YAML'
cgroupDriver: systemd
podPidsLimit: 100
shutdownGracePeriod: 60s
shutdownGracePeriodCriticalPods: 10s
YAML";
const UP: &str = "KEELSON_BIN=/opt/keelson/bin KEELSON_SERVER_FLAGS='--config /root/keelson.yaml' /opt/keelson/scripts/up";

/// A pod; `more`: fields of the container, and of the pod.
fn pod(name: &str, command: &str, container: &str, spec: &str) -> String {
    format!(
        "kubectl apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  containers:
  - name: main
    image: keelson.local/echo:1
    command: [/bin/sh, -c, \"{command}\"]
{container}
{spec}
YAML
"
    )
}

fn ready(name: &str) -> String {
    format!("kubectl wait pod/{name} --for=condition=Ready --timeout=120s\n")
}

const SLEEP: &str = "exec /bin/busybox sleep 100000";
/// Ends only when it is killed.
const STUBBORN: &str = "trap '' TERM; while :; do /bin/busybox sleep 1; done";
/// The directory of a pod's cgroup in a class.
const SLICE: &str = r#"
slice() { echo "kubepods${2:+-$2}-pod$(kubectl get pod $1 -o jsonpath='{.metadata.uid}' | tr - _).slice"; }
dir() { echo "/sys/fs/cgroup/kubepods.slice/${2:+kubepods-$2.slice/}$(slice $1 $2)"; }
"#;
const NODE: &str = "kubectl get nodes -o jsonpath='{range .items[0].status.conditions[?(@.type==\"Ready\")]}{.status} {.reason} {.message}{end}'";
const HELD: &str = "systemd-inhibit --list --no-legend | grep kubelet";

fn how_it_ended(name: &str) -> String {
    format!(
        "kubectl get pod {name} -o jsonpath='{{.status.phase}} {{.status.reason}}: {{.status.message}} {{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}}'"
    )
}

const TERMINATED: &str = "Failed Terminated: Pod was terminated in response to imminent node shutdown. TerminationByKubelet";

#[test]
fn systemd_keeps_cgroups_and_shutdowns_wait() {
    let mut machine = Machine::boot();
    let m = &mut machine;
    m.until(120, "systemctl is-active containerd");
    // containerd's own, from anybody's first container on.
    m.sh("mkdir -p /run/containerd/runc /run/containerd/s");
    let before = Snapshot::of(m);
    m.sh(CONFIG);
    m.sh(UP);
    println!("up");
    type Step = (&'static str, fn(&mut Machine));
    let steps: [Step; 4] = [
        ("names", names),
        ("cgroups", cgroups),
        ("called off", called_off),
        ("reboot", reboot),
    ];
    let only = std::env::var("KEELSON_STEP").unwrap_or_default();
    for (name, step) in steps.iter().filter(|(name, _)| name.contains(&only)) {
        step(m);
        println!("{name}");
    }
    m.sh("/opt/keelson/scripts/down; rm /root/keelson.yaml");
    let diff = before.diff(&Snapshot::of(m));
    assert!(diff.is_empty(), "scripts/down leaves a difference:\n{diff}");
}

/// Asks for a name, so many times if there is no answer, again and again. By bash itself: others ask again after few
/// seconds, and a start takes longer in here. No byte of the question ends a line, where bash would send what it has.
const ASKER: &str = r#"cat >/root/ask <<'BASH'
question='\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x08kube-dns\x0bkube-system\x03svc\x07cluster\x05local\0\0\x01\0\x01'
ask() {
  printf "$question" >&3
  answer=$(timeout 60 dd bs=512 count=1 status=none <&3 | od -An -tx1 -N8)
  [[ $answer =~ ^\ 12\ 34\ ..\ .0\ 00\ 01\ 00\ 01$ ]]
}
while [ -e /run/asking ]; do
  exec 3<>/dev/udp/10.43.0.10/53
  for i in $(seq $1); do ask && break; done && echo yes || echo "answer: $answer"
done
BASH"#;

/// That everybody is answered while something is done to keelson.
fn asked(m: &mut Machine, tries: u32, what: &str) {
    let start = format!("setsid bash /root/ask {tries} >/root/asked 2>&1 </dev/null &");
    m.sh(&format!(
        "touch /run/asking; {start}\nsleep 2; {what}; sleep 5"
    ));
    m.until(
        60,
        "systemctl is-active keelson && kubectl get --raw /readyz",
    );
    m.sh("rm /run/asking; while pgrep -f /root/ask >/dev/null; do sleep 0.5; done");
    let asked = m.sh("sort /root/asked | uniq -c; rm /root/asked");
    let lines: Vec<&str> = asked.lines().collect();
    assert!(
        matches!(lines.as_slice(), [one] if one.ends_with(" yes")),
        "{what}: {asked}"
    );
}

/// systemd holds the sockets of the cluster's names while keelson restarts.
fn names(m: &mut Machine) {
    m.until(
        60,
        "[ $(systemctl show -P NFileDescriptorStore keelson) = 2 ]",
    );
    m.sh(ASKER);
    asked(m, 1, "systemctl restart keelson");
    // Who is killed takes the question with it that it has just read: who asks asks again.
    asked(m, 2, "systemctl kill -s KILL keelson");
    m.sh("rm /root/ask");
    assert_eq!(m.sh("systemctl show -P NFileDescriptorStore keelson"), "2");
}

fn cgroups(m: &mut Machine) {
    let limits = "    resources: {limits: {cpu: 200m, memory: 64Mi}}";
    let requests = "    resources: {requests: {cpu: 100m}}";
    let now = "  terminationGracePeriodSeconds: 1";
    m.sh(&(pod("limited", SLEEP, limits, now) + &pod("burst", SLEEP, requests, now)));
    m.sh(&(pod("best", SLEEP, "", now) + &ready("limited") + &ready("burst") + &ready("best")));
    let read = |what: &str| format!("{SLICE}{what}");
    // systemd is told of what stands in the cgroup, so that it stays when systemd writes it again.
    let values = "cd $(dir limited); cat memory.max cpu.max pids.max; cd cri-containerd-*.scope; cat memory.max cpu.max cpu.weight";
    let want = "67108864\n20000 100000\n100\n67108864\n20000 100000\n8";
    assert_eq!(m.sh(&read(values)), want);
    m.sh("systemctl daemon-reload");
    assert_eq!(m.sh(&read(values)), want, "after a reload");
    let units = "for p in MemoryMax CPUQuotaPerSecUSec TasksMax; do systemctl show -P $p $(slice limited); done
systemctl show -P Delegate $(basename $(dir limited)/cri-containerd-*.scope)";
    assert_eq!(m.sh(&read(units)), "67108864\n200ms\n100\nyes");
    // 100m are 102 shares.
    let weights = "cat $(dir burst burstable)/cpu.weight $(dir best besteffort)/cpu.weight /sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/cpu.weight";
    assert_eq!(m.sh(&read(weights)), "4\n1\n1");
    let inside = "cat $(sed 's#^#/proc/#; s#$#/comm#' $(dir burst burstable)/cri-containerd-*.scope/cgroup.procs)";
    assert_eq!(m.sh(&read(inside)), "busybox");
    assert_eq!(m.sh("kubectl exec burst -- /bin/sh -c 'echo said'"), "said");
    let hungry = "x=0123456789abcdef; while :; do x=$x$x; done";
    let small = "    resources: {limits: {memory: 32Mi}}";
    m.sh(&pod("hungry", hungry, small, "  restartPolicy: Never"));
    m.sh("kubectl wait pod/hungry --for=jsonpath='{.status.phase}'=Failed --timeout=120s");
    let why = "kubectl get pod hungry -o jsonpath='{.status.containerStatuses[0].state.terminated.reason}'";
    assert_eq!(m.sh(why), "OOMKilled");
    m.sh("kubectl get --raw /api/v1/nodes/machine/proxy/metrics/cadvisor | grep container_memory_working_set_bytes | grep 'container=\"main\"' | grep 'pod=\"burst\"'");
    m.sh("kubectl delete pod limited burst best hungry");
    // The demo's pods are there still.
    for left in [
        "systemctl list-units --all --plain --no-legend 'kubepods*' | grep -c -e -pod",
        "find /sys/fs/cgroup/kubepods.slice -name '*-pod*.slice' | wc -l",
    ] {
        assert_eq!(m.sh(left), "3", "{left}");
    }
}

/// logind cannot start what is masked meanwhile, and calls the shutdown off when it finds out, after all have let it
/// go on.
fn called_off(m: &mut Machine) {
    m.until(30, HELD);
    let delay = "busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager InhibitDelayMaxUSec";
    assert_eq!(m.sh(delay), "t 60000000");
    let critical = "  priorityClassName: system-node-critical\n  terminationGracePeriodSeconds: 1";
    let slow = "  terminationGracePeriodSeconds: 40";
    m.sh(&(pod("plain", SLEEP, "", "  terminationGracePeriodSeconds: 1") + &ready("plain")));
    m.sh(&(pod("slow", STUBBORN, "", slow) + &ready("slow")));
    m.sh(&(pod("critical", SLEEP, "", critical) + &ready("critical")));
    m.sh("busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager Reboot b false");
    m.sh("systemctl mask --runtime reboot.target");
    m.until(
        30,
        &format!("{NODE} | grep 'False KubeletNotReady node is shutting down'"),
    );
    m.sh(&pod("late", SLEEP, "", "  nodeName: machine"));
    m.until(
        30,
        "kubectl get pod late -o jsonpath='{.status.reason}' | grep NodeShutdown",
    );
    let late = "kubectl get pod late -o jsonpath='{.status.phase} {.status.message}'";
    assert_eq!(
        m.sh(late),
        "Failed Pod was rejected: Pod was rejected as the node is shutting down."
    );
    m.until(120, &format!("{NODE} | grep '^True KubeletReady'"));
    m.until(10, HELD);
    for name in ["plain", "slow", "critical"] {
        assert_eq!(m.sh(&how_it_ended(name)), TERMINATED, "{name}");
    }
    let ends = "for p in plain slow critical; do date -d $(kubectl get pod $p -o jsonpath='{.status.containerStatuses[0].state.terminated.finishedAt}') +%s; done";
    let ends: Vec<u64> = m
        .sh(ends)
        .lines()
        .map(|l| l.parse().expect("seconds"))
        .collect();
    assert!(ends[0] + 5 <= ends[1], "it has its own grace: {ends:?}");
    assert!(ends[1] <= ends[2], "the critical one ends last: {ends:?}");
    let told = m.sh("kubectl get events -A -o jsonpath='{range .items[?(@.reason==\"Shutdown\")]}{.message}{\"\\n\"}{end}'");
    for what in ["event", "cancellation"] {
        assert!(
            told.contains(&format!("Shutdown manager detected shutdown {what}")),
            "{told}"
        );
    }
    m.sh("systemctl unmask --runtime reboot.target; kubectl delete pod plain slow critical late");
    m.sh("kubectl rollout status deployment echo --timeout=120s");
}

fn reboot(m: &mut Machine) {
    m.sh(&(pod("plain", SLEEP, "", "  terminationGracePeriodSeconds: 5") + &ready("plain")));
    m.reboot();
    m.until(240, &how_it_ended("plain"));
    assert_eq!(m.sh(&how_it_ended("plain")), TERMINATED);
    m.until(120, &format!("{NODE} | grep '^True'"));
    m.until(120, "kubectl rollout status deployment echo --timeout=5s");
    m.sh("kubectl delete pod plain");
}
