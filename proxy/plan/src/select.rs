//! Endpoint choice: plain functions over plain arguments.

use crate::model::{Endpoint, Policy};

/// Endpoints that a policy lets traffic go to: the ready ones, or, when none is ready, those that are
/// terminating but still serve (KEP-1669).
pub fn usable(endpoints: &[Endpoint], policy: Policy) -> Vec<Endpoint> {
    let near = |e: &&Endpoint| policy == Policy::Cluster || e.local;
    let ready: Vec<Endpoint> = endpoints
        .iter()
        .filter(near)
        .filter(|e| e.ready)
        .copied()
        .collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints
        .iter()
        .filter(near)
        .filter(|e| e.serving && e.terminating)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: u8, flags: &str) -> Endpoint {
        Endpoint {
            ip: [10, 0, 0, id].into(),
            port: 80,
            ready: flags.contains('r'),
            serving: flags.contains('s'),
            terminating: flags.contains('t'),
            local: flags.contains('l'),
        }
    }

    #[test]
    fn ready_first_then_those_that_still_serve() {
        use Policy::{Cluster, Local};
        let cases: &[(&str, &[&str], Policy, &[u8])] = &[
            ("ready ones", &["rs", "s", "rsl"], Cluster, &[0, 2]),
            ("local ones only", &["rs", "rsl"], Local, &[1]),
            ("local: none here", &["rs"], Local, &[]),
            (
                "terminating when none is ready",
                &["st", "s", "t"],
                Cluster,
                &[0],
            ),
            (
                "terminating not beside a ready one",
                &["st", "rs"],
                Cluster,
                &[1],
            ),
            (
                "local terminating though others are ready",
                &["stl", "rs"],
                Local,
                &[0],
            ),
            ("none at all", &[], Cluster, &[]),
        ];
        for (name, flags, policy, want) in cases {
            let endpoints: Vec<_> = flags.iter().zip(0..).map(|(f, i)| endpoint(i, f)).collect();
            let want: Vec<_> = want.iter().map(|i| endpoints[usize::from(*i)]).collect();
            assert_eq!(usable(&endpoints, *policy), want, "{name}");
        }
    }
}
