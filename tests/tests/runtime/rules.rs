//! Restart rules, runtime handlers, and what this node cannot do.

use keelson_tests::Bed;
use keelson_tests::images::{ECHO, ECHO2};
use keelson_tests::node::CALM;

use crate::life::{pod, status, until};

pub(crate) fn restart_rules(bed: &Bed) {
    // It ends with 42 once, then with 3.
    let script = "if [ -e /v/again ]; then exit 3; fi; echo >/v/again; exit 42";
    let rule = "restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]";
    pod(
        bed,
        "rules",
        &format!(
            "restartPolicy: Never, volumes: [{{name: v, emptyDir: {{}}}}], containers: [{{name: c, image: '{ECHO}', command: [/bin/sh, -c, '{script}'], volumeMounts: [{{name: v, mountPath: /v}}], {rule}}}]"
        ),
    );
    until(bed, "rules", "phase", |p| p == "Failed");
    assert_eq!(
        status(bed, "rules", "containerStatuses[0].restartCount"),
        "1"
    );
    assert_eq!(
        status(
            bed,
            "rules",
            "containerStatuses[0].state.terminated.exitCode"
        ),
        "3"
    );
    let wrong = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: wrong}}\nspec: {{containers: [{{name: c, image: '{ECHO}', restartPolicyRules: [{{action: Restart, exitCodes: {{operator: In, values: [1]}}}}]}}]}}\n"
    );
    let error = bed.refused("apply -f -", &wrong);
    assert!(
        error.contains("must specify restartPolicy when restart rules are used"),
        "{error}"
    );
    // Another image restarts a container whatever the policy says.
    pod(
        bed,
        "renewed",
        &format!("restartPolicy: Never, containers: [{{name: c, image: '{ECHO}'}}]"),
    );
    bed.kubectl("wait pod renewed --for=condition=Ready --timeout=60s");
    bed.kubectl(&format!("set image pod/renewed c={ECHO2}"));
    until(bed, "renewed", "containerStatuses[0].restartCount", |n| {
        n == "1"
    });
    until(bed, "renewed", "containerStatuses[0].image", |i| i == ECHO2);
    bed.kubectl("wait pod renewed --for=condition=Ready --timeout=60s");
    // What this node cannot do is said.
    pod(
        bed,
        "users",
        &format!("hostUsers: false, containers: [{{name: c, image: '{ECHO}'}}]"),
    );
    bed.wait_contains("describe pod users", "does not support user namespaces");
    bed.kubectl("delete pod rules renewed users");
}

pub(crate) fn all_again(bed: &Bed) {
    let script =
        "if [ -e /v/again ]; then exec sleep infinity; fi; echo >/v/again; sleep 1; exit 9";
    let rule = "restartPolicy: Never, restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [9]}}]";
    let init =
        "command: [/bin/sh, -c, 'echo x >>/v/inits'], volumeMounts: [{name: v, mountPath: /v}]";
    pod(
        bed,
        "again",
        &format!(
            "restartPolicy: Never, volumes: [{{name: v, emptyDir: {{}}}}], initContainers: [{{name: i, image: '{ECHO}', {init}}}], containers: [{{name: a, image: '{ECHO}', command: [/bin/sh, -c, '{script}'], volumeMounts: [{{name: v, mountPath: /v}}], {rule}}}, {{name: b, image: '{ECHO}'}}]"
        ),
    );
    until(bed, "again", "containerStatuses[*].restartCount", |n| {
        n == "1 1"
    });
    bed.kubectl("wait pod again --for=condition=Ready --timeout=60s");
    assert_eq!(
        bed.kubectl("exec again -c a -- cat /v/inits"),
        "x\nx\n",
        "the init container ran again, in the same volume"
    );
    assert_eq!(status(bed, "again", "phase"), "Running");
    bed.kubectl("delete pod again");
}

const WRAPPER: &str = r#"
mkdir -p /var/lib/wrapped
cat >/var/lib/wrapped/runc <<'END'
#!/bin/sh
echo "$@" >>/var/lib/wrapped/log
exec runc "$@"
END
chmod +x /var/lib/wrapped/runc
"#;
const HANDLERS: &str = "runtimeHandlers: {wrapped: {runtimeType: io.containerd.runc.v2, binaryName: /var/lib/wrapped/runc}}\n";

pub(crate) fn handlers(bed: &Bed) {
    let node = bed.server();
    node.sh(WRAPPER);
    let file = bed.folder().join("handlers.yaml");
    std::fs::write(&file, format!("{CALM}{HANDLERS}")).unwrap();
    node.stop();
    node.start_keelson(&["server", "--config", &file.display().to_string()]);
    bed.wait_ready();
    bed.wait_node_ready(node);
    bed.apply("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: wrapped}\nhandler: wrapped\noverhead: {podFixed: {cpu: 100m, memory: 16Mi}}\n");
    let limits = "resources: {limits: {cpu: 100m, memory: 48Mi}}";
    pod(
        bed,
        "wrapped",
        &format!("runtimeClassName: wrapped, containers: [{{name: c, image: '{ECHO}', {limits}}}]"),
    );
    bed.kubectl("wait pod wrapped --for=condition=Ready --timeout=60s");
    let log = node.sh("cat /var/lib/wrapped/log");
    let uid = bed.kubectl("get pod wrapped -o jsonpath={.metadata.uid}");
    assert!(log.contains("create") && log.contains(&uid), "{log}");
    // The overhead is the pod's, not the container's.
    let found = node.sh(&format!(
        "find /sys/fs/cgroup -path '*pod{uid}*' '(' -name memory.limit_in_bytes -o -name memory.max ')' -exec cat {{}} +"
    ));
    for limit in ["67108864", "50331648"] {
        assert_eq!(found.lines().filter(|l| *l == limit).count(), 1, "{found}");
    }
    bed.kubectl("delete pod wrapped");
    node.stop();
    node.start_keelson(&["server"]);
    bed.wait_ready();
    bed.wait_node_ready(node);
}
