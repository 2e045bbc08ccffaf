//! ResourceQuotas: nothing is made that would exceed one. Usage is counted from the objects there are, not from the
//! quota's status, which lags; the server lets writes in a namespace with a quota through one at a time.

use std::collections::BTreeMap;

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, entries, items, text};
use serde_json::Value;

use crate::quantity::{nanos, show};
use crate::{Lookup, Operation, Plugin, Request};

/// `ResourceQuota`.
pub(crate) struct ResourceQuota;

const ONE: i128 = 1_000_000_000;

/// Usage by the names quotas use, in billionths.
pub type Usage = BTreeMap<String, i128>;

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        object: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        let counted = match req.op {
            Operation::Create => req.subresource.is_empty(),
            Operation::Update => grows(req),
            _ => false,
        };
        if !counted || req.namespace.is_empty() || req.is("", "resourcequotas") {
            return Ok(());
        }
        let quotas = lookup
            .list("", "v1", "resourcequotas", req.namespace)
            .await?;
        if quotas.is_empty() {
            return Ok(());
        }
        let (group, plural) = (req.resource.group.as_ref(), req.resource.plural.as_ref());
        let mut asked = usage(group, plural, object);
        if let Some(old) = req.old {
            let before = usage(group, plural, old);
            asked.retain(|name, amount| {
                *amount -= before.get(name).copied().unwrap_or_default();
                *amount > 0
            });
            if asked.is_empty() {
                return Ok(());
            }
        }
        let touched: Vec<&Value> = quotas
            .iter()
            // A pod may break a quota by what it leaves out.
            .filter(|q| {
                plural == "pods"
                    || entries(q, "/spec/hard").any(|(name, _)| asked.contains_key(name))
            })
            .filter(|q| in_scope(q, plural, object))
            .collect();
        if touched.is_empty() {
            return Ok(());
        }
        let present = lookup
            .list(group, &req.resource.version, plural, req.namespace)
            .await?;
        for quota in touched {
            let counted = present.iter().filter(|o| in_scope(quota, plural, o));
            let used = counted.fold(Usage::new(), |sum, o| add(sum, usage(group, plural, o)));
            check(quota, plural, object, &asked, &used).map_err(|why| req.forbidden(&why))?;
        }
        Ok(())
    }
}

/// Whether an update may use more than before: other kinds are only counted.
fn grows(req: &Request<'_>) -> bool {
    match req.subresource {
        "" => req.is("", "services") || req.is("", "persistentvolumeclaims"),
        "resize" => req.is("", "pods"),
        _ => false,
    }
}

/// Adds usage to usage.
pub fn add(mut sum: Usage, more: Usage) -> Usage {
    for (name, amount) in more {
        *sum.entry(name).or_default() += amount;
    }
    sum
}

fn larger(mut one: Usage, other: Usage) -> Usage {
    for (name, amount) in other {
        let most = one.entry(name).or_default();
        *most = amount.max(*most);
    }
    one
}

/// What an object uses of every quota there may be.
pub fn usage(group: &str, plural: &str, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let resource = if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    };
    usage.insert(format!("count/{resource}"), ONE);
    match (group, plural) {
        ("", "pods") => pod_usage(object, &mut usage),
        ("", "services") => service_usage(object, &mut usage),
        ("", "persistentvolumeclaims") => {
            usage.insert(plural.to_owned(), ONE);
            let storage = nanos(at(object, "/spec/resources/requests/storage")).unwrap_or_default();
            usage.insert("requests.storage".to_owned(), storage);
            let class = text(object, "/spec/storageClassName");
            if !class.is_empty() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                usage.insert(format!("{prefix}/requests.storage"), storage);
                usage.insert(format!("{prefix}/persistentvolumeclaims"), ONE);
            }
        }
        ("", "configmaps" | "secrets" | "replicationcontrollers") => {
            usage.insert(plural.to_owned(), ONE);
        }
        _ => {}
    }
    usage
}

/// Pods that have ended use nothing but their place in `count/pods`.
fn pod_usage(pod: &Value, usage: &mut Usage) {
    if ["Succeeded", "Failed"].contains(&text(pod, "/status/phase")) {
        return;
    }
    usage.insert("pods".to_owned(), ONE);
    for kind in ["requests", "limits"] {
        let of = |c: &Value, path: &str| -> Usage {
            entries(c, &format!("{path}/{kind}"))
                .filter_map(|(k, v)| Some((k.to_owned(), nanos(v)?)))
                .collect()
        };
        // Sidecars run beside whatever comes after them (KEP-753).
        let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
        for c in items(pod, "/spec/initContainers") {
            let with = add(sidecars.clone(), of(c, "/resources"));
            if text(c, "/restartPolicy") == "Always" {
                sidecars.clone_from(&with);
            }
            peak = larger(peak, with);
        }
        let containers = items(pod, "/spec/containers").iter();
        let sum = containers.fold(sidecars, |sum, c| add(sum, of(c, "/resources")));
        let mut total = larger(peak, sum);
        // What the pod itself says wins (KEP-2837).
        total.extend(of(pod, "/spec/resources"));
        let overhead =
            entries(pod, "/spec/overhead").filter_map(|(k, v)| Some((k.to_owned(), nanos(v)?)));
        for (name, amount) in add(total, overhead.collect()) {
            // A bare `cpu` means the request.
            if kind == "requests" {
                usage.insert(name.clone(), amount);
            }
            usage.insert(format!("{kind}.{name}"), amount);
        }
    }
}

fn service_usage(service: &Value, usage: &mut Usage) {
    let ports = items(service, "/spec/ports").len() as i128 * ONE;
    usage.insert("services".to_owned(), ONE);
    match text(service, "/spec/type") {
        "NodePort" => {
            usage.insert("services.nodeports".to_owned(), ports);
        }
        "LoadBalancer" => {
            usage.insert("services.loadbalancers".to_owned(), ONE);
            if at(service, "/spec/allocateLoadBalancerNodePorts") != &Value::Bool(false) {
                usage.insert("services.nodeports".to_owned(), ports);
            }
        }
        _ => {}
    }
}

/// Whether all of a quota's scopes hold for an object; scopes are about pods only.
pub fn in_scope(quota: &Value, plural: &str, object: &Value) -> bool {
    let plain = items(quota, "/spec/scopes")
        .iter()
        .filter_map(Value::as_str)
        .map(|s| scope(s, object));
    let selected = items(quota, "/spec/scopeSelector/matchExpressions")
        .iter()
        .map(|e| {
            if text(e, "/scopeName") != "PriorityClass" {
                return scope(text(e, "/scopeName"), object);
            }
            let class = text(object, "/spec/priorityClassName");
            let among = items(e, "/values").iter().any(|v| v == class);
            match text(e, "/operator") {
                "In" => among,
                "NotIn" => !among,
                "Exists" => !class.is_empty(),
                _ => class.is_empty(),
            }
        });
    let mut scopes = plain.chain(selected).peekable();
    if scopes.peek().is_some() && plural != "pods" {
        return false;
    }
    scopes.all(|holds| holds)
}

fn scope(name: &str, pod: &Value) -> bool {
    let best_effort = || {
        let containers = ["/spec/containers", "/spec/initContainers"]
            .into_iter()
            .flat_map(|c| items(pod, c));
        let named =
            |c: &Value, kind: &str| entries(c, kind).any(|(k, _)| k == "cpu" || k == "memory");
        containers
            .into_iter()
            .all(|c| !named(c, "/resources/requests") && !named(c, "/resources/limits"))
    };
    let terminating = || at(pod, "/spec/activeDeadlineSeconds").as_i64().is_some();
    match name {
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "PriorityClass" => !text(pod, "/spec/priorityClassName").is_empty(),
        _ => false,
    }
}

fn check(
    quota: &Value,
    plural: &str,
    object: &Value,
    asked: &Usage,
    used: &Usage,
) -> Result<(), String> {
    let name = text(quota, "/metadata/name");
    let hard: Usage = entries(quota, "/spec/hard")
        .filter_map(|(k, v)| Some((k.to_owned(), nanos(v)?)))
        .collect();
    if plural == "pods" {
        must_name(name, &hard, object)?;
    }
    let spent = |key: &String| used.get(key).copied().unwrap_or_default();
    let exceeded: Vec<_> = hard
        .iter()
        .filter_map(|(key, limit)| Some((key, *limit, *asked.get(key)?)))
        .filter(|(key, limit, more)| *more > 0 && spent(key) + more > *limit)
        .collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let list = |f: &dyn Fn(&String, i128, i128) -> i128| {
        let parts: Vec<String> = exceeded
            .iter()
            .map(|(k, limit, more)| format!("{k}={}", show(f(k, *limit, *more))))
            .collect();
        parts.join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        list(&|_, _, more| more),
        list(&|key, _, _| spent(key)),
        list(&|_, limit, _| limit),
    ))
}

/// A quota on CPU or memory obliges every container to say what it needs.
fn must_name(quota: &str, hard: &Usage, pod: &Value) -> Result<(), String> {
    let mut missing = Vec::new();
    for key in hard.keys() {
        let (kind, resource) = key.split_once('.').unwrap_or(("requests", key));
        if !["cpu", "memory"].contains(&resource) || !["requests", "limits"].contains(&kind) {
            continue;
        }
        let containers = ["/spec/containers", "/spec/initContainers"]
            .into_iter()
            .flat_map(|c| items(pod, c));
        let without = |c: &&Value| at(c, &format!("/resources/{kind}")).get(resource).is_none();
        let names: Vec<&str> = containers
            .filter(without)
            .map(|c| text(c, "/name"))
            .collect();
        if !names.is_empty() {
            missing.push(format!("{key} for: {}", names.join(",")));
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "failed quota: {quota}: must specify {}",
            missing.join("; ")
        ))
    }
}
