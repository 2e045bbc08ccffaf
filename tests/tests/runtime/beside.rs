//! What stands beside a pod's containers: sidecars, ephemeral containers, those who attach, static pods.

use keelson_tests::https::Identity;
use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

use crate::life::{pod, status, until};

pub(crate) fn sidecars(bed: &Bed) {
    // Each says when it is told to end; /said outlives the pod.
    let script = |name: &str| {
        format!(
            "command: [/bin/sh, -c, 'trap \"echo {name} >>/said/order; exit 0\" TERM; echo {name}-up >>/said/order; while :; do sleep 0.1; done'], volumeMounts: [{{name: said, mountPath: /said}}]"
        )
    };
    let side = |name: &str| {
        format!(
            "{{name: {name}, image: '{ECHO}', restartPolicy: Always, {}}}",
            script(name)
        )
    };
    let volume = "volumes: [{name: said, hostPath: {path: /var/said, type: DirectoryOrCreate}}]";
    let spec = format!(
        "terminationGracePeriodSeconds: 20, readinessGates: [{{conditionType: example.com/gate}}], initContainers: [{}, {}], containers: [{{name: main, image: '{ECHO}', {}}}], {volume}",
        side("one"),
        side("two"),
        script("main")
    );
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: sides}}\nspec: {{{spec}}}\n"
    ));
    let said = || bed.server().sh("cat /var/said/order || true");
    eventually("all are up", secs(30), || {
        anyhow::ensure!(said() == "one-up\ntwo-up\nmain-up\n", "{}", said());
        Ok(())
    });
    until(
        bed,
        "sides",
        "conditions[?(@.type==\"ContainersReady\")].status",
        |s| s == "True",
    );
    let ready = "conditions[?(@.type==\"Ready\")].reason";
    assert_eq!(status(bed, "sides", ready), "ReadinessGatesNotReady");
    bed.kubectl("patch pod sides --subresource=status -p '{\"status\":{\"conditions\":[{\"type\":\"example.com/gate\",\"status\":\"True\"}]}}'");
    bed.kubectl("wait pod sides --for=condition=Ready --timeout=30s");
    bed.kubectl("delete pod sides");
    assert_eq!(said(), "one-up\ntwo-up\nmain-up\nmain\ntwo\none\n");
    // Sidecars do not keep a pod alive whose work is done.
    let spec = format!(
        "restartPolicy: Never, initContainers: [{}], containers: [{{name: main, image: '{ECHO}', command: [/bin/true]}}], {volume}",
        side("one")
    );
    pod(bed, "done", &spec);
    until(bed, "done", "phase", |p| p == "Succeeded");
    bed.kubectl("delete pod done");
}

pub(crate) fn debug(bed: &Bed) {
    pod(
        bed,
        "looked",
        &format!("containers: [{{name: c, image: '{ECHO}', args: [-listen, ':7070']}}]"),
    );
    bed.kubectl("wait pod looked --for=condition=Ready --timeout=60s");
    bed.kubectl(&format!("debug looked --image={ECHO} --target=c -c look --profile=general -- sh -c 'for p in /proc/[0-9]*; do cat $p/cmdline; echo; done; exit 3'"));
    until(
        bed,
        "looked",
        "ephemeralContainerStatuses[0].state.terminated.exitCode",
        |c| c == "3",
    );
    let log = bed.kubectl("logs looked -c look");
    assert!(log.contains(":7070"), "the target's processes: {log}");
    assert_eq!(status(bed, "looked", "phase"), "Running");
    assert_eq!(status(bed, "looked", "containerStatuses[0].ready"), "true");
    bed.kubectl("delete pod looked");
}

/// WebSockets without kubectl, as other clients open them.
pub(crate) fn sockets(bed: &Bed) {
    pod(
        bed,
        "sockets",
        &format!("containers: [{{name: c, image: '{ECHO}', args: [-listen, ':7005']}}]"),
    );
    bed.kubectl("wait pod sockets --for=condition=Ready --timeout=60s");
    let echo = "exec?command=echo&command=through&stdout=1&stderr=1&container=c";
    let rows = [
        ("log", "binary.k8s.io", "listens on"),
        (echo, "channel.k8s.io", "\u{1}through\n"),
    ];
    for (what, protocol, wanted) in rows {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", protocol),
        ];
        let path = format!("/api/v1/namespaces/default/pods/sockets/{what}");
        let answer = bed.request(&Identity::Admin, "GET", &path, &headers, b"");
        let answer = answer.unwrap();
        let head = answer.head.to_lowercase();
        assert!(
            head.contains(&format!("sec-websocket-protocol: {protocol}")),
            "{head}"
        );
        assert!(
            answer.text().contains(wanted),
            "{protocol}: {:?}",
            answer.text()
        );
    }
    bed.kubectl("delete pod sockets");
}

pub(crate) fn attach(bed: &Bed) {
    // Input without a terminal; its end ends the program.
    let run = |name: &str| {
        format!(
            "kubectl run {name} --image={ECHO} --image-pull-policy=IfNotPresent --restart=Never"
        )
    };
    let piped = bed.bash(
        &format!("echo through | {} -i --rm --command -- cat", run("piped")),
        "",
    );
    assert!(piped.ok && piped.out.contains("through\n"), "{piped:?}");
    // A terminal: what is typed is echoed, a prompt needs no newline, its size follows.
    let typed = "sleep 3; echo 'echo sum $((40+2))'; sleep 1; echo 'stty size'; sleep 1; echo exit; sleep 1";
    let line = format!(
        "script -qec \"stty rows 33 cols 99; {} -it --rm --command -- sh\" /dev/null < <({typed})",
        run("typed")
    );
    let output = bed.bash(&line, "");
    for part in ["sum 42\r\n", "33 99", "/ # "] {
        assert!(output.out.contains(part), "no {part:?}: {output:?}");
    }
    // One that has run for a while; the log has it all the same.
    bed.bash(
        &format!(
            "{} --stdin --attach=false --command -- sh -c 'read x; echo got $x; sleep 30'",
            run("later")
        ),
        "",
    );
    bed.kubectl("wait pod later --for=condition=Ready --timeout=60s");
    let got = bed.bash(
        "(echo word; sleep 2) | timeout 5 kubectl attach -i later; true",
        "",
    );
    assert!(got.out.contains("got word"), "{got:?}");
    assert!(bed.kubectl("logs later").contains("got word"));
    bed.kubectl("delete pod later --grace-period=0 --force");
}

pub(crate) fn statics(bed: &Bed) {
    let node = bed.server();
    let file = "/etc/keelson/static-pods/web.yaml";
    let write = |args: &str| {
        node.sh(&format!("mkdir -p /etc/keelson/static-pods; cat >{file} <<'END'\napiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{a: b}}}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{ECHO}', args: [{args}]}}]}}\nEND"))
    };
    write("-listen, ':7001'");
    eventually("the mirror is there", secs(30), || {
        let seen = bed.try_kubectl("wait pod web-n1 --for=condition=Ready --timeout=5s");
        anyhow::ensure!(seen.ok, "{seen:?}");
        Ok(())
    });
    assert!(bed.kubectl("logs web-n1").contains(":7001"));
    // Whoever deletes the mirror deletes nothing but the mirror.
    let (uid, id) = (
        bed.kubectl("get pod web-n1 -o jsonpath={.metadata.uid}"),
        status(bed, "web-n1", "containerStatuses[0].containerID"),
    );
    bed.kubectl("delete pod web-n1 --wait=false");
    eventually("the mirror is another one", secs(30), || {
        let now = bed.try_kubectl(
            "get pod web-n1 -o jsonpath={.metadata.uid}/{.status.containerStatuses[0].containerID}",
        );
        anyhow::ensure!(
            now.ok && !now.out.starts_with(&uid) && now.out.ends_with(&id),
            "{now:?}"
        );
        Ok(())
    });
    write("-listen, ':7002'");
    eventually("another text is another pod", secs(30), || {
        let log = bed.try_kubectl("logs web-n1");
        anyhow::ensure!(log.out.contains(":7002"), "{log:?}");
        Ok(())
    });
    node.sh(&format!("rm {file}"));
    eventually("no file, no pod", secs(30), || {
        let seen = bed.try_kubectl("get pod web-n1");
        anyhow::ensure!(seen.err.contains("not found"), "{seen:?}");
        Ok(())
    });
}

pub(crate) fn shared_processes(bed: &Bed) {
    let container = |name: &str, port: u16| {
        format!("{{name: {name}, image: '{ECHO}', args: [-listen, ':{port}']}}")
    };
    let spec = format!(
        "shareProcessNamespace: true, containers: [{}, {}]",
        container("a", 7003),
        container("b", 7004)
    );
    pod(bed, "shares", &spec);
    bed.kubectl("wait pod shares --for=condition=Ready --timeout=60s");
    let all = "sh -c 'cat /proc/[0-9]*/cmdline'";
    for c in ["a", "b"] {
        let seen = bed.kubectl(&format!("exec shares -c {c} -- {all}"));
        assert!(seen.contains(":7003") && seen.contains(":7004"), "{seen:?}");
        let first = bed.kubectl(&format!("exec shares -c {c} -- cat /proc/1/cmdline"));
        assert!(first.contains("hold"), "{first:?}");
    }
    // The first process reaps what others leave behind.
    let orphan = "sh -c '(sleep 0.2 &) ; sleep 1; /bin/busybox grep -h State: /proc/[0-9]*/status'";
    let states = bed.kubectl(&format!("exec shares -c a -- {orphan}"));
    assert!(!states.contains('Z'), "{states}");
    // A new agent finds it again; nothing is restarted.
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    let uid = bed.kubectl("get pod shares -o jsonpath={.metadata.uid}");
    let holder = || {
        let list = "ctr -n k8s.io task ls | awk '/holder/ {print $1, $2}'";
        let all = bed.server().sh(list);
        let line = all.lines().find(|l| l.starts_with(&uid)).map(str::to_owned);
        line.and_then(|l| l.split(' ').nth(1).map(str::to_owned))
    };
    let pid = holder().expect("a holder");
    bed.wait_node_ready(bed.server());
    assert_eq!(
        status(bed, "shares", "containerStatuses[0].restartCount"),
        "0"
    );
    // When it dies all die, and come again in a new sandbox.
    let ip = status(bed, "shares", "podIP");
    bed.server().sh(&format!("kill -9 {pid}"));
    until(bed, "shares", "containerStatuses[*].restartCount", |n| {
        n == "1 1"
    });
    bed.kubectl("wait pod shares --for=condition=Ready --timeout=60s");
    assert_ne!(status(bed, "shares", "podIP"), ip);
    assert_ne!(holder().expect("a holder"), pid);
    bed.wait_contains("describe pod shares", "Pod sandbox changed");
    bed.kubectl("delete pod shares");
    assert_eq!(holder(), None);
    let shims = "for p in /proc/[0-9]*; do case $(readlink $p/exe) in *shim*) tr '\\0' ' ' <$p/cmdline;; esac; done";
    eventually("no shim is left", secs(10), || {
        let all = bed.server().sh(shims);
        anyhow::ensure!(!all.contains(&uid), "{all}");
        Ok(())
    });
}
