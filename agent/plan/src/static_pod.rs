//! Static pods: read from files of the node, run without the API, and shown there by a mirror.
//! Source: "Create static Pods"; annotations are upstream's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// Where a pod comes from: `file`, or absent for the API.
pub const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";
const MIRROR: &str = "kubernetes.io/config.mirror";

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let all = pod.metadata.annotations.as_ref()?;
    all.get(name).map(String::as_str)
}

/// Whether the pod was read from a file.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some("file")
}

/// The hash of the static pod that this pod of the API only shows.
pub fn mirrored(pod: &Pod) -> Option<&str> {
    annotation(pod, MIRROR)
}

/// The static pod's own hash.
pub fn hash(pod: &Pod) -> &str {
    annotation(pod, HASH).unwrap_or_default()
}

/// A pod as it stood in a file, made one of this node's. `digest` is of the file's text and the node's name: the same
/// text is the same pod, also after a restart.
pub fn complete(mut pod: Pod, digest: u128, node: &str) -> Result<Pod, String> {
    let m = &mut pod.metadata;
    let name = m.name.as_deref().filter(|n| !n.is_empty());
    let name = name.ok_or("a static pod needs a name")?;
    m.name = Some(format!("{name}-{node}"));
    m.namespace.get_or_insert_with(|| "default".to_owned());
    let hash = format!("{digest:032x}");
    let cut = |from: usize, to: usize| hash.get(from..to).unwrap_or_default();
    m.uid = Some([cut(0, 8), cut(8, 12), cut(12, 16), cut(16, 20), cut(20, 32)].join("-"));
    let own = [(HASH, hash.as_str()), (SOURCE, "file")];
    m.annotations
        .get_or_insert_default()
        .extend(own.map(|(k, v)| (k.to_owned(), v.to_owned())));
    m.generate_name = None;
    pod.status = None;
    let spec = pod.spec.as_mut().ok_or("a static pod needs a spec")?;
    if spec.containers.is_empty() {
        return Err("a static pod needs containers".into());
    }
    let needs_api = spec.volumes.iter().flatten().find(|v| {
        v.secret.is_some()
            || v.config_map.is_some()
            || v.projected.is_some()
            || v.persistent_volume_claim.is_some()
    });
    if let Some(v) = needs_api {
        return Err(format!(
            "volume {:?}: static pods may not reference API objects",
            v.name
        ));
    }
    spec.node_name = Some(node.to_owned());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    Ok(pod)
}

/// What shows a static pod in the API.
pub fn mirror(pod: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut shown = pod.clone();
    let m = &mut shown.metadata;
    (m.uid, m.resource_version, m.creation_timestamp) = (None, None, None);
    m.annotations
        .get_or_insert_default()
        .insert(MIRROR.to_owned(), hash(pod).to_owned());
    m.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    shown.status = None::<PodStatus>;
    shown
}

/// A namespace and a name.
pub type Key = (String, String);

/// A mirror as the API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The hash of the pod it shows.
    pub hash: String,
    /// It is being deleted.
    pub ending: bool,
}

/// What to do about mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Delete it at once.
    Delete(Key),
    /// Make it.
    Create(Key),
}

/// Brings mirrors in line with static pods (their hashes): one that shows another text, or that somebody deletes, is
/// made anew.
pub fn steps(pods: &BTreeMap<Key, String>, mirrors: &BTreeMap<Key, Mirror>) -> Vec<Step> {
    let wrong = |(k, m): &(&Key, &Mirror)| m.ending || pods.get(*k) != Some(&m.hash);
    let gone = mirrors.iter().filter(wrong);
    let gone = gone.map(|(k, _)| Step::Delete(k.clone()));
    let missing = pods.keys().filter(|k| !mirrors.contains_key(*k));
    gone.chain(missing.map(|k| Step::Create(k.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_become_pods() {
        let read = |value: serde_json::Value| {
            complete(serde_json::from_value(value).expect("pod"), 0xabc, "n1")
        };
        let container = json!([{"name": "c"}]);
        let rows = [
            (
                json!({"metadata": {}, "spec": {"containers": container}}),
                "a static pod needs a name",
            ),
            (
                json!({"metadata": {"name": "a"}}),
                "a static pod needs a spec",
            ),
            (
                json!({"metadata": {"name": "a"}, "spec": {"containers": []}}),
                "a static pod needs containers",
            ),
            (
                json!({"metadata": {"name": "a"}, "spec": {"containers": container, "volumes": [{"name": "v", "secret": {}}]}}),
                "volume \"v\": static pods may not reference API objects",
            ),
        ];
        for (value, why) in rows {
            assert_eq!(read(value.clone()), Err(why.to_owned()), "{value}");
        }
        let pod = read(json!({"metadata": {"name": "a"}, "spec": {"containers": container}}))
            .expect("a pod");
        let m = &pod.metadata;
        assert_eq!(
            (m.name.as_deref(), m.namespace.as_deref(), m.uid.as_deref()),
            (
                Some("a-n1"),
                Some("default"),
                Some("00000000-0000-0000-0000-000000000abc")
            )
        );
        assert!(is_static(&pod) && mirrored(&pod).is_none());
        let shown = mirror(&pod, "n1", "u");
        assert_eq!(
            (mirrored(&shown), &shown.metadata.uid),
            (Some(hash(&pod)), &None)
        );
    }

    #[test]
    fn mirrors_follow() {
        let key = |n: &str| ("ns".to_owned(), n.to_owned());
        let pods = BTreeMap::from(
            ["same", "changed", "missing", "ending"].map(|n| (key(n), "1".to_owned())),
        );
        let mirror = |hash: &str, ending| Mirror {
            hash: hash.into(),
            ending,
        };
        let mirrors = BTreeMap::from([
            (key("same"), mirror("1", false)),
            (key("changed"), mirror("2", false)),
            (key("ending"), mirror("1", true)),
            (key("left"), mirror("1", false)),
        ]);
        let want = [
            Step::Delete(key("changed")),
            Step::Delete(key("ending")),
            Step::Delete(key("left")),
            Step::Create(key("missing")),
        ];
        assert_eq!(steps(&pods, &mirrors), want);
    }
}
