//! What always holds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::*;
use super::world::*;

proptest! {
    /// Whatever comes and goes: no CPU is two containers', reserved ones are nobody's, and none is lost.
    #[test]
    fn every_cpu_has_one_place(
        shape in (1u32..3, 1u32..3, 1u32..4, 1u32..3),
        full in any::<bool>(),
        distribute in any::<bool>(),
        steps in proptest::collection::vec((0u8..6, 1u32..5, any::<bool>(), 0u64..16), 1..30),
    ) {
        let machine = machine(shape.0, shape.1, shape.2, shape.3);
        let all = machine.all();
        let options = Options { full_cores: full, distribute, ..Options::default() };
        let policy = policy(machine, options, "0");
        let mut state = policy.start(None).expect("fresh");
        for (n, cpu, goes, nodes) in steps {
            let uid = format!("u{n}");
            if goes {
                state.release_pod(&uid);
            } else if !state.exclusive.contains_key(&uid) {
                let pod = pod(&uid, &[container("i", "1")], &[container("c", &cpu.to_string())]);
                let mut asking = Asking::new(&policy, &state);
                let spec = pod.spec.as_ref().expect("a spec");
                let hint = Hint { nodes, preferred: true };
                if containers::all(spec).all(|c| asking.allocate(&pod, c, hint).is_ok()) {
                    state = asking.state;
                    state.started(&uid, spec, "c");
                    prop_assert_eq!(state.of(&uid, "c").len(), cpu as usize);
                }
            }
            let own = state.exclusive.values().flat_map(BTreeMap::values);
            let count: usize = own.clone().map(|cpus| cpus.len()).sum();
            let both = own.fold(state.shared.clone(), |sum, cpus| &sum | cpus);
            prop_assert_eq!(&both, &all);
            prop_assert_eq!(count + state.shared.len(), all.len());
            prop_assert!(state.shared.contains(&0));
            let again = policy.start(Some(state.clone()));
            prop_assert_eq!(again, Ok(state.clone()));
        }
    }
}
