//! Who may do what: nobody, strangers, joiners, nodes, service accounts.

use base64::Engine;
use keelson_tests::bed::json;
use keelson_tests::https::{Answer, Identity};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Suite, eventually};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[test]
fn security() {
    let bed = Bed::api(&[]);
    for name in ["n1", "n2"] {
        bed.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"
        ));
        bed.kubectl(&format!(
            "create secret generic of-{name} --from-literal=a=b"
        ));
        bed.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: on-{name}}}\nspec: {{nodeName: {name}, containers: [{{name: c, image: x, envFrom: [{{secretRef: {{name: of-{name}}}}}]}}]}}\n"));
    }
    let mut suite = Suite::new();
    suite.step("nobody gets anywhere but where all may", || nobody(&bed));
    suite.step("strangers' certificates and tokens are refused", || {
        strangers(&bed)
    });
    suite.step("the files are for root only", || files(&bed));
    suite.step("a join token makes requests for certificates only", || {
        joiner(&bed)
    });
    suite.step("a node keeps to its own", || node(&bed));
    suite.step("service accounts' tokens are bound", || accounts(&bed));
    suite.step("nobody gives what he has not", || escalation(&bed));
    suite.done();
}

fn ask(bed: &Bed, who: &Identity, method: &str, path: &str, body: &str) -> Answer {
    bed.request(who, method, path, &[JSON], body.as_bytes())
        .unwrap()
}

#[track_caller]
fn expect(bed: &Bed, who: &Identity, cases: &[(&str, &str, &str, u16)]) {
    let mut wrong = Vec::new();
    for (method, path, body, wanted) in cases {
        let answer = ask(bed, who, method, path, body);
        if answer.status != *wanted || (answer.status >= 400 && answer.is_status().is_err()) {
            wrong.push(format!(
                "{method} {path}: {} instead of {wanted}: {}",
                answer.status,
                answer.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn nobody(bed: &Bed) {
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(
            ask(bed, &Identity::Anonymous, "GET", path, "").status,
            200,
            "{path}"
        );
    }
    let roots = [
        "/",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/apps/v1",
        "/openapi/v2",
        "/openapi/v3",
        "/metrics",
        "/api/v1/pods",
        "/api/v1/secrets",
        "/api/v1/nodes/n1/proxy/pods",
        "/api/v1/namespaces/default/pods/on-n1/log",
        "/api/v1/namespaces/default/pods/on-n1/exec?command=sh",
        "/debug/pprof/",
        "/logs/",
        "/healthz/../api/v1/secrets",
        "/healthz%2f..%2fapi",
        "/.well-known/openid-configuration",
        "/nonsense",
        "/api/v1/namespaces/kube-system/secrets",
        "/apis/authentication.k8s.io/v1/tokenreviews",
    ];
    for path in roots {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = ask(bed, &Identity::Anonymous, method, path, "{}");
            assert!(
                [401, 403].contains(&answer.status),
                "{method} {path}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
    let forged = [
        ("Impersonate-User", "system:admin"),
        ("X-Remote-User", "system:admin"),
        ("X-Remote-Group", "system:masters"),
    ];
    for header in forged {
        let answer = bed
            .request(
                &Identity::Anonymous,
                "GET",
                "/api/v1/secrets",
                &[header],
                b"",
            )
            .unwrap();
        assert!(
            [401, 403].contains(&answer.status),
            "{header:?}: {}",
            answer.status
        );
    }
}

/// A self-signed certificate that claims to be an administrator's.
fn strangers(bed: &Bed) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("system:admin", "system:masters");
    let cert = params.self_signed(&key).unwrap();
    let stranger = Identity::Certificate(cert.pem(), key.serialize_pem());
    match bed.request(&stranger, "GET", "/api/v1/secrets", &[], b"") {
        // Refused in the handshake.
        Err(_) => {}
        Ok(answer) => assert_eq!(answer.status, 401, "{}", answer.text()),
    }
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let unsigned = format!(
        "{}.{}.",
        encode(r#"{"alg":"none"}"#),
        encode(
            r#"{"sub":"system:serviceaccount:kube-system:default","iss":"https://kubernetes.default.svc.cluster.local"}"#
        )
    );
    for token in [
        "nonsense",
        "abcdef.0123456789abcdef",
        "a.b.c",
        "",
        unsigned.as_str(),
        &"x".repeat(6000),
    ] {
        let answer = ask(
            bed,
            &Identity::Bearer(token.to_owned()),
            "GET",
            "/api/v1/secrets",
            "",
        );
        assert!(
            answer.status == 401 || (token.is_empty() && answer.status == 403),
            "{token:?}: {}",
            answer.status
        );
    }
}

fn subject(name: &str, group: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, group);
    subject.push(DnType::CommonName, name);
    subject
}

fn files(bed: &Bed) {
    let open = bed.server().sh("find /etc/keelson /var/lib/keelson/server -type f -perm /077 | grep -v '\\.crt$' || true; find /var/lib/keelson/server -type d -perm /022");
    assert_eq!(open, "", "others may read these");
    assert!(
        bed.server()
            .sh("stat -c %a /etc/keelson/admin.kubeconfig")
            .starts_with("600")
    );
}

/// The token's part that the API knows: `id.secret`.
fn token(bed: &Bed) -> Identity {
    let join = bed.token();
    Identity::Bearer(join.rsplit("::").next().unwrap().to_owned())
}

fn csr(name: &str, group: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name, group);
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"generateName": "t-"},
        "spec": {"request": base64::engine::general_purpose::STANDARD.encode(request), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"], "username": "system:admin", "groups": ["system:masters"]}});
    (body.to_string(), key.serialize_pem())
}

const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Asks for a node's certificate as `who`; `None` when it is not given.
fn certificate(bed: &Bed, who: &Identity, name: &str, group: &str) -> Option<Identity> {
    let (body, key) = csr(name, group);
    let made = ask(bed, who, "POST", CSRS, &body);
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_ne!(
        made["spec"]["username"], "system:admin",
        "the server says who asks"
    );
    let request = made["metadata"]["name"].as_str().unwrap().to_owned();
    let end = std::time::Instant::now() + secs(5);
    while std::time::Instant::now() < end {
        let now = json(&bed.kubectl(&format!("get csr {request} -o json")));
        if let Some(cert) = now["status"]["certificate"].as_str() {
            let pem = base64::engine::general_purpose::STANDARD
                .decode(cert)
                .unwrap();
            return Some(Identity::Certificate(String::from_utf8(pem).unwrap(), key));
        }
        let conditions = now["status"]["conditions"].to_string();
        if conditions.contains("Denied") || conditions.contains("Failed") {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    None
}

fn joiner(bed: &Bed) {
    let who = token(bed);
    expect(
        bed,
        &who,
        &[
            ("GET", "/api/v1/nodes", "", 403),
            ("GET", "/api/v1/secrets", "", 403),
            ("GET", "/api/v1/namespaces/kube-system/secrets", "", 403),
            (
                "POST",
                "/api/v1/nodes",
                r#"{"metadata":{"name":"mine"}}"#,
                403,
            ),
            ("GET", "/api/v1/pods", "", 403),
        ],
    );
    assert!(certificate(bed, &who, "system:node:n3", "system:nodes").is_some());
    // What is no node's is not approved by itself, nor what is more than one.
    for (name, group) in [
        ("system:admin", "system:masters"),
        ("system:node:n3", "system:masters"),
        ("jane", "system:nodes"),
    ] {
        let given = {
            let (body, _) = csr(name, group);
            let made = ask(bed, &who, "POST", CSRS, &body);
            made.status == 201 && {
                let request = made.json()["metadata"]["name"].as_str().unwrap().to_owned();
                std::thread::sleep(std::time::Duration::from_millis(700));
                !bed.kubectl(&format!(
                    "get csr {request} -o jsonpath={{.status.certificate}}"
                ))
                .is_empty()
            }
        };
        assert!(!given, "{name} of {group} was given a certificate");
    }
    let mut other = json!(null);
    if let Identity::Bearer(token) = &who {
        let id = token.split('.').next().unwrap();
        other = json!(id);
        bed.kubectl(&format!(
            "delete secret -n kube-system bootstrap-token-{id}"
        ));
    }
    eventually("a deleted token is none", secs(20), || {
        let status = ask(bed, &who, "GET", "/api", "").status;
        anyhow::ensure!(status == 401, "{other}: {status}");
        Ok(())
    });
}

fn node(bed: &Bed) {
    let who = certificate(bed, &token(bed), "system:node:n1", "system:nodes")
        .expect("a node's certificate");
    let label = r#"{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}"#;
    let status = r#"{"status":{"phase":"Running"}}"#;
    let merge = [("Content-Type", "application/merge-patch+json")];
    let patch = |path: &str, body: &str| {
        bed.request(&who, "PATCH", path, &merge, body.as_bytes())
            .unwrap()
            .status
    };
    expect(
        bed,
        &who,
        &[
            ("GET", "/api/v1/nodes/n1", "", 200),
            ("GET", "/api/v1/namespaces/default/secrets/of-n1", "", 200),
            ("GET", "/api/v1/namespaces/default/secrets/of-n2", "", 403),
            ("GET", "/api/v1/namespaces/default/secrets", "", 403),
            ("GET", "/api/v1/secrets", "", 403),
            ("DELETE", "/api/v1/nodes/n2", "", 403),
            (
                "DELETE",
                "/api/v1/namespaces/default/pods/on-n2?dryRun=All",
                "",
                403,
            ),
            (
                "POST",
                "/api/v1/namespaces/default/pods",
                r#"{"metadata":{"name":"free"},"spec":{"containers":[{"name":"c","image":"x"}]}}"#,
                403,
            ),
            ("GET", "/api/v1/namespaces/default/serviceaccounts", "", 403),
            (
                "POST",
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                "{}",
                403,
            ),
            (
                "POST",
                "/api/v1/namespaces/default/serviceaccounts/default/token",
                r#"{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"on-n2"}}}"#,
                403,
            ),
        ],
    );
    assert_eq!(patch("/api/v1/nodes/n2/status", "{}"), 403);
    assert_eq!(
        patch("/api/v1/nodes/n2", r#"{"metadata":{"labels":{"a":"b"}}}"#),
        403
    );
    assert_eq!(patch("/api/v1/nodes/n1", label), 403);
    assert_eq!(
        patch("/api/v1/namespaces/default/pods/on-n2/status", status),
        403
    );
    assert_eq!(
        patch("/api/v1/namespaces/default/pods/on-n1/status", status),
        200
    );
    assert_eq!(
        patch(
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2",
            "{}"
        ),
        403
    );
}

fn accounts(bed: &Bed) {
    bed.kubectl("create sa robot");
    bed.kubectl("create rolebinding robot --clusterrole=view --serviceaccount=default:robot");
    let token = |more: &str| {
        Identity::Bearer(
            bed.kubectl(&format!("create token robot {more}"))
                .trim()
                .to_owned(),
        )
    };
    let plain = token("");
    expect(
        bed,
        &plain,
        &[
            ("GET", "/api/v1/namespaces/default/pods", "", 200),
            ("GET", "/api/v1/namespaces/default/secrets", "", 403),
            ("GET", "/api/v1/namespaces/kube-system/pods", "", 403),
        ],
    );
    // For another audience it is no token of the API's.
    assert_eq!(
        ask(
            bed,
            &token("--audience=vault"),
            "GET",
            "/api/v1/namespaces/default/pods",
            ""
        )
        .status,
        401
    );
    bed.kubectl("create secret generic bound --from-literal=a=b");
    let bound = token("--bound-object-kind=Secret --bound-object-name=bound");
    assert_eq!(
        ask(bed, &bound, "GET", "/api/v1/namespaces/default/pods", "").status,
        200
    );
    bed.kubectl("delete secret bound");
    let gone = |who: &Identity, what: &str| {
        eventually(what, secs(20), || {
            let status = ask(bed, who, "GET", "/api/v1/namespaces/default/pods", "").status;
            anyhow::ensure!(status == 401, "{status}");
            Ok(())
        });
    };
    gone(&bound, "a token ends with what it is bound to");
    bed.kubectl("delete sa robot");
    gone(&plain, "a token ends with its account");
    // Another account of the same name is another account.
    bed.kubectl("create sa robot");
    assert_eq!(
        ask(bed, &plain, "GET", "/api/v1/namespaces/default/pods", "").status,
        401
    );
}

fn escalation(bed: &Bed) {
    bed.kubectl("create clusterrole gives --verb=create,update,patch,get --resource=roles.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io");
    bed.kubectl("create rolebinding gives --clusterrole=gives --user=giver");
    let error = bed.refused(
        "create role more --verb=get --resource=secrets --as giver",
        "",
    );
    assert!(
        error.contains("is attempting to grant RBAC permissions not currently held"),
        "{error}"
    );
    let error = bed.refused(
        "create rolebinding more --clusterrole=cluster-admin --user=giver --as giver",
        "",
    );
    assert!(
        error.contains("is attempting to grant RBAC permissions not currently held"),
        "{error}"
    );
    let error = bed.refused("get pods --as system:admin --as-group system:masters --token=x --kubeconfig=/dev/null --server=https://127.0.0.1:6443 --insecure-skip-tls-verify", "");
    assert!(
        error.contains("Unauthorized") || error.contains("logged in"),
        "{error}"
    );
}
