//! The Pod Security Standards as pure checks, newest version:
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>.

mod baseline;
mod restricted;

use keelson_api::json::{items, text};
use serde_json::Value;

/// How much a pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to lead out of the container.
    Baseline,
    /// Hardened.
    Restricted,
}

impl Level {
    /// From a label's value. No label is `privileged`; one that is not understood is `restricted`, so that a typing
    /// error opens nothing.
    pub fn parse(label: &str) -> Self {
        match label {
            "" | "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            _ => Self::Restricted,
        }
    }

    /// As in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// A check: what it is about, and what of a pod breaks it.
type Check = (&'static str, fn(&Value) -> Vec<String>);

/// What a pod breaks at a level, in upstream's words.
pub fn violations(level: Level, pod: &Value) -> Vec<String> {
    let tables: &[&[Check]] = match level {
        Level::Privileged => &[],
        Level::Baseline => &[baseline::CHECKS, baseline::REPLACED],
        Level::Restricted => &[baseline::CHECKS, restricted::CHECKS],
    };
    let checks = tables.iter().copied().flatten();
    checks
        .filter_map(|(title, check)| {
            let found = check(pod);
            (!found.is_empty()).then(|| format!("{title} ({})", found.join("; ")))
        })
        .collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    [
        "/spec/initContainers",
        "/spec/containers",
        "/spec/ephemeralContainers",
    ]
    .into_iter()
    .flat_map(|c| items(pod, c))
}

/// `container "a" WHY` for each container that a test finds.
fn offenders(pod: &Value, why: &str, test: impl Fn(&Value) -> bool) -> Vec<String> {
    let found = containers(pod).filter(|c| test(c));
    found
        .map(|c| format!("container {:?} {why}", text(c, "/name")))
        .collect()
}
