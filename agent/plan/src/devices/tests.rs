use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::topology::Hint;

const GPU: &str = "example.com/gpu";

/// `a b! c@0 d@0,1`: healthy, not healthy, on NUMA nodes.
fn devices(text: &str) -> BTreeMap<String, Device> {
    let device = |word: &str| {
        let (id, nodes) = word.split_once('@').unwrap_or((word, ""));
        let nodes = nodes.split(',').filter_map(|n| n.parse().ok()).collect();
        let device = Device {
            healthy: !id.ends_with('!'),
            nodes,
        };
        (id.trim_end_matches('!').to_owned(), device)
    };
    text.split_whitespace().map(device).collect()
}

/// `i:1` an init container that wants one device, `s:1` a sidecar, `c:1` a container.
fn spec(text: &str) -> PodSpec {
    let (mut init, mut apps) = (Vec::new(), Vec::new());
    for word in text.split_whitespace() {
        let (name, count) = word.split_once(':').expect("name:count");
        let mut c = json!({"name": name, "resources": {"limits": {GPU: count, "cpu": "1"}}});
        match name.chars().next() {
            Some('i') => init.push(c),
            Some('s') => {
                c["restartPolicy"] = json!("Always");
                init.push(c);
            }
            _ => apps.push(c),
        }
    }
    serde_json::from_value(json!({"initContainers": init, "containers": apps})).expect("a spec")
}

/// A state with devices, and what pods have: `pod/container=a,b`.
fn state(offered: &str, has: &str, preferences: bool) -> State {
    let mut state = State::default();
    let options = Options {
        preferences,
        ..Options::default()
    };
    state.registered(GPU, options);
    state.listed(GPU, devices(offered));
    for word in has.split_whitespace() {
        let (who, ids) = word.split_once('=').expect("who=ids");
        let (uid, container) = who.split_once('/').expect("pod/container");
        let ids: BTreeSet<String> = ids.split(',').map(str::to_owned).collect();
        state.assign(&need(uid, container, ids.len()), &ids, String::new());
    }
    state
}

fn need<'a>(uid: &'a str, container: &'a str, count: usize) -> Need<'a> {
    Need {
        uid,
        container,
        resource: GPU,
        count,
    }
}

#[test]
fn names_of_resources() {
    let long = format!("{}.com/x", "a".repeat(250));
    let rows = [
        ("example.com/gpu", true),
        ("a/b", true),
        ("vendor.example/g_p.u-1", true),
        ("gpu", false),
        ("cpu", false),
        ("kubernetes.io/gpu", false),
        ("x.kubernetes.io/gpu", false),
        ("requests.example.com/gpu", false),
        ("Example.com/gpu", false),
        ("example.com/", false),
        ("/gpu", false),
        ("example.com/-gpu", false),
        ("example.com/gpu/1", false),
        ("-example.com/gpu", false),
        ("example..com/gpu", false),
        (&long, false),
    ];
    for (name, want) in rows {
        assert_eq!(is_extended(name), want, "{name}");
    }
}

#[test]
fn plugins_that_are_taken() {
    let rows = [
        ("v1beta1", "gpu.sock", GPU, None),
        (
            "v1alpha",
            "gpu.sock",
            GPU,
            Some(
                r#"requested API version "v1alpha" is not supported by kubelet. Supported version is ["v1beta1"]"#,
            ),
        ),
        (
            "v1beta1",
            "gpu.sock",
            "gpu",
            Some(r#"the ResourceName "gpu" is invalid"#),
        ),
        (
            "v1beta1",
            "../gpu.sock",
            GPU,
            Some(r#"the endpoint "../gpu.sock" is invalid"#),
        ),
        ("v1beta1", "..", GPU, Some("is invalid")),
        ("v1beta1", "", GPU, Some("is invalid")),
    ];
    for (version, endpoint, resource, want) in rows {
        let got = check(version, endpoint, resource).err();
        match want {
            None => assert_eq!(got, None),
            Some(want) => assert!(got.as_deref().is_some_and(|g| g.contains(want)), "{got:?}"),
        }
    }
}

#[test]
fn who_gets_which() {
    // What there is, who has what, the pod, its container, near which nodes, and the devices or the error.
    type Row = (
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        Option<u64>,
        &'static str,
    );
    let rows: [Row; 20] = [
        ("a b c", "", "c:2", "c", None, "a b"),
        ("a b c", "q/c=a", "c:2", "c", None, "b c"),
        ("a! b c", "", "c:2", "c", None, "b c"),
        (
            "a b",
            "q/c=a",
            "c:2",
            "c",
            None,
            "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1",
        ),
        (
            "a! b",
            "",
            "c:2",
            "c",
            None,
            "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1",
        ),
        (
            "a! b!",
            "",
            "c:1",
            "c",
            None,
            "no healthy devices present; cannot allocate unhealthy devices example.com/gpu",
        ),
        // It has them: also when they do not work any more.
        ("a b", "p/c=a", "c:1", "c", None, "held"),
        ("a! b!", "p/c=a", "c:1", "c", None, "held"),
        (
            "a b",
            "p/c=a",
            "c:2",
            "c",
            None,
            r#"pod "p" container "c" changed request for resource "example.com/gpu" from 1 to 2"#,
        ),
        // What an init container had is had again; what a sidecar or another container has is not.
        ("a b", "p/i=b", "i:1 c:1", "c", None, "b"),
        ("a b", "p/i=b", "i:1 c:2", "c", None, "a b"),
        ("a b", "p/i1=b", "i1:1 i2:1 c:1", "i2", None, "b"),
        ("a b", "p/s=a", "s:1 c:1", "c", None, "b"),
        ("a b", "p/i=a p/s=a", "i:1 s:1 c:1", "c", None, "b"),
        ("a b c", "p/i=a,b p/c=a", "i:2 c:1 d:2", "d", None, "b c"),
        ("a b!", "p/i=b", "i:1 c:1", "c", None, "a"),
        // Near first, then far, then those that are nowhere.
        ("a@0 b@1 c", "", "c:1", "c", Some(0b10), "b"),
        ("a@0 b@1 c", "", "c:2", "c", Some(0b10), "a b"),
        ("a@0 b c@1", "", "c:2", "c", Some(0b10), "a c"),
        ("a@0,1 b@0 c@0", "", "c:1", "c", Some(0b10), "a"),
    ];
    for (offered, has, pod, container, near, want) in rows {
        let (mut state, spec) = (state(offered, has, false), spec(pod));
        if let Some(nodes) = near {
            state.align("p", container, nodes);
        }
        let wanted = containers::all(&spec).find(|c| c.name == container);
        let count = asked(wanted.expect("it is there")).next().map(|(_, n)| n);
        let need = need("p", container, count.expect("it asks"));
        let got = match state.choose(&spec, &need, None) {
            Ok(Choice::Take(ids)) => ids.into_iter().collect::<Vec<_>>().join(" "),
            Ok(Choice::Held) => "held".into(),
            Ok(Choice::Ask(q)) => format!("{q:?}"),
            Err(error) => error,
        };
        assert_eq!(got, want, "{offered} | {has} | {pod} {container} {near:?}");
    }
    let unknown = State::default().choose(&spec("c:1"), &need("p", "c", 1), None);
    assert_eq!(
        unknown.err().as_deref(),
        Some("cannot allocate unregistered device example.com/gpu")
    );
}

#[test]
fn what_plugins_prefer() {
    // What there is and is had, near, what is asked (available; must; size), the answer, and the devices.
    type Row = (
        &'static str,
        &'static str,
        usize,
        Option<u64>,
        &'static str,
        &'static str,
        &'static str,
    );
    let rows: [Row; 8] = [
        ("a b c d", "", 2, None, "a b c d; ; 2", "c d", "c d"),
        // Too few, too many, none of ours, somebody else's.
        ("a b c d", "", 2, None, "a b c d; ; 2", "d", "a d"),
        ("a b c d", "", 2, None, "a b c d; ; 2", "d c b", "c d"),
        ("a b c", "", 1, None, "a b c; ; 1", "z", "a"),
        ("a b c", "q/c=c", 1, None, "a b; ; 1", "c", "a"),
        ("a b c", "p/i=b", 2, None, "a b c; b; 2", "c", "b c"),
        (
            "a@0 b@1 c@1 d@1",
            "",
            2,
            Some(0b10),
            "b c d; ; 2",
            "a d",
            "b d",
        ),
        ("a@0 b@1 c@0", "", 2, Some(0b10), "a b c; b; 2", "c", "b c"),
    ];
    for (offered, has, count, near, question, answer, want) in rows {
        let (mut state, spec) = (state(offered, has, true), spec(&format!("i:1 c:{count}")));
        if let Some(nodes) = near {
            state.align("p", "c", nodes);
        }
        let need = need("p", "c", count);
        let Ok(Choice::Ask(q)) = state.choose(&spec, &need, None) else {
            panic!("{offered} {has}: nothing is asked");
        };
        let asked = format!(
            "{}; {}; {}",
            q.available.join(" "),
            q.must.join(" "),
            q.size
        );
        assert_eq!(asked, question);
        let answer: Vec<String> = answer.split(' ').map(str::to_owned).collect();
        let Ok(Choice::Take(ids)) = state.choose(&spec, &need, Some(&answer)) else {
            panic!("{offered} {has}: nothing is taken");
        };
        assert_eq!(
            ids.into_iter().collect::<Vec<_>>().join(" "),
            want,
            "{answer:?}"
        );
    }
}

#[test]
fn what_the_node_tells() {
    let figures = |state: &State| {
        let of = |m: &BTreeMap<String, usize>| m.get(GPU).copied();
        let f = state.figures();
        (of(&f.capacity), of(&f.allocatable))
    };
    let at = |minutes: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
    let mut state = State::default();
    assert_eq!(figures(&state), (None, None));
    state.registered(GPU, Options::default());
    assert_eq!(figures(&state), (Some(0), Some(0)));
    state.listed(GPU, devices("a b c!"));
    assert_eq!(figures(&state), (Some(3), Some(2)));
    state.left(GPU, at(0));
    assert_eq!(figures(&state), (Some(3), Some(0)));
    assert!(!state.expire(at(4)) && state.is_managed(GPU));
    // It is back in time, and is not forgotten later.
    state.registered(GPU, Options::default());
    assert_eq!(figures(&state), (Some(3), Some(0)));
    state.listed(GPU, devices("a b"));
    assert!(!state.expire(at(6)));
    assert_eq!(figures(&state), (Some(2), Some(2)));
    state.left(GPU, at(10));
    assert!(state.expire(at(15)) && !state.is_managed(GPU));
    assert_eq!(figures(&state), (Some(0), Some(0)));
    assert!(!state.expire(at(16)));
    state.registered(GPU, Options::default());
    state.listed(GPU, devices("a"));
    assert_eq!(figures(&state), (Some(1), Some(1)));
}

#[test]
fn what_is_let_go() {
    let mut state = state("a b c", "p/c=a p/d=b q/c=c", false);
    assert_eq!(state.users(GPU), ["p", "q"]);
    assert!(state.is_managed(GPU) && !state.is_managed("example.com/other"));
    assert!(state.release("p") && !state.release("p"));
    assert_eq!(state.in_use(GPU), BTreeSet::from(["c"]));
    assert!(!state.retain(|uid| uid == "q") && state.retain(|_| false));
    assert!(state.in_use(GPU).is_empty());
}

#[test]
fn who_asks() {
    let rows = [
        (json!({GPU: "1"}), true),
        (json!({GPU: "0"}), false),
        (json!({"cpu": "1", "hugepages-2Mi": "2Mi"}), false),
        (json!({}), false),
    ];
    for (limits, want) in rows {
        let spec: PodSpec = serde_json::from_value(
            json!({"containers": [{"name": "c", "resources": {"limits": limits}}]}),
        )
        .expect("a spec");
        assert_eq!(asks(&spec), want, "{limits}");
    }
    assert!(asks(&spec("i:1")));
}

#[test]
fn how_they_are() {
    let mut state = state("a b!", "p/c=a,b,z", false);
    let told = |state: &State| {
        let all = state.health("p");
        let all = all["c"].iter().flat_map(|s| s.resources.iter().flatten());
        all.map(|r| format!("{}={}", r.resource_id, r.health.as_deref().unwrap_or("")))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(told(&state), "a=Healthy b=Unhealthy z=Unknown");
    state.left(GPU, Timestamp::UNIX_EPOCH);
    assert_eq!(told(&state), "a=Unknown b=Unknown z=Unknown");
    assert!(state.health("q").is_empty());
}

#[test]
fn what_outlives_the_agent() {
    let now = Timestamp::UNIX_EPOCH;
    let mut before = state("a b@0 c@0,1 d!", "p/c=a,b q/i=c", true);
    before.assign(
        &need("q", "c", 1),
        &BTreeSet::from(["d".to_owned()]),
        "CgMKAWE=".into(),
    );
    let text = encode(&before);
    let after = decode(&text, now).expect("it is read");
    assert_eq!(after.assigned, before.assigned);
    // Nothing is known of the devices but that there were such.
    let figures = after.figures();
    assert_eq!((figures.capacity[GPU], figures.allocatable[GPU]), (4, 0));
    assert_eq!(after.resources[GPU].away, Some(now));
    // As upstream has it.
    let file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let first = &file["Data"]["PodDeviceEntries"][0];
    assert_eq!(
        *first,
        json!({"PodUID": "p", "ContainerName": "c", "ResourceName": GPU,
            "DeviceIDs": {"-1": ["a"], "0": ["b"]}, "AllocResp": ""})
    );
    let wrong = [
        text.replace("\"c\"", "\"e\""),
        text[..text.len() / 2].to_owned(),
        "{}".to_owned(),
        String::new(),
    ];
    for text in wrong {
        assert!(decode(&text, now).is_err(), "{text}");
    }
    assert_eq!(
        decode(&encode(&State::default()), now),
        Ok(State::default())
    );
}

#[test]
fn nodes_that_could_serve() {
    // What there is and is had, how many, and the masks, preferred ones with a star; none: no preference.
    let rows = [
        ("a b", "", 1, None),
        ("a@0 b@1", "", 1, Some("1* 2* 3")),
        ("a@0 b@1", "", 2, Some("3*")),
        ("a@0 b@0 c@1", "", 2, Some("1* 3")),
        // The narrowest that could ever serve is not free now: none is preferred.
        ("a@0 b@0 c@1", "q/c=a", 2, Some("3")),
        ("a@0 b@1", "q/c=a,b", 1, Some("")),
        ("a!@0 b@1", "", 1, Some("2* 3")),
        ("a@0,1 b@1", "", 1, Some("1* 2* 3")),
        // What it has already, and what its init container had.
        ("a@0 b@1", "p/c=b", 1, Some("2* 3")),
        ("a@0 b@1", "p/c=a,b", 1, Some("")),
        ("a@0 b@1", "p/i=a", 1, Some("1* 3")),
        ("a@0 b@1", "p/i=a q/c=b", 1, Some("1* 3")),
    ];
    for (offered, has, count, want) in rows {
        let (state, spec) = (state(offered, has, false), spec(&format!("i:1 c:{count}")));
        let hints = state.hints(&spec, "p", Some(&spec.containers[0]), &[0, 1]);
        let text = |h: &Hint| format!("{}{}", h.nodes, if h.preferred { "*" } else { "" });
        let text = |all: &Vec<Hint>| all.iter().map(text).collect::<Vec<_>>().join(" ");
        let got = hints[GPU].as_ref().map(text);
        assert_eq!(got.as_deref(), want, "{offered} | {has} | {count}");
    }
    let nobody = State::default().hints(&spec("c:1"), "p", None, &[0]);
    assert!(nobody.is_empty(), "it is no plugin's");
    // The pod as a whole: what it needs at one time.
    for (pod, want) in [
        ("c:1 d:1", 2),
        ("i:3 c:1 d:1", 3),
        ("i:3 j:1 c:2", 3),
        ("s:1 i:2 c:1", 3),
        ("i:2 s:1 c:1", 2),
    ] {
        let spec = spec(&pod.replace('j', "i2"));
        assert_eq!(asked_together(&spec)[GPU], want, "{pod}");
        let hints = state("a@0 b@0 c@0 d@1", "", false).hints(&spec, "p", None, &[0, 1]);
        let want = [1, 3].map(|nodes| Hint {
            nodes,
            preferred: nodes == 1,
        });
        assert_eq!(hints[GPU].as_deref(), Some(&want[..]), "{pod}");
    }
}

#[test]
fn where_the_topology_manager_has_them() {
    use crate::topology::{Numa, Policy, Scope, Settings, admit};
    let numa = Numa {
        distances: [(0, vec![10, 20]), (1, vec![20, 10])].into(),
    };
    let rows = [
        ("a@0 b@1", "c:1 d:1", Scope::Container, Some("c@1 d@1")),
        ("a@1", "c:1", Scope::Container, Some("c@2")),
        ("a@0 b@1", "c:2", Scope::Container, None),
        ("a@0 b@0", "c:1 d:1", Scope::Pod, Some("c@1 d@1")),
        ("a@0 b@1", "c:1 d:1", Scope::Pod, None),
        ("a b", "c:1", Scope::Container, Some("")),
    ];
    for (offered, text, scope, want) in rows {
        let state = state(offered, "", false);
        let pod = Pod {
            spec: Some(spec(text)),
            ..Pod::default()
        };
        let settings = Settings {
            policy: Policy::SingleNumaNode,
            scope,
            ..Settings::default()
        };
        let mut asking = Asking::new(&state, &[0, 1]);
        let admitted = admit(&pod, &settings, &numa, &mut [&mut asking]);
        let near = asking.near.iter().map(|(c, nodes)| format!("{c}@{nodes}"));
        let near = near.collect::<Vec<_>>().join(" ");
        let got = admitted.map(|()| near).map_err(|r| r.reason);
        let want = want.map(str::to_owned);
        assert_eq!(
            got,
            want.ok_or("TopologyAffinityError".into()),
            "{offered} | {text}"
        );
    }
}
