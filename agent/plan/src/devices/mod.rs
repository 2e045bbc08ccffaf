//! Devices that plugins offer (the kubelet's device plugin API, v1beta1): what the node tells of them, and which
//! container has which.
//!
//! ```text
//! registered -> listed: healthy and not -> left: all unhealthy -> after the grace: gone, told as none
//! pod -> choose for each container: its init containers' first, then as aligned as can be, as the plugin prefers
//! ```
//!
//! Refusals are upstream's words; the pod fails with [`refusal`].

mod asking;
mod checkpoint;
mod choose;
mod hints;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceHealth, ResourceStatus};

use crate::admit::{Refusal, refuse};
use crate::containers;
use crate::lifecycle::is_sidecar;
use crate::quantity::value_of;

pub use asking::Asking;
pub use checkpoint::{decode, encode};
pub use choose::{Choice, Need, Question};

/// The only version of the API there is.
pub const VERSION: &str = "v1beta1";
/// How long a resource is remembered whose plugin has gone (upstream's).
pub const GRACE: SignedDuration = SignedDuration::from_mins(5);

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// It works.
    pub healthy: bool,
    /// Its NUMA nodes; none: it does not matter.
    pub nodes: BTreeSet<u32>,
}

/// What a plugin can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// It is told before each start of a container.
    pub pre_start: bool,
    /// It has preferences.
    pub preferences: bool,
}

/// What a plugin offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Its devices by id.
    pub devices: BTreeMap<String, Device>,
    /// What the plugin can do.
    pub options: Options,
    /// Since when it is not there.
    pub away: Option<Timestamp>,
}

/// What a container has of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// The devices with their NUMA nodes.
    pub devices: BTreeMap<String, BTreeSet<u32>>,
    /// What the plugin wants done for the container, as it was said (base64 of `ContainerAllocateResponse`).
    pub answer: String,
}

/// By resource.
pub type OfContainer = BTreeMap<String, Assigned>;

/// All that is known of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What plugins offer, by resource.
    pub resources: BTreeMap<String, Resource>,
    /// Who has what, by pod UID and container.
    pub assigned: BTreeMap<String, BTreeMap<String, OfContainer>>,
    /// On which NUMA nodes containers are to have theirs, as a bitmask, by pod UID and container: as they were admitted.
    pub near: BTreeMap<String, BTreeMap<String, u64>>,
    /// Resources whose plugins have been away for too long: the node tells that it has none.
    pub gone: BTreeSet<String>,
}

/// What the node tells of its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All there are.
    pub capacity: BTreeMap<String, usize>,
    /// Those that work.
    pub allocatable: BTreeMap<String, usize>,
}

/// Whether a plugin can be taken.
///
/// # Errors
/// Why not, for the plugin.
pub fn check(version: &str, endpoint: &str, resource: &str) -> Result<(), String> {
    if version != VERSION {
        return Err(format!(
            "requested API version {version:?} is not supported by kubelet. Supported version is [{VERSION:?}]"
        ));
    }
    if !is_extended(resource) {
        return Err(format!("the ResourceName {resource:?} is invalid"));
    }
    if endpoint.is_empty() || endpoint.contains('/') || endpoint.starts_with('.') {
        return Err(format!(
            "the endpoint {endpoint:?} is invalid: it is the name of a socket in the device plugins' folder"
        ));
    }
    Ok(())
}

/// Whether this is the name of an extended resource: one with a domain that is not Kubernetes' own.
pub fn is_extended(name: &str) -> bool {
    // Quotas count it under this name, which must be one too.
    const QUOTA: &str = "requests.";
    let Some((domain, own)) = name.split_once('/') else {
        return false;
    };
    let native = name.contains("kubernetes.io/") || name.starts_with(QUOTA);
    let ends = |s: &str, c: fn(char) -> bool| s.starts_with(c) && s.ends_with(c);
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let any = |c: char| c.is_ascii_alphanumeric();
    let label = |l: &str| ends(l, lower) && l.chars().all(|c| lower(c) || c == '-');
    !native
        && domain.len() + QUOTA.len() <= 253
        && domain.split('.').all(label)
        && own.len() <= 63
        && ends(own, any)
        && own.chars().all(|c| any(c) || matches!(c, '-' | '_' | '.'))
}

/// What a container asks for of resources that could be plugins', by name.
pub fn asked(c: &Container) -> impl Iterator<Item = (&str, usize)> {
    let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
    let extended = limits
        .into_iter()
        .flat_map(BTreeMap::keys)
        .filter(|n| is_extended(n));
    extended.filter_map(move |name| {
        let count = usize::try_from(value_of(limits, name)).ok()?;
        (count > 0).then_some((name.as_str(), count))
    })
}

/// What a pod asks for at most at one time, by name: its init containers go one after the other, its sidecars stay.
pub fn asked_together(spec: &PodSpec) -> BTreeMap<&str, usize> {
    let mut stays: BTreeMap<&str, usize> = BTreeMap::new();
    let mut most: BTreeMap<&str, usize> = BTreeMap::new();
    for c in spec.init_containers.iter().flatten() {
        for (name, count) in asked(c) {
            let beside = stays.entry(name).or_default();
            let all = *beside + count;
            if is_sidecar(c) {
                *beside = all;
            }
            let most = most.entry(name).or_default();
            *most = all.max(*most);
        }
    }
    for (name, count) in spec.containers.iter().flat_map(asked) {
        *stays.entry(name).or_default() += count;
    }
    for (name, count) in stays {
        let most = most.entry(name).or_default();
        *most = count.max(*most);
    }
    most
}

/// Whether any of a pod's containers asks for what could be plugins'.
pub fn asks(spec: &PodSpec) -> bool {
    containers::all(spec).any(|c| asked(c).next().is_some())
}

/// A pod that does not get its devices.
pub fn refusal(why: &str) -> Refusal {
    let message = format!("Allocate failed due to {why}, which is unexpected");
    refuse("UnexpectedAdmissionError", message)
}

impl State {
    /// A plugin is there: for the first time, again, or instead of another. Its devices are as they were.
    pub fn registered(&mut self, name: &str, options: Options) {
        self.gone.remove(name);
        let resource = self.resources.entry(name.to_owned()).or_default();
        resource.options = options;
        resource.away = None;
    }

    /// A plugin told all its devices.
    pub fn listed(&mut self, name: &str, devices: BTreeMap<String, Device>) {
        if let Some(resource) = self.resources.get_mut(name) {
            resource.devices = devices;
        }
    }

    /// A plugin is gone: nobody looks after its devices.
    pub fn left(&mut self, name: &str, now: Timestamp) {
        if let Some(resource) = self.resources.get_mut(name) {
            resource.away = Some(now);
            resource
                .devices
                .values_mut()
                .for_each(|d| d.healthy = false);
        }
    }

    /// Forgets what has been away for too long; whether there was such.
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let over = |since: Timestamp| now.duration_since(since) >= GRACE;
        let expired = |r: &Resource| r.away.is_some_and(over);
        let gone = self.resources.iter().filter(|(_, r)| expired(r));
        let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.resources.remove(name);
        }
        self.gone.extend(gone.iter().cloned());
        !gone.is_empty()
    }

    /// What the node tells.
    pub fn figures(&self) -> Figures {
        let none = self.gone.iter().map(|name| (name.clone(), 0));
        let count = |healthy: bool| {
            let those = move |r: &Resource| {
                let devices = r.devices.values();
                devices.filter(|d| d.healthy || !healthy).count()
            };
            let all = self.resources.iter();
            all.map(move |(name, r)| (name.clone(), those(r)))
        };
        Figures {
            capacity: none.clone().chain(count(false)).collect(),
            allocatable: none.chain(count(true)).collect(),
        }
    }

    /// Whether a resource is a plugin's. Others are somebody else's to count, and nothing is given out of them.
    pub fn is_managed(&self, name: &str) -> bool {
        self.resources.contains_key(name) || self.all().any(|(n, _)| n == name)
    }

    /// Everything assigned, by resource.
    fn all(&self) -> impl Iterator<Item = (&String, &Assigned)> {
        self.assigned
            .values()
            .flat_map(BTreeMap::values)
            .flat_map(BTreeMap::iter)
    }

    /// Devices of a resource that somebody has.
    fn in_use(&self, name: &str) -> BTreeSet<&str> {
        let those = self.all().filter(|(n, _)| *n == name);
        those
            .flat_map(|(_, a)| a.devices.keys())
            .map(String::as_str)
            .collect()
    }

    /// What a container has.
    pub fn of(&self, uid: &str, container: &str) -> Option<&OfContainer> {
        self.assigned.get(uid)?.get(container)
    }

    /// Devices that init containers before this one have had, and nobody after them.
    fn reusable(
        &self,
        spec: &PodSpec,
        uid: &str,
        container: &str,
        resource: &str,
    ) -> BTreeSet<String> {
        let mut free = BTreeSet::new();
        for c in containers::all(spec).take_while(|c| c.name != container) {
            let ends = containers::ends(spec, &c.name);
            let has = self.of(uid, &c.name).and_then(|r| r.get(resource));
            for id in has.into_iter().flat_map(|a| a.devices.keys()) {
                match ends {
                    true => _ = free.insert(id.clone()),
                    false => _ = free.remove(id),
                }
            }
        }
        free
    }

    /// A container gets devices.
    pub fn assign(&mut self, need: &Need<'_>, ids: &BTreeSet<String>, answer: String) {
        let known = self.resources.get(need.resource);
        let nodes = |id: &String| {
            let device = known.and_then(|r| r.devices.get(id));
            device.map(|d| d.nodes.clone()).unwrap_or_default()
        };
        let devices = ids.iter().map(|id| (id.clone(), nodes(id))).collect();
        let pod = self.assigned.entry(need.uid.to_owned()).or_default();
        let container = pod.entry(need.container.to_owned()).or_default();
        container.insert(need.resource.to_owned(), Assigned { devices, answer });
    }

    /// A container is to have its devices on these NUMA nodes.
    pub fn align(&mut self, uid: &str, container: &str, nodes: u64) {
        let pod = self.near.entry(uid.to_owned()).or_default();
        pod.insert(container.to_owned(), nodes);
    }

    /// A pod needs its devices no more; whether it had any.
    pub fn release(&mut self, uid: &str) -> bool {
        self.near.remove(uid);
        self.assigned.remove(uid).is_some()
    }

    /// Only these pods are left; whether any had devices that is not.
    pub fn retain(&mut self, alive: impl Fn(&str) -> bool) -> bool {
        let before = self.assigned.len();
        self.near.retain(|uid, _| alive(uid));
        self.assigned.retain(|uid, _| alive(uid));
        self.assigned.len() < before
    }

    /// How the devices are that a pod has, by container (KEP-4680).
    pub fn health(&self, uid: &str) -> BTreeMap<String, Vec<ResourceStatus>> {
        let health = |name: &str, id: &str| {
            let known = self.resources.get(name).filter(|r| r.away.is_none());
            match known.and_then(|r| r.devices.get(id)) {
                Some(d) if d.healthy => "Healthy",
                Some(_) => "Unhealthy",
                None => "Unknown",
            }
        };
        let status = |(name, has): (&String, &Assigned)| ResourceStatus {
            name: name.clone(),
            resources: Some(
                has.devices
                    .keys()
                    .map(|id| ResourceHealth {
                        resource_id: id.clone(),
                        health: Some(health(name, id).to_owned()),
                        message: None,
                    })
                    .collect(),
            ),
        };
        let containers = self.assigned.get(uid).into_iter().flatten();
        containers
            .map(|(c, has)| (c.clone(), has.iter().map(status).collect()))
            .collect()
    }

    /// Pods that have devices of a resource.
    pub fn users(&self, resource: &str) -> Vec<String> {
        let uses = |c: &BTreeMap<String, OfContainer>| c.values().any(|r| r.contains_key(resource));
        let those = self.assigned.iter().filter(|(_, c)| uses(c));
        those.map(|(uid, _)| uid.clone()).collect()
    }
}
