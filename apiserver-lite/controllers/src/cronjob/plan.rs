//! The plan of a CronJob.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use keelson_api::cron::{Schedule, zone};
use kube::ResourceExt;

use crate::action::{Action, Target};
use crate::job::{COMPLETE, ended};
use crate::owner::{controls, reference};
use crate::runner::Outcome;

/// Annotation of a Job: when it was due.
const DUE: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Annotation of Jobs that people made from a CronJob.
const BY_HAND: &str = "cronjob.kubernetes.io/instantiate";
/// More missed times than this are worth a warning.
const MANY: usize = 100;
/// Woken a little late rather than a little early.
const LATE: SignedDuration = SignedDuration::from_millis(100);

struct Plan<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    /// Jobs of ours.
    own: Vec<&'a Job>,
    now: Timestamp,
    actions: Vec<Action>,
    status: CronJobStatus,
}

/// Decides for a CronJob among all Jobs of its namespace.
pub fn plan(cron: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Outcome {
    let spec = &cron.spec;
    let own = jobs.iter().map(Arc::as_ref).filter(|j| controls(cron, *j));
    let mut it = Plan {
        cron,
        spec,
        own: own.collect(),
        now,
        actions: Vec::new(),
        status: cron.status.clone().unwrap_or_default(),
    };
    it.observe();
    let mut again = None;
    if cron.metadata.deletion_timestamp.is_none() {
        it.clean_up();
        if spec.suspend != Some(true) {
            again = it.start_due();
        }
    }
    if it.status != cron.status.clone().unwrap_or_default() {
        let write = Action::whole_status(Target::of(cron), cron.status.as_ref(), &it.status);
        it.actions.push(write);
    }
    Outcome {
        actions: it.actions,
        again,
    }
}

fn by_hand(job: &Job) -> bool {
    job.annotations().contains_key(BY_HAND)
}

/// A Job as `status.active` names it.
fn point(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: Some(job.name_any()),
        namespace: job.namespace(),
        uid: job.uid(),
        ..ObjectReference::default()
    }
}

impl Plan<'_> {
    fn tell(&mut self, kind: &'static str, reason: &'static str, message: String) {
        let about = Target::of(self.cron);
        self.actions.push(Action::Event {
            about,
            kind,
            reason,
            message,
        });
    }

    /// Which Jobs run, and which have ended since the last look.
    fn observe(&mut self) {
        let was = self.status.active.take().unwrap_or_default();
        let running = self
            .own
            .iter()
            .filter(|j| ended(j).is_none() && !by_hand(j));
        // Names without a version: it would change the status with every pod.
        let active: Vec<ObjectReference> = running.map(|j| point(j)).collect();
        for reference in &was {
            let job = self.own.iter().find(|j| j.uid() == reference.uid);
            let name = reference.name.clone().unwrap_or_default();
            match job.map(|j| (j, ended(j))) {
                None => self.tell(
                    "Normal",
                    "MissingJob",
                    format!("Active job went missing: {name}"),
                ),
                Some((job, Some((condition, _)))) => {
                    let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
                    if condition == COMPLETE && completed > self.status.last_successful_time {
                        self.status.last_successful_time = completed;
                    }
                    let message = format!("Saw completed job: {name}, condition: {condition}");
                    self.tell("Normal", "SawCompletedJob", message);
                }
                Some((_, None)) => {}
            }
        }
        self.status.active = Some(active).filter(|a| !a.is_empty());
    }

    /// Deletes the oldest ended Jobs beyond what is kept.
    fn clean_up(&mut self) {
        let limits = [
            (true, self.spec.successful_jobs_history_limit),
            (false, self.spec.failed_jobs_history_limit),
        ];
        for (good, limit) in limits {
            let Some(keep) = limit.and_then(|l| usize::try_from(l).ok()) else {
                continue;
            };
            let of_kind = |j: &&&Job| ended(j).is_some_and(|(c, _)| (c == COMPLETE) == good);
            let mut old: Vec<&Job> = self.own.iter().filter(of_kind).copied().collect();
            old.sort_by_key(|j| {
                let start = j.status.as_ref().and_then(|s| s.start_time.as_ref());
                (start.map(|t| t.0), j.name_any())
            });
            let beyond = old.len().saturating_sub(keep);
            for job in old.into_iter().take(beyond) {
                self.delete(job);
            }
        }
    }

    fn delete(&mut self, job: &Job) {
        if job.metadata.deletion_timestamp.is_none() {
            self.actions.push(Action::delete(Target::of(job)));
            let message = format!("Deleted job {}", job.name_any());
            self.tell("Normal", "SuccessfulDelete", message);
        }
    }

    /// Makes the Job of the last time that is due; gives how long it is until the next.
    fn start_due(&mut self) -> Option<Duration> {
        let schedule = match Schedule::parse(&self.spec.schedule) {
            Ok(schedule) => schedule,
            Err(why) => {
                let message = format!("unparseable schedule: {:?} : {why}", self.spec.schedule);
                self.tell("Warning", "UnparseableSchedule", message);
                return None;
            }
        };
        let Some(zone) = zone(self.spec.time_zone.as_deref()) else {
            let name = self.spec.time_zone.as_deref().unwrap_or_default();
            let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
            self.tell("Warning", "UnknownTimeZone", message);
            return None;
        };
        let now = self.now.to_zoned(zone.clone());
        if let Some(due) = self.due(&schedule, &zone) {
            self.start(&due);
        }
        let wait = schedule.next(&now)?.timestamp().duration_since(self.now) + LATE;
        wait.try_into().ok()
    }

    /// The last time up to now that was not served yet.
    fn due(&mut self, schedule: &Schedule, zone: &TimeZone) -> Option<Zoned> {
        let created = self.cron.metadata.creation_timestamp.as_ref();
        let last = self.status.last_schedule_time.as_ref().or(created)?.0;
        let deadline = self.spec.starting_deadline_seconds;
        let earliest = deadline
            .and_then(|d| self.now.checked_sub(SignedDuration::from_secs(d)).ok())
            .map_or(last, |e| e.max(last));
        let now = self.now.to_zoned(zone.clone());
        let (due, missed) = latest(schedule, &earliest.to_zoned(zone.clone()), &now)?;
        if missed > MANY {
            let advice = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell("Warning", "TooManyMissedTimes", advice.into());
        }
        Some(due)
    }

    fn start(&mut self, due: &Zoned) {
        let job = self.job(due);
        let name = job.name_any();
        let active = self
            .own
            .iter()
            .filter(|j| ended(j).is_none() && !by_hand(j));
        let active: Vec<&Job> = active.copied().collect();
        if self.own.iter().any(|j| j.name_any() == name) {
            // Made before a crash of ours, which lost the note of it.
            self.status.last_schedule_time = Some(Time(due.timestamp()));
            return;
        }
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.tell("Normal", "JobAlreadyActive", message.into());
                return;
            }
            Some("Replace") => active.into_iter().for_each(|j| self.delete(j)),
            _ => {}
        }
        self.actions.push(Action::create(&job));
        let message = format!("Created job {name}");
        self.tell("Normal", "SuccessfulCreate", message);
        self.status.last_schedule_time = Some(Time(due.timestamp()));
    }

    /// The Job of a time: its name tells it, so that no time is served twice.
    fn job(&self, due: &Zoned) -> Job {
        let template = self.spec.job_template.clone();
        let meta = template.metadata.unwrap_or_default();
        let minutes = due.timestamp().as_second() / 60;
        let mut annotations = meta.annotations.unwrap_or_default();
        let stamp = due.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        annotations.insert(DUE.into(), stamp.replace("+00:00", "Z"));
        Job {
            metadata: ObjectMeta {
                name: Some(format!("{}-{minutes}", self.cron.name_any())),
                namespace: self.cron.namespace(),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![reference(self.cron)]),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        }
    }
}

/// The last time after `earliest` up to `now`, and about how many there were. Looked for in windows before now, each
/// twice as long as the last: a schedule of minutes may have slept for years.
fn latest(schedule: &Schedule, earliest: &Zoned, now: &Zoned) -> Option<(Zoned, usize)> {
    let within = |at: Zoned| (at <= *now).then_some(at);
    let first = schedule.next(earliest).and_then(within)?;
    let Some(second) = schedule.next(&first).and_then(within) else {
        return Some((first, 1));
    };
    let gap = second.timestamp().duration_since(first.timestamp());
    let all = now.timestamp().duration_since(first.timestamp());
    let missed = all.as_secs() / gap.as_secs().max(1) + 1;
    let mut window = gap;
    loop {
        let from = now.checked_sub(window).ok().filter(|f| f > earliest);
        let begin = from.clone().unwrap_or_else(|| earliest.clone());
        let mut last = None;
        let mut at = schedule.next(&begin).and_then(within);
        while let Some(found) = at {
            at = schedule.next(&found).and_then(within);
            last = Some(found);
        }
        if last.is_some() || from.is_none() {
            return last.map(|l| (l, usize::try_from(missed).unwrap_or(usize::MAX)));
        }
        window = window.checked_mul(2)?;
    }
}
