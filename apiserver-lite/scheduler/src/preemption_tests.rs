use serde_json::json;

use super::*;
use crate::framework::{Outcome, schedule};
use crate::model::{Budget, Node, Selector};
use crate::testing::{cluster, map, node, with_cpu};

fn of_priority(name: &str, cpu: i64, priority: i32) -> Pod {
    Pod {
        priority,
        ..with_cpu(name, cpu)
    }
}

fn plain(name: &str) -> Node {
    node(name, "", json!({}))
}

fn room(pod: &Pod, snapshot: &Snapshot) -> Result<(String, Vec<String>), String> {
    let Outcome::Nowhere(diagnosis) = schedule(pod, snapshot, None, 0) else {
        panic!("it fits")
    };
    let found = find(pod, snapshot, &diagnosis).map_err(|no| no.why)?;
    Ok((
        found.node,
        found
            .victims
            .iter()
            .map(|victim| victim.name.clone())
            .collect(),
    ))
}

fn found(node: &str, victims: &[&str]) -> Result<(String, Vec<String>), String> {
    Ok((
        node.into(),
        victims.iter().map(ToString::to_string).collect(),
    ))
}

#[test]
fn the_least_important_pods_leave_and_no_more_than_needed() {
    let wants = of_priority("p", 500, 10);
    let old = |second: i64, pod: Pod| Pod {
        started: Timestamp::from_second(second).ok(),
        ..pod
    };
    let cases = [
        (
            "one is enough",
            vec![(
                plain("a"),
                vec![of_priority("1", 500, 1), of_priority("2", 500, 2)],
            )],
            found("a", &["1"]),
        ),
        (
            "the lower node",
            vec![
                (plain("a"), vec![of_priority("1", 900, 5)]),
                (plain("b"), vec![of_priority("2", 900, 4)]),
            ],
            found("b", &["2"]),
        ),
        (
            "the fewer",
            vec![
                (
                    plain("a"),
                    vec![
                        of_priority("1", 300, 4),
                        of_priority("2", 300, 4),
                        of_priority("4", 300, 4),
                    ],
                ),
                (plain("b"), vec![of_priority("3", 900, 4)]),
            ],
            found("b", &["3"]),
        ),
        (
            "the younger",
            vec![
                (plain("a"), vec![old(100, of_priority("1", 900, 4))]),
                (plain("b"), vec![old(200, of_priority("2", 900, 4))]),
            ],
            found("b", &["2"]),
        ),
    ];
    for (name, nodes, wanted) in cases {
        assert_eq!(room(&wants, &cluster(nodes)), wanted, "{name}");
    }
}

#[test]
fn budgets_are_kept_if_that_can_be() {
    let labelled = |pod: Pod| Pod {
        labels: map("app=a"),
        ..pod
    };
    let wants = of_priority("p", 500, 10);
    let mut snapshot = cluster(vec![
        (plain("a"), vec![labelled(of_priority("1", 900, 1))]),
        (plain("b"), vec![of_priority("2", 900, 5)]),
    ]);
    assert_eq!(room(&wants, &snapshot), found("a", &["1"]));
    let budget = |allowed| Budget {
        namespace: "ns".into(),
        selector: Selector::from_map(Some(&map("app=a"))),
        allowed,
    };
    Arc::make_mut(&mut snapshot.budgets).insert("b".into(), budget(0));
    assert_eq!(room(&wants, &snapshot), found("b", &["2"]));
    Arc::make_mut(&mut snapshot.budgets).insert("b".into(), budget(1));
    assert_eq!(room(&wants, &snapshot), found("a", &["1"]));
}

#[test]
fn no_room_and_why() {
    let wants = of_priority("p", 500, 10);
    let cordoned = node("b", "", json!({"unschedulable": true}));
    let snapshot = cluster(vec![
        (plain("a"), vec![of_priority("1", 900, 10)]),
        (cordoned, vec![]),
    ]);
    let why = "0/2 nodes are available: 1 No preemption victims found for incoming pod, \
               1 Preemption is not helpful for scheduling.";
    assert_eq!(room(&wants, &snapshot), Err(why.into()));
    let polite = Pod {
        may_preempt: false,
        ..wants.clone()
    };
    assert_eq!(
        room(&polite, &snapshot),
        Err("not eligible due to preemptionPolicy=Never.".into())
    );
    let leaving = Pod {
        is_terminating: true,
        ..of_priority("1", 900, 1)
    };
    let snapshot = cluster(vec![(plain("a"), vec![leaving])]);
    let nominated = Pod {
        nominated: Some("a".into()),
        ..wants
    };
    assert_eq!(
        room(&nominated, &snapshot),
        Err("not eligible due to a terminating pod on the nominated node.".into())
    );
}
