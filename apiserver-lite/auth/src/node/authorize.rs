//! What a node may do. Requests about secrets, configmaps, claims, volumes and account tokens need a pod on the node;
//! pods are read by node (KEP-4601; all Nodes stay readable, as routes to other nodes' pods need them); leases and CSINodes must be its own; the rest are fixed rules, which the NodeRestriction admission plugin narrows
//! to the node's own objects.

use std::sync::LazyLock;

use super::Graph;
use crate::defaults::parse_rules;
use crate::rbac::Rule;
use crate::{Attributes, Decision, User};

const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The name of the node that a user is; `None` for everybody else.
pub fn node_name(user: &User) -> Option<&str> {
    let name = user
        .name
        .strip_prefix("system:node:")
        .filter(|n| !n.is_empty())?;
    user.in_group("system:nodes").then_some(name)
}

/// What every node may do: as upstream's `system:node` without what the graph decides.
pub fn rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
        parse_rules(&[
            "create authentication.k8s.io tokenreviews",
            "create authorization.k8s.io subjectaccessreviews,localsubjectaccessreviews",
            "get,list,watch core services",
            "create,get,list,watch core nodes",
            "update,patch core nodes,nodes/status",
            "create,patch,update core,events.k8s.io events",
            "create,delete core pods",
            "update,patch core pods/status",
            "create core pods/eviction",
            "get core endpoints",
            "create,get,list,watch certificates.k8s.io certificatesigningrequests",
            "get,list,watch certificates.k8s.io clustertrustbundles",
            "get,list,watch storage.k8s.io csidrivers",
            "get,list,watch node.k8s.io runtimeclasses",
            "get,list,watch discovery.k8s.io endpointslices",
        ])
    });
    &RULES
}

/// May a node do this? `NoOpinion` for users that are no nodes, and for what is refused here, with the reason: another
/// authorizer may still allow it.
pub fn authorize(graph: &Graph, user: &User, a: &Attributes) -> Decision {
    let Some(node) = node_name(user) else {
        return Decision::NoOpinion(String::new());
    };
    let answer = match (
        a.group.as_str(),
        a.resource.as_str(),
        a.subresource.as_str(),
    ) {
        ("", "secrets" | "configmaps", _) => read(graph, node, a, &["get", "list", "watch"]),
        ("", "persistentvolumeclaims", "status") => related(
            graph,
            node,
            a,
            &["update", "patch"],
            "can only update or patch persistentvolumeclaims status",
        ),
        ("", "persistentvolumeclaims" | "persistentvolumes", _)
        | ("storage.k8s.io", "volumeattachments", _) => read(graph, node, a, &["get"]),
        ("", "serviceaccounts", _) => account_token(graph, node, a),
        ("", "pods", "") if ["get", "list", "watch"].contains(&&*a.verb) => pods(graph, node, a),
        ("coordination.k8s.io", "leases", _) => own_lease(node, a),
        ("storage.k8s.io", "csinodes", _) => own_csi_node(node, a),
        _ if rules().iter().any(|r| r.allows(a)) => Ok(()),
        _ => Err(String::new()),
    };
    match answer {
        Ok(()) => Decision::Allow(String::new()),
        Err(why) => Decision::NoOpinion(why),
    }
}

fn read(graph: &Graph, node: &str, a: &Attributes, verbs: &[&str]) -> Result<(), String> {
    if !a.subresource.is_empty() {
        return Err("cannot read subresource".to_owned());
    }
    let only = if verbs.len() == 1 {
        "can only get individual resources of this type"
    } else {
        "can only read resources of this type"
    };
    related(graph, node, a, verbs, only)
}

/// A verb of the list, on one named object that a pod on the node refers to.
fn related(
    graph: &Graph,
    node: &str,
    a: &Attributes,
    verbs: &[&str],
    only: &str,
) -> Result<(), String> {
    if !verbs.contains(&a.verb.as_str()) {
        return Err(only.to_owned());
    }
    if a.name.is_empty() {
        return Err("No Object name found".to_owned());
    }
    if graph.refers(node, &a.resource, &a.namespace, &a.name) {
        Ok(())
    } else {
        Err(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }
}

/// The node's own pods: one by name, or all by their `spec.nodeName`.
fn pods(graph: &Graph, node: &str, a: &Attributes) -> Result<(), String> {
    let mut demands = a.demands.iter();
    if a.verb != "get" && demands.any(|(f, v)| f == "spec.nodeName" && v == node) {
        return Ok(());
    }
    if a.name.is_empty() {
        return Err("can only list/watch pods with spec.nodeName field selector".to_owned());
    }
    related(graph, node, a, &["get", "list", "watch"], "")
}

fn account_token(graph: &Graph, node: &str, a: &Attributes) -> Result<(), String> {
    match (a.verb.as_str(), a.subresource.as_str()) {
        ("create", "token") => related(graph, node, a, &["create"], ""),
        ("get", "") => read(graph, node, a, &["get"]),
        _ => Err("can only create tokens for individual service accounts".to_owned()),
    }
}

fn own_lease(node: &str, a: &Attributes) -> Result<(), String> {
    const VERBS: &[&str] = &["get", "create", "update", "patch", "delete"];
    let refuse = |why: &str| Err(why.to_owned());
    if !VERBS.contains(&a.verb.as_str()) {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != LEASE_NAMESPACE {
        return Err(format!(
            "can only access leases in the {LEASE_NAMESPACE:?} system namespace"
        ));
    }
    // The name of a lease that is made is in the body: NodeRestriction looks there.
    if a.verb != "create" && a.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    if a.subresource.is_empty() {
        Ok(())
    } else {
        refuse("cannot access lease subresources")
    }
}

fn own_csi_node(node: &str, a: &Attributes) -> Result<(), String> {
    const VERBS: &[&str] = &["get", "create", "update", "patch", "delete"];
    let refuse = |why: &str| Err(why.to_owned());
    if !VERBS.contains(&a.verb.as_str()) {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}
