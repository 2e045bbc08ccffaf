//! Endpoint choice: plain functions over plain arguments.

use crate::model::{Endpoint, Hint, Policy};

/// Endpoints that a policy lets traffic go to: the ready ones, or, when none is ready, those that are
/// terminating but still serve (KEP-1669). With policy Cluster hints narrow the ready ones (KEP-2433, KEP-4444).
pub fn usable(endpoints: &[Endpoint], policy: Policy) -> Vec<Endpoint> {
    let near = |e: &&Endpoint| policy == Policy::Cluster || e.local;
    let of = |test: &dyn Fn(&Endpoint) -> bool| -> Vec<Endpoint> {
        let chosen = endpoints.iter().filter(near).filter(|e| test(e));
        chosen.copied().collect()
    };
    let ready = of(&|e| e.ready);
    if ready.is_empty() {
        // Better one that goes away than none: hints are not asked.
        return of(&|e| e.serving && e.terminating);
    }
    match policy {
        Policy::Cluster => hinted(ready),
        Policy::Local => ready,
    }
}

/// Hints count only where each ready endpoint has one and at least one means us: anything else is a state on the way
/// from one set of hints to another. Hints for nodes go before those for zones.
fn hinted(ready: Vec<Endpoint>) -> Vec<Endpoint> {
    let kinds: [fn(&Endpoint) -> Hint; 2] = [|e| e.node, |e| e.zone];
    for hint in kinds {
        let all = ready.iter().all(|e| hint(e) != Hint::None);
        if all && ready.iter().any(|e| hint(e) == Hint::Here) {
            return ready
                .into_iter()
                .filter(|e| hint(e) == Hint::Here)
                .collect();
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `r`eady, `s`erving, `t`erminating, `l`ocal; hints: `z`one and `n`ode here, `Z` and `N` elsewhere.
    fn endpoint(id: u8, flags: &str) -> Endpoint {
        let hint = |here, elsewhere| match (flags.contains(here), flags.contains(elsewhere)) {
            (true, _) => Hint::Here,
            (_, true) => Hint::Elsewhere,
            _ => Hint::None,
        };
        Endpoint {
            ip: [10, 0, 0, id].into(),
            port: 80,
            ready: flags.contains('r'),
            serving: flags.contains('s'),
            terminating: flags.contains('t'),
            local: flags.contains('l'),
            zone: hint('z', 'Z'),
            node: hint('n', 'N'),
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
            ("our zone's", &["rsz", "rsZ"], Cluster, &[0]),
            ("one without a hint: all", &["rsz", "rs"], Cluster, &[0, 1]),
            ("none for us: all", &["rsZ", "rsZ"], Cluster, &[0, 1]),
            (
                "our node's before our zone's",
                &["rszN", "rszn"],
                Cluster,
                &[1],
            ),
            (
                "none for our node: our zone's",
                &["rszN", "rsZN"],
                Cluster,
                &[0],
            ),
            (
                "hints of those not ready don't count",
                &["rsz", "s"],
                Cluster,
                &[0],
            ),
            (
                "terminating ones whatever the hints",
                &["stZ", "stz"],
                Cluster,
                &[0, 1],
            ),
            (
                "local ones whatever the hints",
                &["rslZ", "rsz"],
                Local,
                &[0],
            ),
        ];
        for (name, flags, policy, want) in cases {
            let endpoints: Vec<_> = flags.iter().zip(0..).map(|(f, i)| endpoint(i, f)).collect();
            let want: Vec<_> = want.iter().map(|i| endpoints[usize::from(*i)]).collect();
            assert_eq!(usable(&endpoints, *policy), want, "{name}");
        }
    }
}
