//! Counting ended pods, each exactly once.

use k8s_openapi::api::batch::v1::{Job, JobSpec, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use super::is_held;
use super::pods::{has_failed, has_succeeded};
use super::policy::{Judgement, judge};

/// What has ended so far.
pub(super) struct Tally<'a> {
    spec: &'a JobSpec,
    /// Of an indexed Job: how many there are, those that succeeded, those that failed for good.
    pub(super) completions: Option<i32>,
    pub(super) completed: Indexes,
    pub(super) failed_indexes: Indexes,
    /// Counted: their finalizers are gone.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    /// Noted: to be counted when their finalizers are gone.
    pub(super) noted: UncountedTerminatedPods,
    /// Pods whose finalizers may go once the status is written.
    pub(super) release: Vec<&'a Pod>,
    /// Why the failure policy ends the Job.
    pub(super) fatal: Option<String>,
}

impl<'a> Tally<'a> {
    /// Counts the pods of a Job.
    pub(super) fn new(job: &Job, spec: &'a JobSpec, own: &[&'a Pod]) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let completions = indexed.then(|| spec.completions.unwrap_or(0));
        let read = |text: Option<String>| {
            indexes::parse(&text.unwrap_or_default(), completions.unwrap_or(0))
        };
        let mut it = Self {
            spec,
            completions,
            completed: read(status.completed_indexes),
            failed_indexes: read(status.failed_indexes),
            succeeded: status.succeeded.unwrap_or(0),
            failed: status.failed.unwrap_or(0),
            noted: status.uncounted_terminated_pods.unwrap_or_default(),
            release: Vec::new(),
            fatal: None,
        };
        it.settle(own);
        let goes = job.metadata.deletion_timestamp.is_some();
        for pod in own.iter().copied().filter(|p| is_held(p)) {
            it.take(pod, goes);
        }
        if let Some(completions) = it.completions {
            it.succeeded = count(it.completed.len());
            it.fail_indexes(own, completions);
        }
        it
    }

    /// Counts those that are noted and whose finalizers are gone.
    fn settle(&mut self, own: &[&Pod]) {
        let held = |uid: &String| {
            let is = |p: &&&Pod| p.metadata.uid.as_ref() == Some(uid) && is_held(p);
            own.iter().any(|p| is(&p))
        };
        let move_on = |list: &mut Option<Vec<String>>, to: &mut i32| {
            let all = list.take().unwrap_or_default();
            let before = all.len();
            let left: Vec<String> = all.into_iter().filter(held).collect();
            *to += count(before - left.len());
            *list = Some(left).filter(|l| !l.is_empty());
        };
        move_on(&mut self.noted.succeeded, &mut self.succeeded);
        move_on(&mut self.noted.failed, &mut self.failed);
    }

    fn take(&mut self, pod: &'a Pod, job_goes: bool) {
        if has_succeeded(pod) {
            match self.completions {
                None => note(&mut self.noted.succeeded, pod),
                Some(all) => self.completed.extend(indexes::of(pod, all)),
            }
        } else if is_failed(self.spec, pod) {
            self.take_failed(pod);
        } else if !job_goes {
            return;
        }
        self.release.push(pod);
    }

    fn take_failed(&mut self, pod: &Pod) {
        if self.is_stray(pod) || is_noted(&self.noted.failed, pod) {
            return;
        }
        match judge(self.spec, pod) {
            Judgement::Ignore => return,
            Judgement::Count => {}
            Judgement::FailIndex => {
                let index = self.completions.and_then(|all| indexes::of(pod, all));
                self.failed_indexes.extend(index);
            }
            Judgement::FailJob(why) => self.fatal = self.fatal.take().or(Some(why)),
        }
        note(&mut self.noted.failed, pod);
    }

    /// A pod of an index that an indexed Job does not have.
    fn is_stray(&self, pod: &Pod) -> bool {
        self.completions
            .is_some_and(|all| indexes::of(pod, all).is_none())
    }

    /// The Job has failed: whatever still runs failed with it.
    pub(super) fn fail_rest(&mut self, own: &[&'a Pod]) {
        let rest = own
            .iter()
            .copied()
            .filter(|p| is_held(p) && !has_succeeded(p) && !is_failed(self.spec, p));
        for pod in rest.collect::<Vec<_>>() {
            if !self.is_stray(pod) {
                note(&mut self.noted.failed, pod);
            }
            self.release.push(pod);
        }
    }

    /// Indexes whose pods failed more often than each may.
    fn fail_indexes(&mut self, own: &[&Pod], completions: i32) {
        let Some(limit) = self.spec.backoff_limit_per_index else {
            return;
        };
        let counted = own.iter().filter(|p| self.counts_against_index(p));
        let worn = counted.filter(|p| indexes::failures_before(p) >= limit);
        let lost: Indexes = worn
            .filter_map(|p| indexes::of(p, completions))
            .filter(|i| !self.completed.contains(i))
            .collect();
        self.failed_indexes.extend(lost);
    }

    fn counts_against_index(&self, pod: &Pod) -> bool {
        is_failed(self.spec, pod) && judge(self.spec, pod) != Judgement::Ignore
    }

    /// How often pods of an index failed.
    pub(super) fn failures(&self, index: i32, own: &[&Pod]) -> i32 {
        let all = self.completions.unwrap_or(0);
        let of_index = own.iter().filter(|p| indexes::of(p, all) == Some(index));
        let failures =
            of_index.map(|p| indexes::failures_before(p) + i32::from(self.counts_against_index(p)));
        failures.max().unwrap_or(0)
    }

    /// Counted or noted.
    pub(super) fn all_succeeded(&self) -> i32 {
        self.succeeded + count(self.noted.succeeded.as_ref().map_or(0, Vec::len))
    }

    /// Counted or noted.
    pub(super) fn all_failed(&self) -> i32 {
        self.failed + count(self.noted.failed.as_ref().map_or(0, Vec::len))
    }

    /// Nothing is left to be counted.
    pub(super) fn is_settled(&self) -> bool {
        self.release.is_empty() && self.noted == UncountedTerminatedPods::default()
    }
}

/// A pod that is being deleted will not succeed any more, unless the Job waits for its end.
pub(super) fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let waits = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let lost = !waits && pod.metadata.deletion_timestamp.is_some() && !has_succeeded(pod);
    has_failed(pod) || lost
}

pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn is_noted(list: &Option<Vec<String>>, pod: &Pod) -> bool {
    let uid = pod.metadata.uid.as_ref();
    list.iter().flatten().any(|u| Some(u) == uid)
}

fn note(list: &mut Option<Vec<String>>, pod: &Pod) {
    if !is_noted(list, pod) {
        list.get_or_insert_default()
            .extend(pod.metadata.uid.clone());
    }
}
