use serde_json::{Value, json};

use super::*;

const GI: u64 = 1 << 30;

/// Nodes of 8 Gi, 1 Gi of it huge pages of 2 Mi.
fn machine(nodes: u32) -> BTreeMap<u32, NodeMemory> {
    let one = NodeMemory {
        memory: 8 * GI,
        huge: [(2 << 20, GI)].into(),
    };
    (0..nodes).map(|n| (n, one.clone())).collect()
}

fn settings(reserved: &[(u32, u64)]) -> Settings {
    let of = |(node, gi): &(u32, u64)| (*node, [("memory".to_owned(), gi * GI)].into());
    Settings {
        pinned: true,
        reserved: reserved.iter().map(of).collect(),
    }
}

/// 6 Gi for pods on node 0, 7 Gi on each other.
fn policy(nodes: u32) -> Static {
    Static::new(&machine(nodes), &settings(&[(0, 1)]), GI).expect("a policy")
}

#[test]
fn reservations() {
    let huge = {
        let mut own = settings(&[(0, 1)]);
        own.reserved
            .entry(1)
            .or_default()
            .insert("hugepages-2Mi".into(), 4 << 20);
        own
    };
    let rows = [
        ("one node", settings(&[(0, 1)]), GI, ""),
        ("two nodes", settings(&[(0, 1), (1, 2)]), 3 * GI, ""),
        (
            "no such node",
            settings(&[(2, 1)]),
            GI,
            "references a NUMA node 2 that does not exist",
        ),
        (
            "less than is kept",
            settings(&[(0, 1)]),
            2 * GI,
            "the total amount \"1Gi\" of type \"memory\" is not equal to the value \"2Gi\" determined by Node Allocatable feature",
        ),
        (
            "nothing named",
            settings(&[]),
            GI,
            "the total amount \"0\" of type \"memory\"",
        ),
        (
            "nothing kept",
            settings(&[]),
            0,
            "you should specify the system reserved memory",
        ),
        (
            "huge pages",
            huge,
            GI,
            "the total amount \"4Mi\" of type \"hugepages-2Mi\" is not equal to the value \"0\"",
        ),
    ];
    for (name, settings, kept, want) in rows {
        let got = Static::new(&machine(2), &settings, kept)
            .err()
            .unwrap_or_default();
        assert!(
            got.contains(want) && got.is_empty() == want.is_empty(),
            "{name}: {got}"
        );
    }
    let state = policy(2).start(None).expect("fresh");
    let memory = |n: u32| state.machine[&n].memory_map["memory"];
    assert_eq!(
        (memory(0).allocatable, memory(1).allocatable),
        (6 * GI, 7 * GI)
    );
    assert_eq!(state.machine[&1].memory_map["hugepages-2Mi"].free, GI);
}

fn container(name: &str, memory: &str) -> Value {
    let all = json!({"cpu": "1", "memory": memory});
    json!({"name": name, "resources": {"requests": all, "limits": all}})
}

fn with_pages(name: &str, memory: &str, pages: &str) -> Value {
    let all = json!({"cpu": "1", "memory": memory, "hugepages-2Mi": pages});
    json!({"name": name, "resources": {"requests": all, "limits": all}})
}

fn sidecar(name: &str, memory: &str) -> Value {
    let mut value = container(name, memory);
    value["restartPolicy"] = json!("Always");
    value
}

fn pod(uid: &str, init: &[Value], apps: &[Value]) -> Pod {
    let value =
        json!({"metadata": {"uid": uid}, "spec": {"initContainers": init, "containers": apps}});
    serde_json::from_value(value).expect("a pod")
}

fn ask(policy: &Static, state: &mut State, pod: &Pod, hint: Hint) -> Result<(), String> {
    let mut asking = Asking::new(policy, state);
    let spec = pod.spec.as_ref().expect("a spec");
    for c in containers::all(spec) {
        asking
            .allocate(pod, c, hint)
            .map_err(|f| format!("{f:?}"))?;
    }
    *state = asking.state;
    Ok(())
}

/// Free memory of each node, Gi.
fn free(state: &State) -> Vec<u64> {
    let nodes = state.machine.values();
    nodes.map(|n| n.memory_map["memory"].free / GI).collect()
}

#[test]
fn allocations() {
    let one = |uid: &str, memory: &str| pod(uid, &[], &[container("c", memory)]);
    // Pods with the hint's nodes and whether it is preferred; the nodes their last container has, and what is left.
    let rows = [
        (
            "the lower node that has so much",
            2,
            vec![
                (one("u", "4Gi"), "-0", "0"),
                (one("v", "4Gi"), "-0", "1"),
                (one("w", "2Gi"), "-0", "0"),
            ],
            vec![0, 3],
        ),
        (
            "the hint's",
            2,
            vec![(one("u", "4Gi"), "+10", "1")],
            vec![6, 3],
        ),
        (
            "more than the hint's node has",
            2,
            vec![(one("u", "9Gi"), "-01", "0-1")],
            vec![0, 4],
        ),
        (
            "a group",
            2,
            vec![
                (one("u", "9Gi"), "-0", "0-1"),
                (one("v", "3Gi"), "-0", "0-1"),
            ],
            vec![0, 1],
        ),
        (
            "alone or in a group, not both",
            2,
            vec![
                (one("u", "1Gi"), "-0", "0"),
                (one("v", "9Gi"), "-0", "no NUMA nodes with enough memory"),
            ],
            vec![5, 7],
        ),
        (
            "not in two groups",
            3,
            vec![
                (one("u", "9Gi"), "-0", "0-1"),
                (one("v", "9Gi"), "-0", "no NUMA nodes with enough memory"),
                (one("w", "7Gi"), "-0", "2"),
            ],
            vec![0, 4, 0],
        ),
        (
            "preferred is insisted on",
            2,
            vec![
                (one("u", "5Gi"), "-01", "0"),
                (one("v", "5Gi"), "+0", "1"),
                (one("w", "5Gi"), "+0", "no NUMA nodes with enough memory"),
            ],
            vec![1, 2],
        ),
        (
            "huge pages go with it",
            2,
            vec![
                (pod("u", &[], &[with_pages("c", "1Gi", "1Gi")]), "-0", "0"),
                (pod("v", &[], &[with_pages("c", "1Gi", "512Mi")]), "-0", "1"),
                (
                    pod("w", &[], &[with_pages("c", "1Gi", "768Mi")]),
                    "-0",
                    "no NUMA nodes with enough memory",
                ),
            ],
            vec![5, 6],
        ),
        (
            "init containers leave theirs",
            2,
            vec![(
                pod(
                    "u",
                    &[container("i", "4Gi"), container("j", "5Gi")],
                    &[container("c", "2Gi")],
                ),
                "-01",
                "0",
            )],
            vec![1, 7],
        ),
        (
            "sidecars keep theirs",
            2,
            vec![(
                pod(
                    "u",
                    &[container("i", "2Gi"), sidecar("s", "1Gi")],
                    &[container("c", "2Gi")],
                ),
                "-01",
                "0",
            )],
            vec![3, 7],
        ),
        (
            "burstable pods have none",
            2,
            vec![(
                pod(
                    "u",
                    &[],
                    &[json!({"name": "c", "resources": {"requests": {"memory": "1Gi"}}})],
                ),
                "-01",
                "",
            )],
            vec![6, 7],
        ),
    ];
    for (name, nodes, pods, left) in rows {
        let policy = policy(nodes);
        let fresh = policy.start(None).expect("fresh");
        let mut state = fresh.clone();
        for (pod, hint, want) in &pods {
            let (sign, bits) = hint.split_at(1);
            let hint = Hint {
                nodes: u64::from_str_radix(bits, 2).expect("bits"),
                preferred: sign == "+",
            };
            let uid = pod.metadata.uid.as_deref().expect("a uid");
            match ask(&policy, &mut state, pod, hint) {
                Ok(()) => assert_eq!(state.nodes_of(uid, "c").to_string(), *want, "{name}: {uid}"),
                Err(why) => assert!(
                    !want.is_empty() && why.contains(want),
                    "{name}: {uid}: {why}"
                ),
            }
        }
        assert_eq!(free(&state), left, "{name}");
        let again = policy.start(Some(state.clone()));
        assert_eq!(
            again,
            Ok(state.clone()),
            "{name}: an agent that starts goes on"
        );
        for (pod, ..) in &pods {
            state.release_pod(pod.metadata.uid.as_deref().expect("a uid"));
        }
        assert_eq!(state, fresh, "{name}: all is given back");
    }
}

#[test]
fn init_containers_end() {
    let policy = policy(1);
    let mut state = policy.start(None).expect("fresh");
    let pod = pod("u", &[container("i", "4Gi")], &[container("c", "1Gi")]);
    ask(&policy, &mut state, &pod, Hint::default()).expect("there is enough");
    assert_eq!(free(&state), [2]);
    let spec = pod.spec.as_ref().expect("a spec");
    assert!(!state.started("u", spec, "i"), "it is the first");
    assert!(state.started("u", spec, "c"));
    assert_eq!(free(&state), [5]);
    assert!(policy.start(Some(state)).is_ok());
}

#[test]
fn hints() {
    let policy = policy(2);
    let mut state = policy.start(None).expect("fresh");
    let marks = |state: &State, memory: &str| {
        let asking = Asking::new(&policy, state);
        let pod = pod("u", &[], &[container("c", memory)]);
        let all = asking.hints(&pod, None);
        let list = all.get("memory").cloned().flatten().expect("hints");
        let mark = |h: &Hint| format!("{}{:02b}", if h.preferred { '+' } else { '-' }, h.nodes);
        list.iter().map(mark).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(marks(&state, "1Gi"), "+01 +10 -11");
    assert_eq!(marks(&state, "7Gi"), "+10 -11");
    assert_eq!(marks(&state, "9Gi"), "+11");
    assert_eq!(marks(&state, "14Gi"), "");
    let other = pod("v", &[], &[container("c", "6Gi")]);
    ask(&policy, &mut state, &other, Hint::default()).expect("there is enough");
    assert_eq!(
        marks(&state, "1Gi"),
        "+10",
        "node 0 is full, and serves alone"
    );
    assert_eq!(marks(&state, "9Gi"), "");
    let best_effort = pod("w", &[], &[json!({"name": "c"})]);
    assert!(
        Asking::new(&policy, &state)
            .hints(&best_effort, None)
            .is_empty()
    );
    let known = Asking::new(&policy, &state);
    assert!(known.knows("v"));
    let stays = known.hints(&other, None)["memory"].clone().expect("hints");
    assert_eq!(
        stays,
        [Hint {
            nodes: 1,
            preferred: true
        }]
    );
}

#[test]
fn what_an_earlier_agent_left() {
    let policy = policy(2);
    let mut good = policy.start(None).expect("fresh");
    let pod = pod("u", &[], &[container("c", "9Gi")]);
    ask(&policy, &mut good, &pod, Hint::default()).expect("there is enough");
    let changed = |change: fn(&mut State)| {
        let mut state = good.clone();
        change(&mut state);
        policy.start(Some(state)).err().unwrap_or_default()
    };
    let different = "[memorymanager] the expected machine state is different from the real one";
    let rows = [
        ("as it was", changed(|_| ()), ""),
        (
            "the group gave it from other nodes",
            changed(|s| {
                for (id, less) in [(0, false), (1, true)] {
                    let node = s.machine.get_mut(&id).expect("a node");
                    let table = node.memory_map.get_mut("memory").expect("memory");
                    let (free, reserved) = if less { (-1, 1) } else { (1, -1) };
                    table.free = table.free.wrapping_add_signed(free);
                    table.reserved = table.reserved.wrapping_add_signed(reserved);
                }
            }),
            "",
        ),
        (
            "less memory",
            changed(|s| {
                s.machine
                    .get_mut(&0)
                    .expect("0")
                    .memory_map
                    .get_mut("memory")
                    .expect("m")
                    .total -= 1
            }),
            different,
        ),
        (
            "a node has gone",
            changed(|s| _ = s.machine.remove(&1)),
            different,
        ),
        (
            "an entry has gone",
            changed(|s| s.entries.clear()),
            different,
        ),
        (
            "nothing but entries",
            changed(|s| s.machine.clear()),
            "[memorymanager] machine state can not be empty when it has memory assignments",
        ),
        (
            "another node's",
            changed(|s| {
                s.entries.get_mut("u").expect("u").get_mut("c").expect("c")[0].numa_affinity =
                    vec![7]
            }),
            "[memorymanager] (pod: u, container: c) the memory assignment uses the NUMA that does not exist",
        ),
        (
            "another kind's",
            changed(|s| {
                s.entries.get_mut("u").expect("u").get_mut("c").expect("c")[0].resource =
                    "hugepages-1Gi".into()
            }),
            "[memorymanager] (pod: u, container: c) the memory assignment uses memory resource that does not exist",
        ),
    ];
    for (name, got, want) in rows {
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn the_file_is_upstreams() {
    // As kubelets (and upstream's tests) have them.
    let rows = [
        (
            "None",
            r#"{"policyName":"None","machineState":{},"checksum":4236770233}"#,
        ),
        (
            "static",
            r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},"entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":4215593881}"#,
        ),
    ];
    for (policy, text) in rows {
        let state = read(policy, text).expect("valid");
        assert_eq!(write(policy, &state), text);
    }
    let error = read("Static", rows[0].1).expect_err("another policy's");
    assert_eq!(
        error,
        "configured policy \"Static\" differs from state checkpoint policy \"None\""
    );
    let spoiled = rows[1].1.replace("1024", "1025");
    assert_eq!(
        read("static", &spoiled).expect_err("spoiled"),
        "checkpoint is corrupted"
    );
}
