//! Nodes that have the images already.

use std::borrow::Cow;

use super::MAX_SCORE;
use crate::framework::Cycle;
use crate::snapshot::NodeState;

/// Fewer bytes make no difference.
const MIN: i64 = 23 << 20;
/// More bytes in a container make no difference.
const MAX: i64 = 1000 << 20;

/// The more bytes of the pod's images a node has, the better. An image counts by the share of nodes that have it, so
/// that a single node with it does not attract everything.
pub fn score(cycle: &Cycle, nodes: &[&NodeState]) -> Vec<i64> {
    let images: Vec<_> = cycle
        .pod
        .images
        .iter()
        .map(|image| normal_name(image))
        .collect();
    let all = &cycle.snapshot.nodes;
    let counted: Vec<(&str, i64)> = images
        .iter()
        .map(|image| {
            let image = image.as_ref();
            (
                image,
                all.iter()
                    .filter(|state| state.node.images.contains_key(image))
                    .count() as i64,
            )
        })
        .collect();
    let total = all.len().max(1) as i64;
    let max = MAX * images.len().max(1) as i64;
    let one = |state: &&NodeState| {
        let sizes = counted.iter().filter_map(|(image, having)| {
            state
                .node
                .images
                .get(*image)
                .map(|size| size / total * having)
        });
        (sizes.sum::<i64>().clamp(MIN, max) - MIN) * MAX_SCORE / (max - MIN)
    };
    nodes.iter().map(one).collect()
}

/// Nodes list images with their tag.
fn normal_name(image: &str) -> Cow<'_, str> {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') {
        image.into()
    } else {
        format!("{image}:latest").into()
    }
}
