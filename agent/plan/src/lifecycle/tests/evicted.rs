//! Pods that the node ends.

use serde_json::json;

use super::world::{World, spec};
use crate::eviction::Eviction;

fn eviction(disruption: bool, grace: i64) -> Eviction {
    Eviction {
        reason: "Evicted",
        message: "The node was low on resource: memory. ".into(),
        grace,
        disruption,
    }
}

fn running(policy: &str) -> World {
    let mut w = World::new(spec(policy, &[], &[("a", json!({})), ("b", json!({}))]));
    w.settle();
    w.took();
    w
}

fn said(w: &World) -> (&str, Option<&str>, Option<&str>) {
    let s = &w.observed.status;
    (w.phase(), s.reason.as_deref(), s.message.as_deref())
}

const SAID: (Option<&str>, Option<&str>) = (
    Some("Evicted"),
    Some("The node was low on resource: memory. "),
);

#[test]
fn an_evicted_pod_fails_and_is_not_started_again() {
    let mut w = running("Always");
    w.observed.evicted = Some(eviction(true, 1));
    w.settle();
    assert_eq!(w.took(), ["Kill a/0 1s", "Kill b/0 1s"]);
    assert_eq!(
        said(&w),
        ("Running", SAID.0, SAID.1),
        "not final while it runs"
    );
    let disrupted = w.condition("DisruptionTarget");
    assert_eq!(
        (disrupted.0.as_str(), disrupted.1.as_str()),
        ("True", "TerminationByKubelet")
    );
    w.die();
    assert_eq!(said(&w), ("Failed", SAID.0, SAID.1));
    assert_eq!(
        w.took(),
        ["RemoveSandbox", "TeardownVolumes", "RemoveCgroup"]
    );
    assert_eq!(w.condition("DisruptionTarget"), disrupted);
    w.wait(600);
    assert!(w.took().is_empty(), "it stays for people to look at");
    w.observed.reclaim = true;
    w.settle();
    assert_eq!(
        w.took(),
        ["Remove a/0", "Remove b/0"],
        "until the disk is too full"
    );
    assert_eq!(
        (w.state("a"), said(&w)),
        ("Terminated:Error".into(), ("Failed", SAID.0, SAID.1))
    );
}

#[test]
fn its_own_limit_is_no_disruption() {
    let mut w = running("Never");
    w.observed.evicted = Some(eviction(false, 1));
    w.settle();
    let has = |w: &World| {
        w.observed
            .status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "DisruptionTarget")
    };
    assert!(!has(&w));
    // Containers that end well do not make it a success.
    w.end("a", 0);
    w.exit("b", 0);
    assert_eq!((said(&w), has(&w)), (("Failed", SAID.0, SAID.1), false));
}

#[test]
fn an_agent_that_starts_meanwhile_goes_on() {
    let mut w = running("Always");
    w.observed.evicted = Some(eviction(true, 60));
    w.settle();
    assert_eq!(
        w.took(),
        ["Kill a/0 30s", "Kill b/0 30s"],
        "no more than its own grace"
    );
    w.observed.evicted = None;
    w.observed.killing.clear();
    w.settle();
    assert_eq!(w.took(), ["Kill a/0 1s", "Kill b/0 1s"]);
    assert_eq!(w.condition("DisruptionTarget").0, "True");
    w.die();
    assert_eq!(said(&w), ("Failed", SAID.0, SAID.1));
}

#[test]
fn a_shutdown_of_the_machine_ends_it_in_the_same_way() {
    let mut w = running("Always");
    w.observed.evicted = Some(crate::shutdown::eviction(7));
    w.settle();
    assert_eq!(w.took(), ["Kill a/0 7s", "Kill b/0 7s"]);
    // The machine was faster: the agent goes on where it was.
    w.observed.evicted = None;
    w.observed.killing.clear();
    w.settle();
    assert_eq!(w.took(), ["Kill a/0 1s", "Kill b/0 1s"]);
    w.die();
    let message = "Pod was terminated in response to imminent node shutdown.";
    assert_eq!(said(&w), ("Failed", Some("Terminated"), Some(message)));
    assert_eq!(w.condition("DisruptionTarget").1, "TerminationByKubelet");
}

#[test]
fn a_pod_that_is_deleted_can_be_evicted_as_well() {
    let mut w = running("Always");
    w.delete();
    assert_eq!(w.took(), ["Kill a/0 30s", "Kill b/0 30s"]);
    w.observed.evicted = Some(eviction(true, 1));
    w.settle();
    assert_eq!(
        w.took(),
        ["Kill a/0 1s", "Kill b/0 1s"],
        "it has less time now"
    );
    w.end("a", 0);
    w.end("b", 0);
    let plan = w.turn();
    assert_eq!(plan.status.phase.as_deref(), Some("Failed"));
    assert_eq!(plan.status.reason.as_deref(), SAID.0);
}
