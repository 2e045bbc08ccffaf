//! Huge pages: what containers may have of each size, and the size of a volume's (KEP-1539).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use crate::{containers, quantity, resources};

const PREFIX: &str = "hugepages-";

/// Bytes of a page, as a resource's or a medium's name ends (`2Mi`).
pub fn page_size(text: &str) -> Option<u64> {
    quantity::value(text)
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n > 0)
}

/// A page's size as cgroup files name it (`2MB`, `1GB`).
pub fn unit(size: u64) -> String {
    let units = [("GB", 30), ("MB", 20), ("KB", 10)];
    let whole = units
        .iter()
        .find(|(_, shift)| size.is_multiple_of(1 << shift));
    whole.map_or_else(
        || format!("{size}B"),
        |(name, shift)| format!("{}{name}", size >> shift),
    )
}

fn limits(r: Option<&ResourceRequirements>) -> impl Iterator<Item = (u64, i64)> {
    let all = r.and_then(|r| r.limits.as_ref()).into_iter().flatten();
    all.filter_map(|(name, q)| {
        let size = page_size(name.strip_prefix(PREFIX)?)?;
        Some((size, quantity::value(&q.0)?))
    })
}

/// What a container may have of each size that the node knows, bytes: nothing unless it asked.
pub fn of_container(c: &Container, sizes: &[u64]) -> BTreeMap<u64, i64> {
    let mut all: BTreeMap<u64, i64> = sizes.iter().map(|s| (*s, 0)).collect();
    all.extend(limits(c.resources.as_ref()));
    all
}

/// What a pod may have: as much as its containers need together at most.
pub fn of_pod(spec: &PodSpec, sizes: &[u64]) -> BTreeMap<u64, i64> {
    let asked = containers::all(spec).flat_map(|c| limits(c.resources.as_ref()));
    let all = sizes.iter().copied().chain(asked.map(|(size, _)| size));
    let of = |size: u64| {
        resources::pod_figure(spec, |r| {
            limits(r).find(|(s, _)| *s == size).map_or(0, |(_, n)| n)
        })
    };
    all.map(|size| (size, of(size))).collect()
}

/// The page size of a volume whose medium is `HugePages` or `HugePages-SIZE`; `None` for another medium.
///
/// # Errors
/// A size that no container asks for, or several where none is named.
pub fn of_medium(medium: &str, spec: &PodSpec) -> Option<Result<u64, String>> {
    let rest = medium.strip_prefix("HugePages")?;
    let mut asked: Vec<u64> = containers::all(spec)
        .flat_map(|c| limits(c.resources.as_ref()).map(|(size, _)| size))
        .collect();
    asked.sort_unstable();
    asked.dedup();
    let named = match rest {
        "" => None,
        _ => match rest.strip_prefix('-').and_then(page_size) {
            Some(size) => Some(size),
            None => {
                return Some(Err(format!(
                    "medium {medium:?} is not HugePages or HugePages-SIZE, such as HugePages-2Mi"
                )));
            }
        },
    };
    Some(match (named, asked.as_slice()) {
        (_, []) => Err(
            "hugePages storage requested, but there is no resource request for huge pages".into(),
        ),
        (Some(size), all) if all.contains(&size) => Ok(size),
        (Some(size), _) => Err(format!(
            "medium {medium:?} needs a container with a limit of {PREFIX}{}",
            quantity::binary(size)
        )),
        (None, [one]) => Ok(*one),
        (None, _) => Err("multiple pageSizes for huge pages in a single PodSpec".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const MI2: u64 = 2 << 20;
    const GI1: u64 = 1 << 30;

    fn spec(limits: &[Value], init: Value) -> PodSpec {
        let container = |l: &Value| json!({"name": "c", "resources": {"limits": l}});
        let all: Vec<Value> = limits.iter().map(container).collect();
        serde_json::from_value(json!({"containers": all, "initContainers": [container(&init)]}))
            .expect("a spec")
    }

    #[test]
    fn pages_are_named_as_the_kernel_does() {
        for (size, name) in [
            (MI2, "2MB"),
            (GI1, "1GB"),
            (64 << 10, "64KB"),
            (512 << 20, "512MB"),
        ] {
            assert_eq!(unit(size), name);
        }
    }

    #[test]
    fn who_does_not_ask_gets_none() {
        let two = json!({"hugepages-2Mi": "4Mi"});
        let one = std::slice::from_ref(&two);
        let rows = [
            (spec(&[json!({})], json!({})), [0, 0]),
            (spec(one, json!({})), [4 << 20, 0]),
            (spec(&[two.clone(), two.clone()], json!({})), [8 << 20, 0]),
            (spec(one, json!({"hugepages-2Mi": "6Mi"})), [6 << 20, 0]),
            (
                spec(&[json!({"hugepages-1Gi": "1Gi"})], json!({})),
                [0, 1 << 30],
            ),
        ];
        for (spec, [small, large]) in rows {
            assert_eq!(
                of_pod(&spec, &[MI2, GI1]),
                [(MI2, small), (GI1, large)].into(),
                "{spec:?}"
            );
        }
        let mut beside = spec(one, two.clone());
        beside
            .init_containers
            .iter_mut()
            .flatten()
            .for_each(|c| c.restart_policy = Some("Always".into()));
        assert_eq!(of_pod(&beside, &[])[&MI2], 8 << 20, "a sidecar stays");
        let c = Container::default();
        assert_eq!(of_container(&c, &[MI2]), [(MI2, 0)].into());
    }

    #[test]
    fn media_are_sizes() {
        let none = spec(&[json!({})], json!({}));
        let one = spec(&[json!({"hugepages-2Mi": "4Mi"})], json!({}));
        let both = spec(
            &[
                json!({"hugepages-2Mi": "4Mi"}),
                json!({"hugepages-1Gi": "1Gi"}),
            ],
            json!({}),
        );
        let rows = [
            ("", &one, None),
            ("Memory", &one, None),
            ("HugePages", &one, Some(Ok(MI2))),
            ("HugePages-2Mi", &both, Some(Ok(MI2))),
            ("HugePages-1Gi", &both, Some(Ok(GI1))),
            ("HugePages", &both, Some(Err("multiple pageSizes"))),
            (
                "HugePages-1Gi",
                &one,
                Some(Err("needs a container with a limit of hugepages-1Gi")),
            ),
            ("HugePages", &none, Some(Err("no resource request"))),
            ("HugePagesX", &one, Some(Err("such as HugePages-2Mi"))),
        ];
        for (medium, spec, wanted) in rows {
            match (of_medium(medium, spec), wanted) {
                (None, None) => {}
                (Some(Ok(got)), Some(Ok(size))) => assert_eq!(got, size, "{medium}"),
                (Some(Err(got)), Some(Err(text))) => assert!(got.contains(text), "{medium}: {got}"),
                (got, wanted) => panic!("{medium}: {got:?}, not {wanted:?}"),
            }
        }
    }
}
