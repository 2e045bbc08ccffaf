//! A node writes only its own Node, Lease and CSINode, the pods on it, and tokens for them.

use std::collections::BTreeSet;

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, entries, has, items, text};
use keelson_auth::node::node_name;
use serde_json::Value;

use super::certificates::request as certificate_request;
use crate::{Lookup, Operation, Plugin, Request};

/// `NodeRestriction`.
pub(crate) struct NodeRestriction;

const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        object: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        let Some(node) = node_name(req.user) else {
            return match req.user.in_group("system:nodes") {
                true => Err(req.forbidden("could not determine node name from user")),
                false => Ok(()),
            };
        };
        let answer = match (
            req.resource.group.as_ref(),
            req.resource.plural.as_ref(),
            req.subresource,
        ) {
            ("", "pods", "") => pod(req, node, object),
            ("", "pods", "status") => pod_status(req, node, object),
            ("", "pods", "eviction") => eviction(req, node, lookup).await?,
            ("", "pods", other) => Err(format!(
                "unexpected pod subresource \"{other}\", only 'status' and 'eviction' are allowed"
            )),
            ("", "nodes", _) => own_node(req, node, object),
            ("", "serviceaccounts", "token") => account_token(req, node, object, lookup).await?,
            ("coordination.k8s.io", "leases", _) => own_lease(req, node, object),
            ("storage.k8s.io", "csinodes", _) => own_csi_node(req, node, object),
            ("certificates.k8s.io", "certificatesigningrequests", "") => own_request(req, object),
            _ => Ok(()),
        };
        answer.map_err(|why| req.forbidden(&why))
    }
}

type Answer = Result<(), String>;

/// The object's name: a create may have none in its URL.
fn name<'a>(req: &'a Request<'_>, object: &'a Value) -> &'a str {
    if req.name.is_empty() {
        text(object, "/metadata/name")
    } else {
        req.name
    }
}

fn pod(req: &Request<'_>, node: &str, pod: &Value) -> Answer {
    match req.op {
        Operation::Create => mirror_pod(node, pod),
        Operation::Delete
            if req
                .old
                .is_some_and(|old| text(old, "/spec/nodeName") == node) =>
        {
            Ok(())
        }
        Operation::Delete => Err(format!(
            "node \"{node}\" can only delete pods with spec.nodeName set to itself"
        )),
        other => Err(format!(
            "unexpected operation \"{other:?}\", node \"{node}\" can only create and delete mirror pods"
        )),
    }
}

/// A node only makes pods that show what it runs already, and such pods refer to nothing it could read by that.
fn mirror_pod(node: &str, pod: &Value) -> Answer {
    if !has(pod, MIRROR) {
        return Err(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return Err(format!(
            "node \"{node}\" can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = items(pod, "/metadata/ownerReferences");
    let own = |o: &Value| {
        text(o, "/apiVersion") == "v1" && text(o, "/kind") == "Node" && text(o, "/name") == node
    };
    if owners.len() > 1 || !owners.iter().all(own) {
        return Err(format!(
            "node \"{node}\" can only create pods with an owner reference set to itself"
        ));
    }
    let refused = |what: &str| {
        Err(format!(
            "node \"{node}\" can not create pods that reference {what}"
        ))
    };
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return refused("a service account");
    }
    const REFERENCES: [(&str, &str); 5] = [
        ("secret", "secrets"),
        ("configMap", "configmaps"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims"),
        ("projected", "projected volumes"),
    ];
    let volumes = items(pod, "/spec/volumes");
    for (kind, what) in REFERENCES {
        if volumes.iter().any(|v| v.get(kind).is_some()) {
            return refused(what);
        }
    }
    let containers = ["/spec/containers", "/spec/initContainers"]
        .into_iter()
        .flat_map(|c| items(pod, c));
    for container in containers {
        let from = |v: &Value, ends: [&str; 2]| ends.iter().any(|e| has(v, e));
        let env = items(container, "/env").iter();
        let env = env
            .map(|e| at(e, "/valueFrom"))
            .any(|v| from(v, ["/secretKeyRef", "/configMapKeyRef"]));
        if env
            || items(container, "/envFrom")
                .iter()
                .any(|v| from(v, ["/secretRef", "/configMapRef"]))
        {
            return refused("secrets or configmaps");
        }
    }
    Ok(())
}

fn pod_status(req: &Request<'_>, node: &str, pod: &Value) -> Answer {
    let Some(old) = req.old else { return Ok(()) };
    if text(old, "/spec/nodeName") != node {
        return Err(format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if at(old, "/metadata/labels") != at(pod, "/metadata/labels") {
        return Err(format!(
            "node \"{node}\" cannot update labels through pod status"
        ));
    }
    Ok(())
}

async fn eviction(req: &Request<'_>, node: &str, lookup: &dyn Lookup) -> Result<Answer, Status> {
    let pod = lookup
        .get("", "v1", "pods", req.namespace, req.name)
        .await?;
    Ok(match pod {
        Some(pod) if text(&pod, "/spec/nodeName") == node => Ok(()),
        Some(_) => Err(format!(
            "node \"{node}\" can only evict pods with spec.nodeName set to itself"
        )),
        None => return Err(req.resource.not_found(req.name)),
    })
}

fn own_node(req: &Request<'_>, node: &str, object: &Value) -> Answer {
    let asked = name(req, object);
    if asked != node {
        return Err(format!(
            "node \"{node}\" is not allowed to modify node \"{asked}\""
        ));
    }
    let empty = Value::Null;
    let old = match req.op {
        Operation::Create => &empty,
        Operation::Update => req.old.unwrap_or(&empty),
        Operation::Delete => {
            return Err(format!("node \"{node}\" is not allowed to delete itself"));
        }
        Operation::Connect => return Ok(()),
    };
    let labels = restricted_changes(old, object);
    let verb = if req.op == Operation::Create {
        "set the following labels"
    } else {
        "modify labels"
    };
    if !labels.is_empty() {
        return Err(format!(
            "is not allowed to {verb}: {}",
            labels.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    if req.op == Operation::Update && at(old, "/spec/taints") != at(object, "/spec/taints") {
        return Err(format!("node \"{node}\" is not allowed to modify taints"));
    }
    // Otherwise a node could have itself collected as garbage, and come back with other taints and labels.
    if at(old, "/metadata/ownerReferences") != at(object, "/metadata/ownerReferences") {
        return Err(format!(
            "node \"{node}\" is not allowed to modify ownerReferences"
        ));
    }
    Ok(())
}

/// The labels that differ and that a node may not choose for itself.
fn restricted_changes<'a>(old: &'a Value, new: &'a Value) -> BTreeSet<&'a str> {
    let labels = |v: &'a Value| entries(v, "/metadata/labels");
    let all: BTreeSet<&str> = labels(old).chain(labels(new)).map(|(key, _)| key).collect();
    let value = |v: &'a Value, key: &str| at(v, "/metadata/labels").get(key);
    all.into_iter()
        .filter(|key| value(old, key) != value(new, key) && restricted(key))
        .collect()
}

/// Whether a label is one of Kubernetes' own and not of those that say what a node knows best
/// (KEP 279, limit node access).
fn restricted(label: &str) -> bool {
    const ALLOWED: [&str; 13] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "node.kubernetes.io/windows-build",
    ];
    let Some((domain, _)) = label.split_once('/') else {
        return false;
    };
    let within =
        |zone: &str| domain == zone || domain.strip_suffix(zone).is_some_and(|d| d.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let own =
        ALLOWED.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    kubernetes && !own
}

/// Tokens are for pods on the node, and name the pod as it is now.
async fn account_token(
    req: &Request<'_>,
    node: &str,
    asked: &Value,
    lookup: &dyn Lookup,
) -> Result<Answer, Status> {
    let refused = |why: &str| -> Answer { Err(format!("node requested token {why}")) };
    if text(asked, "/spec/boundObjectRef/kind") != "Pod"
        || text(asked, "/spec/boundObjectRef/apiVersion") != "v1"
    {
        return Ok(refused("not bound to a pod"));
    }
    let (name, uid) = (
        text(asked, "/spec/boundObjectRef/name"),
        text(asked, "/spec/boundObjectRef/uid"),
    );
    if uid.is_empty() {
        return Ok(refused("with a pod binding without a uid"));
    }
    let Some(pod) = lookup.get("", "v1", "pods", req.namespace, name).await? else {
        return Err(Status::not_found("", "pods", name));
    };
    if text(&pod, "/metadata/uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record"
        );
        return Err(Status::conflict("", "pods", name, &why));
    }
    if text(&pod, "/spec/nodeName") != node {
        return Ok(refused("bound to a pod scheduled on a different node"));
    }
    if text(&pod, "/spec/serviceAccountName") != req.name {
        return Ok(refused("for a service account that the pod does not use"));
    }
    Ok(Ok(()))
}

fn own_lease(req: &Request<'_>, node: &str, object: &Value) -> Answer {
    if req.namespace != LEASE_NAMESPACE {
        return Err(format!(
            "can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"
        ));
    }
    if name(req, object) != node {
        return Err(
            "can only access node lease with the same name as the requesting node".to_owned(),
        );
    }
    Ok(())
}

fn own_csi_node(req: &Request<'_>, node: &str, object: &Value) -> Answer {
    if name(req, object) == node {
        return Ok(());
    }
    Err("can only access CSINode with the same name as the requesting node".to_owned())
}

/// A node asks for certificates of its own name only.
fn own_request(req: &Request<'_>, object: &Value) -> Answer {
    let signer = text(object, "/spec/signerName");
    let nodes = [
        "kubernetes.io/kube-apiserver-client-kubelet",
        "kubernetes.io/kubelet-serving",
    ];
    if req.op != Operation::Create || !nodes.contains(&signer) {
        return Ok(());
    }
    match certificate_request(object) {
        Some(asked) if asked.common_name == req.user.name => Ok(()),
        Some(_) => Err(format!(
            "can only create a node CSR with CN={}",
            req.user.name
        )),
        None => Err("unable to parse csr".to_owned()),
    }
}
