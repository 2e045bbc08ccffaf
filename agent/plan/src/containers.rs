//! A pod's containers in the order in which they start and are given something, and which of them end before others.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::lifecycle::is_sidecar;

/// Init containers, then the others.
pub fn all(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    init(spec).chain(&spec.containers)
}

fn init(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten()
}

/// Whether a container has ended when those after it start: sidecars go on.
pub(crate) fn ends(spec: &PodSpec, name: &str) -> bool {
    init(spec).any(|c| c.name == name && !is_sidecar(c))
}

/// Those that have ended when this one starts.
pub(crate) fn ended_before<'a>(
    spec: &'a PodSpec,
    name: &str,
) -> impl Iterator<Item = &'a Container> {
    init(spec)
        .take_while(move |c| c.name != name)
        .filter(|c| !is_sidecar(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sidecars_do_not_end() {
        let sidecar = json!({"name": "side", "restartPolicy": "Always"});
        let spec = json!({
            "initContainers": [{"name": "first"}, sidecar, {"name": "second"}],
            "containers": [{"name": "app"}],
        });
        let spec: PodSpec = serde_json::from_value(spec).expect("a spec");
        let rows: [(&str, bool, &[&str]); 4] = [
            ("first", true, &[]),
            ("side", false, &["first"]),
            ("second", true, &["first"]),
            ("app", false, &["first", "second"]),
        ];
        for ((name, ending, before), c) in rows.into_iter().zip(all(&spec)) {
            assert_eq!(c.name, name);
            assert_eq!(ends(&spec, name), ending, "{name}");
            let got: Vec<_> = ended_before(&spec, name).map(|c| &c.name).collect();
            assert_eq!(got, before, "{name}");
        }
    }
}
