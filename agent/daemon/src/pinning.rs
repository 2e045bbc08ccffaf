//! CPUs and memory that containers have for themselves. What was handed out stands in the kubelet's files
//! (`cpu_manager_state`, `memory_manager_state`) in the agent's root directory before a pod starts; CPUs that are nobody's are
//! for all other containers, whose cgroups follow when there are more or fewer of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use keelson_agent_io::node::{self, Layout, Roots};
use keelson_agent_plan::admit::Refusal;
use keelson_agent_plan::cpuset::CpuSet;
use keelson_agent_plan::resize::{self, Decision};
use keelson_agent_plan::topology::{self, Failure, Numa, Provider};
use keelson_agent_plan::{Observed, checkpoint, cpu_manager, memory_manager, resources};
use keelson_runtime::Resources;
use tokio::sync::Notify;

use crate::apply::qos;
use crate::config::Config;
use crate::shared::{Shared, chain};

/// Hands out CPUs and memory. With the default policies there is nothing to hand out, and nothing is kept.
pub(crate) struct Pinning(Option<Box<Managers>>);

struct Managers {
    topology: topology::Settings,
    numa: Numa,
    held: Mutex<Held>,
    /// CPUs of containers are to be looked at.
    look: Notify,
}

/// A policy, who has what by it, and the file that says so.
struct Held {
    cpu: Option<(cpu_manager::Static, cpu_manager::State)>,
    memory: Option<(memory_manager::Static, memory_manager::State)>,
    files: Files,
}

struct Files {
    cpu: PathBuf,
    memory: PathBuf,
}

impl Files {
    fn new(dir: &Path) -> Self {
        Self {
            cpu: dir.join("cpu_manager_state"),
            memory: dir.join("memory_manager_state"),
        }
    }
}

impl Pinning {
    /// Goes on from what an earlier agent left.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let wanted = &config.pinning;
        let files = Files::new(&config.root_dir);
        let cpu = restore("CPU", &files.cpu, wanted.cpu.policy(), cpu_manager::read)?;
        let memory = wanted.memory.policy();
        let memory = restore("memory", &files.memory, memory, memory_manager::read)?;
        let idle = wanted.topology.policy == topology::Policy::None;
        let mut held = Held {
            cpu: None,
            memory: None,
            files,
        };
        if idle && !wanted.cpu.exclusive && !wanted.memory.pinned {
            held.note_none(config, cpu.is_none(), memory.is_none())?;
            return Ok(Self(None));
        }
        let roots = Roots::host(&config.root_dir);
        let layout = node::layout(&roots).context("read where CPUs and memory are")?;
        layout.numa.check(&wanted.topology)?;
        held.note_none(config, cpu.is_none(), memory.is_none())?;
        if wanted.cpu.exclusive {
            held.open_cpu(config, &layout, cpu)?;
        }
        if wanted.memory.pinned {
            held.open_memory(config, &layout, &roots, memory)?;
        }
        Ok(Self(Some(Box::new(Managers {
            topology: wanted.topology.clone(),
            numa: layout.numa,
            held: Mutex::new(held),
            look: Notify::new(),
        }))))
    }

    /// Gives a pod its part; it keeps what it has. `more` are others who hand something out.
    pub(crate) fn admit(&self, pod: &Pod, more: &mut [&mut dyn Provider]) -> Result<(), Refusal> {
        let Some(managers) = &self.0 else {
            return Ok(());
        };
        let mut held = managers.lock();
        let Held { cpu, memory, .. } = &*held;
        let cpu = cpu.as_ref();
        let mut cpu = cpu.map(|(policy, state)| cpu_manager::Asking::new(policy, state));
        let memory = memory.as_ref();
        let mut memory = memory.map(|(policy, state)| memory_manager::Asking::new(policy, state));
        let mut providers: Vec<&mut dyn Provider> = Vec::new();
        providers.extend(cpu.as_mut().map(|p| p as &mut dyn Provider));
        providers.extend(memory.as_mut().map(|p| p as &mut dyn Provider));
        providers.extend(more.iter_mut().map(|p| &mut **p as &mut dyn Provider));
        topology::admit(pod, &managers.topology, &managers.numa, &mut providers)?;
        let (cpu, memory) = (cpu.map(|a| a.state), memory.map(|a| a.state));
        let noted = held.note(cpu, memory);
        drop(held);
        managers.look.notify_one();
        noted.map_err(|error| {
            self.release(pod.metadata.uid.as_deref().unwrap_or_default());
            Failure::Unexpected(error.to_string()).into()
        })
    }

    /// The machine's NUMA nodes, if somebody wants to have things on the same.
    pub(crate) fn numa(&self) -> Option<Vec<u32>> {
        let managers = self.0.as_ref()?;
        let asks = managers.topology.policy != topology::Policy::None;
        asks.then(|| managers.numa.distances.keys().copied().collect())
    }

    /// Changes who has what; a file that can't be written is written with the next change.
    fn change(
        &self,
        cpu: impl Fn(&mut cpu_manager::State) -> bool,
        memory: impl Fn(&mut memory_manager::State) -> bool,
    ) {
        let Some(managers) = &self.0 else { return };
        let mut held = managers.lock();
        let (mut cpus, mut blocks) = (None, None);
        if let Some((_, state)) = &mut held.cpu {
            let mut new = state.clone();
            cpus = cpu(&mut new).then_some(new);
        }
        if let Some((_, state)) = &mut held.memory {
            let mut new = state.clone();
            blocks = memory(&mut new).then_some(new);
        }
        if cpus.is_none() && blocks.is_none() {
            return;
        }
        if let Err(error) = held.note(cpus, blocks) {
            tracing::warn!(%error, "state of CPU or memory manager not written");
        }
        drop(held);
        managers.look.notify_one();
    }

    /// A pod needs nothing any more.
    pub(crate) fn release(&self, uid: &str) {
        self.change(|s| s.release_pod(uid), |s| s.release_pod(uid));
    }

    /// Only these pods are there.
    pub(crate) fn retain(&self, keep: &BTreeSet<String>) {
        let gone = |uids: Vec<String>| uids.into_iter().filter(|uid| !keep.contains(uid));
        let cpu = |s: &mut cpu_manager::State| {
            let gone = gone(s.exclusive.keys().cloned().collect());
            gone.filter(|uid| s.release_pod(uid)).count() > 0
        };
        let memory = |s: &mut memory_manager::State| {
            let gone = gone(s.entries.keys().cloned().collect());
            gone.filter(|uid| s.release_pod(uid)).count() > 0
        };
        self.change(cpu, memory);
    }

    /// A container has started: what init containers before it had is free.
    pub(crate) fn started(&self, pod: &Pod, container: &str) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(spec) = &pod.spec {
            self.change(
                |s| s.started(uid, spec, container),
                |s| s.started(uid, spec, container),
            );
        }
    }

    /// Containers have come or gone: those in the shared pool may have been made before it changed.
    pub(crate) fn look(&self) {
        if let Some(managers) = &self.0 {
            managers.look.notify_one();
        }
    }

    /// A container of the pod has CPUs of its own.
    pub(crate) fn has_any(&self, uid: &str) -> bool {
        self.cpus(|s| s.exclusive.contains_key(uid)) == Some(true)
    }

    /// The container has CPUs of its own.
    pub(crate) fn has_own(&self, uid: &str, container: &str) -> bool {
        self.cpus(|s| s.own(uid, container).is_some()) == Some(true)
    }

    /// There is a pool of shared CPUs, which grows and shrinks.
    pub(crate) fn has_shared_cpus(&self) -> bool {
        self.cpus(|_| ()).is_some()
    }

    fn cpus<T>(&self, of: impl FnOnce(&cpu_manager::State) -> T) -> Option<T> {
        let held = self.0.as_ref()?.lock();
        held.cpu.as_ref().map(|(_, state)| of(state))
    }

    /// What a container's cgroup is given: all this, and its place.
    pub(crate) fn resources(
        &self,
        uid: &str,
        container: &Container,
        mut all: Resources,
    ) -> Resources {
        let Some(managers) = &self.0 else { return all };
        let held = managers.lock();
        if let Some((_, state)) = &held.cpu {
            let cpus = state.of(uid, &container.name);
            all.cpuset_cpus = (!cpus.is_empty()).then(|| cpus.to_string());
            if state.own(uid, &container.name).is_some() {
                // They are its own: nobody has to be protected from it.
                (all.cpu_quota, all.cpu_period) = (None, None);
            }
        }
        if let Some((_, state)) = &held.memory {
            let nodes = state.nodes_of(uid, &container.name);
            all.cpuset_mems = (!nodes.is_empty()).then(|| nodes.to_string());
        }
        all
    }

    /// Why a pod cannot be resized.
    pub(crate) fn infeasible(&self, spec: &PodSpec, observed: &Observed) -> Option<Decision> {
        let held = self.0.as_ref()?.lock();
        resize::pinned(spec, observed, held.cpu.is_some(), held.memory.is_some())
    }
}

impl Managers {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The policies that hand out nothing have files as well: whoever changes a policy is told by them that the node has to be
    /// drained.
    fn note_none(&self, config: &Config, cpu: bool, memory: bool) -> anyhow::Result<()> {
        let wanted = &config.pinning;
        if cpu && !wanted.cpu.exclusive {
            let text = cpu_manager::write(wanted.cpu.policy(), &cpu_manager::State::default());
            write(&self.files.cpu, &text)?;
        }
        if memory && !wanted.memory.pinned {
            let state = memory_manager::State::default();
            let text = memory_manager::write(wanted.memory.policy(), &state);
            write(&self.files.memory, &text)?;
        }
        Ok(())
    }

    fn open_cpu(
        &mut self,
        config: &Config,
        layout: &Layout,
        left: Option<cpu_manager::State>,
    ) -> anyhow::Result<()> {
        let settings = &config.pinning.cpu;
        let policy =
            cpu_manager::Static::new(layout.machine.clone(), settings, config.reserved.cpu)
                .map_err(|why| anyhow::anyhow!("cpuManagerPolicy: {why}"))?;
        let fits = policy.start(left);
        let state = fits.map_err(|why| refused("CPU", &self.files.cpu, &why))?;
        tracing::info!(reserved = %policy.reserved(), shared = %state.shared, "CPU manager");
        write(&self.files.cpu, &cpu_manager::write("static", &state))?;
        self.cpu = Some((policy, state));
        Ok(())
    }

    fn open_memory(
        &mut self,
        config: &Config,
        layout: &Layout,
        roots: &Roots,
        left: Option<memory_manager::State>,
    ) -> anyhow::Result<()> {
        let figures = node::read_figures(roots).context("read how much memory there is")?;
        let thresholds = &config.eviction.thresholds;
        let kept = config.reserved;
        let kept = kept.with_thresholds(thresholds, figures.memory, figures.disk);
        let settings = &config.pinning.memory;
        let policy = memory_manager::Static::new(&layout.memory, settings, kept.memory)
            .map_err(|why| anyhow::anyhow!("memoryManagerPolicy: {why}"))?;
        let fits = policy.start(left);
        let state = fits.map_err(|why| refused("memory", &self.files.memory, &why))?;
        write(&self.files.memory, &memory_manager::write("Static", &state))?;
        self.memory = Some((policy, state));
        Ok(())
    }

    /// Takes new states, and writes those that differ.
    fn note(
        &mut self,
        cpu: Option<cpu_manager::State>,
        memory: Option<memory_manager::State>,
    ) -> io::Result<()> {
        let mut noted = Ok(());
        if let (Some((_, state)), Some(new)) = (&mut self.cpu, cpu)
            && *state != new
        {
            noted = write(&self.files.cpu, &cpu_manager::write("static", &new));
            *state = new;
        }
        if let (Some((_, state)), Some(new)) = (&mut self.memory, memory)
            && *state != new
        {
            noted = noted.and(write(
                &self.files.memory,
                &memory_manager::write("Static", &new),
            ));
            *state = new;
        }
        noted
    }
}

fn refused(manager: &str, file: &Path, why: &str) -> anyhow::Error {
    anyhow::Error::msg(checkpoint::refused(manager, file, why))
}

/// What a file says, if there is one.
fn restore<T>(
    manager: &str,
    file: &Path,
    policy: &str,
    read: fn(&str, &str) -> Result<T, String>,
) -> anyhow::Result<Option<T>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("read {}", file.display()))?,
    };
    let state = read(policy, &text);
    state.map(Some).map_err(|why| refused(manager, file, &why))
}

/// Whole or not at all, also when the machine goes down.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let named = |e: io::Error| io::Error::new(e.kind(), format!("write {}: {e}", path.display()));
    write().map_err(named)
}

/// Keeps the CPUs that containers may use in line, until shutdown: at once after a change, and from time to time, because
/// others (systemd's reload is one) write there too.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(managers) = &shared.pinning.0 else {
        return;
    };
    loop {
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = managers.look.notified() => {}
            () = tokio::time::sleep(shared.config.pinning.period) => {}
        }
        let looking = shared.clone();
        let found = tokio::task::spawn_blocking(move || astray(&looking)).await;
        for (id, cpus) in found.unwrap_or_default() {
            let limits = Resources {
                cpuset_cpus: Some(cpus.to_string()),
                ..Resources::default()
            };
            match shared.runtime.container_update(&id, &limits).await {
                Ok(()) => tracing::debug!(container = id, %cpus, "container moved"),
                // It may have ended meanwhile.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(container = id, %cpus, error = %chain(&error), "container not moved");
                }
            }
        }
    }
}

/// Running containers that may use other CPUs than they are to, with those.
fn astray(shared: &Shared) -> Vec<(String, CpuSet)> {
    let entries: Vec<_> = shared.entries().clone().into_iter().collect();
    let mut found = Vec::new();
    for (uid, entry) in entries {
        let class = entry.pod.spec.as_ref().map(resources::qos);
        let class = qos(class.unwrap_or(resources::Qos::BestEffort));
        for (name, runs) in entry.containers.iter() {
            for run in runs.iter().filter(|run| run.is_running()) {
                let Some(has) = shared.runtime.container_cpus(&uid, class, &run.id) else {
                    continue;
                };
                let wanted = shared.pinning.cpus(|s| s.of(&uid, name).clone());
                // None are left to share: it stays where it is.
                let differs =
                    |cpus: &CpuSet| !cpus.is_empty() && CpuSet::parse(&has).as_ref() != Some(cpus);
                found.extend(wanted.filter(differs).map(|cpus| (run.id.clone(), cpus)));
            }
        }
    }
    found
}
