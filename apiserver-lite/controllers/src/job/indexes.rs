//! Completion indexes: sets of numbers written as `0,2-5`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Annotation and label of a pod with its index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation of a pod: how often pods of its index failed before it.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// Indexes of a Job.
pub(super) type Indexes = BTreeSet<i32>;

/// Reads a list, without what is not below `completions`.
pub(super) fn parse(text: &str, completions: i32) -> Indexes {
    let mut all = Indexes::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    all
}

/// Writes a list: three and more in a row become a range.
pub(super) fn show(indexes: &Indexes) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let run = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

/// A pod's index, if it has one below `completions`.
pub(super) fn of(pod: &Pod, completions: i32) -> Option<i32> {
    let index: i32 = pod.annotations().get(INDEX)?.parse().ok()?;
    (0..completions).contains(&index).then_some(index)
}

/// How often pods of a pod's index failed before it.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    let failures = pod.annotations().get(FAILURES);
    failures.and_then(|f| f.parse().ok()).unwrap_or(0)
}
