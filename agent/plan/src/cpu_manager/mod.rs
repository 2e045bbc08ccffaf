//! The CPU manager's static policy ("Control CPU Management Policies on the Node", KEP-3570): containers of guaranteed
//! pods that ask for whole CPUs have them for themselves, all others share the rest.

mod checkpoint;
mod distribute;
mod machine;
mod settings;
mod take;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::containers;
use crate::cpuset::CpuSet;
use crate::resources;
use crate::topology::{Failure, Hint, Hints, Provider, masks};

pub use checkpoint::{read, write};
pub use machine::{Machine, Place};
pub use settings::{Options, Settings};

use machine::Level;

/// Who has which CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// For all containers without CPUs of their own; reserved ones are among them unless they are strictly reserved.
    pub shared: CpuSet,
    /// CPUs of their own, by pod UID and container name.
    pub exclusive: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

impl State {
    /// The CPUs a container may use.
    pub fn of(&self, uid: &str, container: &str) -> &CpuSet {
        self.own(uid, container).unwrap_or(&self.shared)
    }

    /// The CPUs a container has for itself.
    pub fn own(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.exclusive.get(uid)?.get(container)
    }

    /// Gives the CPUs of a container back, but for those that others of its pod have as well.
    fn release(&mut self, uid: &str, container: &str) -> bool {
        let Some(own) = self.exclusive.get_mut(uid) else {
            return false;
        };
        let Some(mut free) = own.remove(container) else {
            return false;
        };
        for other in own.values() {
            free = &free - other;
        }
        if own.is_empty() {
            self.exclusive.remove(uid);
        }
        self.shared = &self.shared | &free;
        true
    }

    /// Gives all CPUs back that a pod has; whether it had any.
    pub fn release_pod(&mut self, uid: &str) -> bool {
        let Some(own) = self.exclusive.remove(uid) else {
            return false;
        };
        for cpus in own.values() {
            self.shared = &self.shared | cpus;
        }
        true
    }

    /// A container has started, so init containers before it (but sidecars) have ended for good; whether one had CPUs.
    pub fn started(&mut self, uid: &str, spec: &PodSpec, container: &str) -> bool {
        if !self.exclusive.contains_key(uid) {
            return false;
        }
        containers::ended_before(spec, container)
            .filter(|c| self.release(uid, &c.name))
            .count()
            > 0
    }
}

/// The policy on one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Static {
    machine: Machine,
    reserved: CpuSet,
    options: Options,
}

impl Static {
    /// `milli` is what is reserved for the system and Kubernetes, in thousandths: that many CPUs are set aside, low cores
    /// first, unless the settings name them.
    pub fn new(machine: Machine, settings: &Settings, milli: u64) -> Result<Self, String> {
        let all = machine.all();
        if let Some(offline) = (&settings.reserved - &all).first() {
            return Err(format!(
                "reservedSystemCPUs: cpuset {:?}: CPU {offline} is not online, there are {all}",
                settings.reserved.to_string()
            ));
        }
        let options = settings.options;
        if options.align_by_socket && machine.count(Level::Socket) > machine.count(Level::Node) {
            return Err("align-by-socket is not compatible with hardware where number of sockets are more than number of NUMA".into());
        }
        let mut policy = Self {
            machine,
            reserved: settings.reserved.clone(),
            options,
        };
        if policy.reserved.is_empty() {
            if milli == 0 {
                return Err("the static policy requires systemReserved.cpu + kubeReserved.cpu to be greater than zero, or reservedSystemCPUs".into());
            }
            let count = usize::try_from(milli.div_ceil(1000)).unwrap_or(usize::MAX);
            let taken = policy.take(&all, count);
            policy.reserved = taken.map_err(|_| {
                format!("unable to reserve the required amount of CPUs (size of {all} is less than {count})")
            })?;
        }
        Ok(policy)
    }

    /// CPUs that are nobody's own.
    pub fn reserved(&self) -> &CpuSet {
        &self.reserved
    }

    /// What an earlier agent left is checked; without it nobody has anything. Texts are upstream's.
    pub fn start(&self, left: Option<State>) -> Result<State, String> {
        let mut all = self.machine.all();
        if self.options.strict {
            all = &all - &self.reserved;
        }
        let state = left.unwrap_or_default();
        let shared = &state.shared;
        if shared.is_empty() {
            return match state.exclusive.is_empty() {
                true => Ok(State {
                    shared: all,
                    ..state
                }),
                false => Err("default cpuset cannot be empty".into()),
            };
        }
        let reserved = &self.reserved;
        let there = reserved & shared;
        if self.options.strict && !there.is_empty() {
            return Err(format!(
                "some of strictly reserved cpus: \"{there}\" are present in defaultCpuSet: \"{shared}\""
            ));
        }
        if !self.options.strict && there != *reserved {
            return Err(format!(
                "not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\""
            ));
        }
        let mut known = shared.clone();
        for (pod, own) in &state.exclusive {
            for (container, cpus) in own {
                if !(shared & cpus).is_empty() {
                    return Err(format!(
                        "pod: {pod}, container: {container} cpuset: \"{cpus}\" overlaps with default cpuset \"{shared}\""
                    ));
                }
                known = &known | cpus;
            }
        }
        if known != all {
            return Err(format!(
                "current set of available CPUs \"{all}\" doesn't match with CPUs in state \"{known}\""
            ));
        }
        Ok(state)
    }

    fn take(&self, free: &CpuSet, count: usize) -> Result<CpuSet, String> {
        let group = match self.options.full_cores {
            true => self.machine.per_core(),
            false => 1,
        };
        match self.options.distribute {
            true => distribute::distributed(&self.machine, free, count, group),
            false => take::packed(&self.machine, free, count),
        }
    }

    /// Free CPUs that a hint means.
    fn aligned(&self, nodes: u64, free: &CpuSet) -> CpuSet {
        let near = self.machine.of_nodes(nodes);
        match self.options.align_by_socket {
            false => &near & free,
            true => {
                let sockets = self.machine.units(Level::Socket, &near);
                &self.machine.where_(|p| sockets.contains(&p.socket)) & free
            }
        }
    }

    /// On which NUMA nodes so many CPUs could be had; those in `must` have to be among them.
    fn hints(&self, free: &CpuSet, must: &CpuSet, count: usize) -> Vec<Hint> {
        let all = self.machine.nodes();
        let needed = self.machine.units(Level::Node, must).mask();
        let masks = masks(all);
        let could = |nodes: &&u64| self.machine.of_nodes(**nodes).len() >= count;
        let least = masks.iter().find(could).unwrap_or(&all).count_ones();
        let serves = |nodes: &u64| {
            let here = &self.machine.of_nodes(*nodes) & &(free | must);
            nodes & needed == needed && here.len() >= count
        };
        let hint = |nodes: u64| Hint {
            nodes,
            preferred: nodes.count_ones() == least || self.by_socket(nodes, least),
        };
        masks.into_iter().filter(serves).map(hint).collect()
    }

    /// With `align-by-socket` also what needs no more sockets than it must.
    fn by_socket(&self, nodes: u64, least: u32) -> bool {
        let (all, sockets) = (
            self.machine.nodes().count_ones(),
            self.machine.count(Level::Socket),
        );
        let per_socket = usize::try_from(all).unwrap_or(0) / sockets.max(1);
        if !self.options.align_by_socket || per_socket == 0 {
            return false;
        }
        let needed = usize::try_from(least).unwrap_or(0).div_ceil(per_socket);
        let spans = self
            .machine
            .units(Level::Socket, &self.machine.of_nodes(nodes));
        spans.len() == needed
    }
}

/// How many CPUs a container is to have for itself.
fn wanted(spec: &PodSpec, container: &Container) -> usize {
    if !resources::is_pinned(spec) {
        return 0;
    }
    let milli = resources::request_of(container, "cpu");
    match milli % 1000 {
        0 => usize::try_from(milli / 1000).unwrap_or(0),
        _ => 0,
    }
}

/// How many CPUs a pod's containers are to have for themselves at one time.
fn wanted_at_once(spec: &PodSpec) -> usize {
    let (mut peak, mut stay) = (0, 0);
    for c in containers::all(spec) {
        match containers::ends(spec, &c.name) {
            true => peak = peak.max(stay + wanted(spec, c)),
            false => stay += wanted(spec, c),
        }
    }
    peak.max(stay)
}

/// One pod's admission: a state that counts when all of the pod was admitted.
pub struct Asking<'a> {
    policy: &'a Static,
    /// With what was given to the pod.
    pub state: State,
    /// CPUs of init containers that will have ended: later containers of the pod take them first.
    reuse: CpuSet,
}

impl<'a> Asking<'a> {
    /// Begins.
    pub fn new(policy: &'a Static, state: &State) -> Self {
        Self {
            policy,
            state: state.clone(),
            reuse: CpuSet::default(),
        }
    }

    fn free(&self) -> CpuSet {
        &self.state.shared - &self.policy.reserved
    }

    fn check_cores(&self, count: usize) -> Result<(), Failure> {
        let per_core = self.policy.machine.per_core();
        if !count.is_multiple_of(per_core) {
            return Err(Failure::Smt(format!(
                "SMT Alignment Error: requested {count} cpus not multiple cpus per core = {per_core}"
            )));
        }
        // The other thread of a reserved one belongs to no whole core.
        let around = self.policy.machine.whole_cores(&self.policy.reserved);
        let free = (&(&self.state.shared - &around) | &self.reuse).len();
        if count > free {
            return Err(Failure::Smt(format!(
                "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {count}, CPUs per core = {per_core}"
            )));
        }
        Ok(())
    }

    fn choose(&self, count: usize, nodes: u64) -> Result<CpuSet, String> {
        let free = &self.free() | &self.reuse;
        let mut chosen = CpuSet::default();
        if nodes != 0 {
            let near = self.policy.aligned(nodes, &free);
            chosen = self.policy.take(&near, count.min(near.len()))?;
        }
        let more = self.policy.take(&(&free - &chosen), count - chosen.len())?;
        Ok(&chosen | &more)
    }
}

impl Provider for Asking<'_> {
    fn knows(&self, uid: &str) -> bool {
        self.state.exclusive.contains_key(uid)
    }

    fn hints(&self, pod: &Pod, container: Option<&Container>) -> Hints {
        let Some(spec) = &pod.spec else {
            return Hints::new();
        };
        let count = match container {
            Some(container) => wanted(spec, container),
            None => wanted_at_once(spec),
        };
        if count == 0 {
            return Hints::new();
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut had = CpuSet::default();
        for c in containers::all(spec).filter(|c| container.is_none_or(|only| only.name == c.name))
        {
            had = &had | self.state.own(uid, &c.name).unwrap_or(&CpuSet::default());
        }
        let list = match had.is_empty() {
            true => self.policy.hints(&self.free(), &self.reuse, count),
            // Given by an earlier agent: it stays where it is.
            false => self.policy.hints(&CpuSet::default(), &had, count),
        };
        [("cpu".to_owned(), Some(list))].into()
    }

    fn allocate(&mut self, pod: &Pod, container: &Container, hint: Hint) -> Result<(), Failure> {
        let Some(spec) = &pod.spec else { return Ok(()) };
        let count = wanted(spec, container);
        if count == 0 {
            return Ok(());
        }
        if self.policy.options.full_cores {
            self.check_cores(count)?;
        }
        let chosen = self
            .choose(count, hint.nodes)
            .map_err(Failure::Unexpected)?;
        self.state.shared = &self.state.shared - &chosen;
        self.reuse = match containers::ends(spec, &container.name) {
            true => &self.reuse | &chosen,
            false => &self.reuse - &chosen,
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let own = self.state.exclusive.entry(uid).or_default();
        own.insert(container.name.clone(), chosen);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
