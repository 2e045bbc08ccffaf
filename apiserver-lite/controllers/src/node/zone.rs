//! How bad things are: a lost node is to lose its pods, but when most are lost it is rather the network, or us.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

/// From this part of lost nodes on a zone is disrupted (`--unhealthy-zone-threshold`).
const DISRUPTED: f64 = 0.55;
/// Zones up to this size stop evicting when disrupted (`--large-cluster-size-threshold`).
const LARGE: usize = 50;

/// How pods leave lost nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// At the normal rate.
    Normal,
    /// At the secondary rate: most nodes of a large zone are lost.
    Slow,
    /// None begin to: most nodes of a small zone are lost.
    Hold,
    /// None do, not even those that began: no node anywhere is well.
    Stop,
}

/// A node's region and zone.
pub(super) fn of(node: &Node) -> String {
    let label = |k: &str| node.labels().get(k).map(String::as_str).unwrap_or_default();
    let (region, zone) = (
        label("topology.kubernetes.io/region"),
        label("topology.kubernetes.io/zone"),
    );
    format!("{region}:{zone}")
}

/// The pace in a zone. `nodes`: zone, and whether the node is well.
pub(super) fn pace(zone: &str, nodes: &[(String, bool)]) -> Pace {
    if nodes.iter().all(|(_, well)| !well) {
        return Pace::Stop;
    }
    let own: Vec<bool> = nodes
        .iter()
        .filter(|(z, _)| z == zone)
        .map(|(_, well)| *well)
        .collect();
    let lost = own.iter().filter(|well| !**well).count();
    // A zone that is lost as a whole is evacuated: others are well.
    if lost == own.len() || lost <= 2 {
        return Pace::Normal;
    }
    #[allow(clippy::cast_precision_loss)]
    let part = lost as f64 / own.len() as f64;
    match (part >= DISRUPTED, own.len() > LARGE) {
        (false, _) => Pace::Normal,
        (true, true) => Pace::Slow,
        (true, false) => Pace::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_are_lost_the_more_careful() {
        // (name, nodes well and lost in zone a, in zone b, pace in a)
        let rows = [
            ("one of one", (0, 1), (0, 0), Pace::Stop),
            ("one of two", (1, 1), (0, 0), Pace::Normal),
            ("two of three", (1, 2), (0, 0), Pace::Normal),
            ("three of four", (1, 3), (0, 0), Pace::Hold),
            ("three of ten", (7, 3), (0, 0), Pace::Normal),
            ("most of a large zone", (10, 50), (0, 0), Pace::Slow),
            ("the whole zone", (0, 5), (2, 0), Pace::Normal),
            ("everything", (0, 5), (0, 2), Pace::Stop),
        ];
        for (name, a, b, want) in rows {
            let zone = |z: &str, (well, lost): (usize, usize)| {
                let all = [vec![true; well], vec![false; lost]].concat();
                all.into_iter()
                    .map(|w| (z.to_owned(), w))
                    .collect::<Vec<_>>()
            };
            let nodes = [zone("a", a), zone("b", b)].concat();
            assert_eq!(pace("a", &nodes), want, "{name}");
        }
    }
}
