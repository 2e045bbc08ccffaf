//! What is said, in upstream's words (a space at the end of each sentence included).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use super::{Amount, Condition, Observations, Signal, Threshold};
use crate::event::Event;
use crate::quantity::binary;

/// Why a pod goes: what is short, and which of its containers use more of it than they asked for.
/// `usage`: by container; unknown for what is not counted by container.
pub fn node_low(
    signal: Signal,
    thresholds: &[Threshold],
    seen: &Observations,
    spec: &PodSpec,
    usage: &BTreeMap<String, u64>,
) -> String {
    let resource = signal.resource();
    let mut message = format!("The node was low on resource: {resource}. ");
    let of = |t: &Threshold| Some((t.value.clone(), *seen.get(&t.signal)?));
    let mut met = thresholds
        .iter()
        .filter(|t| t.signal.resource() == resource)
        .filter_map(of);
    if let Some((value, o)) = met.find(|(v, o)| o.available < v.of(o.capacity)) {
        let quantity = match value {
            Amount::Quantity(_, text) => text,
            Amount::Part(_) => binary(value.of(o.capacity)),
        };
        message += &format!(
            "Threshold quantity: {quantity}, available: {}. ",
            binary(o.available)
        );
    }
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    for c in all {
        let Some(used) = usage.get(&c.name) else {
            continue;
        };
        let request = c
            .resources
            .as_ref()
            .and_then(|r| r.requests.as_ref()?.get(resource));
        let asked = request.and_then(|q| super::quantity(&q.0)).unwrap_or(0);
        if *used > asked {
            let request = request.map_or("0", |q| q.0.as_str());
            message += &format!(
                "Container {} was using {}, request is {request}, has larger consumption of {resource}. ",
                c.name,
                binary(*used)
            );
        }
    }
    message
}

/// Why a pod is not let in.
pub fn node_condition(pressure: &[Condition]) -> String {
    let names: Vec<String> = pressure.iter().map(ToString::to_string).collect();
    format!("The node had condition: [{}]. ", names.join(" "))
}

/// An emptyDir is fuller than its `sizeLimit`.
pub fn empty_dir(volume: &str, limit: &str) -> String {
    format!("Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{limit}\". ")
}

/// The pod has more on disk than its containers' limits allow together.
pub fn pod_storage(limit: &str) -> String {
    format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
}

/// A container has more on disk than its limit allows.
pub fn container_storage(container: &str, limit: &str) -> String {
    format!("Container {container} exceeded its local ephemeral storage limit \"{limit}\". ")
}

/// A pod is evicted.
pub fn evicted(message: &str) -> Event {
    Event::pod(super::REASON, message.to_owned())
}

/// A threshold is acted on.
pub fn threshold_met(signal: Signal) -> Event {
    Event::pod(
        "EvictionThresholdMet",
        format!("Attempting to reclaim {}", signal.resource()),
    )
}

/// A condition of the node begins or ends.
pub fn condition(node: &str, condition: Condition, begins: bool) -> Event {
    let reason = condition.event(begins);
    Event {
        warning: false,
        reason: reason.into(),
        message: format!("Node {node} status is now: {reason}"),
        container: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Observation;
    use super::*;
    use serde_json::json;

    #[test]
    fn messages() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [
            {"name": "a", "resources": {"requests": {"memory": "10Mi"}}},
            {"name": "b", "resources": {"requests": {"memory": "1Gi"}}},
            {"name": "c"}],
            "initContainers": [{"name": "i"}]}))
        .expect("spec");
        let threshold = |signal, value| Threshold {
            signal,
            value,
            grace: None,
            reclaim: None,
        };
        let thresholds = [
            threshold(
                Signal::MemoryAvailable,
                Amount::Quantity(100 << 20, "100Mi".into()),
            ),
            threshold(Signal::NodefsAvailable, Amount::Part(0.1)),
            threshold(Signal::ImagefsAvailable, Amount::Part(0.15)),
        ];
        let o = |available, capacity| Observation {
            available,
            capacity,
        };
        let seen: Observations = [
            (Signal::MemoryAvailable, o(59064 << 10, 1 << 30)),
            (Signal::NodefsAvailable, o(120, 1000)),
            (Signal::ImagefsAvailable, o(120, 1000)),
        ]
        .into();
        let used = |pairs: &[(&str, u64)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), *v))
                .collect::<BTreeMap<_, _>>()
        };
        let rows = [
            (
                "containers above their request are named",
                Signal::MemoryAvailable,
                used(&[
                    ("a", 11 << 20),
                    ("b", 11 << 20),
                    ("c", 1),
                    ("i", 2),
                    ("debug", 3),
                ]),
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 59064Ki. Container a was using 11Mi, request is 10Mi, has larger consumption of memory. Container c was using 1, request is 0, has larger consumption of memory. Container i was using 2, request is 0, has larger consumption of memory. ",
            ),
            (
                "the threshold that is crossed is told",
                Signal::NodefsAvailable,
                used(&[]),
                "The node was low on resource: ephemeral-storage. Threshold quantity: 150, available: 120. ",
            ),
            (
                "none is crossed any more",
                Signal::PidAvailable,
                used(&[]),
                "The node was low on resource: pids. ",
            ),
        ];
        for (name, signal, usage, want) in rows {
            assert_eq!(
                node_low(signal, &thresholds, &seen, &spec, &usage),
                want,
                "{name}"
            );
        }
    }
}
