//! A Job's status and conditions.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes;
use super::tally::{Tally, count};
use crate::action::{Action, Target};
use crate::pod::{active, failed_now, is_ready};

pub(crate) const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUCCESS: &str = "SuccessCriteriaMet";
const FAILURE: &str = "FailureTarget";
const SUSPENDED: &str = "Suspended";

/// How a Job ends, decided before its last pods have ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) good: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Verdict {
    pub(super) fn new(good: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            good,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// The verdict that was given before.
    pub(super) fn given(job: &Job) -> Option<Self> {
        let of = |kind: &str| conditions(job).iter().find(|c| is(c, kind));
        let (condition, good) = of(FAILURE)
            .map(|c| (c, false))
            .or(of(SUCCESS).map(|c| (c, true)))?;
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        Some(Self::new(
            good,
            &text(&condition.reason),
            text(&condition.message),
        ))
    }
}

fn conditions(job: &Job) -> &[JobCondition] {
    let status = job.status.as_ref();
    status
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default()
}

fn is(condition: &JobCondition, kind: &str) -> bool {
    condition.type_ == kind && condition.status == "True"
}

/// How a Job ended (`Complete` or `Failed`), and when.
pub(crate) fn ended(job: &Job) -> Option<(&'static str, Option<Timestamp>)> {
    let of = |kind: &'static str| {
        let condition = conditions(job).iter().find(|c| is(c, kind))?;
        let at = condition.last_transition_time.as_ref().map(|t| t.0);
        Some((kind, at))
    };
    of(COMPLETE).or_else(|| of(FAILED))
}

/// The status, and what is told of its changes.
pub(super) fn status(
    job: &Job,
    own: &[&Pod],
    tally: &Tally<'_>,
    verdict: Option<&Verdict>,
    now: Timestamp,
) -> (JobStatus, Vec<Action>) {
    let spec = job.spec.as_ref();
    let was = job.status.clone().unwrap_or_default();
    let number = |f: &dyn Fn(&Pod) -> bool| count(own.iter().filter(|p| f(p)).count());
    let some = |n: i32| Some(n).filter(|n| *n > 0);
    let running = number(&|p| active(p));
    let terminating = number(&|p| p.metadata.deletion_timestamp.is_some() && !failed_now(p));
    let indexed = tally.completions.is_some();
    let per_index = spec.is_some_and(|s| s.backoff_limit_per_index.is_some());
    let mut it = JobStatus {
        active: some(running),
        ready: Some(number(&|p| active(p) && is_ready(p))),
        terminating: Some(terminating),
        succeeded: some(tally.succeeded),
        failed: some(tally.failed),
        completed_indexes: indexed
            .then(|| indexes::show(&tally.completed))
            .filter(|t| !t.is_empty()),
        failed_indexes: per_index.then(|| indexes::show(&tally.failed_indexes)),
        uncounted_terminated_pods: Some(tally.noted.clone()),
        ..was
    };
    let mut said = Conditions::of(job, it.conditions.take(), now);
    let suspended = spec.is_some_and(|s| s.suspend == Some(true));
    if let Some(v) = verdict {
        said.set(
            if v.good { SUCCESS } else { FAILURE },
            true,
            &v.reason,
            &v.message,
        );
        if tally.is_settled() && running == 0 && terminating == 0 {
            let kind = if v.good { COMPLETE } else { FAILED };
            said.set(kind, true, &v.reason, &v.message);
            said.tell_end(v);
            it.completion_time = v.good.then_some(Time(now));
        }
    } else if said.suspend(suspended) && !suspended {
        // The deadline counts from here.
        it.start_time = Some(Time(now));
    }
    if it.start_time.is_none() && !suspended {
        it.start_time = Some(Time(now));
    }
    it.conditions = Some(said.all).filter(|a| !a.is_empty());
    (it, said.events)
}

struct Conditions {
    all: Vec<JobCondition>,
    events: Vec<Action>,
    about: Target,
    now: Timestamp,
}

impl Conditions {
    fn of(job: &Job, all: Option<Vec<JobCondition>>, now: Timestamp) -> Self {
        Self {
            all: all.unwrap_or_default(),
            events: Vec::new(),
            about: Target::of(job),
            now,
        }
    }

    /// Whether it changed.
    fn set(&mut self, kind: &str, on: bool, reason: &str, message: &str) -> bool {
        let status = if on { "True" } else { "False" };
        let at = self.all.iter().position(|c| c.type_ == kind);
        if at.is_some_and(|i| self.all[i].status == status) || (at.is_none() && !on) {
            return false;
        }
        let condition = JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        match at {
            Some(i) => self.all[i] = condition,
            None => self.all.push(condition),
        }
        true
    }

    /// Whether it was suspended or resumed just now.
    fn suspend(&mut self, suspended: bool) -> bool {
        let (reason, event, message) = if suspended {
            ("JobSuspended", "Suspended", "Job suspended")
        } else {
            ("JobResumed", "Resumed", "Job resumed")
        };
        let changed = self.set(SUSPENDED, suspended, reason, message);
        if changed {
            self.tell("Normal", event, message);
        }
        changed
    }

    fn tell_end(&mut self, verdict: &Verdict) {
        if verdict.good {
            self.tell("Normal", "Completed", "Job completed");
        } else {
            // The reasons there are, as events name them.
            let reasons = [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "FailedIndexes",
                "MaxFailedIndexesExceeded",
                "PodFailurePolicy",
            ];
            let reason = reasons.into_iter().find(|r| *r == verdict.reason);
            self.tell("Warning", reason.unwrap_or("JobFailed"), &verdict.message);
        }
    }

    fn tell(&mut self, kind: &'static str, reason: &'static str, message: &str) {
        self.events.push(Action::Event {
            about: self.about.clone(),
            kind,
            reason,
            message: message.to_owned(),
        });
    }
}
