use super::*;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1", "b": "say \"hi\""}},
        "spec": {"nodeName": "n", "serviceAccountName": "sa", "containers": [
            {"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}
    }))
    .expect("pod")
}

fn sources() -> Sources {
    let map = json!({"metadata": {"name": "m"}, "data": {"K": "from map", "X": "mx"}});
    let secret = json!({"metadata": {"name": "s"}, "data": {"P": "cHc=", "BAD": "/w=="}});
    Sources {
        config_maps: [("m".to_owned(), serde_json::from_value(map).expect("map"))].into(),
        secrets: [(
            "s".to_owned(),
            serde_json::from_value(secret).expect("secret"),
        )]
        .into(),
        services: vec![("DB_SERVICE_HOST".into(), "10.0.0.1".into())],
    }
}

fn facts() -> Facts {
    Facts {
        host_ips: vec!["192.0.2.1".parse().expect("ip")],
        pod_ips: vec![
            "10.1.0.2".parse().expect("ip"),
            "fd00::2".parse().expect("ip"),
        ],
        allocatable: [(
            "cpu".to_owned(),
            k8s_openapi::apimachinery::pkg::api::resource::Quantity("4".into()),
        )]
        .into(),
    }
}

fn run(container: Value) -> Result<Vec<(String, String)>, Error> {
    let pod = pod();
    let mut c: Container = serde_json::from_value(container).expect("container");
    c.resources = pod
        .spec
        .as_ref()
        .and_then(|s| s.containers[0].resources.clone());
    environment(&pod, &c, &sources(), &facts())
}

fn value_from(source: Value) -> Result<Option<String>, String> {
    let env = run(json!({"name": "c", "env": [{"name": "V", "valueFrom": source}]}));
    env.map(|e| e.into_iter().find(|(n, _)| n == "V").map(|(_, v)| v))
        .map_err(|e| e.to_string())
}

#[test]
fn single_sources() {
    let field = |p: &str| json!({"fieldRef": {"fieldPath": p}});
    let resource = |r: &str, d: &str| json!({"resourceFieldRef": {"resource": r, "divisor": d}});
    let some = |s: &str| Ok(Some(s.to_owned()));
    let error = |s: &str| Err(s.to_owned());
    let rows = [
        (field("metadata.name"), some("p")),
        (field("metadata.labels['a']"), some("1")),
        (field("metadata.labels['none']"), some("")),
        (
            field("metadata.labels"),
            some("a=\"1\"\nb=\"say \\\"hi\\\"\""),
        ),
        (field("status.podIP"), some("10.1.0.2")),
        (field("status.podIPs"), some("10.1.0.2,fd00::2")),
        (field("status.hostIP"), some("192.0.2.1")),
        (
            field("spec.none"),
            error("unsupported fieldPath: spec.none"),
        ),
        (resource("limits.memory", "1Mi"), some("64")),
        (resource("limits.cpu", "1"), some("4")),
        (resource("requests.cpu", "1"), some("1")),
        (resource("requests.cpu", "1m"), some("250")),
        (
            json!({"configMapKeyRef": {"name": "m", "key": "K"}}),
            some("from map"),
        ),
        (
            json!({"configMapKeyRef": {"name": "m", "key": "no"}}),
            error("couldn't find key no in ConfigMap ns/m"),
        ),
        (
            json!({"configMapKeyRef": {"name": "m", "key": "no", "optional": true}}),
            Ok(None),
        ),
        (
            json!({"configMapKeyRef": {"name": "no", "key": "K"}}),
            error("configmap \"no\" not found"),
        ),
        (
            json!({"configMapKeyRef": {"name": "no", "key": "K", "optional": true}}),
            Ok(None),
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": "P"}}),
            some("pw"),
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": "no"}}),
            error("couldn't find key no in Secret ns/s"),
        ),
        (
            json!({"secretKeyRef": {"name": "no", "key": "P"}}),
            error("secret \"no\" not found"),
        ),
        (
            json!({"secretKeyRef": {"name": "s", "key": "BAD"}}),
            error("environment variable V: value is not valid UTF-8"),
        ),
    ];
    for (source, want) in rows {
        assert_eq!(value_from(source.clone()), want, "{source}");
    }
}

#[test]
fn order_and_references() {
    let env = run(json!({"name": "c",
        "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}, {"configMapRef": {"name": "no", "optional": true}}],
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)-$(DB_SERVICE_HOST)-$(C)"},
            {"name": "C", "value": "late"},
            {"name": "M_K", "value": "over $(M_X)"},
            {"name": "DB_SERVICE_HOST", "value": "mine"}]}))
    .expect("environment");
    let text: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        text,
        [
            "M_K=over mx",
            "M_X=mx",
            "A=1",
            "B=1-10.0.0.1-$(C)",
            "C=late",
            "DB_SERVICE_HOST=mine"
        ]
    );
    let args = command(Some(&["$(A)".into(), "$$(A)".into(), "$(NO)".into()]), &env);
    assert_eq!(args, ["1", "$(A)", "$(NO)"]);
}

#[test]
fn services_of_a_namespace() {
    let service = |ns: &str, name: &str, ip: &str, ports: Value| -> Service {
        let object = json!({"metadata": {"name": name, "namespace": ns}, "spec": {"clusterIP": ip, "ports": ports}});
        serde_json::from_value(object).expect("service")
    };
    let all = [
        service(
            "default",
            "kubernetes",
            "10.43.0.1",
            json!([{"name": "https", "port": 443}]),
        ),
        service(
            "ns",
            "my-db",
            "10.43.0.7",
            json!([{"port": 53, "protocol": "UDP"}]),
        ),
        service("ns", "headless", "None", json!([{"port": 1}])),
        service("other", "else", "10.43.0.8", json!([{"port": 1}])),
    ];
    let names = |env: &ServiceEnv| {
        env.iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>()
    };
    let master = [
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        "KUBERNETES_PORT=tcp://10.43.0.1:443",
        "KUBERNETES_PORT_443_TCP=tcp://10.43.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
        "KUBERNETES_PORT_443_TCP_PORT=443",
        "KUBERNETES_PORT_443_TCP_ADDR=10.43.0.1",
    ];
    assert_eq!(names(&services::service_env(&all, "ns", false)), master);
    let linked = names(&services::service_env(&all, "ns", true));
    assert_eq!(linked[..8], master);
    assert_eq!(
        linked[8..11],
        [
            "MY_DB_SERVICE_HOST=10.43.0.7",
            "MY_DB_SERVICE_PORT=53",
            "MY_DB_PORT=udp://10.43.0.7:53"
        ]
    );
    assert!(
        !linked
            .iter()
            .any(|l| l.starts_with("HEADLESS") || l.starts_with("ELSE"))
    );
}

#[test]
fn sub_paths() {
    let env = [("A", "x"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let rows = [
        (json!({}), Ok(None)),
        (json!({"subPath": "a/b"}), Ok(Some("a/b"))),
        (json!({"subPathExpr": "$(A)/c"}), Ok(Some("x/c"))),
        (json!({"subPathExpr": "$(EMPTY)/c"}), Ok(Some("/c"))),
        (json!({"subPathExpr": "$$(B)"}), Ok(Some("$(B)"))),
        (
            json!({"subPathExpr": "$(A)/$(B)/$(C)"}),
            Err("missing value for \"B\""),
        ),
    ];
    for (mut mount, want) in rows {
        (mount["name"], mount["mountPath"]) = (json!("v"), json!("/v"));
        let m = serde_json::from_value(mount.clone()).expect("mount");
        let got = sub_path(&m, &env).map_err(|e| e.to_string());
        assert_eq!(
            got.as_ref().map(Option::as_deref).map_err(String::as_str),
            want,
            "{mount}"
        );
    }
}
