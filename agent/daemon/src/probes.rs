//! Probes: a task for each probe of a running container. They tell the worker only when a verdict changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe as Spec};
use keelson_agent_io::probes::{Probe, ProbeResult};
use keelson_agent_plan::probe::{Kind, State, Timing};
use keelson_agent_plan::{AttemptState, Hook, Observed, ProbeVerdict, event};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::hooks::{host, http_probe, port};
use crate::metrics::{Outcome, Outcomes, Probed};
use crate::outcome::Message;
use crate::shared::{Shared, chain};

/// The most of a probe's output that goes into an event, bytes.
const OUTPUT_MAX: usize = 10 << 10;

/// The probes of one run of a container; they end when it is dropped.
struct Run {
    attempt: u32,
    startup_passed: watch::Sender<bool>,
    tasks: Vec<(Kind, AbortOnDropHandle<()>)>,
}

/// All probes of a pod.
pub(crate) struct Probes {
    tx: mpsc::UnboundedSender<Message>,
    runs: BTreeMap<String, Run>,
    /// Counted as long as the pod lives, whatever becomes of its containers.
    outcomes: BTreeMap<(String, Kind), Arc<Outcomes>>,
}

impl Probes {
    pub(crate) fn new(tx: mpsc::UnboundedSender<Message>) -> Self {
        Self {
            tx,
            runs: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        }
    }

    /// Starts probes of containers that run now, ends those of others. A pod that is to end is probed no more
    /// for liveness and startup, as upstream does.
    pub(crate) fn sync(&mut self, shared: &Arc<Shared>, pod: &Arc<Pod>, observed: &mut Observed) {
        let ending = observed.terminating_since.is_some();
        let ip = observed
            .sandbox
            .ready()
            .and_then(|s| s.ips.first().copied());
        let running = |name: &str| match observed.latest(name).map(|a| (a, &a.state)) {
            Some((
                a,
                AttemptState::Running {
                    started,
                    post_start: Hook::Done,
                },
            )) => Some((a.attempt, a.id.clone(), *started)),
            _ => None,
        };
        let mut started = Vec::new();
        self.runs
            .retain(|name, run| running(name).is_some_and(|(attempt, ..)| attempt == run.attempt));
        if ending {
            let tasks = self.runs.values_mut().map(|r| &mut r.tasks);
            tasks.for_each(|t| t.retain(|(kind, _)| *kind == Kind::Readiness));
        }
        let spec = pod.spec.as_ref();
        let all = spec
            .into_iter()
            .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
        for c in all.filter(|c| Kind::ALL.iter().any(|k| k.of(c).is_some())) {
            let Some((attempt, id, since)) = running(&c.name) else {
                continue;
            };
            if ending || self.runs.contains_key(&c.name) {
                continue;
            }
            let seed = observed
                .probes
                .get(&c.name)
                .filter(|v| v.attempt == attempt)
                .cloned();
            let verdict = seed.unwrap_or(ProbeVerdict {
                attempt,
                ..ProbeVerdict::default()
            });
            let target = Target {
                shared: shared.clone(),
                pod: pod.clone(),
                container: c.clone(),
                id,
                ip,
            };
            let run = self.start(target, attempt, since, verdict.startup == Some(true));
            self.runs.insert(c.name.clone(), run);
            started.push((c.name.clone(), verdict));
        }
        observed.probes.extend(started);
    }

    fn start(&mut self, target: Target, attempt: u32, since: Timestamp, passed: bool) -> Run {
        let passed = passed || target.container.startup_probe.is_none();
        let startup_passed = watch::Sender::new(passed);
        let target = Arc::new(target);
        let mut tasks = Vec::new();
        for kind in Kind::ALL {
            let Some(spec) = kind.of(&target.container) else {
                continue;
            };
            if kind == Kind::Startup && passed {
                continue;
            }
            let timing = Timing::of(kind, spec);
            let outcomes = self.outcomes(&target, kind);
            let task = Task {
                target: target.clone(),
                spec: spec.clone(),
                kind,
                timing,
                attempt,
                outcomes,
                tx: self.tx.clone(),
                gate: startup_passed.subscribe(),
            };
            let task = tokio::spawn(task.run(State::new(kind, timing, since)));
            tasks.push((kind, AbortOnDropHandle::new(task)));
        }
        Run {
            attempt,
            startup_passed,
            tasks,
        }
    }

    fn outcomes(&mut self, target: &Target, kind: Kind) -> Arc<Outcomes> {
        let m = &target.pod.metadata;
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let key = (target.container.name.clone(), kind);
        let make = || {
            target.shared.metrics.probe(Probed {
                kind,
                container: target.container.name.clone(),
                pod: text(&m.name),
                namespace: text(&m.namespace),
                uid: text(&m.uid),
            })
        };
        self.outcomes.entry(key).or_insert_with(make).clone()
    }

    /// Takes a verdict.
    pub(crate) fn note(
        &self,
        observed: &mut Observed,
        container: &str,
        attempt: u32,
        kind: Kind,
        verdict: bool,
    ) {
        let Some(known) = observed
            .probes
            .get_mut(container)
            .filter(|v| v.attempt == attempt)
        else {
            return;
        };
        match kind {
            Kind::Startup => known.startup = Some(verdict),
            Kind::Liveness => known.liveness = Some(verdict),
            Kind::Readiness => known.readiness = Some(verdict),
        }
        if let Some(run) = self
            .runs
            .get(container)
            .filter(|_| kind == Kind::Startup && verdict)
        {
            run.startup_passed.send_replace(true);
        }
    }
}

/// What is probed.
struct Target {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: Option<IpAddr>,
}

struct Task {
    target: Arc<Target>,
    spec: Spec,
    kind: Kind,
    timing: Timing,
    attempt: u32,
    outcomes: Arc<Outcomes>,
    tx: mpsc::UnboundedSender<Message>,
    gate: watch::Receiver<bool>,
}

impl Task {
    async fn run(mut self, mut state: State) {
        loop {
            let passed = self.kind == Kind::Startup || *self.gate.borrow_and_update();
            let Some(at) = state.next(passed) else {
                // Waits for the startup probe, or has done its work.
                if passed || self.gate.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let wait = at
                .duration_since(Timestamp::now())
                .max(jiff::SignedDuration::ZERO);
            tokio::time::sleep(wait.unsigned_abs()).await;
            let began = Timestamp::now();
            let Some(healthy) = self.once().await else {
                state.skip(began);
                continue;
            };
            if !state.record(healthy, began) {
                continue;
            }
            let Some(verdict) = state.verdict() else {
                continue;
            };
            let container = self.target.container.name.clone();
            let message = Message::Probe {
                container,
                attempt: self.attempt,
                kind: self.kind,
                verdict,
            };
            if self.tx.send(message).is_err() {
                return;
            }
        }
    }

    /// One try. `None`: it could not be made, which says nothing about the container.
    async fn once(&self) -> Option<bool> {
        let began = Instant::now();
        let result = self
            .target
            .probe(&self.spec, self.timing.timeout.unsigned_abs())
            .await;
        let (name, word) = (&self.target.container.name, self.kind.word());
        let (healthy, counted, event) = match &result {
            ProbeResult::Success => (Some(true), Outcome::Successful, None),
            ProbeResult::Warning(output) => {
                let event = event::probe_warning(name, word, cut(output));
                (Some(true), Outcome::Successful, Some(event))
            }
            ProbeResult::Failure(output) => {
                let event = event::unhealthy(name, word, cut(output));
                (Some(false), Outcome::Failed, Some(event))
            }
            ProbeResult::Unknown(error) => {
                let event = event::probe_error(name, word, cut(error));
                (None, Outcome::Unknown, Some(event))
            }
        };
        self.outcomes.count(counted, began.elapsed());
        if let Some(event) = event {
            self.target.shared.events.pod(&self.target.pod, event);
        }
        healthy
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(OUTPUT_MAX))
        .rev()
        .find(|i| text.is_char_boundary(*i));
    &text[..end.unwrap_or(0)]
}

impl Target {
    async fn probe(&self, spec: &Spec, timeout: Duration) -> ProbeResult {
        if let Some(exec) = &spec.exec {
            return self
                .exec(exec.command.as_deref().unwrap_or_default(), timeout)
                .await;
        }
        match self.network(spec) {
            Ok(probe) => self.shared.prober.run(&probe, timeout).await,
            Err(error) => ProbeResult::Unknown(error),
        }
    }

    async fn exec(&self, command: &[String], timeout: Duration) -> ProbeResult {
        match self
            .shared
            .runtime
            .exec_sync(&self.id, command, timeout)
            .await
        {
            Ok(done) if done.code == 0 => ProbeResult::Success,
            Ok(done) => ProbeResult::Failure(String::from_utf8_lossy(&done.output).into_owned()),
            Err(keelson_runtime::Error::Timeout { .. }) => {
                let seconds = timeout.as_secs_f64();
                ProbeResult::Failure(format!(
                    "command timed out: {command:?} timed out after {seconds}s"
                ))
            }
            Err(error) => ProbeResult::Unknown(chain(&error)),
        }
    }

    fn network(&self, spec: &Spec) -> Result<Probe, String> {
        if let Some(http) = &spec.http_get {
            return http_probe(http, &self.container, self.ip);
        }
        if let Some(tcp) = &spec.tcp_socket {
            let host = host(tcp.host.as_deref(), self.ip)?;
            return Ok(Probe::Tcp {
                host,
                port: port(&tcp.port, &self.container)?,
            });
        }
        if let Some(grpc) = &spec.grpc {
            let port =
                u16::try_from(grpc.port).map_err(|_| format!("invalid port: {}", grpc.port))?;
            let service = grpc.service.clone().unwrap_or_default();
            return Ok(Probe::Grpc {
                host: host(None, self.ip)?,
                port,
                service,
            });
        }
        Err("missing probe handler".to_owned())
    }
}
