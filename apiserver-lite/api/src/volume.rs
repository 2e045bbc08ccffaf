//! Volumes, claims and classes as binding sees them, and which volume fits a claim: what the binder and the scheduler
//! must decide alike.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::json::{at, entries, flag, has, items, text, texts};
use crate::meta;
use crate::quantity::Quantity;
use crate::selector::{Labels, Op, Requirement};

/// Where the class stood before it was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// On a claim: which node the scheduler chose for a volume that is still to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: the binding is the controller's (or the scheduler's) choice, not a user's.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume, and the name this had before.
pub const PROVISIONER: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
/// The provisioner of classes that have none.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A claim by name, and by UID once it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty in a reference by hand.
    pub uid: String,
}

/// One term of a volume's node affinity: all of it must hold, an empty one holds for no node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its `resourceVersion`.
    pub version: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its class; empty: none.
    pub class: String,
    /// `VolumeAttributesClass`; empty: none.
    pub attributes_class: String,
    /// Access modes.
    pub modes: Vec<String>,
    /// Bytes.
    pub capacity: i64,
    /// A device rather than a file system.
    pub is_block: bool,
    /// Whom it is, or is to be, bound to.
    pub claim: Option<ClaimRef>,
    /// Which nodes reach it; `None`: all.
    pub nodes: Option<Vec<NodeTerm>>,
    /// `status.phase` is `Available`.
    pub is_available: bool,
    /// Being deleted.
    pub is_deleting: bool,
}

impl Volume {
    /// The volume in an API object.
    pub fn parse(v: &Value) -> Self {
        let reference = at(v, "/spec/claimRef");
        let required = at(v, "/spec/nodeAffinity/required");
        Self {
            name: meta::name(v).into(),
            uid: meta::uid(v).into(),
            version: meta::resource_version(v).into(),
            labels: meta::labels(v).map(|(k, v)| (k.into(), v.into())).collect(),
            class: class(v),
            attributes_class: text(v, "/spec/volumeAttributesClassName").into(),
            modes: strings(v, "/spec/accessModes"),
            capacity: bytes(at(v, "/spec/capacity/storage")),
            is_block: text(v, "/spec/volumeMode") == "Block",
            claim: (!reference.is_null()).then(|| ClaimRef {
                namespace: text(reference, "/namespace").into(),
                name: text(reference, "/name").into(),
                uid: text(reference, "/uid").into(),
            }),
            nodes: (!required.is_null()).then(|| {
                items(required, "/nodeSelectorTerms")
                    .iter()
                    .map(term)
                    .collect()
            }),
            is_available: text(v, "/status/phase") == "Available",
            is_deleting: meta::is_deleting(v),
        }
    }

    /// Whether it is meant for a claim: bound to it, or reserved by name.
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.claim.as_ref().is_some_and(|c| {
            c.namespace == claim.namespace
                && c.name == claim.name
                && (c.uid.is_empty() || c.uid == claim.uid)
        })
    }

    /// Whether a node reaches it.
    pub fn reaches(&self, node: &Node<'_>) -> bool {
        let holds = |term: &NodeTerm| {
            let label = |key: &str| node.labels.get(key).map(String::as_str);
            let field = |key: &str| (key == "metadata.name").then_some(node.name);
            !(term.labels.is_empty() && term.fields.is_empty())
                && term.labels.iter().all(|r| r.holds(label(&r.key)))
                && term.fields.iter().all(|r| r.holds(field(&r.key)))
        };
        self.nodes
            .as_ref()
            .is_none_or(|terms| terms.iter().any(holds))
    }
}

/// A node, as a volume's affinity sees it.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its class; empty: none.
    pub class: String,
    /// `VolumeAttributesClass`; empty: none.
    pub attributes_class: String,
    /// Access modes.
    pub modes: Vec<String>,
    /// Bytes.
    pub request: i64,
    /// Wants a device rather than a file system.
    pub is_block: bool,
    /// Labels that the volume must have.
    pub selector: Labels,
    /// Whether it says which labels the volume must have.
    pub has_selector: bool,
    /// `spec.volumeName`; empty: not chosen yet.
    pub volume: String,
    /// Binding is complete.
    pub is_bound: bool,
    /// Its volume is gone.
    pub is_lost: bool,
    /// Where the scheduler wants its volume made; empty: nowhere yet.
    pub selected_node: String,
    /// Being deleted.
    pub is_deleting: bool,
    /// The UID of the pod that it was made for, of a generic ephemeral volume.
    pub owner: Option<String>,
}

impl Claim {
    /// The claim in an API object.
    pub fn parse(v: &Value) -> Self {
        let note = |key| meta::annotation(v, key).unwrap_or_default();
        let selector = at(v, "/spec/selector");
        let pod = meta::controller(v).filter(|o| text(o, "/kind") == "Pod");
        Self {
            namespace: meta::namespace(v).into(),
            name: meta::name(v).into(),
            uid: meta::uid(v).into(),
            class: class(v),
            attributes_class: text(v, "/spec/volumeAttributesClassName").into(),
            modes: strings(v, "/spec/accessModes"),
            request: bytes(at(v, "/spec/resources/requests/storage")),
            is_block: text(v, "/spec/volumeMode") == "Block",
            selector: match selector.is_null() {
                true => Labels::default(),
                // Validation let no other pass; what can't be read matches nothing.
                false => Labels::from_object(selector).unwrap_or_else(|_| nothing()),
            },
            has_selector: !selector.is_null(),
            volume: text(v, "/spec/volumeName").into(),
            is_bound: !note(BIND_COMPLETED).is_empty(),
            is_lost: text(v, "/status/phase") == "Lost",
            selected_node: note(SELECTED_NODE).into(),
            is_deleting: meta::is_deleting(v),
            owner: pod.map(|o| text(o, "/uid").into()),
        }
    }
}

/// A StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Who makes volumes.
    pub provisioner: String,
    /// `WaitForFirstConsumer`: volumes are bound when the scheduler has a node.
    pub waits: bool,
    /// What becomes of volumes whose claim is gone: `Delete` or `Retain`.
    pub reclaim: String,
    /// Mount options of its volumes.
    pub mount_options: Vec<String>,
    /// Where volumes may be; empty: anywhere.
    pub topologies: Vec<Vec<Requirement>>,
}

impl Class {
    /// The class in an API object.
    pub fn parse(v: &Value) -> Self {
        let requirement = |e: &Value| requirement(text(e, "/key"), "In", strings(e, "/values"));
        let topology = |t: &Value| {
            items(t, "/matchLabelExpressions")
                .iter()
                .map(requirement)
                .collect()
        };
        Self {
            name: meta::name(v).into(),
            provisioner: text(v, "/provisioner").into(),
            waits: text(v, "/volumeBindingMode") == "WaitForFirstConsumer",
            reclaim: text(v, "/reclaimPolicy").into(),
            mount_options: strings(v, "/mountOptions"),
            topologies: items(v, "/allowedTopologies")
                .iter()
                .map(topology)
                .collect(),
        }
    }

    /// Whether volumes may be made for a node.
    pub fn admits(&self, node: &Node<'_>) -> bool {
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        let holds = |t: &Vec<Requirement>| t.iter().all(|r| r.holds(label(&r.key)));
        self.topologies.is_empty() || self.topologies.iter().any(holds)
    }

    /// Whether anybody makes volumes.
    pub fn provisions(&self) -> bool {
        !self.provisioner.is_empty() && self.provisioner != NO_PROVISIONER
    }
}

/// For whom a volume is looked for.
#[derive(Clone, Copy, Debug)]
pub enum For<'a> {
    /// The binder, now.
    Now,
    /// The binder, where the scheduler is to choose: only a volume that is reserved for the claim.
    Later,
    /// The scheduler, on a node.
    Node(Node<'a>),
}

/// The volume for a claim: one that is reserved for it, or the smallest that fits. `taken` names those that are
/// spoken for already.
pub fn find<'v>(
    claim: &Claim,
    volumes: impl IntoIterator<Item = &'v Volume>,
    wanted: For<'_>,
    taken: &dyn Fn(&Volume) -> bool,
) -> Option<&'v Volume> {
    let mut best: Option<&Volume> = None;
    for volume in volumes {
        let is_reserved = volume.is_for(claim);
        let reachable = match wanted {
            For::Node(node) => volume.reaches(&node),
            _ => true,
        };
        let fits = !taken(volume)
            && (is_reserved || volume.claim.is_none())
            && volume.capacity >= claim.request
            && volume.is_block == claim.is_block
            && volume.attributes_class == claim.attributes_class
            && !volume.is_deleting
            && has_modes(volume, claim);
        if !fits {
            continue;
        }
        if is_reserved {
            return reachable.then_some(volume);
        }
        let label = |key: &str| volume.labels.get(key).map(String::as_str);
        let offered = !matches!(wanted, For::Later)
            && volume.is_available
            && reachable
            && volume.class == claim.class
            && claim.selector.matches_with(label);
        let smaller = best.is_none_or(|b| {
            (volume.modes.len(), volume.capacity, &volume.name)
                < (b.modes.len(), b.capacity, &b.name)
        });
        if offered && smaller {
            best = Some(volume);
        }
    }
    best
}

/// Why a volume that a claim asks for by name is not for it, in upstream's words.
pub fn misfit(claim: &Claim, volume: &Volume) -> Option<&'static str> {
    let rows = [
        (volume.capacity < claim.request, "requested PV is too small"),
        (
            volume.class != claim.class,
            "storageClassName does not match",
        ),
        (
            volume.attributes_class != claim.attributes_class,
            "volumeAttributesClassName does not match",
        ),
        (volume.is_block != claim.is_block, "incompatible volumeMode"),
        (!has_modes(volume, claim), "incompatible accessMode"),
    ];
    rows.iter().find(|(wrong, _)| *wrong).map(|(_, why)| *why)
}

fn has_modes(volume: &Volume, claim: &Claim) -> bool {
    claim.modes.iter().all(|m| volume.modes.contains(m))
}

fn class(v: &Value) -> String {
    let old = meta::annotation(v, OLD_CLASS);
    old.unwrap_or_else(|| text(v, "/spec/storageClassName"))
        .into()
}

fn strings(v: &Value, pointer: &str) -> Vec<String> {
    texts(v, pointer).into_iter().map(str::to_owned).collect()
}

fn bytes(v: &Value) -> i64 {
    Quantity::from_value(v).map_or(0, Quantity::value)
}

fn term(v: &Value) -> NodeTerm {
    let list = |pointer| {
        let read =
            |e: &Value| requirement(text(e, "/key"), text(e, "/operator"), strings(e, "/values"));
        items(v, pointer).iter().map(read).collect()
    };
    NodeTerm {
        labels: list("/matchExpressions"),
        fields: list("/matchFields"),
    }
}

/// An operator that is none never holds.
fn requirement(key: &str, op: &str, values: Vec<String>) -> Requirement {
    let op = match op {
        "In" => Op::In,
        "NotIn" => Op::NotIn,
        "Exists" => Op::Exists,
        "DoesNotExist" => Op::DoesNotExist,
        "Gt" => Op::Gt,
        "Lt" => Op::Lt,
        _ => return never(),
    };
    Requirement {
        key: key.to_owned(),
        op,
        values,
    }
}

fn never() -> Requirement {
    Requirement {
        key: String::new(),
        op: Op::In,
        values: Vec::new(),
    }
}

fn nothing() -> Labels {
    Labels::from_object(&Value::Null).unwrap_or_default()
}

/// Whether a class is one of those that claims without a class get.
pub fn is_default_class(class: &Value) -> bool {
    let wanted = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ];
    entries(class, "/metadata/annotations")
        .any(|(key, value)| wanted.contains(&key) && value == "true")
}

/// The names of the claims that a pod uses, each with whether it is made for the pod (a generic ephemeral volume).
pub fn claims_of(pod: &Value) -> Vec<(String, bool)> {
    let of = |v: &Value| {
        let named = text(v, "/persistentVolumeClaim/claimName");
        if !named.is_empty() {
            return Some((named.to_owned(), false));
        }
        has(v, "/ephemeral").then(|| (format!("{}-{}", meta::name(pod), text(v, "/name")), true))
    };
    items(pod, "/spec/volumes").iter().filter_map(of).collect()
}

/// Whether a volume lets its claim grow.
pub fn may_grow(class: &Value) -> bool {
    flag(class, "/allowVolumeExpansion")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `name size modes [class=..] [block] [for=claim] [uid=..] [labels=a:b] [zone=..] [gone] [unready]`
    fn volume(line: &str) -> Volume {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default().to_owned();
        let (name, size, modes) = (word(), word(), word());
        let rest: Vec<&str> = line.split_whitespace().skip(3).collect();
        let value = |key: &str| rest.iter().find_map(|w| w.strip_prefix(key));
        let mut v = json!({"metadata": {"name": name, "uid": name},
            "spec": {"capacity": {"storage": size}, "accessModes": mode_list(&modes),
                "storageClassName": value("class=").unwrap_or_default()},
            "status": {"phase": "Available"}});
        if rest.contains(&"block") {
            v["spec"]["volumeMode"] = json!("Block");
        }
        if let Some(claim) = value("for=") {
            v["spec"]["claimRef"] =
                json!({"namespace": "ns", "name": claim, "uid": value("uid=").unwrap_or_default()});
        }
        if let Some((k, l)) = value("labels=").and_then(|l| l.split_once(':')) {
            v["metadata"]["labels"] = json!({k: l});
        }
        if let Some(zone) = value("zone=") {
            v["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
        }
        if let Some(host) = value("host=") {
            v["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [host]}]}]}});
        }
        if rest.contains(&"gone") {
            v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if rest.contains(&"unready") {
            v["status"]["phase"] = json!("Pending");
        }
        Volume::parse(&v)
    }

    fn mode_list(short: &str) -> Vec<&'static str> {
        let all = [
            ("RWO", "ReadWriteOnce"),
            ("ROX", "ReadOnlyMany"),
            ("RWX", "ReadWriteMany"),
        ];
        short
            .split(',')
            .filter_map(|s| all.iter().find(|(k, _)| *k == s).map(|(_, m)| *m))
            .collect()
    }

    fn claim(size: &str, modes: &str, more: Value) -> Claim {
        let mut spec =
            json!({"resources": {"requests": {"storage": size}}, "accessModes": mode_list(modes)});
        for (k, v) in more.as_object().into_iter().flatten() {
            spec[k] = v.clone();
        }
        Claim::parse(
            &json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"}, "spec": spec}),
        )
    }

    #[test]
    fn which_volume_fits() {
        let none = || json!({});
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let node = For::Node(Node {
            name: "n1",
            labels: &labels,
        });
        type Row<'a> = (&'a str, Claim, For<'a>, &'a [&'a str], Option<&'a str>);
        let table: Vec<Row<'_>> = vec![
            (
                "nothing there",
                claim("1Gi", "RWO", none()),
                For::Now,
                &[],
                None,
            ),
            (
                "the smallest",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["big 5Gi RWO", "small 2Gi RWO", "tiny 1Mi RWO"],
                Some("small"),
            ),
            (
                "exactly",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["a 1024Mi RWO"],
                Some("a"),
            ),
            (
                "equal: by name",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["b 1Gi RWO", "a 1Gi RWO"],
                Some("a"),
            ),
            (
                "fewer modes first",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["a 1Gi RWO,RWX", "b 2Gi RWO"],
                Some("b"),
            ),
            (
                "a mode lacks",
                claim("1Gi", "RWX", none()),
                For::Now,
                &["a 1Gi RWO,ROX"],
                None,
            ),
            (
                "of several modes all",
                claim("1Gi", "RWO,ROX", none()),
                For::Now,
                &["a 1Gi RWO", "b 1Gi RWO,ROX"],
                Some("b"),
            ),
            (
                "another class",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["a 1Gi RWO class=x"],
                None,
            ),
            (
                "the class",
                claim("1Gi", "RWO", json!({"storageClassName": "x"})),
                For::Now,
                &["a 1Gi RWO", "b 1Gi RWO class=x"],
                Some("b"),
            ),
            (
                "a device",
                claim("1Gi", "RWO", json!({"volumeMode": "Block"})),
                For::Now,
                &["a 1Gi RWO", "b 1Gi RWO block"],
                Some("b"),
            ),
            (
                "no device",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["b 1Gi RWO block"],
                None,
            ),
            (
                "labels",
                claim(
                    "1Gi",
                    "RWO",
                    json!({"selector": {"matchLabels": {"k": "v"}}}),
                ),
                For::Now,
                &["a 1Gi RWO", "b 2Gi RWO labels=k:v"],
                Some("b"),
            ),
            (
                "an expression",
                claim(
                    "1Gi",
                    "RWO",
                    json!({"selector": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}),
                ),
                For::Now,
                &["a 1Gi RWO"],
                None,
            ),
            (
                "going",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["a 1Gi RWO gone"],
                None,
            ),
            (
                "not looked at yet",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["a 1Gi RWO unready"],
                None,
            ),
            (
                "another's",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["a 1Gi RWO for=other"],
                None,
            ),
            (
                "reserved by name wins",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["a 1Gi RWO", "b 9Gi RWO for=c unready"],
                Some("b"),
            ),
            (
                "reserved, whatever its class",
                claim("1Gi", "RWO", json!({"storageClassName": "x"})),
                For::Now,
                &["b 9Gi RWO for=c"],
                Some("b"),
            ),
            (
                "reserved for another of that name",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["b 9Gi RWO for=c uid=old"],
                None,
            ),
            (
                "reserved but too small",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["b 9Mi RWO for=c", "a 1Gi RWO"],
                Some("a"),
            ),
            (
                "later: none that is free",
                claim("1Gi", "RWO", none()),
                For::Later,
                &["a 1Gi RWO"],
                None,
            ),
            (
                "later: the reserved one",
                claim("1Gi", "RWO", none()),
                For::Later,
                &["a 1Gi RWO", "b 1Gi RWO for=c"],
                Some("b"),
            ),
            (
                "on a node",
                claim("1Gi", "RWO", none()),
                node,
                &["a 1Gi RWO zone=b", "b 2Gi RWO zone=a"],
                Some("b"),
            ),
            (
                "by the node's name",
                claim("1Gi", "RWO", none()),
                node,
                &["a 1Gi RWO host=n2", "b 2Gi RWO host=n1"],
                Some("b"),
            ),
            (
                "on none",
                claim("1Gi", "RWO", none()),
                node,
                &["a 1Gi RWO zone=b"],
                None,
            ),
            (
                "reserved elsewhere",
                claim("1Gi", "RWO", none()),
                node,
                &["a 1Gi RWO zone=b for=c", "b 1Gi RWO"],
                None,
            ),
            (
                "taken already",
                claim("1Gi", "RWO", none()),
                For::Now,
                &["taken 1Gi RWO", "z 2Gi RWO"],
                Some("z"),
            ),
        ];
        for (name, claim, wanted, volumes, want) in table {
            let volumes: Vec<Volume> = volumes.iter().map(|v| volume(v)).collect();
            let found = find(&claim, &volumes, wanted, &|v| v.name == "taken");
            assert_eq!(found.map(|v| v.name.as_str()), want, "{name}");
        }
    }

    #[test]
    fn why_a_named_volume_does_not_fit() {
        let table = [
            ("a 1Gi RWO", "1Gi", None),
            ("a 1Mi RWO", "1Gi", Some("requested PV is too small")),
            (
                "a 1Gi RWO class=x",
                "1Gi",
                Some("storageClassName does not match"),
            ),
            ("a 1Gi RWO block", "1Gi", Some("incompatible volumeMode")),
            ("a 1Gi ROX", "1Gi", Some("incompatible accessMode")),
        ];
        for (line, size, want) in table {
            assert_eq!(
                misfit(&claim(size, "RWO", json!({})), &volume(line)),
                want,
                "{line}"
            );
        }
    }

    #[test]
    fn claims_of_a_pod() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [
            {"name": "a", "emptyDir": {}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "c", "ephemeral": {"volumeClaimTemplate": {}}}]}});
        assert_eq!(
            claims_of(&pod),
            [("data".to_owned(), false), ("p-c".to_owned(), true)]
        );
    }

    #[test]
    fn where_a_class_makes_volumes() {
        let class = |topologies: Value| {
            Class::parse(
                &json!({"metadata": {"name": "x"}, "provisioner": "p", "allowedTopologies": topologies}),
            )
        };
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let node = Node {
            name: "n",
            labels: &labels,
        };
        let zone = |z: &str| json!({"matchLabelExpressions": [{"key": "zone", "values": [z]}]});
        for (topologies, want) in [
            (json!(null), true),
            (json!([zone("a")]), true),
            (json!([zone("b")]), false),
            (json!([zone("b"), zone("a")]), true),
        ] {
            assert_eq!(
                class(topologies.clone()).admits(&node),
                want,
                "{topologies}"
            );
        }
    }
}
