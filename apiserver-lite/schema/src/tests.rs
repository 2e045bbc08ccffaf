//! Decoding and strategic merge against upstream's documented behaviour, and our facts against k8s-openapi's.

#![allow(clippy::unwrap_used)]

use crate::facts::{self, Patch, Topology};
use crate::kinds::KINDS;
use crate::model::{self, Struct, Type};
use crate::{Gvk, PatchError, Schema};
use k8s_openapi::DeepMerge;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

pub(crate) fn schema(api_version: &str, kind: &str) -> Schema {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let gvk = Gvk {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
    };
    Schema::builtin(&gvk).unwrap()
}

#[test]
fn every_kind_has_fields() {
    for row in KINDS {
        let fields = model::root(row).as_struct().unwrap().fields().count();
        assert!(fields > 0, "{} {}", row.version, row.kind);
    }
    let unknown = Gvk {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Pod".into(),
    };
    assert!(Schema::builtin(&unknown).is_none());
}

#[test]
fn decode_normalizes() {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "creationTimestamp": null, "labels": {"x": null},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:anything": {}}}]},
        "spec": {"containers": [{"name": "c", "resources": {
            "limits": {"cpu": 1, "memory": "1024Mi"}, "requests": {"cpu": 0.5}}, "command": ["a", null],
            "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"httpGet": {"port": "http"}}}],
            "bogus": 1, "nodeSelector": null},
        "extra": {"a": 1},
    });
    let unknown = schema("v1", "Pod").decode(&mut pod).unwrap();
    let want: BTreeSet<&str> = [r#"unknown field "spec.bogus""#, r#"unknown field "extra""#].into();
    assert_eq!(
        unknown.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        want
    );
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "labels": {"x": ""},
                "managedFields": [{"manager": "m", "fieldsV1": {"f:anything": {}}}]},
            "spec": {"containers": [{"name": "c", "resources": {
                "limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "command": ["a", ""],
                "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"httpGet": {"port": "http"}}}]},
        })
    );
}

#[test]
fn unknown_fields_have_upstream_paths() {
    let mut deployment =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"imag": "b"}]}}}});
    assert_eq!(
        schema("apps/v1", "Deployment")
            .decode(&mut deployment)
            .unwrap(),
        [r#"unknown field "spec.template.spec.containers[1].imag""#]
    );
}

#[test]
fn type_errors_have_upstream_words() {
    for (api, kind, object, want) in [
        (
            "apps/v1",
            "Deployment",
            json!({"spec": {"replicas": "3"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps/v1",
            "Deployment",
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "apps/v1",
            "Deployment",
            json!({"spec": {"replicas": 3_000_000_000_u64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            "v1",
            "Pod",
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"env": [{"value": true}]}]}}),
            "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"containers": {}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            "v1",
            "Pod",
            json!({"spec": []}),
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            "v1",
            "Pod",
            json!([]),
            "json: cannot unmarshal array into Go value of type v1.Pod",
        ),
        (
            "v1",
            "Pod",
            json!({"spec": {"overhead": {"cpu": "x"}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "v1",
            "Secret",
            json!({"data": {"a": "%%%%"}}),
            "illegal base64 data at input byte 0",
        ),
        (
            "v1",
            "Pod",
            json!({"metadata": {"creationTimestamp": "today"}}),
            "parsing time \"today\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"today\" as \"2006\"",
        ),
    ] {
        let mut value = object.clone();
        assert_eq!(
            schema(api, kind).decode(&mut value),
            Err(want.to_owned()),
            "{object}"
        );
    }
}

#[test]
fn crd_schemas_are_recursive_and_free_where_they_must_be() {
    let mut crd = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {
        "properties": {"a": {"properties": {"b": {"default": {"any": ["thing"]}, "bogus": 1}}}}}}}]}});
    let unknown = schema("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        .decode(&mut crd)
        .unwrap();
    assert_eq!(
        unknown,
        [
            r#"unknown field "spec.versions[0].schema.openAPIV3Schema.properties.a.properties.b.bogus""#
        ]
    );
    let default = "/spec/versions/0/schema/openAPIV3Schema/properties/a/properties/b/default/any/0";
    assert_eq!(crd.pointer(default), Some(&json!("thing")));
}

fn pod_spec(spec: Value) -> Value {
    json!({ "spec": spec })
}

#[test]
fn strategic_merge() {
    let containers = |items: Value| pod_spec(json!({ "containers": items }));
    let meta = |items: Value| json!({"metadata": {"finalizers": items}});
    let cases = [
        // Lists of objects merge by key; new items go to the front, as upstream's documentation shows.
        (
            containers(json!([{"name": "a", "image": "1"}, {"name": "b"}])),
            containers(json!([{"name": "a", "image": "2"}])),
            containers(json!([{"name": "a", "image": "2"}, {"name": "b"}])),
        ),
        (
            containers(json!([{"name": "a"}])),
            containers(
                json!([{"name": "b", "image": null, "ports": [{"containerPort": 1, "$patch": "delete"}]}]),
            ),
            containers(json!([{"name": "b", "ports": []}, {"name": "a"}])),
        ),
        (
            containers(json!([{"name": "a"}, {"name": "b"}])),
            containers(json!([{"$patch": "delete", "name": "a"}])),
            containers(json!([{"name": "b"}])),
        ),
        (
            containers(json!([{"name": "a"}, {"name": "b"}])),
            containers(json!([{"$patch": "replace"}, {"name": "c"}])),
            containers(json!([{"name": "c"}])),
        ),
        // $setElementOrder: named ones in that order, others stay near where they were.
        (
            containers(json!([{"name": "a"}, {"name": "x"}, {"name": "b"}])),
            pod_spec(
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
                "containers": [{"name": "c"}]}),
            ),
            containers(json!([{"name": "x"}, {"name": "b"}, {"name": "a"}, {"name": "c"}])),
        ),
        (
            containers(json!([{"name": "a"}, {"name": "b"}])),
            pod_spec(json!({"$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"$patch": "delete", "name": "a"}]})),
            containers(json!([{"name": "b"}])),
        ),
        // Lists without a strategy are replaced.
        (
            pod_spec(json!({"tolerations": [{"key": "a"}]})),
            pod_spec(json!({"tolerations": [{"key": "b"}]})),
            pod_spec(json!({"tolerations": [{"key": "b"}]})),
        ),
        // Lists of plain values with the strategy are merged.
        (
            meta(json!(["a", "b"])),
            meta(json!(["b", "c"])),
            meta(json!(["a", "b", "c"])),
        ),
        (
            meta(json!(["a", "b", "c"])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}),
            meta(json!(["a", "c"])),
        ),
        (
            meta(json!(["a", "b"])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
                "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}}),
            meta(json!(["c", "b"])),
        ),
        // $retainKeys clears the rest of a union.
        (
            pod_spec(json!({"volumes": [{"name": "v", "emptyDir": {}}]})),
            pod_spec(
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}),
            ),
            pod_spec(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
        ),
        // Maps: null deletes, $patch replaces or empties.
        (
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        ),
        (
            pod_spec(json!({"securityContext": {"runAsUser": 1}})),
            pod_spec(json!({"securityContext": {"$patch": "replace", "runAsGroup": 2}})),
            pod_spec(json!({"securityContext": {"runAsGroup": 2}})),
        ),
        (
            pod_spec(json!({"securityContext": {"runAsUser": 1}})),
            pod_spec(json!({"securityContext": {"$patch": "delete"}})),
            pod_spec(json!({"securityContext": {}})),
        ),
    ];
    for (live, patch, want) in cases {
        let got = schema("v1", "Pod").strategic_merge(&live, &patch);
        assert_eq!(got, Ok(want), "{live} + {patch}");
    }
}

#[test]
fn strategic_merge_refusals() {
    let live = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}});
    for (patch, want) in [
        (
            json!([]),
            PatchError::Malformed("Invalid JSON document".into()),
        ),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            PatchError::Unprocessable(
                r#"map: {"image":"x"} does not contain declared merge key: name"#.into(),
            ),
        ),
        (
            json!({"spec": {"$patch": "burn"}}),
            PatchError::Unprocessable("unknown patch type: burn in map: {}".into()),
        ),
        (
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}}),
            PatchError::Malformed("invalid patch format of retainKeys".into()),
        ),
        (
            json!({"spec": {"$setElementOrder/containers": 1}}),
            PatchError::Malformed("invalid patch format of setElementOrder list".into()),
        ),
    ] {
        let got = schema("v1", "Pod").strategic_merge(&live, &patch);
        assert_eq!(got, Err(want), "{patch}");
    }
}

pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        "metadata|spec|status|template|containers|name|ports|labels|annotations|replicas|data|selector",
        "strategy|creationTimestamp|resources|limits|env|volumes|f:spec|k:\\{\\}|\\$patch|\\$retainKeys|[a-z]",
        "\\$setElementOrder/containers|\\$deleteFromPrimitiveList/x",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z0-9.:+=-]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn decode_survives_anything_and_is_settled_after_once(value in any_json()) {
        let schema = schema("apps/v1", "Deployment");
        let mut once = value;
        if schema.decode(&mut once).is_ok() {
            let mut twice = once.clone();
            prop_assert_eq!(schema.decode(&mut twice), Ok(vec![]));
            prop_assert_eq!(twice, once);
        }
    }

    #[test]
    fn an_empty_strategic_patch_changes_nothing(value in any_json()) {
        let value = json!({"metadata": {"name": "a"}, "spec": value});
        let merged = schema("apps/v1", "Deployment").strategic_merge(&value, &json!({}));
        prop_assert_eq!(merged, Ok(value));
    }

    #[test]
    fn any_strategic_patch_is_survived(live in any_json(), patch in any_json()) {
        let schema = schema("apps/v1", "Deployment");
        let _ = schema.strategic_merge(&json!({"spec": live}), &json!({"spec": patch}));
    }

    #[test]
    fn quantities_are_settled_after_once(text in "[+-]?[0-9]{0,30}\\.?[0-9]{0,12}(|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]|e-[0-9])") {
        if let Ok(once) = crate::quantity::canonical(&text) {
            prop_assert_eq!(crate::quantity::canonical(&once), Ok(once.clone()));
        }
    }
}

/// Two documents with nothing but one list, whose items differ: merged by k8s-openapi, the list has two items when
/// the API says that it merges, and one when not.
fn lists_agree<T: DeepMerge + Serialize + DeserializeOwned>(
    api_version: &str,
    kind: &str,
) -> usize {
    let root = schema(api_version, kind).root;
    let mut lists = vec![];
    collect_lists(root, &mut vec![], &mut vec![], &mut lists);
    for (path, of, patch) in &lists {
        let [a, b] = ["1", "2"].map(|variant| {
            let item = sample(of.item, of.topology, patch, variant);
            let document = path
                .iter()
                .rev()
                .fold(json!([item]), |inner, step| match step {
                    Step::Field(name) => json!({ *name: inner }),
                    Step::Item(keys) => {
                        let mut item: Map<String, Value> = keys
                            .iter()
                            .map(|key| ((*key).to_owned(), json!(null)))
                            .collect();
                        item.retain(|_, value| !value.is_null());
                        item.extend(inner.as_object().cloned().unwrap());
                        json!([item])
                    }
                });
            serde_json::from_value::<T>(document.clone())
                .unwrap_or_else(|error| panic!("{document}: {error}"))
        });
        let mut merged = a;
        merged.merge_from(b);
        let merged = serde_json::to_value(merged).unwrap();
        let list = path.iter().fold(&merged, |value, step| match step {
            Step::Field(name) => &value[*name],
            Step::Item(_) => &value[0],
        });
        let definition = list.as_array().map_or(0, Vec::len);
        let merges = patch.merge || of.topology != Topology::Atomic;
        // DeepMerge tells claims apart by their metadata; the API says atomic.
        let claims = matches!(path.last(), Some(Step::Field("volumeClaimTemplates")));
        assert!(
            claims || definition == if merges { 2 } else { 1 },
            "{kind} {path:?}: {list}"
        );
    }
    lists.len()
}

#[derive(Clone, Debug)]
enum Step {
    Field(&'static str),
    Item(Vec<&'static str>),
}

type Found = (Vec<Step>, &'static model::ListType, Patch);

fn collect_lists(
    ty: Type,
    path: &mut Vec<Step>,
    seen: &mut Vec<*const Struct>,
    lists: &mut Vec<Found>,
) {
    let Some(body) = ty.as_struct() else { return };
    if seen.contains(&std::ptr::from_ref(body)) {
        return;
    }
    seen.push(body);
    for field in body.fields() {
        path.push(Step::Field(&field.name));
        match field.ty {
            Type::List(of) => {
                lists.push((path.clone(), of, field.patch));
                if let Topology::Keys(keys) = of.topology {
                    path.push(Step::Item(keys.to_vec()));
                    collect_lists(of.item, path, seen, lists);
                    path.pop();
                }
            }
            ty => collect_lists(ty, path, seen, lists),
        }
        path.pop();
    }
    seen.pop();
}

fn sample(ty: Type, topology: Topology, patch: &Patch, variant: &str) -> Value {
    match ty {
        Type::Int32 | Type::Int64 | Type::Double => variant.parse::<i64>().unwrap().into(),
        Type::Named(named) => {
            let keys: Vec<&str> = match (topology, patch.key) {
                (_, Some(key)) => vec![key],
                (Topology::Keys(keys), None) => keys.to_vec(),
                _ => vec![],
            };
            // Times have no empty value, so they must be there.
            let wanted = |field: &&model::Field| {
                keys.contains(&&*field.name) || matches!(field.ty, Type::Time | Type::MicroTime)
            };
            let fields = named.body().fields().filter(wanted).map(|field| {
                let value = sample(field.ty, Topology::Atomic, &Patch::default(), variant);
                (field.name.to_string(), value)
            });
            Value::Object(fields.collect())
        }
        Type::Any | Type::Map(_) => json!({}),
        Type::List(_) => json!([]),
        Type::Bool => json!(variant == "1"),
        Type::Time | Type::MicroTime => json!(format!("2026-01-0{variant}T00:00:00Z")),
        _ => variant.into(),
    }
}

#[test]
fn facts_agree_with_k8s_openapi() {
    use k8s_openapi::api::*;
    let checked = lists_agree::<core::v1::Pod>("v1", "Pod")
        + lists_agree::<core::v1::Service>("v1", "Service")
        + lists_agree::<core::v1::ServiceAccount>("v1", "ServiceAccount")
        + lists_agree::<core::v1::Node>("v1", "Node")
        + lists_agree::<core::v1::Namespace>("v1", "Namespace")
        + lists_agree::<core::v1::PersistentVolumeClaim>("v1", "PersistentVolumeClaim")
        + lists_agree::<core::v1::PersistentVolume>("v1", "PersistentVolume")
        + lists_agree::<core::v1::ReplicationController>("v1", "ReplicationController")
        + lists_agree::<core::v1::ComponentStatus>("v1", "ComponentStatus")
        + lists_agree::<core::v1::Endpoints>("v1", "Endpoints")
        + lists_agree::<core::v1::ResourceQuota>("v1", "ResourceQuota")
        + lists_agree::<apps::v1::Deployment>("apps/v1", "Deployment")
        + lists_agree::<apps::v1::ReplicaSet>("apps/v1", "ReplicaSet")
        + lists_agree::<apps::v1::DaemonSet>("apps/v1", "DaemonSet")
        + lists_agree::<apps::v1::StatefulSet>("apps/v1", "StatefulSet")
        + lists_agree::<batch::v1::Job>("batch/v1", "Job")
        + lists_agree::<batch::v1::CronJob>("batch/v1", "CronJob")
        + lists_agree::<autoscaling::v2::HorizontalPodAutoscaler>(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
        )
        + lists_agree::<certificates::v1::CertificateSigningRequest>(
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
        )
        + lists_agree::<discovery::v1::EndpointSlice>("discovery.k8s.io/v1", "EndpointSlice")
        + lists_agree::<networking::v1::Ingress>("networking.k8s.io/v1", "Ingress")
        + lists_agree::<networking::v1::NetworkPolicy>("networking.k8s.io/v1", "NetworkPolicy")
        + lists_agree::<networking::v1::ServiceCIDR>("networking.k8s.io/v1", "ServiceCIDR")
        + lists_agree::<node::v1::RuntimeClass>("node.k8s.io/v1", "RuntimeClass")
        + lists_agree::<policy::v1::PodDisruptionBudget>("policy/v1", "PodDisruptionBudget")
        + lists_agree::<rbac::v1::ClusterRole>("rbac.authorization.k8s.io/v1", "ClusterRole")
        + lists_agree::<storage::v1::CSIDriver>("storage.k8s.io/v1", "CSIDriver")
        + lists_agree::<storage::v1::CSINode>("storage.k8s.io/v1", "CSINode")
        + lists_agree::<admissionregistration::v1::ValidatingAdmissionPolicy>(
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicy",
        )
        + lists_agree::<admissionregistration::v1::ValidatingAdmissionPolicyBinding>(
            "admissionregistration.k8s.io/v1",
            "ValidatingAdmissionPolicyBinding",
        )
        + lists_agree::<admissionregistration::v1::ValidatingWebhookConfiguration>(
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
        )
        + lists_agree::<admissionregistration::v1::MutatingWebhookConfiguration>(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
        )
        + lists_agree::<k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService>(
            "apiregistration.k8s.io/v1",
            "APIService",
        );
    assert!(checked > 400, "only {checked} lists found");
}

/// A row whose definition or field does not exist is a typing error.
#[test]
fn every_fact_is_about_something() {
    let mut all = Map::new();
    for row in KINDS {
        all.extend(model::definitions(row));
    }
    for (definition, field) in facts::subjects() {
        let found = all.iter().any(|(name, schema)| {
            facts::short(name) == definition
                && field.is_none_or(|field| !schema["properties"][field].is_null())
        });
        assert!(found, "{definition} {field:?}");
    }
}
