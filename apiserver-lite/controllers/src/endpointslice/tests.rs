use super::*;
use serde_json::{Value, from_value, json};

type Edit = fn(&mut Value);

fn pod(name: &str, edit: impl Fn(&mut Value)) -> Arc<Pod> {
    let mut v = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "a"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
    edit(&mut v);
    Arc::new(from_value(v).expect("pod"))
}

fn at(name: &str, octet: usize) -> Arc<Pod> {
    pod(name, |v| {
        v["status"]["podIPs"] = json!([{ "ip": format!("10.1.{}.{}", octet / 250, octet % 250) }]);
    })
}

fn service(edit: impl Fn(&mut Value)) -> Service {
    let mut v = json!({"metadata": {"name": "s", "namespace": "d", "uid": "su", "labels": {"l": "1"}},
        "spec": {"selector": {"app": "a"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}});
    edit(&mut v);
    from_value(v).expect("service")
}

fn zone(node: &str) -> Option<String> {
    (node == "n").then(|| "z1".to_owned())
}

fn run(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Vec<Action> {
    plan(service, pods, &zone, existing)
}

/// Makes created slices real, named s0, s1, ...
fn stored(actions: &[Action]) -> Vec<Arc<EndpointSlice>> {
    let object = |(i, a): (usize, &Action)| match a {
        Action::Create { object, .. } => {
            let mut slice: EndpointSlice = from_value(object.clone()).expect("slice");
            slice.metadata.name = Some(format!("s{i}"));
            slice.metadata.uid = Some(format!("s{i}"));
            slice.metadata.resource_version = Some("1".into());
            Arc::new(slice)
        }
        other => panic!("{other:?}"),
    };
    actions.iter().enumerate().map(object).collect()
}

#[test]
fn an_endpoint_says_what_the_pod_is() {
    let same: Edit = |_| ();
    let cases: &[(&str, Edit, Edit, Value)] = &[
        (
            "ready",
            same,
            same,
            json!({"addresses": ["10.1.0.1"], "nodeName": "n", "zone": "z1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": "p", "namespace": "d", "uid": "p"}}),
        ),
        (
            "not ready",
            same,
            |p| p["status"]["conditions"][0]["status"] = json!("False"),
            json!({"conditions": {"ready": false, "serving": false, "terminating": false}}),
        ),
        (
            "going but serving",
            same,
            |p| p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            json!({"conditions": {"ready": false, "serving": true, "terminating": true}}),
        ),
        (
            "published though not ready",
            |s| s["spec"]["publishNotReadyAddresses"] = json!(true),
            |p| p["status"]["conditions"][0]["status"] = json!("False"),
            json!({"conditions": {"ready": true, "serving": false, "terminating": false}}),
        ),
        (
            "named below the service",
            same,
            |p| {
                p["spec"]["hostname"] = json!("h");
                p["spec"]["subdomain"] = json!("s");
            },
            json!({"hostname": "h"}),
        ),
        (
            "subdomain of another",
            same,
            |p| {
                p["spec"]["hostname"] = json!("h");
                p["spec"]["subdomain"] = json!("x");
            },
            json!({"hostname": null}),
        ),
        (
            "finished",
            same,
            |p| p["status"]["phase"] = json!("Succeeded"),
            Value::Null,
        ),
        (
            "without an address",
            same,
            |p| p["status"]["podIPs"] = json!([]),
            Value::Null,
        ),
        (
            "of another label",
            same,
            |p| p["metadata"]["labels"] = json!({}),
            Value::Null,
        ),
    ];
    for (name, of_service, of_pod, want) in cases {
        let slices = stored(&run(&service(of_service), &[pod("p", of_pod)], &[]));
        let slice = serde_json::to_value(slices[0].as_ref()).expect("json");
        match want.as_object() {
            None => assert_eq!(slice["endpoints"], json!([]), "{name}"),
            Some(fields) => {
                for (field, value) in fields {
                    assert_eq!(&slice["endpoints"][0][field], value, "{name}: {field}");
                }
            }
        }
    }
}

#[test]
fn slices_by_family_and_ports() {
    let same: Edit = |_| ();
    let cases: &[(&str, Edit, Edit, Value)] = &[
        ("by name", same, same, json!([["IPv4", [8080]]])),
        (
            "by number",
            |s| s["spec"]["ports"][0]["targetPort"] = json!(9),
            same,
            json!([["IPv4", [9]]]),
        ),
        (
            "the service's own",
            |s| s["spec"]["ports"][0]["targetPort"] = json!(null),
            same,
            json!([["IPv4", [80]]]),
        ),
        (
            "unknown name",
            |s| s["spec"]["ports"][0]["targetPort"] = json!("x"),
            same,
            json!([["IPv4", []]]),
        ),
        (
            "name of another protocol",
            |s| s["spec"]["ports"][0]["protocol"] = json!("UDP"),
            same,
            json!([["IPv4", []]]),
        ),
        (
            "two families",
            |s| s["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]),
            same,
            json!([["IPv6", [8080]], ["IPv4", [8080]]]),
        ),
        (
            "another port of that name on the second pod",
            same,
            |p| p["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(8081),
            json!([["IPv4", [8080]], ["IPv4", [8081]]]),
        ),
        (
            "a sidecar's",
            same,
            |p| {
                let container = p["spec"]["containers"][0].clone();
                p["spec"]["containers"] = json!([]);
                p["spec"]["initContainers"] = json!([container]);
                p["spec"]["initContainers"][0]["restartPolicy"] = json!("Always");
            },
            json!([["IPv4", [8080]]]),
        ),
        (
            "headless without ports",
            |s| {
                s["spec"]["clusterIP"] = json!("None");
                s["spec"]["ports"] = json!([]);
            },
            same,
            json!([["IPv4", []]]),
        ),
    ];
    for (name, of_service, of_pod, want) in cases {
        let pods = [
            pod("p", |_| ()),
            pod("q", |v| {
                of_pod(v);
                v["status"]["podIPs"] = json!([{"ip": "10.1.0.2"}, {"ip": "fd00::2"}]);
            }),
        ];
        let slices = stored(&run(&service(of_service), &pods, &[]));
        let seen: Vec<Value> = slices
            .iter()
            .map(|s| {
                let ports = s.ports.iter().flatten().map(|p| p.port);
                json!([s.address_type, ports.collect::<Vec<_>>()])
            })
            .collect();
        assert_eq!(json!(seen), *want, "{name}");
    }
}

#[test]
fn labels_and_owner() {
    let slices = stored(&run(
        &service(|s| s["spec"]["clusterIP"] = json!("None")),
        &[],
        &[],
    ));
    let meta = serde_json::to_value(&slices[0].metadata).expect("json");
    assert_eq!(
        meta["labels"],
        json!({"l": "1", SERVICE_NAME: "s", MANAGED_BY: OURS, HEADLESS: ""})
    );
    assert_eq!(meta["ownerReferences"][0]["uid"], "su");
    assert_eq!(meta["generateName"], "s-");
}

#[test]
fn as_few_slices_as_possible_change() {
    let base: Vec<_> = (0..250).map(|i| at(&format!("p{i:03}"), i)).collect();
    let made = stored(&run(&service(|_| ()), &base, &[]));
    let sizes = |all: &[Arc<EndpointSlice>]| -> Vec<usize> {
        all.iter()
            .map(|s| s.endpoints.as_ref().map_or(0, Vec::len))
            .collect()
    };
    assert_eq!(sizes(&made), [100, 100, 50]);
    let (first, ..) = made[0]
        .endpoints
        .as_ref()
        .and_then(|e| e.first())
        .map(|e| {
            let uid = e.target_ref.as_ref().and_then(|t| t.uid.clone());
            (uid.unwrap_or_default(),)
        })
        .expect("endpoint");
    let without = |name: &str| {
        base.iter()
            .filter(|p| p.name_any() != name)
            .cloned()
            .collect::<Vec<_>>()
    };
    let with = |n: usize| {
        base.iter()
            .cloned()
            .chain((0..n).map(|i| at(&format!("x{i}"), 300 + i)))
            .collect::<Vec<_>>()
    };
    let relabelled = service(|s| s["metadata"]["labels"] = json!({"l": "2"}));
    let ported = service(|s| s["spec"]["ports"][0]["targetPort"] = json!(9));
    let plain = service(|_| ());
    let cases: Vec<(&str, &Service, Vec<Arc<Pod>>, [usize; 3])> = vec![
        ("nothing new", &plain, base.clone(), [0, 0, 0]),
        ("one less", &plain, without(&first), [0, 1, 0]),
        ("one more fits", &plain, with(1), [0, 1, 0]),
        (
            "too many for the room there is",
            &plain,
            with(60),
            [1, 0, 0],
        ),
        (
            "another for one",
            &plain,
            without(&first).into_iter().chain([at("x", 300)]).collect(),
            [0, 1, 0],
        ),
        ("none left", &plain, vec![], [0, 1, 2]),
        (
            "labels of the service",
            &relabelled,
            base.clone(),
            [0, 3, 0],
        ),
        (
            "other ports: slices are used again",
            &ported,
            base.clone(),
            [0, 3, 0],
        ),
    ];
    for (name, service, pods, want) in cases {
        let actions = run(service, &pods, &made);
        let count = |f: fn(&Action) -> bool| actions.iter().filter(|a| f(a)).count();
        let seen = [
            count(|a| matches!(a, Action::Create { .. })),
            count(|a| matches!(a, Action::Patch { .. })),
            count(|a| matches!(a, Action::Delete { .. })),
        ];
        assert_eq!(seen, want, "{name}");
    }
}

#[test]
fn hand_made_endpoints_are_mirrored() {
    let endpoints = |edit: Edit| -> k8s_openapi::api::core::v1::Endpoints {
        let mut v = json!({"metadata": {"name": "s", "namespace": "d", "uid": "eu"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 80}]}]});
        edit(&mut v);
        from_value(v).expect("endpoints")
    };
    let by_hand = service(|s| s["spec"]["selector"] = json!(null));
    let selecting = service(|_| ());
    let same: Edit = |_| ();
    let cases: &[(&str, Edit, Option<&Service>, &[(&str, usize)])] = &[
        (
            "both families",
            same,
            Some(&by_hand),
            &[("IPv4", 2), ("IPv6", 1)],
        ),
        ("a service that selects", same, Some(&selecting), &[]),
        ("no service", same, None, &[]),
        (
            "not wanted",
            |v| {
                v["metadata"]["labels"] = json!({"endpointslice.kubernetes.io/skip-mirror": "true"})
            },
            Some(&by_hand),
            &[],
        ),
        (
            "somebody's lock",
            |v| {
                v["metadata"]["annotations"] =
                    json!({"control-plane.alpha.kubernetes.io/leader": "x"})
            },
            Some(&by_hand),
            &[],
        ),
    ];
    for (name, edit, service, want) in cases {
        let slices = stored(&mirror::plan(Some(&endpoints(*edit)), *service, &[]));
        let seen: Vec<_> = slices
            .iter()
            .map(|s| {
                (
                    s.address_type.as_str(),
                    s.endpoints.as_ref().map_or(0, Vec::len),
                )
            })
            .collect();
        assert_eq!(seen, *want, "{name}");
        let again = mirror::plan(Some(&endpoints(*edit)), *service, &slices);
        assert_eq!(again, [], "{name}: settled");
    }
    let slices = stored(&mirror::plan(Some(&endpoints(same)), Some(&by_hand), &[]));
    let gone = mirror::plan(None, Some(&by_hand), &slices);
    assert_eq!(gone.len(), 2, "slices go with the Endpoints");
}
