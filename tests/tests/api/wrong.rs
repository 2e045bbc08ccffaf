//! Objects that differ, clash, or are wrong.

use keelson_tests::Bed;

use crate::kubectl::WEB;

pub(crate) fn diff(bed: &Bed) {
    let object = |v: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: differs}}\ndata: {{a: '{v}'}}\n"
        )
    };
    bed.apply(&object("1"));
    let output = bed.bash("kubectl diff -f -", &object("2"));
    assert!(output.out.contains("+  a: \"2\""), "{output:?}");
    assert!(bed.bash("kubectl diff -f -", &object("1")).ok);
    assert!(
        bed.kubectl_with("replace -f -", &object("3"))
            .contains("replaced")
    );
    let stale = "kubectl get cm differs -o json >o; kubectl label cm differs x=y >/dev/null; kubectl replace -f o";
    let output = bed.bash(stale, "");
    assert!(
        !output.ok
            && output.err.contains(
                "the object has been modified; please apply your changes to the latest version"
            ),
        "{output:?}"
    );
}

pub(crate) fn wrong(bed: &Bed) {
    let pod = |spec: &str| {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: wrong}}, spec: {spec}}}")
    };
    let meta = "apiVersion: v1\nkind: Service\nmetadata: {name: wrong}\n";
    for (object, words) in [
        (pod("{}"), &["spec.containers"][..]),
        (
            pod("{containers: [{name: A_, image: x}]}"),
            &["spec.containers[0].name: Invalid value: \"A_\""],
        ),
        (
            pod("{containers: [{name: a}]}"),
            &["spec.containers[0].image: Required value"],
        ),
        (
            pod("{containers: [{name: a, image: x}, {name: a, image: x}]}"),
            &["spec.containers[1].name: Duplicate value: \"a\""],
        ),
        (
            pod("{containers: [{name: a, image: x, ports: [{containerPort: 99999}]}]}"),
            &["spec.containers[0].ports[0].containerPort: Invalid value: 99999"],
        ),
        (
            pod("{containers: [{name: a, image: x, imagePullPolicy: Perhaps}]}"),
            &["imagePullPolicy: Unsupported value: \"Perhaps\""],
        ),
        (
            pod("{restartPolicy: Sometimes, containers: [{name: a, image: x}]}"),
            &["spec.restartPolicy: Unsupported value"],
        ),
        (
            pod("{containers: [{name: a, image: x, volumeMounts: [{name: v, mountPath: /v}]}]}"),
            &["volumeMounts[0].name: Not found: \"v\""],
        ),
        (
            pod(
                "{containers: [{name: a, image: x, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}",
            ),
            &["must be less than or equal to cpu limit"],
        ),
        (
            pod("{containers: [{name: a, image: x, nonsense: 1}]}"),
            &["unknown field \"spec.containers[0].nonsense\""],
        ),
        (pod("{containers: [{name: a, image: 7}]}"), &["image"]),
        (
            format!("{meta}spec: {{ports: []}}\n"),
            &["spec.ports: Required value"],
        ),
        (
            format!("{meta}spec: {{type: NodePort, ports: [{{port: 80, nodePort: 80}}]}}\n"),
            &["provided port is not in the valid range"],
        ),
        (
            format!("{meta}spec: {{clusterIP: 10.99.0.1, ports: [{{port: 80}}]}}\n"),
            &["10.99.0.1"],
        ),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: Wrong_Name}}".into(),
            &["metadata.name: Invalid value: \"Wrong_Name\"", "RFC 1123"],
        ),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: wrong, labels: {a: 'b c'}}}".into(),
            &["metadata.labels: Invalid value: \"b c\""],
        ),
        (
            "{apiVersion: v1, kind: Secret, metadata: {name: wrong}, data: {a: '!!'}}".into(),
            &["base64"],
        ),
        (
            WEB.replace("matchLabels: {app: web}", "matchLabels: {app: other}")
                .replace("name: web,", "name: wrong,"),
            &[
                "spec.template.metadata.labels",
                "`selector` does not match template `labels`",
            ],
        ),
    ] {
        // With a comment before it kubectl takes it for YAML, not for JSON.
        let error = bed.refused("create -f -", &format!("# wrong\n{object}"));
        words
            .iter()
            .for_each(|word| assert!(error.contains(word), "{object}\nlacks {word:?}: {error}"));
    }
    let error = bed.refused("patch deploy web --type=merge -p '{\"spec\":{\"selector\":{\"matchLabels\":{\"a\":\"b\"}}}}'", "");
    assert!(error.contains("field is immutable"), "{error}");
}
