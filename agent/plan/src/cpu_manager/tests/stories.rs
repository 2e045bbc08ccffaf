//! Pods that come and go.

use serde_json::Value;

use super::super::*;
use super::world::*;

/// Admits pods one after the other; after each what every container has, and what is shared.
fn story(policy: &Static, pods: &[(Pod, u64)]) -> Vec<String> {
    let mut state = policy.start(None).expect("fresh");
    let mut told = Vec::new();
    for (pod, nodes) in pods {
        let mut asking = Asking::new(policy, &state);
        let hint = Hint {
            nodes: *nodes,
            preferred: true,
        };
        let spec = pod.spec.as_ref().expect("a spec");
        let given = containers::all(spec).try_for_each(|c| asking.allocate(pod, c, hint));
        match given {
            Err(Failure::Smt(why) | Failure::Unexpected(why)) => told.push(why),
            Ok(()) => {
                state = asking.state;
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                let has =
                    containers::all(spec).map(|c| format!("{}={}", c.name, state.of(uid, &c.name)));
                let has: Vec<String> = has.collect();
                told.push(format!("{} shared={}", has.join(" "), state.shared));
            }
        }
    }
    told
}

#[test]
fn allocations() {
    let plain = Options::default();
    let full = Options {
        full_cores: true,
        ..plain
    };
    let spread = Options {
        distribute: true,
        ..plain
    };
    let strict = Options {
        strict: true,
        ..plain
    };
    let by_socket = Options {
        align_by_socket: true,
        ..plain
    };
    let apps = |uid: &str, cpus: &[&str]| {
        let names = ["a", "b", "c"];
        let all: Vec<Value> = names
            .iter()
            .zip(cpus)
            .map(|(n, cpu)| container(n, cpu))
            .collect();
        pod(uid, &[], &all)
    };
    let rows = [
        (
            "one after the other",
            policy(threads(), plain, "0"),
            vec![
                (apps("u", &["2"]), 0),
                (apps("v", &["1"]), 0),
                (apps("w", &["500m"]), 0),
            ],
            vec![
                "a=1,5 shared=0,2-4,6-7",
                "a=4 shared=0,2-3,6-7",
                "a=0,2-3,6-7 shared=0,2-3,6-7",
            ],
        ),
        (
            "not more than there are",
            policy(threads(), plain, "0"),
            vec![
                (apps("u", &["8"]), 0),
                (apps("u", &["7"]), 0),
                (apps("v", &["1"]), 0),
            ],
            vec![
                "not enough cpus available to satisfy request: requested=8, available=7",
                "a=1-7 shared=0",
                "not enough cpus available to satisfy request: requested=1, available=0",
            ],
        ),
        (
            "all of a pod or nothing",
            policy(threads(), plain, "0"),
            vec![(apps("u", &["4", "4"]), 0), (apps("v", &["4", "3"]), 0)],
            vec![
                "not enough cpus available to satisfy request: requested=4, available=3",
                "a=1-2,5-6 b=3-4,7 shared=0",
            ],
        ),
        (
            "on the hint's node",
            policy(sockets(), plain, "0"),
            vec![
                (apps("u", &["2"]), 0b10),
                (apps("v", &["2"]), 0b10),
                (apps("w", &["2"]), 0b10),
            ],
            vec![
                "a=2,6 shared=0-1,3-5,7",
                "a=3,7 shared=0-1,4-5",
                "a=1,5 shared=0,4",
            ],
        ),
        (
            "more than the hint's node has",
            policy(sockets(), plain, "0"),
            vec![(apps("u", &["5"]), 0b10)],
            vec!["a=2-4,6-7 shared=0-1,5"],
        ),
        (
            "on the hint's socket",
            policy(nodes(), by_socket, "0"),
            vec![(apps("u", &["3"]), 0b0001)],
            vec!["a=1-3 shared=0,4-7"],
        ),
        (
            "evenly",
            policy(wide(), spread, "0"),
            vec![(apps("u", &["6"]), 0)],
            vec!["a=4-6,8-10 shared=0-3,7,11-15"],
        ),
        (
            "whole cores",
            policy(threads(), full, "0"),
            vec![
                (apps("u", &["3"]), 0),
                (apps("u", &["6"]), 0),
                (apps("v", &["2"]), 0),
            ],
            vec![
                "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2",
                "a=1-3,5-7 shared=0,4",
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 0, requested CPUs = 2, CPUs per core = 2",
            ],
        ),
        (
            "reserved for nobody",
            policy(threads(), strict, "0,4"),
            vec![(apps("u", &["2"]), 0), (apps("v", &["100m"]), 0)],
            vec!["a=1,5 shared=2-3,6-7", "a=2-3,6-7 shared=2-3,6-7"],
        ),
        (
            "init containers leave theirs",
            policy(threads(), plain, "0"),
            vec![
                (
                    pod(
                        "u",
                        &[container("i", "4"), container("j", "2")],
                        &[container("c", "2")],
                    ),
                    0,
                ),
                (pod("v", &[container("i", "1")], &[container("c", "2")]), 0),
            ],
            vec!["i=1-2,5-6 j=1,5 c=1,5 shared=0,3-4,7", "i=4 c=3,7 shared=0"],
        ),
        (
            "sidecars keep theirs",
            policy(threads(), plain, "0"),
            vec![(
                pod(
                    "u",
                    &[container("i", "2"), sidecar("s", "1")],
                    &[container("c", "1"), container("d", "1")],
                ),
                0,
            )],
            vec!["i=1,5 s=4 c=1 d=5 shared=0,2-3,6-7"],
        ),
    ];
    for (name, policy, pods, want) in rows {
        assert_eq!(story(&policy, &pods), want, "{name}");
    }
}

#[test]
fn given_back() {
    let policy = policy(threads(), Options::default(), "0");
    let fresh = policy.start(None).expect("fresh");
    let mut asking = Asking::new(&policy, &fresh);
    let pod = pod(
        "u",
        &[container("i", "4"), sidecar("s", "1")],
        &[container("c", "2")],
    );
    let spec = pod.spec.as_ref().expect("a spec");
    for c in containers::all(spec) {
        asking
            .allocate(&pod, c, Hint::default())
            .expect("there are enough");
    }
    let mut state = asking.state;
    assert_eq!(state.shared, set("0,3,7"), "i=1-2,5-6, s=4 and c of i's");
    assert!(!state.started("u", spec, "i"), "it is the first");
    assert!(state.started("u", spec, "s"), "i is over");
    assert_eq!(state.of("u", "i"), &state.shared);
    assert!(!state.started("u", spec, "c"), "s stays");
    let own: Vec<String> = ["s", "c"].map(|n| state.of("u", n).to_string()).into();
    assert_eq!((own.join(" "), state.shared.len()), ("4 1,5".into(), 5));
    assert!(state.release_pod("u") && !state.release_pod("u"));
    assert_eq!(state, fresh);
}
