//! What must hold whatever happens to a pod.

use proptest::prelude::*;
use serde_json::json;

use super::world::{World, spec};
use crate::{Stage, plan};

/// Something that happens.
#[derive(Clone, Debug)]
enum Happens {
    Exit(usize, i32),
    Wait(i64),
    PullsFail(bool),
    Reboot,
    AgentRestarts,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        (0..4usize, prop_oneof![Just(0), Just(1), Just(137)])
            .prop_map(|(c, code)| Happens::Exit(c, code)),
        (0..400i64).prop_map(Happens::Wait),
        any::<bool>().prop_map(Happens::PullsFail),
        Just(Happens::Reboot),
        Just(Happens::AgentRestarts),
    ]
}

const NAMES: [&str; 4] = ["i", "s", "a", "b"];

fn happen(w: &mut World, what: &Happens) {
    match what {
        Happens::Exit(c, code) => {
            let name = NAMES[c % NAMES.len()];
            if w.observed.latest(name).is_some_and(|a| a.is_running()) {
                w.end(name, *code);
            }
        }
        Happens::Wait(seconds) => _ = w.wait(*seconds),
        Happens::PullsFail(fail) => w.bad_images = if *fail { NAMES.to_vec() } else { Vec::new() },
        Happens::Reboot => {
            for name in NAMES {
                if w.observed.latest(name).is_some_and(|a| a.is_running()) {
                    w.end(name, 255);
                }
            }
            w.observed.sandbox = Stage::Absent;
        }
        Happens::AgentRestarts => {
            w.observed.backoffs.clear();
            w.observed.images.clear();
            w.observed.failures.clear();
            w.observed.killing.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_pod_that_should_run_is_left_alone_and_one_that_goes_is_gone(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        story in prop::collection::vec(happens(), 0..20),
    ) {
        let init = [("i", json!({})), ("s", json!({"restartPolicy": "Always"}))];
        let mut w = World::new(spec(policy, &init, &[("a", json!({})), ("b", json!({}))]));
        let mut final_phase = None;
        for what in &story {
            w.took();
            happen(&mut w, what);
            let live = w.observed.any_running();
            let restarts: i32 = w.observed.status.container_statuses.iter().flatten().map(|s| s.restart_count).sum();
            w.settle();
            // Kills only follow from an end of the pod; nothing that runs is removed.
            let phase = w.phase().to_owned();
            let ends = w.observed.status.container_statuses.iter().flatten()
                .all(|s| s.state.as_ref().is_some_and(|s| s.terminated.is_some()));
            for step in w.took() {
                prop_assert!(!step.starts_with("Kill") || live && (ends || phase == "Failed"), "{step} in {phase}");
            }
            // The same observation gives the same plan, and a plan at rest stays at rest.
            let again = plan(&w.pod, &w.observed, w.now);
            prop_assert_eq!(&again, &plan(&w.pod, &w.observed, w.now));
            prop_assert!(again.actions.is_empty(), "{:?}", again.actions);
            prop_assert_eq!(&again.status, &*w.observed.status);
            // Restart counts never go back, final phases never change.
            let now: i32 = w.observed.status.container_statuses.iter().flatten().map(|s| s.restart_count).sum();
            prop_assert!(now >= restarts, "{now} < {restarts}");
            if let Some(before) = &final_phase {
                prop_assert_eq!(before, &phase);
            }
            if matches!(phase.as_str(), "Succeeded" | "Failed") {
                prop_assert!(!w.observed.any_running());
                final_phase = Some(phase);
            }
        }
        w.delete();
        for _ in 0..4 {
            w.die();
        }
        prop_assert!(w.finished);
        prop_assert!(w.observed.containers.is_empty());
        prop_assert!(w.observed.sandbox == Stage::Absent && w.observed.volumes == Stage::Absent);
    }
}
