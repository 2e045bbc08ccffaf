//! What a container finds: environment, files, rights.

use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use serde_json::json;

/// Makes a pod and waits until it has ended well; its log.
pub(crate) fn run(bed: &Bed, name: &str, spec: &str) -> String {
    let indented = spec.trim_matches('\n').replace('\n', "\n  ");
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{l: '7'}}, annotations: {{a: note}}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  {indented}\n"
    ));
    eventually(&format!("{name} has ended"), secs(60), || {
        let phase = bed.kubectl(&format!("get pod {name} -o jsonpath={{.status.phase}}"));
        anyhow::ensure!(
            ["Succeeded", "Failed"].contains(&phase.as_str()),
            "{}",
            bed.kubectl(&format!("describe pod {name}"))
        );
        Ok(())
    });
    let log = bed.kubectl(&format!("logs {name} --all-containers"));
    assert_eq!(
        bed.kubectl(&format!("get pod {name} -o jsonpath={{.status.phase}}")),
        "Succeeded",
        "{log}"
    );
    bed.kubectl(&format!("delete pod {name} --timeout=30s"));
    log
}

/// Each of these is a line of the text.
#[track_caller]
pub(crate) fn has_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            text.lines().any(|l| l.trim() == *line),
            "no line {line:?} in:\n{text}"
        );
    }
}

pub(crate) fn environment(bed: &Bed) {
    bed.kubectl("create cm env --from-literal=one=1 --from-literal=two=2");
    bed.kubectl("create secret generic env --from-literal=password=geheim");
    let spec = format!(
        r#"
containers:
- name: c
  image: {ECHO}
  command: [/bin/sh, -c]
  args: ["env; echo $0 arg=$(A); echo 'lit=$$(A) none=$(NONE)'; id -u", zero]
  env:
  - {{name: A, value: a}}
  - {{name: B, value: "$(A)b$$(A)$(LATER)"}}
  - {{name: FROM_CM, valueFrom: {{configMapKeyRef: {{name: env, key: one}}}}}}
  - {{name: FROM_SECRET, valueFrom: {{secretKeyRef: {{name: env, key: password}}}}}}
  - {{name: OPTIONAL, valueFrom: {{configMapKeyRef: {{name: none, key: one, optional: true}}}}}}
  - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
  - {{name: LABEL, valueFrom: {{fieldRef: {{fieldPath: "metadata.labels['l']"}}}}}}
  - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
  - {{name: HOST, valueFrom: {{fieldRef: {{fieldPath: status.hostIP}}}}}}
  - {{name: CPU, valueFrom: {{resourceFieldRef: {{resource: limits.cpu, divisor: 1m}}}}}}
  envFrom: [{{configMapRef: {{name: env}}, prefix: CM_}}]
  resources: {{limits: {{cpu: 250m, memory: 32Mi}}}}
"#
    );
    let log = run(bed, "env", &spec);
    let wanted = [
        "A=a",
        "B=ab$(A)$(LATER)",
        "FROM_CM=1",
        "FROM_SECRET=geheim",
        "POD=env",
        "LABEL=7",
        "NODE=n1",
        "HOST=10.88.0.11",
        "CPU=250",
        "CM_one=1",
        "CM_two=2",
        "HOSTNAME=env",
        "zero arg=a",
        "lit=$(A) none=$(NONE)",
        "0",
        "KUBERNETES_SERVICE_PORT=443",
    ];
    has_lines(&log, &wanted);
    assert!(!log.contains("OPTIONAL"), "{log}");
}

pub(crate) fn volumes(bed: &Bed) {
    bed.kubectl("create cm files --from-literal=a.txt=A --from-literal=b.txt=B");
    bed.kubectl("create secret generic files --from-literal=key=K");
    bed.server().sh("mkdir -p /var/hp; echo host >/var/hp/file");
    let spec = format!(
        r#"
securityContext: {{fsGroup: 4242}}
initContainers: [{{name: i, image: {ECHO}, command: [/bin/sh, -c, 'echo shared >/empty/file'], volumeMounts: [{{name: empty, mountPath: /empty}}]}}]
containers:
- name: c
  image: {ECHO}
  command:
  - /bin/sh
  - -c
  - |
    cat /empty/file /host/file /cm/x/a.txt /sub.txt /secret/key /all/cm.txt /all/labels /mem/../empty/file
    ls -ln /secret/..data/key | cat; id; ls /cm/x | cat
    echo x >/host/file && echo host-writable
    echo x 2>/dev/null >/cm/y || echo cm-read-only
    ls -lnd /empty; cat /etc/hosts /etc/resolv.conf /etc/hostname
  volumeMounts:
  - {{name: empty, mountPath: /empty}}
  - {{name: mem, mountPath: /mem}}
  - {{name: host, mountPath: /host, readOnly: true}}
  - {{name: cm, mountPath: /cm}}
  - {{name: all-cm, mountPath: /sub.txt, subPath: b.txt}}
  - {{name: secret, mountPath: /secret}}
  - {{name: all, mountPath: /all}}
volumes:
- {{name: empty, emptyDir: {{}}}}
- {{name: mem, emptyDir: {{medium: Memory, sizeLimit: 8Mi}}}}
- {{name: host, hostPath: {{path: /var/hp, type: Directory}}}}
- {{name: cm, configMap: {{name: files, items: [{{key: a.txt, path: x/a.txt}}]}}}}
- {{name: all-cm, configMap: {{name: files}}}}
- {{name: secret, secret: {{secretName: files, defaultMode: 0440}}}}
- name: all
  projected:
    sources:
    - configMap: {{name: files, items: [{{key: a.txt, path: cm.txt}}]}}
    - downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
"#
    );
    let log = run(bed, "volumes", &spec);
    for part in [
        "shared\n",
        "host\n",
        "KA",
        "AB",
        "l=\"7\"",
        "cm-read-only",
        "4242",
        "-r--r-----",
        "volumes",
    ] {
        assert!(log.contains(part), "no {part:?} in:\n{log}");
    }
    assert!(!log.contains("host-writable"), "{log}");
    assert!(
        bed.server().sh("cat /var/hp/file").contains("host"),
        "hostPath outlives the pod"
    );
}

fn shell(bed: &Bed, name: &str, volume: &str) {
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  volumes: [{volume}]\n"
    ));
    bed.kubectl(&format!(
        "wait pod {name} --for=condition=Ready --timeout=60s"
    ));
}

pub(crate) fn missing(bed: &Bed) {
    // What is missing is said, and waited for.
    bed.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: waits}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: {ECHO}, envFrom: [{{secretRef: {{name: later}}}}]}}]\n"));
    bed.wait_contains("describe pod waits", "secret \"later\" not found");
    bed.wait_contains("get pod waits", "CreateContainerConfigError");
    bed.kubectl("create secret generic later --from-literal=a=1");
    bed.kubectl("wait pod waits --for=condition=Ready --timeout=60s");
    bed.kubectl("delete pod waits");
}

pub(crate) fn tokens(bed: &Bed) {
    shell(
        bed,
        "token",
        "{name: v, projected: {sources: [{serviceAccountToken: {path: t, audience: vault, expirationSeconds: 600}}]}}",
    );
    let review = |token: &str, audience: &str| {
        let object = format!(
            "apiVersion: authentication.k8s.io/v1\nkind: TokenReview\nmetadata: {{}}\nspec: {{token: {token}, audiences: [{audience}]}}\n"
        );
        bed.kubectl_with("create --validate=false -f - -o jsonpath={.status.authenticated}/{.status.user.username}/{.status.user.extra}", &object)
    };
    let own = bed.kubectl("exec token -- cat /v/t");
    let said = review(&own, "vault");
    assert!(
        said.starts_with("true/system:serviceaccount:default:default/")
            && said.contains("pod-name")
            && said.contains("token"),
        "{said}"
    );
    assert!(!review(&own, "https://kubernetes.default.svc.cluster.local").starts_with("true"));
    let api = bed.kubectl("exec token -- cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    assert!(
        bed.kubectl("exec token -- cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
            .contains("BEGIN CERTIFICATE")
    );
    bed.kubectl("delete pod token");
    eventually("a token ends with its pod", secs(30), || {
        let said = review(&own, "vault");
        anyhow::ensure!(!said.starts_with("true"), "{said}");
        Ok(())
    });
    assert!(!api.is_empty());
}

pub(crate) fn security(bed: &Bed) {
    let spec = format!(
        r#"
securityContext: {{runAsUser: 1234, runAsGroup: 2345, supplementalGroups: [3456], sysctls: [{{name: net.ipv4.ip_unprivileged_port_start, value: '80'}}]}}
containers:
- name: c
  image: {ECHO}
  command: [/bin/sh, -c, 'id; cat /proc/self/status; echo x 2>/dev/null >/file || echo root-read-only; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo x >/tmp/x && echo tmp']
  securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL], add: [NET_BIND_SERVICE]}}, seccompProfile: {{type: RuntimeDefault}}}}
  volumeMounts: [{{name: tmp, mountPath: /tmp}}]
volumes: [{{name: tmp, emptyDir: {{}}}}]
"#
    );
    let log = run(bed, "secure", &spec);
    for part in [
        "uid=1234",
        "gid=2345",
        "3456",
        "NoNewPrivs:\t1",
        "CapBnd:\t0000000000000400",
        "CapEff:\t0000000000000000",
        "Seccomp:\t2",
        "root-read-only",
        "\n80\n",
        "\ntmp",
    ] {
        assert!(log.contains(part), "no {part:?} in:\n{log}");
    }
    let object = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: root}}\nspec: {{containers: [{{name: c, image: '{ECHO}', securityContext: {{runAsNonRoot: true}}}}]}}\n"
    );
    bed.apply(&object);
    bed.wait_contains("describe pod root", "runAsNonRoot");
    bed.wait_contains("get pod root", "CreateContainerConfigError");
    bed.kubectl("delete pod root");
}

/// ClusterTrustBundles by name and by signer, as they come and go.
pub(crate) fn trust(bed: &Bed) {
    let anchor = |name: &str| {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        params
            .self_signed(&key)
            .expect("signed")
            .pem()
            .replace('\r', "")
    };
    let bundle = |name: &str, signer: &str, pem: &str| {
        json!({
            "apiVersion": "certificates.k8s.io/v1beta1", "kind": "ClusterTrustBundle",
            "metadata": {"name": name, "labels": {"live": "yes"}},
            "spec": {"signerName": signer, "trustBundle": pem},
        })
        .to_string()
    };
    let (one, two) = (anchor("one"), anchor("two"));
    for (name, signer, pem, why) in [
        ("words", "", "words", "no PEM block"),
        ("a:b", "", one.as_str(), "must not have"),
        (
            "a",
            "keelson.test/s",
            &one,
            "must be named with prefix keelson.test:s:",
        ),
    ] {
        let refused = bed.refused("create -f -", &bundle(name, signer, pem));
        assert!(refused.contains(why), "{refused}");
    }
    bed.apply(&bundle("plain", "", &one));
    bed.apply(&bundle("keelson.test:s:1", "keelson.test/s", &one));
    let sources = "[{clusterTrustBundle: {name: plain, path: plain.pem}}, \
        {clusterTrustBundle: {signerName: keelson.test/s, labelSelector: {matchLabels: {live: 'yes'}}, path: signer.pem}}, \
        {clusterTrustBundle: {name: none, optional: true, path: none.pem}}]";
    shell(
        bed,
        "trusting",
        &format!("{{name: v, projected: {{sources: {sources}}}}}"),
    );
    let read = |file: &str| bed.kubectl(&format!("exec trusting -- cat /v/{file}.pem"));
    let same = |file: &str, want: &str| read(file).trim() == want.trim();
    assert!(same("plain", &one) && same("signer", &one) && same("none", ""));
    // A second bundle of the signer, with what the first one has and one more.
    bed.apply(&bundle(
        "keelson.test:s:2",
        "keelson.test/s",
        &format!("{one}{two}"),
    ));
    let both = format!("{one}{two}");
    eventually("the second bundle", secs(60), || {
        anyhow::ensure!(same("signer", &both), "{}", read("signer"));
        Ok(())
    });
    let listed = bed
        .kubectl("get clustertrustbundles --field-selector spec.signerName=keelson.test/s -o name");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    // One that is asked for by name is waited for.
    let missing =
        "{name: v, projected: {sources: [{clusterTrustBundle: {name: later, path: a.pem}}]}}";
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: patient}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  volumes: [{missing}]\n"
    ));
    bed.wait_contains(
        "describe pod patient",
        "clustertrustbundle \"later\" not found",
    );
    bed.apply(&bundle("later", "", &two));
    bed.kubectl("wait pod patient --for=condition=Ready --timeout=60s");
    bed.kubectl("delete pod trusting patient");
    bed.kubectl("delete clustertrustbundles --all");
}
