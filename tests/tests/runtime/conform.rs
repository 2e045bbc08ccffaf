//! What upstream's conformance tests ask of a node, in as few pods as it takes.

use keelson_tests::bed::json;
use keelson_tests::images::{ECHO, ECHO2};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

use crate::life::{pod, status, until};
use crate::volumes::{has_lines, run};

/// A pod with this specification and metadata besides the name.
fn with_meta(bed: &Bed, name: &str, meta: &str, spec: &str) {
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, {meta}}}\nspec: {{terminationGracePeriodSeconds: 0, {spec}}}\n"
    ));
}

pub(crate) fn messages(bed: &Bed) {
    let container = |name: &str, script: &str, more: &str| {
        format!("{{name: {name}, image: '{ECHO}', command: [/bin/sh, -c, '{script}'], {more}}}")
    };
    let fallback = "terminationMessagePolicy: FallbackToLogsOnError";
    let custom =
        "terminationMessagePath: /dev/termination-custom-log, securityContext: {runAsUser: 1000}";
    let list = [
        container("tail", "/bin/echo -n DONE; exit 1", fallback),
        container("good", "echo DONE; exit 0", fallback),
        container("file", "echo -n OK >/dev/termination-log; exit 0", fallback),
        container("user", "echo -n DONE >/dev/termination-custom-log", custom),
    ];
    let spec = format!("restartPolicy: Never, containers: [{}]", list.join(", "));
    pod(bed, "messages", &spec);
    until(bed, "messages", "phase", |p| p == "Failed");
    for (name, wanted) in [
        ("tail", "DONE"),
        ("good", ""),
        ("file", "OK"),
        ("user", "DONE"),
    ] {
        let path = format!("containerStatuses[?(@.name==\"{name}\")].state.terminated.message");
        assert_eq!(status(bed, "messages", &path), wanted, "{name}");
    }
    bed.kubectl("delete pod messages");
}

/// Whoever is told of a container's end finds all of its log, however far behind the logger is.
pub(crate) fn last_words(bed: &Bed) {
    let script = "until test -e /end; do sleep 0.1; done; seq 2000; /bin/echo -n DONE; exit 1";
    let container = format!(
        "{{name: c, image: '{ECHO}', command: [/bin/sh, -c, '{script}'], terminationMessagePolicy: FallbackToLogsOnError}}"
    );
    pod(
        bed,
        "words",
        &format!("restartPolicy: Never, containers: [{container}]"),
    );
    until(bed, "words", "phase", |p| p == "Running");
    let logger = "pgrep -f '^[^ ]*keelson-logger log .*/default_words_'";
    let signal = |s| bed.server().sh(&format!("kill -{s} $({logger})"));
    let runs = || bed.server().sh("pgrep -f '^/bin/sh -c until test' || true");
    signal("STOP");
    bed.kubectl("exec words -- /bin/sh -c ': >/end'");
    eventually("its process has ended", secs(30), || {
        anyhow::ensure!(runs().is_empty(), "{}", runs());
        Ok(())
    });
    std::thread::sleep(secs(1));
    assert_eq!(status(bed, "words", "phase"), "Running");
    signal("CONT");
    until(bed, "words", "phase", |p| p == "Failed");
    let log = bed.kubectl("logs words");
    assert_eq!(log.lines().count(), 2001);
    assert!(log.ends_with("2000\nDONE"), "{log}");
    let path = "containerStatuses[0].state.terminated.message";
    assert!(status(bed, "words", path).ends_with("2000\nDONE"));
    bed.kubectl("delete pod words");
}

pub(crate) fn hosts(bed: &Bed) {
    let mount = "volumeMounts: [{name: own, mountPath: /etc/hosts, subPath: hosts}]";
    let cat = "command: [/bin/cat, /etc/hosts]";
    // With the line's end: kubectl prints the containers' logs in any order.
    bed.kubectl(r"create cm hosts --from-literal=hosts=$'mine\n'");
    bed.kubectl("create service clusterip fooservice --tcp=8765:8080");
    let aliases = "hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]";
    let spec = format!(
        "{aliases}\ncontainers: [{{name: a, image: '{ECHO}', {cat}}}, {{name: b, image: '{ECHO}', {cat}, {mount}}}]\nvolumes: [{{name: own, configMap: {{name: hosts}}}}]"
    );
    let log = run(bed, "hosts", &spec);
    has_lines(
        &log,
        &[
            "# Kubernetes-managed hosts file.",
            "123.45.67.89\tfoo\tbar",
            "mine",
        ],
    );
    let spec = format!("hostNetwork: true\ncontainers: [{{name: a, image: '{ECHO}', {cat}}}]");
    let log = run(bed, "hosts", &spec);
    assert!(!log.contains("# Kubernetes-managed hosts file.\n"), "{log}");
    let names = "hostname: me\nsubdomain: sub\nsetHostnameAsFQDN: true\ndnsPolicy: None\ndnsConfig: {nameservers: [192.0.2.7], searches: [here], options: [{name: ndots, value: '2'}]}";
    let spec = format!(
        "{names}\ncontainers: [{{name: a, image: '{ECHO}', command: [/bin/sh, -c, 'hostname; cat /etc/resolv.conf; env']}}]"
    );
    let log = run(
        bed,
        "named",
        &spec.replace("'hostname;", "'cat /proc/sys/kernel/hostname;"),
    );
    has_lines(
        &log,
        &[
            "me.sub.default.svc.cluster.local",
            "search here",
            "nameserver 192.0.2.7",
            "options ndots:2",
            "FOOSERVICE_SERVICE_PORT=8765",
            "FOOSERVICE_PORT_8765_TCP_PROTO=tcp",
        ],
    );
    bed.kubectl("delete service fooservice");
}

pub(crate) fn sub_paths(bed: &Bed) {
    let env = "env: [{name: UP, value: '..'}, {name: ROOT, value: /tmp}, {name: NOTE, valueFrom: {fieldRef: {fieldPath: 'metadata.annotations[''note'']'}}}]";
    let part = |name: &str, mount: &str| {
        let spec = format!(
            "containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, 'echo >/v/file; exec sleep infinity'], {env}, volumeMounts: [{{name: v, mountPath: /v, {mount}}}, {{name: v, mountPath: /all}}]}}], volumes: [{{name: v, emptyDir: {{}}}}]"
        );
        with_meta(bed, name, "annotations: {other: x}", &spec);
    };
    part("up", "subPathExpr: $(UP)");
    part("root", "subPathExpr: $(ROOT)");
    part("unset", "subPathExpr: $(NONE)/x");
    part("later", "subPathExpr: $(NOTE)/in");
    for name in ["up", "root", "unset", "later"] {
        bed.wait_contains(&format!("get pod {name}"), "CreateContainerConfigError");
    }
    // A pod that failed so recovers when what it refers to appears.
    bed.kubectl("annotate pod later note=mypath");
    bed.kubectl("wait pod later --for=condition=Ready --timeout=60s");
    bed.kubectl("exec later -- test -f /all/mypath/in/file");
    // A container made a link that leads out: whoever mounts below it next gets nothing of the node's.
    let first = format!(
        "{{name: i, image: '{ECHO}', command: [/bin/busybox, ln, -s, /etc, /v/link], volumeMounts: [{{name: v, mountPath: /v}}]}}"
    );
    let spec = format!(
        "initContainers: [{first}], containers: [{{name: c, image: '{ECHO}', volumeMounts: [{{name: v, mountPath: /v, subPath: link}}]}}], volumes: [{{name: v, emptyDir: {{}}}}]"
    );
    pod(bed, "link", &spec);
    bed.wait_contains("describe pod link", "not within volume path");
    bed.kubectl("delete pod up root unset later link");
}

pub(crate) fn follow(bed: &Bed) {
    bed.kubectl("create cm follows --from-literal=a=old --from-literal=gone=1");
    let projected = "{secret: {name: appears, optional: true}}, {configMap: {name: follows, items: [{key: a, path: all-a}]}}, {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: notes, fieldRef: {fieldPath: metadata.annotations}}]}}";
    let spec = format!(
        "containers: [{{name: c, image: '{ECHO}', command: [/bin/sleep, infinity], volumeMounts: [{{name: cm, mountPath: /cm}}, {{name: all, mountPath: /all}}]}}], volumes: [{{name: cm, configMap: {{name: follows}}}}, {{name: all, projected: {{sources: [{projected}]}}}}]"
    );
    with_meta(bed, "follows", "labels: {k: one}", &spec);
    bed.kubectl("wait pod follows --for=condition=Ready --timeout=60s");
    assert_eq!(
        bed.kubectl("exec follows -- cat /cm/a /all/all-a"),
        "oldold"
    );
    bed.kubectl("label pod follows k=two --overwrite");
    bed.kubectl("annotate pod follows said=so");
    bed.kubectl("create secret generic appears --from-literal=s=secret");
    bed.kubectl("patch cm follows --type=json -p '[{\"op\":\"replace\",\"path\":\"/data\",\"value\":{\"a\":\"new\",\"b\":\"more\"}}]'");
    // Well below the minute after which everything is looked at anyway.
    eventually("the files follow", secs(20), || {
        let now = bed.kubectl("exec follows -- sh -c 'cat /cm/a /cm/b /all/all-a /all/s /all/labels /all/notes; ls /cm | cat; true'");
        for part in ["newmorenewsecret", "k=\"two\"", "said=\"so\""] {
            anyhow::ensure!(now.contains(part), "{now}");
        }
        anyhow::ensure!(!now.contains("gone"), "{now}");
        Ok(())
    });
    bed.kubectl("delete pod follows");
}

pub(crate) fn empty_dirs(bed: &Bed) {
    // The modes upstream's mounttest makes, as root and as somebody else.
    let script = "umask 0; for d in /disk /mem; do echo $d >$d/$U; /bin/busybox chmod 0666 $d/$U; ls -ln $d/$U; ls -lnd $d; grep \" $d \" /proc/mounts; done; true";
    let container = |name: &str, user: u32| {
        format!(
            "{{name: {name}, image: '{ECHO}', command: [/bin/sh, -c, '{script}'], env: [{{name: U, value: {name}}}], securityContext: {{runAsUser: {user}}}, volumeMounts: [{{name: disk, mountPath: /disk}}, {{name: mem, mountPath: /mem}}]}}"
        )
    };
    let spec = format!(
        "securityContext: {{fsGroup: 123}}\ncontainers: [{}, {}]\nvolumes: [{{name: disk, emptyDir: {{}}}}, {{name: mem, emptyDir: {{medium: Memory, sizeLimit: 4Mi}}}}]",
        container("root", 0),
        container("other", 1001)
    );
    let log = run(bed, "modes", &spec.replace("grep", "/bin/busybox grep"));
    let count = |part: &str| log.lines().filter(|l| l.contains(part)).count();
    assert_eq!(count("-rw-rw-rw-"), 4, "{log}");
    assert_eq!(count("drwxrwsrwx"), 4, "{log}");
    assert!(
        count("tmpfs /mem tmpfs rw") == 2 && count("size=4096k") == 2,
        "{log}"
    );
    // Files inherit the volume's group.
    assert_eq!(
        log.lines().filter(|l| l.contains(" 123 ")).count(),
        8,
        "{log}"
    );
}

pub(crate) fn updates(bed: &Bed) {
    pod(
        bed,
        "short",
        &format!("containers: [{{name: c, image: '{ECHO}'}}], activeDeadlineSeconds: 600"),
    );
    pod(
        bed,
        "image",
        &format!("containers: [{{name: c, image: '{ECHO}'}}]"),
    );
    bed.kubectl("wait pod short image --for=condition=Ready --timeout=60s");
    bed.kubectl("patch pod short -p '{\"spec\":{\"activeDeadlineSeconds\":1}}'");
    bed.kubectl(&format!("set image pod/image c={ECHO2}"));
    until(bed, "short", "phase", |p| p == "Failed");
    assert_eq!(status(bed, "short", "reason"), "DeadlineExceeded");
    until(bed, "image", "containerStatuses[0].restartCount", |n| {
        n == "1"
    });
    until(
        bed,
        "image",
        "containerStatuses[0].state.running.startedAt",
        |t| !t.is_empty(),
    );
    let image = status(bed, "image", "containerStatuses[0].image");
    assert_eq!(image, ECHO2);
    let events = bed.kubectl("get events --field-selector involvedObject.name=image,source=kubelet,reason=Killing -o jsonpath={.items[*].message}");
    assert!(
        events.contains("Container c definition changed, will be restarted"),
        "{events}"
    );
    bed.kubectl("delete pod short image");
}

pub(crate) fn refused(bed: &Bed) {
    let rows = [
        (
            "sysctl",
            "securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}]}",
            "",
            "SysctlForbidden",
        ),
        ("affinity", "nodeSelector: {no: where}", "", "NodeAffinity"),
        (
            "cpu",
            "dnsPolicy: Default",
            "resources: {requests: {cpu: '500'}}",
            "OutOfcpu",
        ),
        (
            "ports",
            "dnsPolicy: Default",
            "ports: [{containerPort: 1, hostPort: 45678}]",
            "NodePorts",
        ),
    ];
    let taken = format!(
        "nodeName: n1, containers: [{{name: c, image: '{ECHO}', ports: [{{containerPort: 1, hostPort: 45678}}]}}]"
    );
    pod(bed, "taken", &taken);
    bed.kubectl("wait pod taken --for=condition=Ready --timeout=60s");
    for (name, more, container, _) in rows {
        pod(
            bed,
            name,
            &format!(
                "nodeName: n1, {more}, containers: [{{name: c, image: '{ECHO}', {container}}}]"
            ),
        );
    }
    for (name, .., reason) in rows {
        until(bed, name, "phase", |p| p == "Failed");
        let seen = json(&bed.kubectl(&format!("get pod {name} -o json")));
        assert_eq!(seen["status"]["reason"], reason, "{seen}");
        assert!(
            seen["status"]["message"]
                .as_str()
                .unwrap()
                .starts_with("Pod was rejected: "),
            "{seen}"
        );
    }
    // A RuntimeClass whose runtime is not here, and one whose is.
    for handler in ["runc", "other"] {
        bed.apply(&format!("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {handler}}}\nhandler: {handler}\noverhead: {{podFixed: {{cpu: 7m}}}}\n"));
        pod(
            bed,
            handler,
            &format!("runtimeClassName: {handler}, containers: [{{name: c, image: '{ECHO}'}}]"),
        );
    }
    bed.kubectl("wait pod runc --for=condition=Ready --timeout=60s");
    assert_eq!(
        bed.kubectl("get pod runc -o jsonpath={.spec.overhead.cpu}"),
        "7m"
    );
    bed.wait_contains(
        "describe pod other",
        "no runtime for \"other\" is configured",
    );
    bed.kubectl("delete pod taken sysctl affinity cpu ports runc other");
}
