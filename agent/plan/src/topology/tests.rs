use std::collections::BTreeMap;

use super::*;

fn numa(nodes: u32) -> Numa {
    let row = |from: u32| (0..nodes).map(move |to| 10 + 10 * from.abs_diff(to));
    Numa {
        distances: (0..nodes).map(|n| (n, row(n).collect())).collect(),
    }
}

/// `+0b01` is a preferred hint.
fn hint(text: &str) -> Hint {
    let (sign, bits) = text.split_at(1);
    Hint {
        nodes: u64::from_str_radix(bits, 2).expect("bits"),
        preferred: sign == "+",
    }
}

/// Each word a provider: `cpu:+01,-11`; `cpu:` has no node, `cpu` no preference, `-` no resource.
fn hints(text: &str) -> Vec<Hints> {
    let provider = |word: &str| match word.split_once(':') {
        _ if word == "-" => Hints::new(),
        None => [(word.to_owned(), None)].into(),
        Some((name, "")) => [(name.to_owned(), Some(Vec::new()))].into(),
        Some((name, list)) => [(name.to_owned(), Some(list.split(',').map(hint).collect()))].into(),
    };
    text.split_whitespace().map(provider).collect()
}

fn settings(policy: Policy) -> Settings {
    Settings {
        policy,
        ..Settings::default()
    }
}

#[test]
fn merged() {
    use Policy::*;
    // Name, NUMA nodes, hints, and what comes out for best-effort, restricted, single-numa-node ("x": refused).
    let rows = [
        ("nobody", 2, "", ["+11", "+11", "+0"]),
        ("no resource", 2, "- -", ["+11", "+11", "+0"]),
        ("no preference", 2, "cpu", ["+11", "+11", "+0"]),
        ("cannot be had", 2, "cpu:", ["-11", "x", "x"]),
        ("one node", 2, "cpu:+01", ["+01", "+01", "+01"]),
        ("one that is not preferred", 2, "cpu:-01", ["-01", "x", "x"]),
        (
            "one of two, the lower",
            2,
            "cpu:+01,+10,-11",
            ["+01", "+01", "+01"],
        ),
        (
            "the other agrees",
            2,
            "cpu:+01,+10,-11 gpu:+10",
            ["+10", "+10", "+10"],
        ),
        ("both on two", 2, "cpu:+11 gpu:+11", ["+11", "+11", "x"]),
        (
            "no preference beside one",
            2,
            "cpu:+10 memory",
            ["+10", "+10", "+10"],
        ),
        (
            "no preference beside two",
            2,
            "cpu:+11 memory",
            ["+11", "+11", "x"],
        ),
        ("they differ", 2, "cpu:+01 gpu:+10", ["-11", "x", "x"]),
        (
            "they differ, one could do with both",
            2,
            "cpu:+01,-11 gpu:+10",
            ["-10", "x", "x"],
        ),
        (
            "narrow within wide",
            2,
            "cpu:+01 gpu:+11",
            ["-01", "x", "x"],
        ),
        (
            "cannot be had beside one that can",
            2,
            "cpu:+01 gpu:",
            ["-01", "x", "x"],
        ),
        (
            "preferred before narrower",
            4,
            "cpu:-0001,+0011",
            ["+0011", "+0011", "x"],
        ),
        (
            "two of four",
            4,
            "cpu:+0011,+1100 gpu:+1100,-1111",
            ["+1100", "+1100", "x"],
        ),
        (
            "as wide as the widest needs",
            4,
            "cpu:-0001,-0011,-0111 gpu:-0011,-0111",
            ["-0011", "x", "x"],
        ),
        (
            "not wider than the widest needs",
            4,
            "cpu:-1111,-0111 gpu:-1111,-0011",
            ["-0111", "x", "x"],
        ),
        (
            "three agree",
            2,
            "cpu:+01,+10 memory:+01,+10 gpu:+10",
            ["+10", "+10", "+10"],
        ),
        ("one node only", 1, "cpu:+1 memory:+1", ["+1", "+1", "+0"]),
    ];
    for (name, nodes, text, want) in rows {
        for (policy, want) in [BestEffort, Restricted, SingleNumaNode].iter().zip(want) {
            let got = merge(&settings(*policy), &numa(nodes), &hints(text));
            let want = (want != "x").then(|| hint(want));
            assert_eq!(got, want, "{name}: {policy:?}");
        }
        let none = merge(&settings(None), &numa(nodes), &hints(text));
        assert_eq!(none, Some(Hint::default()), "{name}");
    }
}

#[test]
fn many_providers_on_many_nodes() {
    let all = |preferred: u32| {
        let hint = |nodes: u64| Hint {
            nodes,
            preferred: nodes.count_ones() == preferred,
        };
        Some(masks(255).into_iter().map(hint).collect())
    };
    let names = ["a", "b", "c", "d", "e"];
    let hints = names.map(|name| Hints::from([(name.to_owned(), all(2))]));
    let got = merge(&settings(Policy::Restricted), &numa(8), &hints);
    assert_eq!(got, Some(hint("+11")));
    let differ = [all(1), all(3)].map(|list| Hints::from([("thing".to_owned(), list)]));
    assert_eq!(
        merge(&settings(Policy::Restricted), &numa(8), &differ),
        None
    );
    let got = merge(&settings(Policy::BestEffort), &numa(8), &differ);
    assert_eq!(got, Some(hint("-1")));
}

#[test]
fn the_closest_of_as_many() {
    let all = hints("cpu:+0101,+0110,+1001");
    let mut with = settings(Policy::BestEffort);
    let got = merge(&with, &numa(4), &all);
    assert_eq!(got, Some(hint("+0101")), "the lower");
    with.prefer_closest = true;
    let got = merge(&with, &numa(4), &all);
    assert_eq!(got, Some(hint("+0110")), "the closer");
}

#[test]
fn sets_of_nodes() {
    assert_eq!(masks(0b101), [0b001, 0b100, 0b101]);
    let three = [0b001, 0b010, 0b100, 0b011, 0b101, 0b110, 0b111];
    assert_eq!(masks(0b111), three);
    assert_eq!(masks(0), [0u64; 0]);
    assert_eq!(masks((1 << 8) - 1).len(), 255);
}

#[test]
fn configured() {
    let options = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let own = pairs.iter();
        own.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let parse = |p, s, o: &[(&str, &str)]| Settings::parse(p, s, &options(o));
    assert_eq!(parse(None, None, &[]), Ok(Settings::default()));
    let all = parse(
        Some("restricted"),
        Some("pod"),
        &[
            ("prefer-closest-numa-nodes", "true"),
            ("max-allowable-numa-nodes", "12"),
        ],
    );
    let want = Settings {
        policy: Policy::Restricted,
        scope: Scope::Pod,
        prefer_closest: true,
        most_nodes: Some(12),
    };
    assert_eq!(all, Ok(want.clone()));
    assert!(numa(12).check(&want).is_ok());
    assert!(
        numa(9).check(&Settings::default()).is_ok(),
        "nobody is asked"
    );
    let many = numa(9)
        .check(&settings(Policy::Restricted))
        .expect_err("many");
    assert!(
        many.to_string()
            .contains("unsupported on machines with more than 8 NUMA Nodes")
    );
    let rows = [
        (
            parse(Some("best"), None, &[]),
            "topologyManagerPolicy: \"best\" must be one of",
        ),
        (
            parse(None, Some("node"), &[]),
            "topologyManagerScope: \"node\" must be one of",
        ),
        (
            parse(None, None, &[("fast", "true")]),
            "unknown Topology Manager Policy option: \"fast\"",
        ),
        (
            parse(None, None, &[("prefer-closest-numa-nodes", "yes")]),
            "topologyManagerPolicyOptions[prefer-closest-numa-nodes]: bad value",
        ),
        (
            parse(None, None, &[("max-allowable-numa-nodes", "4")]),
            "must be a number from 8 to 64",
        ),
    ];
    for (got, want) in rows {
        let error = got.expect_err(want).to_string();
        assert!(error.contains(want), "{error}");
    }
}

/// Has one of a thing on each node it is told.
struct One {
    nodes: Vec<u64>,
    had: Vec<String>,
    knows: bool,
}

impl Provider for One {
    fn knows(&self, _: &str) -> bool {
        self.knows
    }

    fn hints(&self, _: &Pod, _: Option<&Container>) -> Hints {
        let preferred = true;
        let list = self.nodes.iter().map(|n| Hint {
            nodes: *n,
            preferred,
        });
        [("thing".to_owned(), Some(list.collect()))].into()
    }

    fn allocate(&mut self, _: &Pod, c: &Container, hint: Hint) -> Result<(), Failure> {
        let place = self
            .nodes
            .iter()
            .position(|n| hint.nodes == 0 || *n == hint.nodes);
        let place = place.ok_or_else(|| Failure::Unexpected("nothing left".into()))?;
        self.had
            .push(format!("{}@{}", c.name, self.nodes.remove(place)));
        Ok(())
    }
}

#[test]
fn admitted() {
    let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"},
        "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}}))
    .expect("a pod");
    let one = |nodes: &[u64]| One {
        nodes: nodes.to_vec(),
        had: Vec::new(),
        knows: false,
    };
    let run = |policy, scope, a: &mut One, b: &mut One| {
        let with = Settings {
            scope,
            ..settings(policy)
        };
        let mut both: [&mut dyn Provider; 2] = [a, b];
        admit(&pod, &with, &numa(2), &mut both).map_err(|r| (r.reason, r.message))
    };
    let (mut a, mut b) = (one(&[2, 1]), one(&[1, 2]));
    let done = run(Policy::Restricted, Scope::Container, &mut a, &mut b);
    assert_eq!(
        (done, a.had.join(" "), b.had),
        (Ok(()), "i@1 a@2".into(), a.had)
    );

    // The second container has to go elsewhere: not with the whole pod on one node.
    let (mut a, mut b) = (one(&[1, 2]), one(&[1, 2]));
    let (reason, message) =
        run(Policy::Restricted, Scope::Pod, &mut a, &mut b).expect_err("refused");
    assert_eq!(reason, "UnexpectedAdmissionError");
    let want = "Pod was rejected: Allocate failed due to nothing left, which is unexpected";
    assert_eq!(message, want);

    let (mut a, mut b) = (one(&[1]), one(&[2]));
    let (reason, message) =
        run(Policy::SingleNumaNode, Scope::Container, &mut a, &mut b).expect_err("refused");
    assert_eq!(reason, "TopologyAffinityError");
    let want = "Pod was rejected: Resources cannot be allocated with Topology locality";
    assert_eq!(message, want);

    let (mut a, mut b) = (one(&[1]), one(&[1, 2]));
    a.knows = true;
    let done = run(Policy::None, Scope::Container, &mut a, &mut b);
    assert_eq!(
        (done, a.had.len(), b.had.len()),
        (Ok(()), 0, 2),
        "only who has not given yet"
    );
}
