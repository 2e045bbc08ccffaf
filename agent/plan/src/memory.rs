//! Memory beyond limits, on the unified hierarchy (cgroup v2): what is protected from reclaim, what is slowed down before
//! it reaches its limit (KEP-2570), how much may be swapped out (KEP-2400).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::resources::{self, Qos};

/// What a node's configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Policy {
    /// Requests are protected: of guaranteed pods for good, of burstable ones as long as others can give
    /// (`memoryReservationPolicy: TieredReservation`).
    pub reserve: bool,
    /// From which part of the way from request to limit a container is slowed down (`memoryThrottlingFactor`).
    pub throttle: Option<f64>,
    /// Burstable pods may swap (`memorySwap.swapBehavior: LimitedSwap`).
    pub swap: bool,
}

/// What a node has, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Memory.
    pub capacity: i64,
    /// Memory for pods.
    pub allocatable: i64,
    /// Swap; none: nothing is said of it.
    pub swap: i64,
}

/// Bytes in which the kernel counts.
const PAGE: i64 = 4096;

/// Files of a cgroup and what is written to them.
pub type Files = BTreeMap<String, String>;

fn files(all: &[(&str, Option<i64>)]) -> Files {
    let set = all
        .iter()
        .filter_map(|(file, n)| Some(((*file).to_owned(), (*n)?.to_string())));
    set.collect()
}

/// Of a container's own cgroup.
pub fn container(policy: &Policy, node: &Node, spec: &PodSpec, c: &Container) -> Files {
    let class = resources::qos(spec);
    let [request, limit] = resources::memory(c);
    let protected = |of: Qos| (policy.reserve && class == of && request > 0).then_some(request);
    files(&[
        ("memory.min", protected(Qos::Guaranteed)),
        ("memory.low", protected(Qos::Burstable)),
        ("memory.high", high(policy, node, class, request, limit)),
        (
            "memory.swap.max",
            swap(policy, node, spec, [request, limit]),
        ),
    ])
}

/// Of a pod's cgroup: what protects its containers must reach down to them.
pub fn pod(policy: &Policy, spec: &PodSpec) -> Files {
    files(&[
        ("memory.min", reserved(policy, spec, Qos::Guaranteed)),
        ("memory.low", reserved(policy, spec, Qos::Burstable)),
    ])
}

/// What a pod of a class has protected, bytes.
pub fn reserved(policy: &Policy, spec: &PodSpec, class: Qos) -> Option<i64> {
    let request = resources::request(spec, "memory") / 1000;
    (policy.reserve && resources::qos(spec) == class && request > 0).then_some(request)
}

fn high(policy: &Policy, node: &Node, class: Qos, request: i64, limit: i64) -> Option<i64> {
    let factor = policy.throttle?;
    if class == Qos::Guaranteed {
        return None;
    }
    let end = if limit > 0 { limit } else { node.allocatable };
    let way = (end - request).max(0);
    // Whole bytes of a node's memory are exact in 53 bits.
    let high = request + (way as f64 * factor) as i64;
    let high = high / PAGE * PAGE;
    (high > request).then_some(high)
}

/// A part of the node's swap as large as the container's of its memory; none for the critical, the guaranteed, and those
/// that said nothing, or all, of their memory.
fn swap(policy: &Policy, node: &Node, spec: &PodSpec, [request, limit]: [i64; 2]) -> Option<i64> {
    if node.swap == 0 {
        return None;
    }
    let allowed = policy.swap
        && resources::qos(spec) == Qos::Burstable
        && !resources::is_critical(spec)
        && request > 0
        && request != limit;
    if !allowed || node.capacity <= 0 {
        return Some(0);
    }
    let part = i128::from(request) * i128::from(node.swap) / i128::from(node.capacity);
    Some(i64::try_from(part).unwrap_or(node.swap) / PAGE * PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const MI: i64 = 1 << 20;
    const NODE: Node = Node {
        capacity: 1000 * MI,
        allocatable: 900 * MI,
        swap: 500 * MI,
    };
    const RESERVE: Policy = Policy {
        reserve: true,
        throttle: None,
        swap: false,
    };
    const THROTTLE: Policy = Policy {
        reserve: false,
        throttle: Some(0.9),
        swap: false,
    };
    const SWAP: Policy = Policy {
        reserve: false,
        throttle: None,
        swap: true,
    };

    fn spec(resources: Value) -> PodSpec {
        let c = json!({"name": "c", "resources": resources});
        serde_json::from_value(json!({"containers": [c]})).expect("a spec")
    }

    fn guaranteed() -> PodSpec {
        spec(json!({"limits": {"cpu": "1", "memory": "100Mi"}}))
    }

    fn burstable() -> PodSpec {
        spec(json!({"requests": {"memory": "100Mi"}, "limits": {"memory": "200Mi"}}))
    }

    fn best_effort() -> PodSpec {
        spec(json!({}))
    }

    #[test]
    fn files_by_policy_and_class() {
        let mib = |n: i64| (n * MI).to_string();
        let critical = PodSpec {
            priority: Some(2_000_000_000),
            ..burstable()
        };
        let open = spec(json!({"requests": {"memory": "100Mi"}}));
        let full = spec(
            json!({"requests": {"cpu": "1", "memory": "100Mi"}, "limits": {"memory": "100Mi"}}),
        );
        let none = ("memory.swap.max", "0".to_owned());
        let rows = [
            (Policy::default(), guaranteed(), vec![none.clone()]),
            (
                RESERVE,
                guaranteed(),
                vec![("memory.min", mib(100)), none.clone()],
            ),
            (
                RESERVE,
                burstable(),
                vec![("memory.low", mib(100)), none.clone()],
            ),
            (RESERVE, best_effort(), vec![none.clone()]),
            (THROTTLE, guaranteed(), vec![none.clone()]),
            (
                THROTTLE,
                burstable(),
                vec![("memory.high", mib(190)), none.clone()],
            ),
            // Without a limit the way ends at what all pods may have.
            (
                THROTTLE,
                open.clone(),
                vec![("memory.high", mib(820)), none.clone()],
            ),
            (
                THROTTLE,
                best_effort(),
                vec![("memory.high", mib(810)), none.clone()],
            ),
            (SWAP, guaranteed(), vec![none.clone()]),
            (SWAP, burstable(), vec![("memory.swap.max", mib(50))]),
            (SWAP, open, vec![("memory.swap.max", mib(50))]),
            (SWAP, full, vec![none.clone()]),
            (SWAP, critical, vec![none.clone()]),
            (SWAP, best_effort(), vec![none]),
        ];
        for (policy, spec, wanted) in rows {
            let wanted: Files = wanted
                .into_iter()
                .map(|(file, text)| (file.to_owned(), text))
                .collect();
            let got = container(&policy, &NODE, &spec, &spec.containers[0]);
            assert_eq!(got, wanted, "{policy:?} {spec:?}");
        }
    }

    #[test]
    fn nothing_is_said_of_swap_that_is_not_there() {
        let node = Node { swap: 0, ..NODE };
        let spec = burstable();
        assert!(container(&SWAP, &node, &spec, &spec.containers[0]).is_empty());
    }

    #[test]
    fn pods_protect_what_their_containers_ask_for() {
        let rows = [
            (Policy::default(), guaranteed(), None),
            (RESERVE, guaranteed(), Some("memory.min")),
            (RESERVE, burstable(), Some("memory.low")),
            (RESERVE, best_effort(), None),
        ];
        for (policy, spec, file) in rows {
            let got = pod(&policy, &spec);
            assert_eq!(got.keys().next().map(String::as_str), file, "{spec:?}");
            assert!(
                got.values().all(|n| *n == (100 * MI).to_string()),
                "{got:?}"
            );
        }
    }

    #[test]
    fn little_that_is_left_is_not_throttled() {
        let spec =
            spec(json!({"requests": {"memory": "100Mi"}, "limits": {"memory": "104858000"}}));
        let files = container(&THROTTLE, &NODE, &spec, &spec.containers[0]);
        assert!(!files.contains_key("memory.high"));
    }
}
