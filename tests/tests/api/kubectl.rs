//! kubectl 1.32, unmodified.

use keelson_tests::bed::json;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Suite, eventually};

use crate::wrong;

const NODE: &str = r"
apiVersion: v1
kind: Node
metadata: {name: far, labels: {zone: a}}
status:
  capacity: {cpu: '4', memory: 8Gi, pods: '110'}
  allocatable: {cpu: '4', memory: 8Gi, pods: '110'}
  nodeInfo: {machineID: '', systemUUID: '', bootID: '', kernelVersion: '6', osImage: Debian, containerRuntimeVersion: 'containerd://1', kubeletVersion: v1.36.0, kubeProxyVersion: '', operatingSystem: linux, architecture: amd64}
";

pub(crate) const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      # Nobody runs pods here: those bound to a node would go only by force.
      nodeSelector: {nowhere: ''}
      containers:
      - {name: echo, image: 'echo:1', ports: [{containerPort: 8080}], env: [{name: A, value: '1'}]}
";

#[test]
fn kubectl() {
    let bed = Bed::api(&[]);
    let mut suite = Suite::new();
    bed.kubectl_with("apply -f -", NODE);
    bed.apply(WEB);
    suite.step("get prints tables", || get(&bed));
    suite.step("get selects", || selects(&bed));
    suite.step("get watches", || watches(&bed));
    suite.step("create makes each kind it knows", || create(&bed));
    suite.step("apply merges three ways", || apply(&bed));
    suite.step("apply --server-side knows conflicts", || server_side(&bed));
    suite.step("edit", || edit(&bed));
    suite.step("patch in three ways", || patch(&bed));
    suite.step("scale, label, annotate, wait", || change(&bed));
    suite.step("describe and events", || describe(&bed));
    suite.step("api-resources, explain, version", || discovery(&bed));
    suite.step("auth can-i", || auth(&bed));
    suite.step("cordon, taint", || nodes(&bed));
    suite.step("rollout history, undo, restart, pause", || rollout(&bed));
    suite.step("diff and replace", || wrong::diff(&bed));
    suite.step("wrong objects are refused with path and reason", || {
        wrong::wrong(&bed)
    });
    suite.step("delete", || delete(&bed));
    suite.done();
}

/// A table's header has these columns, in this order.
fn columns(table: &str, wanted: &[&str]) {
    let header: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split("  ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect();
    assert_eq!(header, wanted, "{table}");
}

fn get(bed: &Bed) {
    bed.wait_for("get pods -l app=web --no-headers | wc -l", "2");
    columns(
        &bed.kubectl("get deployments"),
        &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"],
    );
    let wide = [
        "NAME",
        "READY",
        "UP-TO-DATE",
        "AVAILABLE",
        "AGE",
        "CONTAINERS",
        "IMAGES",
        "SELECTOR",
    ];
    columns(&bed.kubectl("get deploy -o wide"), &wide);
    columns(
        &bed.kubectl("get pods"),
        &["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
    );
    columns(
        &bed.kubectl("get po -A"),
        &["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"],
    );
    columns(
        &bed.kubectl("get svc"),
        &[
            "NAME",
            "TYPE",
            "CLUSTER-IP",
            "EXTERNAL-IP",
            "PORT(S)",
            "AGE",
        ],
    );
    columns(
        &bed.kubectl("get nodes"),
        &["NAME", "STATUS", "ROLES", "AGE", "VERSION"],
    );
    columns(&bed.kubectl("get ns"), &["NAME", "STATUS", "AGE"]);
    columns(
        &bed.kubectl("get cm -A"),
        &["NAMESPACE", "NAME", "DATA", "AGE"],
    );
    columns(
        &bed.kubectl("get rs"),
        &["NAME", "DESIRED", "CURRENT", "READY", "AGE"],
    );
    columns(
        &bed.kubectl("get pods --show-labels"),
        &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "LABELS"],
    );
    columns(
        &bed.kubectl("get pods -L app"),
        &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "APP"],
    );
    let list = json(&bed.kubectl("get deploy web -o json"));
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&"Deployment".into(), &"apps/v1".into())
    );
    assert!(
        bed.kubectl("get deploy web -o yaml")
            .contains("kind: Deployment")
    );
    assert_eq!(
        bed.kubectl("get deploy web -o jsonpath='{.spec.replicas}'"),
        "2"
    );
    assert_eq!(
        bed.kubectl("get deploy web -o custom-columns=N:.metadata.name --no-headers")
            .trim(),
        "web"
    );
    assert_eq!(
        bed.kubectl("get deploy -o name").trim(),
        "deployment.apps/web"
    );
    assert_eq!(bed.kubectl("get deploy,rs -o name").lines().count(), 2);
    assert!(bed.kubectl("get all").contains("deployment.apps/web"));
    assert!(bed.kubectl("get --raw /version").contains("gitVersion"));
    let error = bed.refused("get pods nobody", "");
    assert_eq!(
        error.trim(),
        r#"Error from server (NotFound): pods "nobody" not found"#
    );
    assert!(
        bed.refused("get nonsense", "")
            .contains("the server doesn't have a resource type \"nonsense\"")
    );
}

fn selects(bed: &Bed) {
    let count = |line: &str| {
        bed.kubectl(&format!("get {line} --no-headers 2>/dev/null"))
            .lines()
            .count()
    };
    assert_eq!(count("pods -l app=web"), 2);
    assert_eq!(count("pods -l 'app in (web, x),app!=y'"), 2);
    assert_eq!(count("pods -l '!app'"), 0);
    assert_eq!(count("pods -l 'app notin (web)'"), 0);
    assert_eq!(count("pods --field-selector status.phase=Running"), 0);
    assert_eq!(count("pods --field-selector status.phase!=Running"), 2);
    assert_eq!(count("ns --field-selector metadata.name=default"), 1);
    assert_eq!(
        count("pods -A --field-selector metadata.namespace=kube-system -l app=web"),
        0
    );
    bed.kubectl("run bound --image=x --overrides='{\"spec\":{\"nodeName\":\"far\"}}'");
    assert_eq!(count("pods --field-selector spec.nodeName=far"), 1);
    bed.kubectl("delete pod bound --force --grace-period=0");
    let error = bed.refused("get pods --field-selector spec.nonsense=1", "");
    assert!(
        error.contains("field label not supported: spec.nonsense"),
        "{error}"
    );
    assert_eq!(count("cm -A --chunk-size=1"), count("cm -A --chunk-size=0"));
    let sorted = bed.kubectl("get ns --sort-by=.metadata.name -o name");
    assert!(sorted.lines().is_sorted(), "{sorted}");
}

fn watches(bed: &Bed) {
    let script = "kubectl create ns seen >/dev/null
        timeout 20 kubectl get cm -n seen -w --output-watch-events --request-timeout=15s >w 2>&1 & watcher=$!
        for i in $(seq 100); do kubectl create cm -n seen one --from-literal=a=1 >/dev/null 2>&1 && break; sleep .1; done
        until grep -q '  one ' w; do sleep .05; done
        kubectl delete cm -n seen one >/dev/null
        until [ $(grep -c '  one ' w) -ge 2 ]; do sleep .05; done
        kill $watcher; cat w; kubectl delete ns seen --wait=false >/dev/null";
    let output = bed.bash(
        &format!(
            "export -f 2>/dev/null; timeout 40 bash -c {}",
            keelson_tests::bed::quoted(script)
        ),
        "",
    );
    assert!(output.ok, "{output:?}");
    let events: Vec<&str> = output
        .out
        .lines()
        .filter(|l| l.contains("  one "))
        .collect();
    assert!(
        events[0].starts_with("ADDED") && events[1].starts_with("DELETED"),
        "{output:?}"
    );
}

fn create(bed: &Bed) {
    let kinds = [
        "namespace made",
        "configmap made-cm --from-literal=a=1 --from-literal=b=2",
        "secret generic made-secret --from-literal=password=x",
        "secret docker-registry made-reg --docker-username=a --docker-password=b --docker-server=c",
        "serviceaccount made-sa",
        "deployment made-d --image=echo:1 --replicas=1 --port=80",
        "job made-job --image=echo:1 -- /echo true",
        "cronjob made-cron --image=echo:1 --schedule='*/5 * * * *' -- /echo true",
        "service clusterip made-svc --tcp=80:8080",
        "service nodeport made-np --tcp=80:8080 --node-port=30111",
        "service externalname made-en --external-name=example.org",
        "role made-role --verb=get,list --resource=pods",
        "rolebinding made-rb --role=made-role --serviceaccount=default:made-sa",
        "clusterrole made-cr --verb=get --resource=nodes",
        "clusterrolebinding made-crb --clusterrole=made-cr --user=jane",
        "quota made-quota --hard=pods=100",
        "pdb made-pdb --selector=app=web --min-available=1",
        "priorityclass made-pc --value=1000",
        "ingress made-in --rule='example.org/=made-svc:80'",
    ];
    for kind in kinds {
        let said = bed.kubectl(&format!("create {kind}"));
        assert!(said.trim().ends_with("created"), "{kind}: {said}");
        let error = bed.refused(&format!("create {kind}"), "");
        assert!(
            error.contains("already exists") || error.contains("already allocated"),
            "{kind}: {error}"
        );
    }
    let token = bed.kubectl("create token made-sa --duration=10m");
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let who = bed.kubectl(&format!("auth whoami --token={} -o jsonpath={{.status.userInfo.username}} --kubeconfig=/dev/null --server=https://127.0.0.1:6443 --insecure-skip-tls-verify", token.trim()));
    assert_eq!(who, "system:serviceaccount:default:made-sa");
    assert_eq!(
        bed.kubectl("get secret made-secret -o jsonpath='{.data.password}'"),
        "eA=="
    );
    assert!(
        bed.kubectl("run made-pod --image=echo:1 --restart=Never --labels=x=y")
            .contains("created")
    );
    assert!(
        bed.kubectl("expose deployment web --port=80 --target-port=8080")
            .contains("exposed")
    );
    assert!(
        bed.kubectl("create cm made-dry --from-literal=a=1 --dry-run=server")
            .contains("created (server dry run)")
    );
    bed.refused("get cm made-dry", "");
}

fn apply(bed: &Bed) {
    let object = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: merged}}\ndata: {data}\n")
    };
    assert!(bed.apply(&object("{a: '1', b: '2'}")).contains("created"));
    assert!(bed.apply(&object("{a: '1', b: '2'}")).contains("unchanged"));
    bed.kubectl(r#"patch cm merged --type=merge -p '{"data":{"mine":"kept"}}'"#);
    assert!(bed.apply(&object("{a: '3'}")).contains("configured"));
    assert_eq!(
        json(&bed.kubectl("get cm merged -o json"))["data"],
        serde_json::json!({"a": "3", "mine": "kept"})
    );
    // Lists with a merge key are merged by it.
    let more = WEB.replace(
        "- {name: echo,",
        "- {name: side, image: 'side:1'}\n      - {name: echo,",
    );
    assert!(bed.apply(&more).contains("configured"));
    let images = "get deploy web -o jsonpath='{.spec.template.spec.containers[*].image}'";
    assert_eq!(bed.kubectl(images), "side:1 echo:1");
    assert!(bed.apply(WEB).contains("configured"));
    assert_eq!(bed.kubectl(images), "echo:1");
    assert!(
        bed.kubectl_with("apply --dry-run=server -f -", &object("{a: '9'}"))
            .contains("configured (server dry run)")
    );
    assert_eq!(bed.kubectl("get cm merged -o jsonpath={.data.a}"), "3");
    assert!(
        bed.kubectl("apply view-last-applied cm merged")
            .contains("a: \"3\"")
    );
}

fn server_side(bed: &Bed) {
    let object = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shared}}\ndata: {data}\n")
    };
    let ssa = |manager: &str, more: &str| {
        format!("apply --server-side --field-manager={manager} {more} -f -")
    };
    bed.kubectl_with(&ssa("one", ""), &object("{a: '1', b: '1'}"));
    bed.kubectl_with(&ssa("two", ""), &object("{c: '1'}"));
    let error = bed.refused(&ssa("two", ""), &object("{a: '2', c: '1'}"));
    assert!(
        error.contains("conflict with \"one\"") && error.contains(".data.a"),
        "{error}"
    );
    bed.kubectl_with(
        &ssa("two", "--force-conflicts"),
        &object("{a: '2', c: '1'}"),
    );
    bed.kubectl_with(&ssa("one", ""), &object("{}"));
    let data = json(&bed.kubectl("get cm shared -o json"))["data"].clone();
    assert_eq!(data, serde_json::json!({"a": "2", "c": "1"}));
    let fields = bed.kubectl("get cm shared -o yaml --show-managed-fields");
    assert!(
        fields.contains("manager: two") && fields.contains("f:data"),
        "{fields}"
    );
}

fn edit(bed: &Bed) {
    let edit = |sed: &str, line: &str| {
        let editor = format!(
            "cd; printf '#!/bin/sh\\nsed -i {sed} \"$1\"\\n' >editor; chmod +x editor; EDITOR=./editor kubectl {line}"
        );
        bed.bash(&editor, "")
    };
    let output = edit("s/replicas:.2/replicas:\\ 3/", "edit deploy web");
    assert!(output.ok && output.out.contains("edited"), "{output:?}");
    assert_eq!(
        bed.kubectl("get deploy web -o jsonpath={.spec.replicas}"),
        "3"
    );
    let output = edit("s/nothing/x/", "edit deploy web");
    assert!(output.ok, "{output:?}");
    assert!((output.out + &output.err).contains("no changes made"));
}

fn patch(bed: &Bed) {
    let image = "get deploy web -o jsonpath='{.spec.template.spec.containers[*].image}'";
    bed.kubectl(r#"patch deploy web -p '{"spec":{"template":{"spec":{"containers":[{"name":"echo","image":"echo:2"}]}}}}'"#);
    assert_eq!(bed.kubectl(image), "echo:2");
    bed.kubectl(r#"patch deploy web --type=json -p '[{"op":"test","path":"/spec/replicas","value":3},{"op":"replace","path":"/spec/replicas","value":1}]'"#);
    assert_eq!(
        bed.kubectl("get deploy web -o jsonpath={.spec.replicas}"),
        "1"
    );
    let error = bed.refused(
        r#"patch deploy web --type=json -p '[{"op":"test","path":"/spec/replicas","value":7}]'"#,
        "",
    );
    assert!(
        error.contains("422") || error.to_lowercase().contains("invalid") || error.contains("test"),
        "{error}"
    );
    bed.kubectl(r#"patch deploy web --type=merge -p '{"metadata":{"annotations":{"x":"y"}}}'"#);
    bed.kubectl(r#"patch deploy web --type=merge -p '{"metadata":{"annotations":{"x":null}}}'"#);
    assert_eq!(
        bed.kubectl("get deploy web -o jsonpath={.metadata.annotations.x}"),
        ""
    );
    bed.kubectl("set image deploy/web echo=echo:1");
    assert_eq!(bed.kubectl(image), "echo:1");
    bed.kubectl("set env deploy/web B=2");
    assert!(bed.kubectl("get deploy web -o yaml").contains("name: B"));
    bed.kubectl(
        r#"patch deploy web --subresource=scale --type=merge -p '{"spec":{"replicas":2}}'"#,
    );
    assert_eq!(
        bed.kubectl("get deploy web --subresource=scale -o jsonpath={.spec.replicas}"),
        "2"
    );
}

fn change(bed: &Bed) {
    bed.apply(&WEB.replace("web", "scaled"));
    assert!(
        bed.kubectl("scale deploy scaled --replicas=4")
            .contains("scaled")
    );
    bed.wait_for("get pods -l app=scaled --no-headers | wc -l", "4");
    bed.kubectl("scale deploy scaled --replicas=2");
    bed.wait_for("get pods -l app=scaled --no-headers | wc -l", "2");
    let error = bed.refused("scale deploy web --current-replicas=9 --replicas=1", "");
    assert!(error.contains("Expected replicas to be 9"), "{error}");
    assert!(
        bed.kubectl("label deploy web tier=front")
            .contains("labeled")
    );
    assert!(
        bed.refused("label deploy web tier=back", "")
            .contains("already has a value")
    );
    assert!(
        bed.kubectl("label deploy web tier=back --overwrite")
            .contains("labeled")
    );
    assert!(bed.kubectl("label deploy web tier-").contains("unlabeled"));
    assert!(
        bed.kubectl("annotate deploy web note='a b'")
            .contains("annotated")
    );
    assert!(
        bed.refused("label deploy web 'bad key=x'", "")
            .contains("invalid")
    );
    assert!(
        bed.kubectl("wait --for=jsonpath='{.spec.replicas}'=2 deploy/web --timeout=10s")
            .contains("condition met")
    );
    assert!(
        bed.refused(
            "wait --for=condition=Available=true deploy/web --timeout=1s",
            ""
        )
        .contains("timed out")
    );
    assert!(
        bed.kubectl("wait --for=create deploy/web --timeout=10s")
            .contains("condition met")
    );
    bed.kubectl("create cm gone --from-literal=a=1");
    let output = bed.bash(
        "kubectl wait --for=delete cm/gone --timeout=20s & kubectl delete cm gone; wait $!",
        "",
    );
    assert!(output.ok, "{output:?}");
}

fn describe(bed: &Bed) {
    for (line, words) in [
        (
            "describe deploy web",
            &[
                "Name:",
                "Replicas:",
                "2 desired",
                "Pod Template:",
                "Events:",
                "ScalingReplicaSet",
            ][..],
        ),
        (
            "describe rs -l app=web",
            &["Controlled By:", "Deployment/web", "SuccessfulCreate"],
        ),
        (
            "describe pods -l app=web",
            &[
                "Controlled By:",
                "ReplicaSet/web-",
                "Service Account:",
                "default",
                "Tolerations:",
                "QoS Class:",
                "kube-api-access-",
            ],
        ),
        (
            "describe node far",
            &["Labels:", "zone=a", "Allocatable:", "Allocated resources:"],
        ),
        ("describe ns default", &["Status:", "Active"]),
        ("describe svc kubernetes", &["ClusterIP", "443"]),
        ("describe secret made-secret", &["password:  1 bytes"]),
        ("describe cm made-cm", &["Data"]),
        ("describe sa default", &["Name:", "default"]),
        ("describe role made-role", &["pods", "[get list]"]),
        ("describe cronjob made-cron", &["Schedule:"]),
        ("describe ingress made-in", &["example.org"]),
    ] {
        let text = bed.kubectl(line);
        words
            .iter()
            .for_each(|word| assert!(text.contains(word), "{line} lacks {word:?}:\n{text}"));
    }
    let events = bed.kubectl("events --for deployment/web");
    assert!(
        events.contains("ScalingReplicaSet") && events.starts_with("LAST SEEN"),
        "{events}"
    );
    columns(
        &bed.kubectl("get events"),
        &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"],
    );
    assert!(
        bed.kubectl("get events --field-selector reason=ScalingReplicaSet,involvedObject.name=web")
            .contains("web")
    );
}

fn discovery(bed: &Bed) {
    let resources = bed.kubectl("api-resources");
    for row in [
        "pods",
        "deployments",
        "endpointslices",
        "leases",
        "roles",
        "events",
        "priorityclasses",
        "networkpolicies",
        "poddisruptionbudgets",
        "storageclasses",
        "runtimeclasses",
        "horizontalpodautoscalers",
        "tokenreviews",
        "certificatesigningrequests",
        "jobs",
        "bindings",
    ] {
        assert!(
            resources.lines().any(|l| l.starts_with(row)),
            "{row}:\n{resources}"
        );
    }
    assert!(
        bed.kubectl("api-resources --namespaced=false -o name")
            .lines()
            .any(|l| l == "nodes")
    );
    assert!(
        bed.kubectl("api-resources --verbs=watch -o wide")
            .contains("deletecollection")
    );
    let versions = bed.kubectl("api-versions");
    for version in [
        "v1",
        "apps/v1",
        "batch/v1",
        "rbac.authorization.k8s.io/v1",
        "discovery.k8s.io/v1",
    ] {
        assert!(
            versions.lines().any(|l| l == version),
            "{version}: {versions}"
        );
    }
    let text = bed.kubectl("explain deployment.spec.strategy.rollingUpdate");
    assert!(
        text.contains("maxSurge") && text.contains("KIND:       Deployment"),
        "{text}"
    );
    assert!(
        bed.kubectl("explain pods --recursive")
            .contains("readinessProbe")
    );
    assert!(
        bed.kubectl("explain pod.spec.containers.image")
            .contains("<string>")
    );
    assert!(
        bed.refused("explain pod.spec.nonsense", "")
            .contains("does not exist")
    );
    let version = bed.kubectl("version");
    assert!(version.contains("Server Version: v1."), "{version}");
    assert!(bed.kubectl("cluster-info").contains("is running at"));
    assert!(bed.kubectl("get --raw '/readyz?verbose'").contains("ok"));
}

fn auth(bed: &Bed) {
    bed.kubectl("create ns team");
    bed.kubectl("create rolebinding dev -n team --clusterrole=edit --user=dev");
    let can = |line: &str| {
        bed.try_kubectl(&format!("auth can-i {line}"))
            .out
            .trim()
            .to_owned()
    };
    for (line, wanted) in [
        ("create pods", "yes"),
        ("'*' '*' --all-namespaces", "yes"),
        ("create deployments -n team --as dev", "yes"),
        ("create deployments -n default --as dev", "no"),
        ("get nodes --as dev", "no"),
        ("create rolebindings -n team --as dev", "no"),
        ("get /version --as nobody", "yes"),
        ("get /metrics --as nobody", "no"),
    ] {
        assert_eq!(can(line), wanted, "{line}");
    }
    let list = bed.kubectl("auth can-i --list -n team --as dev");
    assert!(
        list.contains("deployments.apps") && list.contains("[create delete"),
        "{list}"
    );
    let error = bed.refused("get secrets -n default --as dev", "");
    assert_eq!(
        error.trim(),
        r#"Error from server (Forbidden): secrets is forbidden: User "dev" cannot list resource "secrets" in API group "" in the namespace "default""#
    );
    let who = bed.kubectl("auth whoami");
    assert!(
        who.contains("system:admin") && who.contains("system:masters"),
        "{who}"
    );
    let rules = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: rec, namespace: team}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n";
    assert!(
        bed.kubectl_with("auth reconcile -f -", rules)
            .contains("reconciled")
    );
}

fn nodes(bed: &Bed) {
    assert!(bed.kubectl("cordon far").contains("cordoned"));
    assert!(bed.kubectl("get node far").contains("SchedulingDisabled"));
    bed.wait_contains(
        "get node far -o jsonpath='{.spec.taints[*].key}'",
        "node.kubernetes.io/unschedulable",
    );
    assert!(bed.kubectl("uncordon far").contains("uncordoned"));
    assert!(
        bed.kubectl("taint node far a=b:NoSchedule")
            .contains("tainted")
    );
    assert!(bed.kubectl("taint node far a-").contains("untainted"));
}

fn rollout(bed: &Bed) {
    bed.kubectl("create deploy roll --image=echo:1 --replicas=1");
    bed.wait_for("get rs -l app=roll --no-headers | wc -l", "1");
    bed.kubectl("annotate deploy roll kubernetes.io/change-cause=first");
    bed.kubectl("set image deploy/roll echo=echo:2");
    bed.wait_for("get rs -l app=roll --no-headers | wc -l", "2");
    eventually("history", secs(20), || {
        let history = bed.try_kubectl("rollout history deploy/roll").out;
        anyhow::ensure!(
            history
                .lines()
                .filter(|l| l.starts_with(['1', '2']))
                .count()
                == 2,
            "{history}"
        );
        Ok(())
    });
    assert!(
        bed.kubectl("rollout history deploy/roll --revision=2")
            .contains("echo:2")
    );
    assert!(
        bed.kubectl("rollout undo deploy/roll")
            .contains("rolled back")
    );
    bed.wait_for(
        "get deploy roll -o jsonpath='{.spec.template.spec.containers[0].image}'",
        "echo:1",
    );
    bed.wait_contains("rollout history deploy/roll", "\n3");
    assert!(
        bed.kubectl("rollout restart deploy/roll")
            .contains("restarted")
    );
    assert!(bed.kubectl("rollout pause deploy/roll").contains("paused"));
    assert!(
        bed.kubectl("rollout resume deploy/roll")
            .contains("resumed")
    );
    let error = bed.refused("rollout undo deploy/roll --to-revision=99", "");
    assert!(
        error.contains("unable to find specified revision 99"),
        "{error}"
    );
    assert!(
        bed.kubectl("rollout status deploy/roll --watch=false")
            .contains("Waiting for")
    );
}

fn delete(bed: &Bed) {
    assert!(bed.kubectl("delete cm made-cm").contains("deleted"));
    assert_eq!(
        bed.refused("delete cm made-cm", "").trim(),
        r#"Error from server (NotFound): configmaps "made-cm" not found"#
    );
    bed.kubectl("delete cm made-cm --ignore-not-found");
    bed.kubectl("delete deploy made-d --cascade=orphan");
    bed.wait_for("get rs -l app=made-d --no-headers | wc -l", "1");
    bed.kubectl("delete rs -l app=made-d --cascade=foreground --timeout=60s");
    bed.kubectl("delete deploy --all --timeout=60s");
    bed.wait_for("get rs --no-headers 2>/dev/null | wc -l", "0");
    bed.kubectl("delete pods --all --force --grace-period=0 --wait=false");
    bed.kubectl("delete ns team made --timeout=60s");
    assert!(bed.refused("delete ns default", "").contains("forbidden"));
}
