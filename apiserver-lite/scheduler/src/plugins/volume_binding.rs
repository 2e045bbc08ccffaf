//! Nodes that reach a pod's volumes, and which volumes its claims get on a node when they waited for it.

use keelson_api::volume::{Claim, Class, For, Node, Volume, find};

use crate::framework::{Cycle, Refusal};
use crate::model::Pod;
use crate::snapshot::{NodeState, Snapshot};
use crate::storage::{Assumed, key};

/// A pod's claims.
#[derive(Debug, Default)]
pub struct Claims<'a> {
    /// Bound ones, with their volume (`None`: it is not there).
    pub bound: Vec<(&'a Claim, Option<&'a Volume>)>,
    /// Those that wait for a node, the smallest first.
    pub waiting: Vec<(&'a Claim, &'a Class)>,
}

/// What is to be done for a claim on the chosen node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The claim's namespace.
    pub namespace: String,
    /// Its name.
    pub claim: String,
    /// Its UID.
    pub uid: String,
    /// The volume that it gets, with its `resourceVersion`, empty when the volume names the claim already. `None`: one
    /// is to be made on the node.
    pub volume: Option<(String, String)>,
}

/// What a pod claims.
///
/// # Errors
/// Why no node will do, in upstream's words.
pub fn claims<'a>(pod: &Pod, snapshot: &'a Snapshot) -> Result<Claims<'a>, String> {
    let storage = &snapshot.storage;
    let mut found = Claims::default();
    for (name, is_own) in &pod.claims {
        let Some(claim) = storage.claims.get(&key(&pod.namespace, name)) else {
            return Err(match is_own {
                true => format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                ),
                false => format!("persistentvolumeclaim \"{name}\" not found"),
            });
        };
        if *is_own && claim.owner.as_ref() != Some(&pod.uid) {
            return Err(format!(
                "PVC {}/{name} was not created for pod {} (pod is not owner)",
                pod.namespace,
                pod.full_name()
            ));
        }
        if claim.is_lost {
            return Err(format!(
                "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
                claim.volume
            ));
        }
        if claim.is_deleting {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if claim.is_bound && !claim.volume.is_empty() {
            found
                .bound
                .push((claim, storage.volumes.get(&claim.volume)));
            continue;
        }
        // A claim that names its volume itself is bound without a node.
        let class = storage.classes.get(&claim.class);
        match class.filter(|c| c.waits && claim.volume.is_empty()) {
            Some(class) => found.waiting.push((claim, class)),
            None => return Err("pod has unbound immediate PersistentVolumeClaims".into()),
        }
    }
    found.waiting.sort_by_key(|(claim, _)| claim.request);
    Ok(found)
}

/// Refuses nodes that do not reach the pod's volumes, or have none for its claims.
pub fn check(cycle: &Cycle, state: &NodeState) -> Result<(), Refusal> {
    let claims = match &cycle.claims {
        Ok(claims) => claims,
        Err(why) => return Err(Refusal::final_(why)),
    };
    let node = as_node(state);
    for (_, volume) in &claims.bound {
        match volume {
            None => {
                return Err(Refusal::final_(
                    "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                ));
            }
            Some(volume) if !volume.reaches(&node) => {
                return Err(Refusal::final_("node(s) had volume node affinity conflict"));
            }
            Some(_) => {}
        }
    }
    choose(claims, cycle.snapshot, &node).map(drop)
}

/// What is to be done for a pod's claims on the node that it was given.
pub fn decide(pod: &Pod, snapshot: &Snapshot, node: &str) -> Vec<Decision> {
    if pod.claims.is_empty() {
        return Vec::new();
    }
    let state = snapshot.nodes.iter().find(|s| s.node.name == node);
    let claims = claims(pod, snapshot).ok();
    state
        .zip(claims)
        .and_then(|(state, claims)| choose(&claims, snapshot, &as_node(state)).ok())
        .unwrap_or_default()
}

fn as_node(state: &NodeState) -> Node<'_> {
    Node {
        name: &state.node.name,
        labels: &state.node.labels,
    }
}

fn choose(
    claims: &Claims<'_>,
    snapshot: &Snapshot,
    node: &Node<'_>,
) -> Result<Vec<Decision>, Refusal> {
    let none = || Refusal::final_("node(s) didn't find available persistent volumes to bind");
    let storage = &snapshot.storage;
    let mut chosen: Vec<Decision> = Vec::new();
    for (claim, class) in &claims.waiting {
        let assumed = storage.assumed.get(&key(&claim.namespace, &claim.name));
        let placed = match assumed {
            Some(Assumed {
                volume: None, node, ..
            }) => node.as_str(),
            _ => claim.selected_node.as_str(),
        };
        if !placed.is_empty() {
            // Its volume is being made there.
            if placed != node.name {
                return Err(none());
            }
            chosen.push(decision(claim, None));
            continue;
        }
        let own = assumed.and_then(|a| a.volume.as_ref());
        let taken = |v: &Volume| {
            own.is_some_and(|own| *own != v.name)
                || storage.is_taken(v, claim)
                || chosen
                    .iter()
                    .any(|d| d.volume.as_ref().is_some_and(|(name, _)| *name == v.name))
        };
        match find(claim, storage.volumes.values(), For::Node(*node), &taken) {
            Some(volume) => chosen.push(decision(claim, Some(volume))),
            None if class.provisions() && class.admits(node) && own.is_none() => {
                chosen.push(decision(claim, None));
            }
            None => return Err(none()),
        }
    }
    Ok(chosen)
}

fn decision(claim: &Claim, volume: Option<&Volume>) -> Decision {
    let version = |v: &Volume| match v.claim.as_ref().is_some_and(|c| !c.uid.is_empty()) {
        true => String::new(),
        false => v.version.clone(),
    };
    Decision {
        namespace: claim.namespace.clone(),
        claim: claim.name.clone(),
        uid: claim.uid.clone(),
        volume: volume.map(|v| (v.name.clone(), version(v))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::framework::{Outcome, schedule};
    use crate::storage::Storage;
    use crate::testing::{cluster, node, pod};

    fn volume(name: &str, host: Option<&str>, class: &str) -> Volume {
        let mut v = json!({"metadata": {"name": name, "resourceVersion": "7"}, "status": {"phase": "Available"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": class}});
        if let Some(host) = host {
            v["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
                [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}]}});
        }
        Volume::parse(&v)
    }

    fn claim(name: &str, class: &str, more: Value) -> Claim {
        let mut v = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": "1Gi"}}}});
        if let Some(volume) = more.get("volume") {
            v["spec"]["volumeName"] = volume.clone();
            v["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
        }
        if let Some(node) = more.get("node") {
            v["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": node});
        }
        if more.get("gone").is_some() {
            v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        if let Some(phase) = more.get("phase") {
            v["status"] = json!({"phase": phase});
        }
        Claim::parse(&v)
    }

    fn storage(volumes: Vec<Volume>, claims: Vec<Claim>) -> Storage {
        let mut storage = Storage::default();
        for (name, provisioner, mode) in [
            ("now", "x", "Immediate"),
            (
                "static",
                "kubernetes.io/no-provisioner",
                "WaitForFirstConsumer",
            ),
            ("made", "keelson.io/local-path", "WaitForFirstConsumer"),
        ] {
            let class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            storage.put_class(Class::parse(&class));
        }
        volumes.into_iter().for_each(|v| _ = storage.put_volume(v));
        claims.into_iter().for_each(|c| _ = storage.put_claim(c));
        storage
    }

    fn user(name: &str, claims: &[&str]) -> Pod {
        let volumes: Vec<Value> = claims
            .iter()
            .map(|c| json!({"name": c, "persistentVolumeClaim": {"claimName": c}}))
            .collect();
        pod(name, "", json!({"volumes": volumes}))
    }

    fn place(pod: &Pod, storage: Storage) -> String {
        let mut snapshot = cluster(vec![
            (node("a", "", json!({})), vec![]),
            (node("b", "", json!({})), vec![]),
        ]);
        snapshot.storage = Arc::new(storage);
        match schedule(pod, &snapshot, None, 0) {
            Outcome::Nowhere(diagnosis) => diagnosis.message(),
            Outcome::Node(node) => {
                let decided = decide(pod, &snapshot, &node);
                let all = decided.iter().map(|d| match &d.volume {
                    Some((volume, version)) => format!(" {}={volume}@{version}", d.claim),
                    None => format!(" {}=new", d.claim),
                });
                format!("{node}:{}", all.collect::<String>())
            }
        }
    }

    #[test]
    fn where_claims_let_a_pod_go() {
        let none = || json!({});
        let p = || user("p", &["c"]);
        let nowhere = |why: &str| format!("0/2 nodes are available: {why}.");
        let table = [
            (
                "no claim",
                user("p", &[]),
                storage(vec![], vec![]),
                "a:".to_owned(),
            ),
            (
                "missing",
                p(),
                storage(vec![], vec![]),
                nowhere("persistentvolumeclaim \"c\" not found"),
            ),
            (
                "unbound at once",
                p(),
                storage(vec![], vec![claim("c", "now", none())]),
                nowhere("pod has unbound immediate PersistentVolumeClaims"),
            ),
            (
                "without a class",
                p(),
                storage(vec![], vec![claim("c", "", none())]),
                nowhere("pod has unbound immediate PersistentVolumeClaims"),
            ),
            (
                "going",
                p(),
                storage(
                    vec![volume("v", None, "now")],
                    vec![claim("c", "now", json!({"volume": "v", "gone": true}))],
                ),
                nowhere("persistentvolumeclaim \"c\" is being deleted"),
            ),
            (
                "lost",
                p(),
                storage(
                    vec![],
                    vec![claim("c", "now", json!({"volume": "v", "phase": "Lost"}))],
                ),
                nowhere("persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\""),
            ),
            (
                "bound, anywhere",
                p(),
                storage(
                    vec![volume("v", None, "now")],
                    vec![claim("c", "now", json!({"volume": "v"}))],
                ),
                "a:".into(),
            ),
            (
                "bound on b",
                p(),
                storage(
                    vec![volume("v", Some("b"), "now")],
                    vec![claim("c", "now", json!({"volume": "v"}))],
                ),
                "b:".into(),
            ),
            (
                "bound elsewhere",
                p(),
                storage(
                    vec![volume("v", Some("z"), "now")],
                    vec![claim("c", "now", json!({"volume": "v"}))],
                ),
                nowhere("2 node(s) had volume node affinity conflict"),
            ),
            (
                "its volume is gone",
                p(),
                storage(vec![], vec![claim("c", "now", json!({"volume": "v"}))]),
                nowhere(
                    "2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                ),
            ),
            (
                "a static one on b",
                p(),
                storage(
                    vec![volume("v", Some("b"), "static")],
                    vec![claim("c", "static", none())],
                ),
                "b: c=v@7".into(),
            ),
            (
                "no static one",
                p(),
                storage(vec![], vec![claim("c", "static", none())]),
                nowhere("2 node(s) didn't find available persistent volumes to bind"),
            ),
            (
                "two claims, one volume",
                user("p", &["c", "d"]),
                storage(
                    vec![volume("v", None, "static")],
                    vec![claim("c", "static", none()), claim("d", "static", none())],
                ),
                nowhere("2 node(s) didn't find available persistent volumes to bind"),
            ),
            (
                "two claims, two volumes",
                user("p", &["c", "d"]),
                storage(
                    vec![
                        volume("v", Some("b"), "static"),
                        volume("w", Some("b"), "static"),
                    ],
                    vec![claim("c", "static", none()), claim("d", "static", none())],
                ),
                "b: c=v@7 d=w@7".into(),
            ),
            (
                "to be made",
                p(),
                storage(vec![], vec![claim("c", "made", none())]),
                "a: c=new".into(),
            ),
            (
                "one that is there first",
                p(),
                storage(
                    vec![volume("v", Some("a"), "made")],
                    vec![claim("c", "made", none())],
                ),
                "a: c=v@7".into(),
            ),
            (
                "being made on b",
                p(),
                storage(vec![], vec![claim("c", "made", json!({"node": "b"}))]),
                "b: c=new".into(),
            ),
        ];
        for (name, pod, storage, want) in table {
            assert_eq!(place(&pod, storage), want, "{name}");
        }
    }

    #[test]
    fn own_claims_belong_to_their_pod() {
        let p = pod(
            "p",
            "",
            json!({"volumes": [{"name": "c", "ephemeral": {}}]}),
        );
        let wait = "0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-c\".";
        assert_eq!(place(&p, storage(vec![], vec![])), wait);
        let mut own = claim("p-c", "made", json!({}));
        let refused = place(&p, storage(vec![], vec![own.clone()]));
        assert!(
            refused.contains("was not created for pod ns/p (pod is not owner)"),
            "{refused}"
        );
        own.owner = Some("p".into());
        assert_eq!(place(&p, storage(vec![], vec![own])), "a: p-c=new");
    }

    #[test]
    fn what_is_decided_is_nobody_elses() {
        let claims = || {
            vec![
                claim("c", "static", json!({})),
                claim("d", "static", json!({})),
            ]
        };
        let mut known = storage(vec![volume("v", None, "static")], claims());
        let decided = vec![Decision {
            namespace: "ns".into(),
            claim: "c".into(),
            uid: "c".into(),
            volume: Some(("v".into(), "7".into())),
        }];
        known.assume(&decided, "b");
        assert!(place(&user("q", &["d"]), known.clone()).contains("didn't find"));
        // A second pod with the same claim follows it.
        assert_eq!(place(&user("q", &["c"]), known.clone()), "a: c=v@7");
        known.forget(&decided);
        assert_eq!(place(&user("q", &["d"]), known.clone()), "a: d=v@7");
        let new = vec![Decision {
            namespace: "ns".into(),
            claim: "m".into(),
            uid: "m".into(),
            volume: None,
        }];
        known.put_claim(claim("m", "made", json!({})));
        known.assume(&new, "b");
        assert_eq!(place(&user("q", &["m"]), known), "b: m=new");
    }
}
