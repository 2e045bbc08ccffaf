//! Jobs, CronJobs and the workloads beside Deployments, on a node.

use keelson_tests::bed::json;
use keelson_tests::images::{ECHO, ECHO2};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use serde_json::Value;

fn get(bed: &Bed, what: &str) -> Value {
    json(&bed.kubectl(&format!("get {what} -o json")))
}

/// A template's indented lines: `command` runs in a shell.
fn template(label: &str, command: &str) -> String {
    format!(
        "  template:
    metadata: {{labels: {{app: {label}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      restartPolicy: RESTART
      containers:
      - {{name: c, image: '{ECHO}', command: [sh, -c, '{command}']}}
"
    )
}

fn job(name: &str, fields: &str, command: &str) -> String {
    let template = template(name, command).replace("RESTART", "Never");
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  {fields}\n{template}"
    )
}

pub(crate) fn jobs(bed: &Bed) {
    bed.kubectl(&format!("create job once --image={ECHO} -- true"));
    bed.apply(&job(
        "each",
        "completionMode: Indexed\n  completions: 3\n  parallelism: 2",
        "echo $JOB_COMPLETION_INDEX; cat /etc/hostname",
    ));
    bed.apply(&job("never", "backoffLimit: 0", "exit 3"));
    bed.apply(&job("long", "parallelism: 2", "sleep 1000"));
    bed.kubectl("wait job once each --for=condition=complete --timeout=60s");
    bed.kubectl("wait job never --for=condition=failed --timeout=60s");
    let once = get(bed, "job once");
    let status = &once["status"];
    assert_eq!(
        (&status["succeeded"], &status["failed"]),
        (&1.into(), &Value::Null)
    );
    assert_eq!(status["uncountedTerminatedPods"], serde_json::json!({}));
    let held = "get pods -l job-name -o jsonpath='{.items[?(@.status.phase!=\"Running\")].metadata.finalizers}'";
    assert_eq!(bed.kubectl(held), "", "nothing is held when it is counted");
    assert_eq!(get(bed, "job each")["status"]["completedIndexes"], "0-2");
    let logs = bed.kubectl("logs -l batch.kubernetes.io/job-completion-index=1,job-name=each");
    assert_eq!(logs.trim(), "1\neach-1");
    let never = get(bed, "job never");
    assert_eq!(
        (&never["status"]["failed"], &never["status"]["active"]),
        (&1.into(), &Value::Null)
    );
    let described = bed.kubectl("describe job never");
    assert!(described.contains("BackoffLimitExceeded"), "{described}");

    // Whose pods are whose.
    let pod = |n: usize| get(bed, "pods -l job-name=long")["items"][n]["metadata"]["name"].clone();
    let of = |pod: &Value, field: &str| {
        let pod = pod.as_str().unwrap();
        bed.kubectl(&format!(
            "get pod {pod} -o jsonpath='{{.metadata.{field}}}'"
        ))
    };
    eventually("two run", secs(30), || {
        anyhow::ensure!(get(bed, "job long")["status"]["ready"] == 2);
        Ok(())
    });
    let (orphan, lost) = (pod(0), pod(1));
    bed.kubectl(&format!(
        "patch pod {orphan} --type=merge -p '{{\"metadata\":{{\"ownerReferences\":null}}}}'"
    ));
    eventually("adopted again", secs(30), || {
        anyhow::ensure!(of(&orphan, "ownerReferences[0].name") == "long");
        Ok(())
    });
    bed.kubectl(&format!("label pod {lost} --overwrite job-name=x controller-uid=x batch.kubernetes.io/controller-uid=x"));
    eventually("let go", secs(30), || {
        anyhow::ensure!(
            of(&lost, "ownerReferences").is_empty() && of(&lost, "finalizers").is_empty()
        );
        Ok(())
    });
    bed.kubectl("patch job long --type=merge -p '{\"spec\":{\"suspend\":true}}'");
    bed.kubectl("wait job long --for=condition=suspended --timeout=30s");
    bed.wait_for("get pods -l job-name=long --no-headers | wc -l", "0");
    assert_eq!(get(bed, "job long")["status"]["failed"], Value::Null);
    bed.kubectl(&format!("delete pod {lost}"));
    bed.kubectl("delete job --all --timeout=30s");
    bed.wait_for("get pods -l job-name --no-headers | wc -l", "0");
}

pub(crate) fn cron_jobs(bed: &Bed) {
    bed.kubectl(&format!(
        "create cronjob yearly --schedule=@yearly --image={ECHO} -- echo made"
    ));
    bed.kubectl("create job by-hand --from=cronjob/yearly");
    bed.kubectl("wait job by-hand --for=condition=complete --timeout=60s");
    assert_eq!(bed.kubectl("logs job/by-hand").trim(), "made");
    bed.kubectl(&format!(
        "create cronjob tick --schedule='@every 1s' --image={ECHO} -- true"
    ));
    let status = |field: &str| format!("get cronjob tick -o jsonpath='{{.status.{field}}}'");
    bed.wait_contains(&status("lastSuccessfulTime"), "T");
    assert!(bed.kubectl(&status("lastScheduleTime")).contains('T'));
    bed.wait_contains("describe cronjob tick", "SawCompletedJob");
    bed.kubectl("delete cronjob tick");
    let refused = bed.refused(
        &format!("create cronjob no --schedule='61 * * * *' --image={ECHO}"),
        "",
    );
    assert!(refused.contains("above maximum (59)"), "{refused}");
    bed.kubectl("delete cronjob yearly");
    bed.wait_for("get job by-hand --ignore-not-found | wc -l", "0");
}

pub(crate) fn replication_controllers(bed: &Bed) {
    // A namespace of its own, as its quota counts all that is there.
    let failure =
        "-n rc get rc rc -o jsonpath='{.status.conditions[?(@.type==\"ReplicaFailure\")].status}'";
    let used =
        "-n rc get quota few -o jsonpath='{.status.used.count/pods}/{.status.used.configmaps}'";
    bed.kubectl("create ns rc");
    bed.kubectl("-n rc create quota few --hard=count/pods=1,configmaps=5");
    let template = template("rc", "sleep 1000").replace("RESTART", "Always");
    bed.apply(&format!("apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: rc, namespace: rc}}\nspec:\n  replicas: 2\n{template}"));
    bed.wait_for(failure, "True");
    bed.wait_contains("-n rc describe rc rc", "exceeded quota: few");
    bed.wait_for(used, "1/1");
    bed.kubectl("-n rc create configmap counted");
    bed.wait_for(used, "1/2");
    bed.kubectl("-n rc scale rc rc --replicas=1");
    bed.wait_for(failure, "");
    bed.kubectl("-n rc delete quota few");
    bed.kubectl("-n rc scale rc rc --replicas=2");
    bed.wait_for("-n rc get rc rc -o jsonpath='{.status.readyReplicas}'", "2");
    bed.wait_contains("-n rc describe rc rc", "SuccessfulCreate");
    let one = bed.kubectl("-n rc get pods -l app=rc -o jsonpath='{.items[0].metadata.name}'");
    bed.kubectl(&format!("-n rc label pod {one} --overwrite app=free"));
    bed.wait_for(
        &format!("-n rc get pod {one} -o jsonpath='{{.metadata.ownerReferences}}'"),
        "",
    );
    bed.wait_for("-n rc get rc rc -o jsonpath='{.status.replicas}'", "2");
    bed.kubectl("delete ns rc --timeout=60s");
}

/// Image of the pods of a label, in the order of their names.
fn images(bed: &Bed, label: &str) -> String {
    bed.kubectl(&format!(
        "get pods -l app={label} -o jsonpath='{{.items[*].spec.containers[0].image}}'"
    ))
}

pub(crate) fn stateful_sets(bed: &Bed) {
    let template = template("sts", "sleep 1000").replace("RESTART", "Always");
    bed.apply(&format!("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: sts}}\nspec:\n  replicas: 2\n  serviceName: x\n  selector: {{matchLabels: {{app: sts}}}}\n{template}"));
    bed.kubectl("rollout status sts/sts --timeout=60s");
    // A canary: only the upper one.
    let partition = |n: u8| {
        bed.kubectl(&format!("patch sts sts --type=merge -p '{{\"spec\":{{\"updateStrategy\":{{\"rollingUpdate\":{{\"partition\":{n}}}}}}}}}'"))
    };
    partition(1);
    bed.kubectl(&format!("set image sts/sts c={ECHO2}"));
    bed.kubectl("rollout status sts/sts --timeout=60s");
    assert_eq!(images(bed, "sts"), format!("{ECHO} {ECHO2}"));
    partition(0);
    bed.kubectl("rollout status sts/sts --timeout=60s");
    assert_eq!(images(bed, "sts"), format!("{ECHO2} {ECHO2}"));
    let before = get(bed, "sts sts")["status"]["updateRevision"].clone();
    bed.kubectl("rollout undo sts/sts");
    bed.kubectl("rollout status sts/sts --timeout=60s");
    assert_eq!(images(bed, "sts"), format!("{ECHO} {ECHO}"));
    let status = get(bed, "sts sts")["status"].clone();
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    assert_ne!(status["updateRevision"], before);
    let revisions = bed.kubectl("get controllerrevisions -l app=sts -o name");
    // A roll-back makes no new one.
    assert_eq!(revisions.lines().count(), 2, "{revisions}");
    // A budget that allows nothing.
    bed.kubectl("create pdb sts --selector=app=sts --min-available=100%");
    bed.wait_for(
        "get pdb sts -o jsonpath='{.status.currentHealthy}/{.status.desiredHealthy}'",
        "2/2",
    );
    let evict = "create --raw /api/v1/namespaces/default/pods/sts-1/eviction -f -";
    let eviction =
        "{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{\"name\":\"sts-1\"}}";
    let refused = bed.refused(evict, eviction);
    assert!(
        refused.contains("violate the pod's disruption budget"),
        "{refused}"
    );
    bed.kubectl("patch pdb sts --type=merge -p '{\"spec\":{\"minAvailable\":1}}'");
    bed.wait_for(
        "get pdb sts -o jsonpath='{.status.disruptionsAllowed}'",
        "1",
    );
    bed.kubectl_with(evict, eviction);
    bed.kubectl("delete sts,pdb sts --timeout=30s");
    bed.wait_for("get pods -l app=sts --no-headers | wc -l", "0");
}

pub(crate) fn daemon_sets(bed: &Bed) {
    let template = template("ds", "sleep 1000").replace("RESTART", "Always");
    bed.apply(&format!("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: ds}}\nspec:\n  selector: {{matchLabels: {{app: ds}}}}\n{template}"));
    bed.kubectl("rollout status ds/ds --timeout=60s");
    bed.kubectl(&format!("set image ds/ds c={ECHO2}"));
    bed.kubectl("rollout status ds/ds --timeout=60s");
    assert_eq!(images(bed, "ds"), ECHO2);
    bed.kubectl("rollout undo ds/ds");
    bed.kubectl("rollout status ds/ds --timeout=60s");
    assert_eq!(images(bed, "ds"), ECHO);
    let history = bed.kubectl("rollout history ds/ds");
    assert!(history.contains('2') && history.contains('3'), "{history}");
    // Clients compare a revision with what they make of the set themselves, byte by byte.
    let raw = bed.kubectl("get --raw /apis/apps/v1/namespaces/default/controllerrevisions");
    let wanted = "{\"spec\":{\"template\":{\"$patch\":\"replace\",\"metadata\":{\"creationTimestamp\":null,\"labels\":{\"app\":\"ds\"}},\"spec\":{\"containers\":[{\"command\"";
    assert!(
        raw.contains(wanted) && raw.contains("\"resources\":{}"),
        "{raw}"
    );
    // One that failed is made anew.
    let name = bed.kubectl("get pods -l app=ds -o jsonpath='{.items[0].metadata.name}'");
    bed.kubectl(&format!("patch pod {name} --subresource=status --type=merge -p '{{\"status\":{{\"phase\":\"Failed\"}}}}'"));
    eventually("another pod", secs(60), || {
        let now = bed.kubectl("get pods -l app=ds -o jsonpath='{.items[*].metadata.name}'");
        anyhow::ensure!(!now.is_empty() && !now.contains(&name), "{now}");
        Ok(())
    });
    bed.kubectl("rollout status ds/ds --timeout=60s");
    bed.kubectl("delete ds ds --timeout=30s");
    bed.wait_for("get pods -l app=ds --no-headers | wc -l", "0");
}

pub(crate) fn stuck(bed: &Bed) {
    let template = template("stuck", "sleep 1000").replace("RESTART", "Always");
    bed.apply(&format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: stuck}}\nspec:\n  replicas: 2\n  selector: {{matchLabels: {{app: stuck}}}}\n{template}"));
    bed.kubectl("rollout status deploy/stuck --timeout=60s");
    bed.kubectl("set image deploy/stuck *=keelson.test/none:1");
    bed.wait_for("get deploy stuck -o jsonpath='{.status.replicas}'", "3");
    bed.kubectl("scale deploy stuck --replicas=4");
    bed.kubectl("scale deploy stuck --replicas=2");
    bed.wait_for("get deploy stuck -o jsonpath='{.status.replicas}'", "3");
    bed.kubectl("delete deploy stuck");
    bed.wait_for("get pods -l app=stuck --no-headers | wc -l", "0");
}

/// A node refuses a pod whose port is taken: the set makes it anew until the port is free.
pub(crate) fn refused_pods(bed: &Bed) {
    let pod = "nodeName: n1\n      terminationGracePeriodSeconds: 0\n      containers:\n      - {name: c, image: 'keelson.test/echo:1', ports: [{hostPort: 21017, containerPort: 21017}]}";
    let alone = pod.replace("\n    ", "\n");
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: first}}\nspec:\n  {alone}\n"
    ));
    bed.kubectl("wait pod first --for=condition=Ready --timeout=60s");
    bed.apply(&format!("apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: port}}\nspec:\n  serviceName: x\n  selector: {{matchLabels: {{app: port}}}}\n  template:\n    metadata: {{labels: {{app: port}}}}\n    spec:\n      {pod}\n"));
    let uid = || {
        let uid = bed
            .try_kubectl("get pod port-0 -o jsonpath='{.metadata.uid}'")
            .out;
        anyhow::ensure!(!uid.is_empty(), "no pod");
        Ok(uid)
    };
    let refused = eventually("a first try", secs(30), uid);
    eventually("another try", secs(30), || {
        let now = uid()?;
        anyhow::ensure!(now != refused, "{now}");
        Ok(())
    });
    bed.kubectl("delete pod first");
    bed.kubectl("rollout status sts/port --timeout=60s");
    bed.kubectl("delete sts port");
    bed.wait_for("get pods -l app=port --no-headers | wc -l", "0");
}

/// The server and the node's agent are killed in the midst of a Job: no success is lost, none counts twice.
pub(crate) fn killed(bed: &Bed) {
    bed.apply(&job(
        "many",
        "completions: 12\n  parallelism: 4",
        "sleep 0.3",
    ));
    eventually("some are done", secs(60), || {
        let now = bed.kubectl("get job many -o jsonpath='{.status.succeeded}'");
        anyhow::ensure!(now.parse::<u32>()? >= 3, "{now}");
        Ok(())
    });
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    bed.kubectl("wait job many --for=condition=complete --timeout=90s");
    let status = get(bed, "job many")["status"].clone();
    assert_eq!(
        (&status["succeeded"], &status["failed"]),
        (&12.into(), &Value::Null),
        "{status}"
    );
    let ended =
        bed.kubectl("get pods -l job-name=many --field-selector=status.phase=Succeeded -o name");
    assert_eq!(ended.lines().count(), 12, "as many as are counted: {ended}");
    bed.kubectl("delete job many");
    bed.wait_for("get pods -l job-name --no-headers | wc -l", "0");
}
