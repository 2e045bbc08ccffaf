//! Which nodes refer to what, through the pods on them: kept current one object at a time.

use std::collections::HashMap;

use serde_json::Value;

use keelson_api::json::{items, text};

/// Something a pod refers to: plural, namespace, name.
type Item = (&'static str, String, String);
/// A pod's or volume's namespace and name.
type Key = (String, String);

/// Pods with a node, and what they refer to.
#[derive(Clone, Default)]
pub struct Graph {
    pods: HashMap<Key, Placed>,
    /// For each item, its nodes and how many of their pods refer to it.
    referred: HashMap<Item, HashMap<String, usize>>,
    /// Claims of bound volumes, by the volume's name.
    claims: HashMap<String, Claim>,
    /// VolumeAttachments: their node.
    attachments: HashMap<String, String>,
}

#[derive(Clone)]
struct Placed {
    node: String,
    items: Vec<Item>,
}

#[derive(Clone)]
struct Claim {
    claim: Key,
    secrets: Vec<Key>,
}

impl Graph {
    /// Takes in a Pod, PersistentVolume or VolumeAttachment, new or changed.
    pub fn apply(&mut self, object: &Value) {
        let (namespace, name) = (
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
        );
        match text(object, "/kind") {
            "Pod" => self.set_pod(namespace, name, object),
            "PersistentVolume" => self.set_volume(name, object),
            "VolumeAttachment" => {
                self.attachments
                    .insert(name.to_owned(), text(object, "/spec/nodeName").to_owned());
            }
            _ => {}
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        match kind {
            "Pod" => self.remove_pod(&(namespace.to_owned(), name.to_owned())),
            "PersistentVolume" => {
                self.claims.remove(name);
            }
            "VolumeAttachment" => {
                self.attachments.remove(name);
            }
            _ => {}
        }
    }

    fn set_pod(&mut self, namespace: &str, name: &str, pod: &Value) {
        let key = (namespace.to_owned(), name.to_owned());
        self.remove_pod(&key);
        let node = text(pod, "/spec/nodeName").to_owned();
        if node.is_empty() {
            return;
        }
        let items = references(pod, namespace, name);
        for item in &items {
            *self
                .referred
                .entry(item.clone())
                .or_default()
                .entry(node.clone())
                .or_default() += 1;
        }
        self.pods.insert(key, Placed { node, items });
    }

    fn remove_pod(&mut self, key: &Key) {
        let Some(Placed { node, items }) = self.pods.remove(key) else {
            return;
        };
        for item in items {
            let Some(nodes) = self.referred.get_mut(&item) else {
                continue;
            };
            match nodes.get_mut(&node) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.referred.remove(&item);
            }
        }
    }

    fn set_volume(&mut self, name: &str, volume: &Value) {
        let claim = (
            text(volume, "/spec/claimRef/namespace"),
            text(volume, "/spec/claimRef/name"),
        );
        if claim.1.is_empty() {
            self.claims.remove(name);
            return;
        }
        let claim = (claim.0.to_owned(), claim.1.to_owned());
        let secrets = volume_secrets(volume, &claim.0);
        self.claims
            .insert(name.to_owned(), Claim { claim, secrets });
    }

    /// Whether a pod on the node refers to an object, directly or through a claim's volume.
    pub fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let direct = |resource: &'static str, namespace: &str, name: &str| {
            let nodes = self
                .referred
                .get(&(resource, namespace.to_owned(), name.to_owned()));
            nodes.is_some_and(|n| n.contains_key(node))
        };
        let claimed = |c: &Claim| direct("persistentvolumeclaims", &c.claim.0, &c.claim.1);
        match resource {
            "secrets" => {
                let through_volume = |c: &Claim| {
                    c.secrets.iter().any(|(ns, n)| ns == namespace && n == name) && claimed(c)
                };
                direct("secrets", namespace, name) || self.claims.values().any(through_volume)
            }
            "configmaps" => direct("configmaps", namespace, name),
            "persistentvolumeclaims" => direct("persistentvolumeclaims", namespace, name),
            "serviceaccounts" => direct("serviceaccounts", namespace, name),
            "pods" => direct("pods", namespace, name),
            "persistentvolumes" => self.claims.get(name).is_some_and(claimed),
            "volumeattachments" => self.attachments.get(name).is_some_and(|n| n == node),
            _ => false,
        }
    }
}

/// Where pods name Secrets, below a volume.
const VOLUME_SECRETS: &[&str] = &[
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/storageos/secretRef/name",
];

/// What a pod refers to, itself included; each once. Mirror pods refer to nothing: a node makes them itself, and could
/// otherwise name any Secret.
fn references(pod: &Value, namespace: &str, pod_name: &str) -> Vec<Item> {
    let mut found: Vec<Item> = Vec::new();
    let mut add = |resource: &'static str, name: &str| {
        if !name.is_empty() {
            found.push((resource, namespace.to_owned(), name.to_owned()));
        }
    };
    add("pods", pod_name);
    if pod
        .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
        .is_some()
    {
        return found;
    }
    add("serviceaccounts", text(pod, "/spec/serviceAccountName"));
    for secret in items(pod, "/spec/imagePullSecrets") {
        add("secrets", text(secret, "/name"));
    }
    for volume in items(pod, "/spec/volumes") {
        VOLUME_SECRETS
            .iter()
            .for_each(|path| add("secrets", text(volume, path)));
        add("configmaps", text(volume, "/configMap/name"));
        add(
            "persistentvolumeclaims",
            text(volume, "/persistentVolumeClaim/claimName"),
        );
        if volume.get("ephemeral").is_some() {
            add(
                "persistentvolumeclaims",
                &format!("{pod_name}-{}", text(volume, "/name")),
            );
        }
        for source in items(volume, "/projected/sources") {
            add("secrets", text(source, "/secret/name"));
            add("configmaps", text(source, "/configMap/name"));
        }
    }
    for containers in [
        "/spec/containers",
        "/spec/initContainers",
        "/spec/ephemeralContainers",
    ] {
        for container in items(pod, containers) {
            for from in items(container, "/envFrom") {
                add("secrets", text(from, "/secretRef/name"));
                add("configmaps", text(from, "/configMapRef/name"));
            }
            for env in items(container, "/env") {
                add("secrets", text(env, "/valueFrom/secretKeyRef/name"));
                add("configmaps", text(env, "/valueFrom/configMapKeyRef/name"));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Secrets that a node needs to mount a volume; without a namespace they are in the claim's.
fn volume_secrets(volume: &Value, claim_namespace: &str) -> Vec<Key> {
    const REFS: &[&str] = &[
        "/spec/csi/nodePublishSecretRef",
        "/spec/csi/nodeStageSecretRef",
        "/spec/csi/nodeExpandSecretRef",
        "/spec/cephfs/secretRef",
        "/spec/flexVolume/secretRef",
        "/spec/iscsi/secretRef",
        "/spec/rbd/secretRef",
    ];
    let found = REFS.iter().filter_map(|path| volume.pointer(path));
    found
        .map(|r| (text(r, "/namespace"), text(r, "/name")))
        .filter(|(_, name)| !name.is_empty())
        .map(|(ns, name)| {
            (
                if ns.is_empty() { claim_namespace } else { ns }.to_owned(),
                name.to_owned(),
            )
        })
        .collect()
}
