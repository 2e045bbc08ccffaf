//! LimitRanges: defaults for containers that name no limits, and bounds for containers, pods and claims.

use std::collections::BTreeMap;

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{at, entries, items, object, text};
use serde_json::Value;

use super::{creates, makes_pod};
use crate::quantity::nanos;
use crate::{Lookup, Plugin, Request};

/// `LimitRanger`.
pub(crate) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        pod: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        if makes_pod(req) {
            for limit in &limits(req, lookup).await? {
                if text(limit, "/type") == "Container" {
                    fill(pod, limit);
                }
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        req: &Request<'_>,
        object: &Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        let claim = creates(req, "", "persistentvolumeclaims");
        let resize = req.is("", "pods") && req.subresource == "resize";
        if !makes_pod(req) && !claim && !resize {
            return Ok(());
        }
        let limits = limits(req, lookup).await?;
        let broken: Vec<String> = limits
            .iter()
            .flat_map(|limit| check(limit, object, claim))
            .collect();
        match broken.as_slice() {
            [] => Ok(()),
            [one] => Err(req.forbidden(one)),
            many => Err(req.forbidden(&format!("[{}]", many.join(", ")))),
        }
    }
}

async fn limits(req: &Request<'_>, lookup: &dyn Lookup) -> Result<Vec<Value>, Status> {
    let ranges = lookup.list("", "v1", "limitranges", req.namespace).await?;
    Ok(ranges
        .iter()
        .flat_map(|r| items(r, "/spec/limits"))
        .cloned()
        .collect())
}

/// Defaults for what a container does not name itself.
fn fill(pod: &mut Value, limit: &Value) {
    for kind in ["containers", "initContainers"] {
        let containers = pod
            .pointer_mut(&format!("/spec/{kind}"))
            .and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(resources) = object(container, "resources") else {
                continue;
            };
            for (key, from) in [("limits", "/default"), ("requests", "/defaultRequest")] {
                for (name, value) in entries(limit, from) {
                    if let Some(map) = object(resources, key).and_then(Value::as_object_mut) {
                        map.entry(name).or_insert_with(|| value.clone());
                    }
                }
            }
        }
    }
}

/// Requests and limits by resource, in billionths, with the text they came from.
type Amounts = BTreeMap<String, (i128, String)>;

fn amounts(value: &Value) -> Amounts {
    let all = value.as_object().into_iter().flatten();
    all.filter_map(|(k, v)| {
        Some((
            k.clone(),
            (nanos(v)?, v.as_str().unwrap_or_default().to_owned()),
        ))
    })
    .collect()
}

fn check(limit: &Value, object: &Value, claim: bool) -> Vec<String> {
    match (text(limit, "/type"), claim) {
        ("PersistentVolumeClaim", true) => {
            let asked = amounts(at(object, "/spec/resources/requests"));
            bounds(limit, "PersistentVolumeClaim", &asked, &asked)
        }
        ("Container", false) => {
            let containers = ["/spec/containers", "/spec/initContainers"]
                .into_iter()
                .flat_map(|c| items(object, c));
            containers
                .flat_map(|c| {
                    let (requests, limits) =
                        (at(c, "/resources/requests"), at(c, "/resources/limits"));
                    bounds(limit, "Container", &amounts(requests), &amounts(limits))
                })
                .collect()
        }
        ("Pod", false) => bounds(
            limit,
            "Pod",
            &sum(object, "requests"),
            &sum(object, "limits"),
        ),
        _ => Vec::new(),
    }
}

/// The sum over a pod's containers; the largest init container counts if it is larger. A resource that a container
/// leaves out is unbounded there, and so in the sum.
fn sum(pod: &Value, kind: &str) -> Amounts {
    let of = |c: &Value| amounts(at(c, &format!("/resources/{kind}")));
    let containers = items(pod, "/spec/containers");
    let mut total: Amounts = BTreeMap::new();
    for (name, (amount, _)) in containers.iter().flat_map(of) {
        total.entry(name).or_default().0 += amount;
    }
    total.retain(|name, _| containers.iter().all(|c| of(c).contains_key(name)));
    for (name, (amount, _)) in items(pod, "/spec/initContainers").iter().flat_map(of) {
        if let Some(sum) = total.get_mut(&name) {
            sum.0 = sum.0.max(amount);
        }
    }
    for sum in total.values_mut() {
        sum.1 = crate::quantity::show(sum.0);
    }
    total
}

/// Where requests or limits break a range, in upstream's words.
fn bounds(limit: &Value, kind: &str, requests: &Amounts, limits: &Amounts) -> Vec<String> {
    let mut broken = Vec::new();
    for (name, (min, shown)) in amounts(at(limit, "/min")) {
        match (requests.get(&name), limits.get(&name)) {
            (Some((asked, text)), _) if *asked < min => {
                broken.push(format!(
                    "minimum {name} usage per {kind} is {shown}, but request is {text}"
                ));
            }
            (None, _) => broken.push(format!(
                "minimum {name} usage per {kind} is {shown}.  No request is specified"
            )),
            (_, Some((most, text))) if *most < min => {
                broken.push(format!(
                    "minimum {name} usage per {kind} is {shown}, but limit is {text}"
                ));
            }
            _ => {}
        }
    }
    for (name, (max, shown)) in amounts(at(limit, "/max")) {
        match (limits.get(&name), requests.get(&name)) {
            (Some((most, text)), _) if *most > max => {
                broken.push(format!(
                    "maximum {name} usage per {kind} is {shown}, but limit is {text}"
                ));
            }
            (None, _) => broken.push(format!(
                "maximum {name} usage per {kind} is {shown}.  No limit is specified"
            )),
            (_, Some((asked, text))) if *asked > max => {
                broken.push(format!(
                    "maximum {name} usage per {kind} is {shown}, but request is {text}"
                ));
            }
            _ => {}
        }
    }
    for (name, (ratio, shown)) in amounts(at(limit, "/maxLimitRequestRatio")) {
        let both = requests
            .get(&name)
            .zip(limits.get(&name))
            .filter(|((asked, _), _)| *asked > 0);
        match both {
            Some(((asked, _), (most, _))) if most.saturating_mul(1_000_000_000) > asked.saturating_mul(ratio) => {
                let given = *most as f64 / *asked as f64;
                broken.push(format!(
                    "{name} max limit to request ratio per {kind} is {shown}, but provided ratio is {given:.6}"
                ));
            }
            Some(_) => {}
            None => broken.push(format!(
                "{name} max limit to request ratio per {kind} is {shown}, but no request is specified or request is 0"
            )),
        }
    }
    broken
}
