use proptest::prelude::*;

use super::*;

/// What kubectl sends, with what it prints for the same object as JSON.
#[test]
fn kubectl() {
    let text: Vec<&str> = include_str!("kubectl.txt").lines().skip(1).collect();
    for case in text.chunks(3) {
        let [command, hex, json] = case else {
            panic!("{case:?} is not a command, a body and an object");
        };
        let got = decode(&hex::decode(hex).expect("hex")).expect(command);
        let want: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(got, want, "kubectl {command}");
    }
}

/// A field: number and slice.
fn part(number: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = number_of(u64::from(number) << 3 | 2);
    out.extend(number_of(bytes.len() as u64));
    out.extend(bytes);
    out
}

/// A field: number and varint.
fn int(number: u32, value: i64) -> Vec<u8> {
    let mut out = number_of(u64::from(number) << 3);
    out.extend(number_of(value.cast_unsigned()));
    out
}

fn number_of(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7f).expect("seven bits");
        n >>= 7;
        if n == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

fn all(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let of_type = all(&[part(1, api_version), part(2, kind)]);
    all(&[
        MAGIC.to_vec(),
        part(1, of_type),
        part(2, raw),
        part(3, ""),
        part(4, ""),
    ])
}

fn spec(version: &str, kind: &str, spec: &[Vec<u8>]) -> Value {
    let body = body(version, kind, &part(2, all(spec)));
    decode(&body).expect(kind)["spec"].take()
}

#[test]
fn pods() {
    let secret = part(6, all(&[part(1, "s"), int(3, 0o400), int(4, 0)]));
    let token = part(4, all(&[part(1, ""), int(2, 3607), part(3, "token")]));
    let projected = part(26, all(&[part(1, token), int(2, 0o644)]));
    let key = part(4, all(&[part(1, part(1, "cm")), part(2, "k"), int(3, 1)]));
    let probe = all(&[
        part(1, part(2, all(&[part(1, "/z"), part(2, int(2, 80))]))),
        int(2, 0),
        int(4, 5),
        int(7, 0),
    ]);
    let limits = part(1, all(&[part(1, "cpu"), part(2, part(1, "100m"))]));
    let security = all(&[int(2, 0), int(4, 0), int(7, 0)]);
    let container = all(&[
        part(1, "c"),
        part(3, "sh"),
        part(3, ""),
        part(7, all(&[part(1, "A"), part(3, part(3, &key[2..]))])),
        part(8, limits),
        part(10, probe),
        part(15, security),
        int(16, 0),
    ]);
    let grace = int(4, 0);
    let got = spec(
        "v1",
        "Pod",
        &[
            part(1, all(&[part(1, "v"), part(2, secret)])),
            part(1, all(&[part(1, "p"), part(2, projected)])),
            part(2, container),
            grace,
            int(11, 0),
            part(14, all(&[int(4, 5), int(4, 6)])),
            part(22, all(&[part(1, "a"), part(4, "NoExecute"), int(5, -1)])),
            part(16, ""),
        ],
    );
    assert_eq!(
        got,
        json!({
            "volumes": [
                {"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400, "optional": false}},
                {"name": "p", "projected": {"defaultMode": 0o644, "sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}},
            ],
            "containers": [{
                "name": "c",
                "command": ["sh", ""],
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": true}}}],
                "resources": {"limits": {"cpu": "100m"}},
                "livenessProbe": {"httpGet": {"path": "/z", "port": 80}, "periodSeconds": 5, "terminationGracePeriodSeconds": 0},
                "securityContext": {"privileged": false, "runAsUser": 0, "allowPrivilegeEscalation": false},
            }],
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"supplementalGroups": [5, 6]},
            "tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": -1}],
        })
    );
}

#[test]
fn forms() {
    let lease = spec(
        "coordination.k8s.io/v1",
        "Lease",
        &[
            part(1, ""),
            int(2, 40),
            part(4, all(&[int(1, 1), int(2, 5000)])),
        ],
    );
    assert_eq!(
        lease,
        json!({"holderIdentity": "", "leaseDurationSeconds": 40, "renewTime": "1970-01-01T00:00:01.000005Z"})
    );
    let extra = all(&[part(1, "k"), part(2, all(&[part(1, "a"), part(1, "b")]))]);
    let review = spec(
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        &[part(3, "u"), part(4, "g"), part(5, extra)],
    );
    assert_eq!(
        review,
        json!({"user": "u", "groups": ["g"], "extra": {"k": ["a", "b"]}})
    );
    let fields = all(&[part(1, "m"), part(7, part(1, r#"{"f:data":{}}"#))]);
    let meta = all(&[
        part(8, int(1, 0)),
        part(9, ""),
        part(11, part(1, "only-key")),
        part(17, fields),
    ]);
    let object = decode(&body("v1", "ConfigMap", &part(1, meta))).expect("ConfigMap");
    assert_eq!(
        object["metadata"],
        json!({
            "creationTimestamp": "1970-01-01T00:00:00Z",
            "labels": {"only-key": ""},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}],
        })
    );
    let options = decode(&body("policy/v1", "DeleteOptions", &int(1, 0))).expect("options");
    assert_eq!(options["gracePeriodSeconds"], 0);
}

#[test]
fn refusals() {
    let deep = (0..100).fold(Vec::new(), |inner, _| part(1, inner));
    for (what, body) in [
        ("no envelope", b"{}".to_vec()),
        ("no kind", MAGIC.to_vec()),
        ("endless number", [MAGIC, &[0xff; 11]].concat()),
        ("unknown kind", body("v1", "Gadget", b"")),
        ("unknown version", body("v9", "Pod", b"")),
        ("unknown field", body("v1", "ConfigMap", &part(90, "x"))),
        ("number for a message", body("v1", "ConfigMap", &int(1, 3))),
        (
            "text that is none",
            body("v1", "ConfigMap", &part(1, part(1, [0xff]))),
        ),
        (
            "time that is none",
            body("v1", "ConfigMap", &part(1, part(8, int(1, i64::MAX)))),
        ),
        ("cut", body("v1", "ConfigMap", &part(1, "abc")[..3])),
        ("deep", body("v1", "ConfigMap", &deep)),
    ] {
        let status = decode(&body).expect_err(what);
        assert_eq!(
            (status.code, status.reason),
            (415, "UnsupportedMediaType"),
            "{what}"
        );
    }
    // A field of a newer client that says nothing is no loss.
    decode(&body("v1", "ConfigMap", &part(90, int(1, 0)))).expect("vacuous");
}

proptest! {
    #[test]
    fn hostile_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..20) {
        let _ = decode(&bytes);
        let kinds = [("v1", "Pod"), ("v1", "Event"), ("apps/v1", "Deployment"), ("v1", "DeleteOptions")];
        let (version, kind) = kinds[at % kinds.len()];
        let _ = decode(&body(version, kind, &bytes));
        // Deeper: the bytes as metadata, and as a spec.
        let _ = decode(&body(version, kind, &part(1, &bytes)));
        let _ = decode(&body(version, kind, &part(2, &bytes)));
    }

    #[test]
    fn hostile_changes(case in 0usize..20, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let bodies: Vec<&str> = include_str!("kubectl.txt").lines().skip(2).step_by(3).collect();
        let mut bytes = hex::decode(bodies[case % bodies.len()]).expect("hex");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(&bytes);
        let _ = decode(&bytes[..at]);
    }
}
