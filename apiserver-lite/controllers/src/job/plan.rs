//! The plan of a Job.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PropagationPolicy;

use super::indexes::{self, Indexes};
use super::status::{self, Verdict};
use super::tally::{Tally, count};
use super::{FINALIZER, is_held, pods, policy, takes};
use crate::action::{Action, Target};
use crate::claim::{claim, release};
use crate::owner::controls;
use crate::pod::{active, failed_now};
use crate::replicaset::rank;
use crate::runner::Outcome;

/// Most pods made in one go; what is left follows at once.
const BURST: usize = 500;
/// `spec.managedBy` of Jobs that are ours.
const OURS: &str = "kubernetes.io/job-controller";

/// Decides for a Job among all pods of its namespace.
pub fn plan(job: &Job, all: &[Arc<Pod>], now: Timestamp) -> Outcome {
    let spec = job.spec.as_ref();
    let Some(spec) = spec.filter(|s| s.managed_by.as_deref().is_none_or(|m| m == OURS)) else {
        return Outcome::default();
    };
    let controlled = all.iter().map(Arc::as_ref).filter(|p| controls(job, *p));
    if let Some((_, at)) = status::ended(job) {
        return afterwards(job, spec, controlled, at, now);
    }
    let own: Vec<&Pod> = controlled.filter(|p| takes(job, p)).collect();
    let mut actions = claim(job, all, &|p| takes(job, p), &|_| true, Some(FINALIZER));
    let it = Plan {
        job,
        spec,
        own,
        now,
    };
    let mut tally = Tally::new(job, spec, &it.own);
    let verdict = it.verdict(&tally);
    if verdict.as_ref().is_some_and(|v| !v.good) {
        tally.fail_rest(&it.own);
    }
    let (status, events) = status::status(job, &it.own, &tally, verdict.as_ref(), now);
    if job.status.as_ref() != Some(&status) {
        // Counts are based on this version.
        let target = Target::of(job).unchanged(job);
        let write = Action::whole_status(target, job.status.as_ref(), &status);
        actions.push(write);
        actions.extend(events);
    }
    actions.extend(tally.release.iter().map(|p| release(p, FINALIZER)));
    let mut wake = it.deadline_left();
    if verdict.is_some() {
        let running = it.own.iter().filter(|p| active(p));
        actions.extend(running.flat_map(|p| it.delete(p, false)));
        wake = None;
    } else if job.metadata.deletion_timestamp.is_none() {
        let (scaling, left) = it.scale(&tally);
        actions.extend(scaling);
        wake = wake.into_iter().chain(left).min();
    }
    Outcome {
        actions,
        again: wake.map(seconds),
    }
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(n.max(0).unsigned_abs())
}

/// A Job that has ended: nothing is held, and it goes when its time has come.
fn afterwards<'a>(
    job: &Job,
    spec: &JobSpec,
    own: impl Iterator<Item = &'a Pod>,
    at: Option<Timestamp>,
    now: Timestamp,
) -> Outcome {
    let held = own.filter(|p| is_held(p));
    let mut actions: Vec<Action> = held.map(|p| release(p, FINALIZER)).collect();
    let ttl = spec.ttl_seconds_after_finished.map(i64::from);
    let stays = job.metadata.deletion_timestamp.is_none();
    let left = ttl
        .zip(at)
        .map(|(ttl, at)| at.as_second() + ttl - now.as_second());
    if left.is_some_and(|l| l <= 0) && stays {
        actions.push(Action::Delete {
            // Somebody may prolong it at the last moment.
            target: Target::of(job).unchanged(job),
            propagation: PropagationPolicy::Foreground,
            grace: None,
        });
    }
    Outcome {
        actions,
        again: left.filter(|l| *l > 0).map(seconds),
    }
}

struct Plan<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    /// Pods of ours.
    own: Vec<&'a Pod>,
    now: Timestamp,
}

impl<'a> Plan<'a> {
    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn running(&self) -> Vec<&'a Pod> {
        self.own.iter().copied().filter(|p| active(p)).collect()
    }

    /// Seconds until the deadline.
    fn deadline_left(&self) -> Option<i64> {
        let start = self.job.status.as_ref()?.start_time.as_ref()?.0;
        let limit = self.spec.active_deadline_seconds?;
        let left = start.as_second() + limit - self.now.as_second();
        (!self.is_suspended()).then_some(left)
    }

    /// How the Job ends, once that is clear.
    fn verdict(&self, tally: &Tally<'_>) -> Option<Verdict> {
        Verdict::given(self.job)
            .or_else(|| self.failure(tally))
            .or_else(|| self.success(tally))
    }

    fn failure(&self, tally: &Tally<'_>) -> Option<Verdict> {
        let bad = |reason, message: &str| Some(Verdict::new(false, reason, message));
        if let Some(why) = &tally.fatal {
            return bad("PodFailurePolicy", why);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if tally.all_failed() > limit || self.restarted_too_often(limit) {
            let message = "Job has reached the specified backoff limit";
            return bad("BackoffLimitExceeded", message);
        }
        if self.deadline_left().is_some_and(|left| left <= 0) {
            let message = "Job was active longer than specified deadline";
            return bad("DeadlineExceeded", message);
        }
        let (all, lost) = (tally.completions?, count(tally.failed_indexes.len()));
        if self.spec.max_failed_indexes.is_some_and(|most| lost > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return bad("MaxFailedIndexesExceeded", message);
        }
        if lost > 0 && lost + count(tally.completed.len()) >= all {
            return bad("FailedIndexes", "Job has failed indexes");
        }
        None
    }

    /// With `OnFailure` containers restart in their pods, and those restarts count.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let pods = &self.spec.template.spec;
        if pods.as_ref().and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let restarts: i32 = self
            .running()
            .iter()
            .filter_map(|p| p.status.as_ref())
            .flat_map(|s| {
                let init = s.init_container_statuses.iter().flatten();
                init.chain(s.container_statuses.iter().flatten())
            })
            .map(|c| c.restart_count)
            .sum();
        restarts > 0 && restarts >= limit
    }

    fn success(&self, tally: &Tally<'_>) -> Option<Verdict> {
        if tally.completions.is_some()
            && let Some(rule) = policy::enough(self.spec, &tally.completed)
        {
            let message = format!("Matched rules at index {rule}");
            return Some(Verdict::new(true, "SuccessPolicy", message));
        }
        let enough = match self.spec.completions {
            Some(wanted) => tally.all_succeeded() >= wanted,
            // A work queue: one that succeeds tells that there is no more work.
            None => tally.all_succeeded() > 0,
        };
        let message = "Reached expected number of succeeded pods";
        (enough && self.running().is_empty())
            .then(|| Verdict::new(true, "CompletionsReached", message))
    }

    /// As many pods as may run now; and after how many seconds more may be made.
    fn scale(&self, tally: &Tally<'_>) -> (Vec<Action>, Option<i64>) {
        let running = self.running();
        if self.is_suspended() {
            let actions = running.iter().flat_map(|p| self.delete(p, true));
            return (actions.collect(), None);
        }
        let wanted = self.wanted(tally, running.len());
        let (surplus, good) = self.surplus(tally, &running, wanted);
        let actions: Vec<Action> = surplus.iter().flat_map(|p| self.delete(p, true)).collect();
        let waits = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let going = self.own.iter().filter(|p| !active(p) && !failed_now(p));
        let places = wanted.saturating_sub(good + if waits { going.count() } else { 0 });
        let (created, left) = self.create(tally, places);
        (actions.into_iter().chain(created).collect(), left)
    }

    fn wanted(&self, tally: &Tally<'_>, running: usize) -> usize {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let succeeded = tally.all_succeeded();
        let wanted = match self.spec.completions {
            Some(all) => parallelism.min(all - succeeded - count(tally.failed_indexes.len())),
            None if succeeded > 0 => return running,
            None => parallelism,
        };
        usize::try_from(wanted).unwrap_or(0)
    }

    /// Pods too many, and how many stay.
    fn surplus(
        &self,
        tally: &Tally<'_>,
        running: &[&'a Pod],
        wanted: usize,
    ) -> (Vec<&'a Pod>, usize) {
        let mut order = running.to_vec();
        order.sort_by_cached_key(|p| Reverse(rank(p, running, self.now)));
        let (mut stay, mut surplus) = (order, Vec::new());
        if let Some(all) = tally.completions {
            let mut seen = Indexes::new();
            (stay, surplus) = stay.into_iter().partition(|p| {
                indexes::of(p, all).is_some_and(|i| {
                    let open = !tally.completed.contains(&i) && !tally.failed_indexes.contains(&i);
                    open && seen.insert(i)
                })
            });
        }
        if stay.len() > wanted {
            surplus.extend(stay.split_off(wanted));
        }
        (surplus, stay.len())
    }

    fn create(&self, tally: &Tally<'_>, places: usize) -> (Vec<Action>, Option<i64>) {
        let places = places.min(BURST);
        let told = |pod: &Pod| Action::create_told(pod, Target::of(self.job));
        let all_left = |wait: Option<i64>| (Vec::new(), wait);
        if places == 0 {
            return all_left(None);
        }
        let own = || self.own.iter().copied();
        let per_index = self.spec.backoff_limit_per_index.is_some();
        if !per_index && let Some(left) = pods::delay(own(), self.now) {
            return all_left(Some(left));
        }
        let Some(all) = tally.completions else {
            let pod = pods::make(self.job, None);
            return ((0..places).map(|_| told(&pod)).collect(), None);
        };
        let waits = self.spec.pod_replacement_policy.as_deref() == Some("Failed");
        let here = own().filter(|p| active(p) || (waits && !failed_now(p)));
        let taken: Indexes = here.filter_map(|p| indexes::of(p, all)).collect();
        let open = (0..all).filter(|i| {
            !taken.contains(i) && !tally.completed.contains(i) && !tally.failed_indexes.contains(i)
        });
        let (mut actions, mut soonest) = (Vec::new(), None);
        for index in open {
            if actions.len() == places {
                break;
            }
            let of_index = own().filter(|p| indexes::of(p, all) == Some(index));
            match pods::delay(of_index, self.now).filter(|_| per_index) {
                Some(left) => soonest = soonest.into_iter().chain([left]).min(),
                None => {
                    let failures = per_index.then(|| tally.failures(index, &self.own));
                    actions.push(told(&pods::make(self.job, Some((index, failures)))));
                }
            }
        }
        (actions, soonest)
    }

    /// Deletes a pod; one that is too many is let go first, so that it counts as nothing.
    fn delete(&self, pod: &Pod, uncounted: bool) -> Vec<Action> {
        let free = uncounted && is_held(pod);
        let freed = free.then(|| release(pod, FINALIZER));
        let told = Action::Event {
            about: Target::of(self.job),
            kind: "Normal",
            reason: "SuccessfulDelete",
            message: format!("Deleted pod: {}", pod.name_any()),
        };
        let delete = Action::delete(Target::of(pod));
        freed.into_iter().chain([delete, told]).collect()
    }
}
