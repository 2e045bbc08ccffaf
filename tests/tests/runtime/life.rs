//! From start to end: order, restarts, probes, signals, limits.

use keelson_tests::bed::json;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

use crate::volumes::{has_lines, run};

pub(crate) fn pod(bed: &Bed, name: &str, spec: &str) {
    bed.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 1, {spec}}}\n"));
}

pub(crate) fn status(bed: &Bed, name: &str, path: &str) -> String {
    bed.kubectl(&format!("get pod {name} -o jsonpath='{{.status.{path}}}'"))
}

pub(crate) fn until(bed: &Bed, name: &str, path: &str, wanted: impl Fn(&str) -> bool) {
    eventually(&format!("{path} of {name}"), secs(90), || {
        let now = status(bed, name, path);
        anyhow::ensure!(
            wanted(&now),
            "it is {now:?}\n{}",
            bed.try_kubectl(&format!("describe pod {name}")).out
        );
        Ok(())
    });
}

pub(crate) fn init(bed: &Bed) {
    let step = |n: u8| {
        format!(
            "{{name: i{n}, image: '{ECHO}', command: [/bin/sh, -c, 'cat /v/log; echo {n} >>/v/log'], volumeMounts: [{{name: v, mountPath: /v}}]}}"
        )
    };
    let spec = format!(
        "initContainers: [{}, {}]\ncontainers: [{{name: c, image: '{ECHO}', command: [/bin/cat, /v/log], volumeMounts: [{{name: v, mountPath: /v}}]}}]\nvolumes: [{{name: v, emptyDir: {{}}}}]",
        step(1),
        step(2)
    );
    let log = run(bed, "inits", &spec);
    // kubectl shows the containers in no order of its own: none, then one line, then both.
    let ones = log.lines().filter(|l| *l == "1").count();
    assert!(
        log.contains("can't open") && log.contains("1\n2\n") && ones == 2,
        "{log}"
    );
    pod(
        bed,
        "stuck",
        &format!(
            "restartPolicy: Never, initContainers: [{{name: i, image: '{ECHO}', command: [/bin/sh, -c, 'exit 3']}}], containers: [{{name: c, image: '{ECHO}'}}]"
        ),
    );
    until(bed, "stuck", "phase", |p| p == "Failed");
    assert!(bed.kubectl("get pod stuck").contains("Init:Error"));
    assert_eq!(
        status(
            bed,
            "stuck",
            "initContainerStatuses[0].state.terminated.exitCode"
        ),
        "3"
    );
    bed.kubectl("delete pod stuck");
}

pub(crate) fn crash(bed: &Bed) {
    pod(
        bed,
        "crash",
        &format!(
            "containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, 'echo run $$; exit 5'], terminationMessagePolicy: FallbackToLogsOnError}}]"
        ),
    );
    until(
        bed,
        "crash",
        "containerStatuses[0].state.waiting.reason",
        |r| r == "CrashLoopBackOff",
    );
    assert!(bed.kubectl("get pod crash").contains("CrashLoopBackOff"));
    until(bed, "crash", "containerStatuses[0].restartCount", |n| {
        n.parse().unwrap_or(0) >= 1
    });
    until(
        bed,
        "crash",
        "containerStatuses[0].lastState.terminated.exitCode",
        |c| c == "5",
    );
    assert!(
        status(
            bed,
            "crash",
            "containerStatuses[0].lastState.terminated.message"
        )
        .contains("run")
    );
    bed.wait_contains("describe pod crash", "Back-off restarting failed container");
    pod(
        bed,
        "once",
        &format!(
            "restartPolicy: OnFailure, containers: [{{name: c, image: '{ECHO}', command: [/bin/true]}}]"
        ),
    );
    until(bed, "once", "phase", |p| p == "Succeeded");
    assert_eq!(
        status(bed, "once", "containerStatuses[0].state.terminated.reason"),
        "Completed"
    );
    pod(
        bed,
        "never",
        &format!(
            "restartPolicy: Never, containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, 'echo why >/dev/termination-log; exit 9']}}]"
        ),
    );
    until(bed, "never", "phase", |p| p == "Failed");
    assert_eq!(
        status(
            bed,
            "never",
            "containerStatuses[0].state.terminated.exitCode"
        ),
        "9"
    );
    assert_eq!(
        status(
            bed,
            "never",
            "containerStatuses[0].state.terminated.message"
        )
        .trim(),
        "why"
    );
    pod(
        bed,
        "nofile",
        &format!("containers: [{{name: c, image: '{ECHO}', command: [/none]}}]"),
    );
    bed.wait_contains("describe pod nofile", "/none");
    bed.kubectl("delete pod crash once never nofile");
}

pub(crate) fn logs(bed: &Bed) {
    let talk = "i=0; while [ $i -lt 5 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; [ -e /v/again ] && exec sleep infinity; touch() { echo >$1; }; touch /v/again; exit 1";
    pod(
        bed,
        "talks",
        &format!(
            "containers: [{{name: a, image: '{ECHO}', command: [/bin/sh, -c, '{talk}'], volumeMounts: [{{name: v, mountPath: /v}}]}}, {{name: b, image: '{ECHO}'}}], volumes: [{{name: v, emptyDir: {{}}}}]"
        ),
    );
    until(
        bed,
        "talks",
        "containerStatuses[?(@.name==\"a\")].restartCount",
        |n| n == "1",
    );
    bed.kubectl("wait pod talks --for=condition=Ready --timeout=60s");
    let log = bed.kubectl("logs talks -c a");
    has_lines(&log, &["out 0", "err 4"]);
    assert_eq!(log.lines().count(), 10, "{log}");
    assert_eq!(
        bed.kubectl("logs talks -c a --previous").lines().count(),
        10
    );
    assert_eq!(bed.kubectl("logs talks -c a --tail=3").lines().count(), 3);
    assert!(bed.kubectl("logs talks -c b").contains("listens on"));
    assert!(
        bed.kubectl("logs talks").contains("out 0"),
        "the first container is the default"
    );
    assert!(
        bed.kubectl("logs talks -c a --timestamps --tail=1")
            .starts_with("20")
    );
    assert!(
        bed.kubectl("logs talks --all-containers --prefix")
            .contains("[pod/talks/b]")
    );
    assert_eq!(bed.kubectl("logs talks -c a --limit-bytes=4"), "out ");
    assert!(
        bed.refused("logs talks -c c", "")
            .contains("container c is not valid for pod talks")
    );
    let error = bed.refused("logs talks -c b --previous", "");
    assert!(
        error.contains("previous terminated container \"b\" in pod \"talks\" not found"),
        "{error}"
    );
    // Files as CRI writes them.
    let line = bed
        .server()
        .sh("cat /var/log/pods/default_talks_*/a/0.log | head -1");
    let words: Vec<&str> = line.trim().splitn(4, ' ').collect();
    assert!(
        words[0].len() > 20 && ["stdout", "stderr"].contains(&words[1]) && words[2] == "F",
        "{line}"
    );
    // Followed to the container's end.
    pod(
        bed,
        "counts",
        &format!(
            "restartPolicy: Never, containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, 'for i in 1 2 3 4 5; do echo line $i; sleep 0.3; done']}}]"
        ),
    );
    until(
        bed,
        "counts",
        "containerStatuses[0].state.*.startedAt",
        |t| !t.is_empty(),
    );
    let followed = bed.bash("timeout 30 kubectl logs -f counts", "");
    assert!(
        followed.ok && followed.out == "line 1\nline 2\nline 3\nline 4\nline 5\n",
        "{followed:?}"
    );
    bed.kubectl("delete pod talks counts");
}

pub(crate) fn exec(bed: &Bed) {
    pod(
        bed,
        "shell",
        &format!("containers: [{{name: c, image: '{ECHO}', command: [/bin/sleep, infinity]}}]"),
    );
    bed.kubectl("wait pod shell --for=condition=Ready --timeout=60s");
    bed.kubectl("exec shell -- true");
    let big = "x".repeat(1 << 20);
    let output = bed.bash(
        "kubectl exec -i shell -- sh -c 'wc=$(cat); echo ${#wc}'",
        &big,
    );
    assert_eq!(output.out.trim(), big.len().to_string(), "{}", output.err);
    let output = bed.try_kubectl("exec shell -- sh -c 'echo out; echo err >&2; exit 42'");
    assert_eq!(
        (
            output.out.as_str(),
            output.err.contains("err\n"),
            output.err.contains("exit code 42")
        ),
        ("out\n", true, true),
        "{output:?}"
    );
    assert!(bed.refused("exec shell -- /none", "").contains("/none"));
    let tty = r#"script -qec "stty rows 40 cols 100; kubectl exec -it shell -- sh -c 'tty; until [ -n \"\$s\" ]; do s=\$(stty size 2>/dev/null); done; echo \$s; echo bye'" /dev/null < <(sleep 3 2>/dev/null)"#;
    let output = bed.bash(tty, "");
    assert!(
        output.out.contains("40 100") && output.out.contains("bye\r\n"),
        "{output:?}"
    );
    // A terminal's last words are not lost when the program ends.
    for n in 0..3 {
        let line = format!(
            "script -qec 'kubectl exec -it shell -- echo last {n}' /dev/null < <(sleep 2 2>/dev/null)"
        );
        let output = bed.bash(&line, "");
        assert!(output.out.contains(&format!("last {n}\r\n")), "{output:?}");
    }
    // Exec'd processes end with their client.
    let output = bed.bash("timeout 2 kubectl exec -i shell -- sleep 7777; sleep 1", "");
    assert!(!output.err.contains("rror from server"), "{output:?}");
    let copy = bed.bash("echo content >f; kubectl exec -i shell -- sh -c 'cat >/f' <f; kubectl exec shell -- cat /f", "");
    assert_eq!(copy.out, "content\n", "{copy:?}");
    bed.kubectl("delete pod shell");
}

pub(crate) fn probes(bed: &Bed) {
    let file = |kind: &str, path: &str| {
        format!(
            "{kind}: {{exec: {{command: [/bin/test, -e, {path}]}}, periodSeconds: 1, failureThreshold: 1}}"
        )
    };
    let (ready, live) = (
        file("readinessProbe", "/ready"),
        file("livenessProbe", "/live"),
    );
    pod(
        bed,
        "probed",
        &format!(
            "containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, 'echo >/live; exec sleep infinity'], {ready}, {live}}}]"
        ),
    );
    until(bed, "probed", "containerStatuses[0].started", |s| {
        s == "true"
    });
    bed.wait_contains("describe pod probed", "Readiness probe failed");
    assert_eq!(status(bed, "probed", "containerStatuses[0].ready"), "false");
    bed.kubectl("exec probed -- sh -c 'echo >/ready'");
    bed.kubectl("wait pod probed --for=condition=Ready --timeout=30s");
    bed.kubectl("exec probed -- /bin/busybox rm -f /ready");
    bed.kubectl("wait pod probed --for=condition=Ready=false --timeout=30s");
    bed.kubectl("exec probed -- /bin/busybox rm /live");
    until(bed, "probed", "containerStatuses[0].restartCount", |n| {
        n == "1"
    });
    bed.wait_contains(
        "describe pod probed",
        "failed liveness probe, will be restarted",
    );
    let port = "httpGet: {path: /healthz, port: web}";
    pod(
        bed,
        "started",
        &format!(
            "containers: [{{name: c, image: '{ECHO}', ports: [{{containerPort: 8080, name: web}}], startupProbe: {{{port}, periodSeconds: 1}}, livenessProbe: {{{port}, periodSeconds: 1}}, readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}}}]"
        ),
    );
    bed.kubectl("wait pod started --for=condition=Ready --timeout=60s");
    assert_eq!(
        status(bed, "started", "containerStatuses[0].restartCount"),
        "0"
    );
    bed.kubectl("delete pod probed started");
}

pub(crate) fn grace(bed: &Bed) {
    bed.server().sh("mkdir -p /var/said");
    let volume = "volumeMounts: [{name: v, mountPath: /v}]";
    let script =
        "trap \"echo term >>/v/log; exit 0\" TERM; echo up >>/v/log; while :; do sleep 0.1; done";
    bed.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: grace}}\nspec: {{terminationGracePeriodSeconds: 20, containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, '{script}'], {volume}, lifecycle: {{postStart: {{exec: {{command: [/bin/sh, -c, 'echo post >>/v/log']}}}}, preStop: {{exec: {{command: [/bin/sh, -c, 'echo pre >>/v/log']}}}}}}}}], volumes: [{{name: v, hostPath: {{path: /var/said}}}}]}}\n"));
    bed.kubectl("wait pod grace --for=condition=Ready --timeout=60s");
    bed.kubectl("delete pod grace --timeout=60s");
    let said = bed.server().sh("cat /var/said/log");
    assert!(
        said.contains("up\n") && said.contains("post\n") && said.ends_with("pre\nterm\n"),
        "{said}"
    );
    // What does not end by itself is ended.
    pod(
        bed,
        "deaf",
        &format!(
            "containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, 'trap true TERM; while :; do sleep 1; done']}}]"
        ),
    );
    bed.kubectl("wait pod deaf --for=condition=Ready --timeout=60s");
    bed.kubectl("delete pod deaf --timeout=60s");
}

pub(crate) fn oom(bed: &Bed) {
    pod(
        bed,
        "eats",
        &format!(
            "restartPolicy: Never, containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, 'x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done'], resources: {{limits: {{memory: 24Mi}}}}}}]"
        ),
    );
    until(
        bed,
        "eats",
        "containerStatuses[0].state.terminated.reason",
        |r| r == "OOMKilled",
    );
    assert_eq!(
        status(
            bed,
            "eats",
            "containerStatuses[0].state.terminated.exitCode"
        ),
        "137"
    );
    bed.kubectl("delete pod eats");
}

pub(crate) fn cgroups(bed: &Bed) {
    let limits =
        "resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}";
    pod(
        bed,
        "limited",
        &format!("containers: [{{name: c, image: '{ECHO}', {limits}}}]"),
    );
    pod(
        bed,
        "equal",
        &format!(
            "containers: [{{name: c, image: '{ECHO}', resources: {{limits: {{cpu: 100m, memory: 32Mi}}}}}}]"
        ),
    );
    pod(
        bed,
        "best",
        &format!("containers: [{{name: c, image: '{ECHO}'}}]"),
    );
    bed.kubectl("wait pod limited equal best --for=condition=Ready --timeout=60s");
    for (name, qos) in [
        ("limited", "Burstable"),
        ("equal", "Guaranteed"),
        ("best", "BestEffort"),
    ] {
        assert_eq!(status(bed, name, "qosClass"), qos);
    }
    let node = bed.server();
    let uid = bed.kubectl("get pod limited -o jsonpath={.metadata.uid}");
    let v2 = node
        .space
        .sh("test -e /sys/fs/cgroup/cgroup.controllers")
        .is_ok();
    let files: &[(&str, &str, &str)] = match v2 {
        true => &[
            ("", "cpu.max", "50000 100000"),
            ("", "memory.max", "67108864"),
        ],
        false => &[
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpu", "cpu.shares", "102"),
            ("memory", "memory.limit_in_bytes", "67108864"),
        ],
    };
    for (hierarchy, file, value) in files {
        let dir = format!("/sys/fs/cgroup/{hierarchy}/{}", node.cgroup);
        let found = node.sh(&format!(
            "find {dir} -path '*burstable*{uid}*' -name {file} -exec cat {{}} +"
        ));
        // The pod's and the container's.
        assert!(
            found.lines().filter(|l| l == value).count() >= 2,
            "{file}: {found}"
        );
    }
    // The class as a whole: as much as its pods ask for.
    if !v2 {
        let file = format!("/sys/fs/cgroup/cpu/{}/burstable/cpu.shares", node.cgroup);
        assert_eq!(node.sh(&format!("cat {file}")).trim(), "102");
    }
    let score = |name: &str| {
        bed.kubectl(&format!("exec {name} -- cat /proc/self/oom_score_adj"))
            .trim()
            .parse::<i32>()
            .unwrap()
    };
    assert!(
        score("best") > score("limited"),
        "{} {}",
        score("best"),
        score("limited")
    );
    bed.kubectl("delete pod limited equal best");
    eventually("the pod's cgroups are gone", secs(30), || {
        let left = node.sh(&format!("find /sys/fs/cgroup -type d -path '*{uid}*'"));
        anyhow::ensure!(left.is_empty(), "{left}");
        Ok(())
    });
}

pub(crate) fn pending(bed: &Bed) {
    for (name, container, pod_too, why) in [
        (
            "big",
            ", resources: {requests: {cpu: '500'}}",
            "",
            "Insufficient cpu",
        ),
        (
            "far",
            "",
            ", nodeSelector: {nowhere: ''}",
            "didn't match Pod's node affinity/selector",
        ),
    ] {
        let spec = format!("containers: [{{name: c, image: '{ECHO}'{container}}}]{pod_too}");
        pod(bed, name, &spec);
        let text = bed.wait_contains(&format!("describe pod {name}"), why);
        assert!(
            text.contains("FailedScheduling") && text.contains("0/1 nodes are available"),
            "{text}"
        );
        let list = json(&bed.kubectl(&format!("get pod {name} -o json")));
        assert_eq!(
            list["status"]["conditions"][0]["reason"], "Unschedulable",
            "{list}"
        );
    }
    bed.kubectl("delete pod big far");
}
