//! Graceful node shutdown (KEP-2000, KEP-2712): which pods end together, in which order and with how much time. Rules and
//! texts are upstream's ("Node Shutdowns", `pkg/kubelet/nodeshutdown`).
//!
//! ```text
//! the machine shuts down -> node not ready, no new pods -> group by group, the lowest priority first:
//!     its pods end all at once, each with its own grace but no more than the group's -> the machine goes on
//! ```

use jiff::SignedDuration;

use crate::duration;
use crate::event::Event;
use crate::eviction::{Error, Eviction};

/// The reason in the statuses of pods that were ended.
pub const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Why a pod is not let in.
pub(crate) const NOT_ADMITTED: &str = "Pod was rejected as the node is shutting down.";
/// What the node's Ready condition says.
pub const NOT_READY: &str = "node is shutting down";

/// `system-cluster-critical`; `system-node-critical` is higher.
const CRITICAL: i32 = 2_000_000_000;
/// Of pods without a class.
const DEFAULT: i32 = 0;

const PERIOD: &str = "shutdownGracePeriod";
const CRITICAL_PODS: &str = "shutdownGracePeriodCriticalPods";
const BY_PRIORITY: &str = "shutdownGracePeriodByPodPriority";

/// Pods of this priority and higher, up to the next group's, and the seconds they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The lowest priority in it.
    pub priority: i32,
    /// For all of them together.
    pub seconds: i64,
}

/// The configuration's fields as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `shutdownGracePeriod`.
    pub period: Option<String>,
    /// `shutdownGracePeriodCriticalPods`: the end of it, for critical pods.
    pub critical_pods: Option<String>,
    /// `shutdownGracePeriodByPodPriority`: priorities and seconds.
    pub by_priority: Vec<(i32, i64)>,
}

/// The groups, the lowest first; none: shutdowns are not waited for.
///
/// # Errors
/// Names the field.
pub fn parse(settings: &Settings) -> Result<Vec<Group>, Error> {
    let period = seconds(PERIOD, settings.period.as_deref())?;
    let critical = seconds(CRITICAL_PODS, settings.critical_pods.as_deref())?;
    if critical > period {
        let why = format!("{critical:#} must be <= {PERIOD} {period:#}");
        return Err(Error::new(CRITICAL_PODS, None, why));
    }
    if settings.by_priority.is_empty() {
        return Ok(of_period(period.as_secs(), critical.as_secs()));
    }
    if !period.is_zero() {
        let why = format!("Cannot specify both {BY_PRIORITY} and {PERIOD} at the same time");
        return Err(Error::new(BY_PRIORITY, None, why));
    }
    let mut groups = Vec::new();
    for (place, (priority, seconds)) in settings.by_priority.iter().copied().enumerate() {
        let at = Some(place.to_string());
        if seconds < 0 {
            let why = format!("shutdownGracePeriodSeconds {seconds} must not be negative");
            return Err(Error::new(BY_PRIORITY, at.as_deref(), why));
        }
        if groups.iter().any(|g: &Group| g.priority == priority) {
            let why = format!("priority {priority} is there twice");
            return Err(Error::new(BY_PRIORITY, at.as_deref(), why));
        }
        groups.push(Group { priority, seconds });
    }
    groups.sort_by_key(|g| g.priority);
    Ok(groups)
}

fn of_period(period: i64, critical: i64) -> Vec<Group> {
    if period == 0 {
        return Vec::new();
    }
    let group = |priority, seconds| Group { priority, seconds };
    vec![group(DEFAULT, period - critical), group(CRITICAL, critical)]
}

fn seconds(field: &str, text: Option<&str>) -> Result<SignedDuration, Error> {
    let Some(text) = text else {
        return Ok(SignedDuration::ZERO);
    };
    let wrong = |why: String| Error::new(field, None, why);
    let read = duration::parse(text);
    let read = read.ok_or_else(|| wrong(format!("{text:?} is not a duration such as 1m30s")))?;
    match read.is_zero() || read >= SignedDuration::from_secs(1) {
        true => Ok(read),
        false => Err(wrong(format!(
            "{text} must be either zero or otherwise >= 1 sec"
        ))),
    }
}

/// How long a shutdown takes at most, in seconds.
pub fn total(groups: &[Group]) -> i64 {
    groups.iter().map(|g| g.seconds).sum()
}

/// A pod that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its UID.
    pub uid: String,
    /// Its priority; that of pods without a class is 0.
    pub priority: Option<i32>,
    /// Its `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
}

/// Pods that end together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How long their ends are waited for, seconds; none goes before the next.
    pub seconds: i64,
    /// UIDs, each with the seconds its containers get.
    pub pods: Vec<(String, i64)>,
}

/// In which steps pods end. Groups without pods cost no time.
pub fn steps(groups: &[Group], pods: &[Candidate]) -> Vec<Step> {
    let mut steps: Vec<Step> = groups
        .iter()
        .map(|g| Step {
            seconds: g.seconds,
            pods: Vec::new(),
        })
        .collect();
    for pod in pods {
        let priority = pod.priority.unwrap_or(DEFAULT);
        // One below the lowest group is in the lowest.
        let place = groups.partition_point(|g| g.priority <= priority);
        if let Some(step) = steps.get_mut(place.saturating_sub(1)) {
            let grace = pod.grace.unwrap_or(step.seconds).min(step.seconds);
            step.pods.push((pod.uid.clone(), grace));
        }
    }
    steps.retain(|s| !s.pods.is_empty());
    steps
}

/// What a pod is ended with.
pub fn eviction(grace: i64) -> Eviction {
    Eviction {
        reason: REASON,
        message: MESSAGE.into(),
        grace,
        disruption: true,
    }
}

/// What is said of the node.
pub fn event(begins: bool) -> Event {
    let what = if begins { "event" } else { "cancellation" };
    Event {
        warning: false,
        reason: "Shutdown".into(),
        message: format!("Shutdown manager detected shutdown {what}"),
        container: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(period: &str, critical: &str, by_priority: &[(i32, i64)]) -> Settings {
        let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
        Settings {
            period: text(period),
            critical_pods: text(critical),
            by_priority: by_priority.to_vec(),
        }
    }

    #[test]
    fn what_is_configured() {
        type Row<'a> = (&'a str, Settings, &'a [(i32, i64)]);
        let rows: [Row<'_>; 7] = [
            ("nothing", settings("", "", &[]), &[]),
            ("off", settings("0", "0s", &[]), &[]),
            (
                "one period",
                settings("30s", "", &[]),
                &[(0, 30), (CRITICAL, 0)],
            ),
            (
                "a part for critical pods",
                settings("1m", "10s", &[]),
                &[(0, 50), (CRITICAL, 10)],
            ),
            (
                "all of it for critical pods",
                settings("10s", "10s", &[]),
                &[(0, 0), (CRITICAL, 10)],
            ),
            (
                "by priority, in their order",
                settings("", "", &[(100_000, 10), (0, 60), (-5, 3)]),
                &[(-5, 3), (0, 60), (100_000, 10)],
            ),
            (
                "by priority, and a period of nothing",
                settings("0s", "", &[(0, 5)]),
                &[(0, 5)],
            ),
        ];
        for (name, settings, want) in rows {
            let got = parse(&settings).expect(name);
            let got: Vec<_> = got.iter().map(|g| (g.priority, g.seconds)).collect();
            assert_eq!(got, want, "{name}");
            let sum: i64 = want.iter().map(|w| w.1).sum();
            assert_eq!(total(&parse(&settings).expect(name)), sum, "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            (
                settings("soon", "", &[]),
                "field shutdownGracePeriod: \"soon\" is not a duration such as 1m30s",
            ),
            (
                settings("500ms", "", &[]),
                "field shutdownGracePeriod: 500ms must be either zero or otherwise >= 1 sec",
            ),
            (
                settings("5s", "100ms", &[]),
                "field shutdownGracePeriodCriticalPods: 100ms must be either zero or otherwise >= 1 sec",
            ),
            (
                settings("5s", "6s", &[]),
                "field shutdownGracePeriodCriticalPods: 6s must be <= shutdownGracePeriod 5s",
            ),
            (
                settings("5s", "", &[(0, 5)]),
                "field shutdownGracePeriodByPodPriority: Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time",
            ),
            (
                settings("", "", &[(0, 5), (0, 6)]),
                "field shutdownGracePeriodByPodPriority[1]: priority 0 is there twice",
            ),
            (
                settings("", "", &[(0, -1)]),
                "field shutdownGracePeriodByPodPriority[0]: shutdownGracePeriodSeconds -1 must not be negative",
            ),
        ];
        for (settings, want) in rows {
            let got = parse(&settings).expect_err(want).to_string();
            assert_eq!(got, want);
        }
    }

    /// Groups as `priority:seconds`, pods as `name priority grace` (`-`: unset); steps as `seconds[name grace, ...]`.
    fn tell(groups: &str, pods: &str) -> String {
        let groups: Vec<Group> = groups
            .split_whitespace()
            .map(|g| {
                let (priority, seconds) = g.split_once(':').expect("a group");
                Group {
                    priority: priority.parse().expect("a priority"),
                    seconds: seconds.parse().expect("seconds"),
                }
            })
            .collect();
        let pods: Vec<Candidate> = pods
            .split(',')
            .filter(|p| !p.trim().is_empty())
            .map(|p| {
                let mut words = p.split_whitespace();
                let mut next = || words.next().expect("a word");
                Candidate {
                    uid: next().to_owned(),
                    priority: next().parse().ok(),
                    grace: next().parse().ok(),
                }
            })
            .collect();
        let step = |s: Step| {
            let pods: Vec<String> = s.pods.iter().map(|(u, g)| format!("{u} {g}")).collect();
            format!("{}[{}]", s.seconds, pods.join(", "))
        };
        let steps: Vec<String> = steps(&groups, &pods).into_iter().map(step).collect();
        steps.join(" ")
    }

    #[test]
    fn who_ends_when_and_with_how_much_time() {
        const TWO: &str = "0:20 2000000000:10";
        const DOCUMENTED: &str = "0:60 1000:120 10000:180 100000:10";
        let rows = [
            ("no groups", "", "a 0 30", ""),
            ("no pods", TWO, "", ""),
            ("no more than the group's", TWO, "a 0 30", "20[a 20]"),
            ("its own, when that is less", TWO, "a 0 3", "20[a 3]"),
            ("none of its own", TWO, "a 0 -", "20[a 20]"),
            ("no class", TWO, "a - 5", "20[a 5]"),
            (
                "critical pods last",
                TWO,
                "dns 2000000000 30, a 0 30, cni 2000001000 30",
                "20[a 20] 10[dns 10, cni 10]",
            ),
            (
                "only critical pods: the others' time is not waited for",
                TWO,
                "dns 2000000000 30",
                "10[dns 10]",
            ),
            ("just below critical", TWO, "a 1999999999 30", "20[a 20]"),
            ("below the lowest group", TWO, "a -10 30", "20[a 20]"),
            (
                "the documentation's table",
                DOCUMENTED,
                "a 0 300, b 999 300, c 1000 300, d 9999 300, e 10000 300, f 100000 300, g 2000000000 300",
                "60[a 60, b 60] 120[c 120, d 120] 180[e 180] 10[f 10, g 10]",
            ),
            (
                "groups without pods are left out",
                DOCUMENTED,
                "a 0 1, f 100000 2",
                "60[a 1] 10[f 2]",
            ),
            (
                "a group without time",
                "0:0 5:7",
                "a 0 30, b 5 30",
                "0[a 0] 7[b 7]",
            ),
            (
                "negative groups",
                "-100:4 0:8",
                "a -100 9, b -1 9, c 0 9",
                "4[a 4, b 4] 8[c 8]",
            ),
        ];
        for (name, groups, pods, want) in rows {
            assert_eq!(tell(groups, pods), want, "{name}");
        }
    }
}
