//! Which devices a container gets.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;

use super::{Device, State};

/// What a container needs of one resource.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// The pod.
    pub uid: &'a str,
    /// The container.
    pub container: &'a str,
    /// The resource.
    pub resource: &'a str,
    /// How many devices.
    pub count: usize,
}

/// What a plugin is asked about its preferences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What there is to choose from.
    pub available: Vec<String>,
    /// What is settled of it.
    pub must: Vec<String>,
    /// How many it will be in the end.
    pub size: usize,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It has them.
    Held,
    /// The plugin is to be asked first.
    Ask(Question),
    /// These.
    Take(BTreeSet<String>),
}

/// Ids that are settled, until there are enough.
struct Taken {
    ids: BTreeSet<String>,
    count: usize,
}

impl Taken {
    fn lacks(&self) -> usize {
        self.count.saturating_sub(self.ids.len())
    }

    fn take<'a>(&mut self, from: impl IntoIterator<Item = &'a str>) {
        for id in from {
            if self.lacks() == 0 {
                return;
            }
            self.ids.insert(id.to_owned());
        }
    }

    fn with(&self, pool: &BTreeSet<&str>) -> Vec<String> {
        let all: BTreeSet<&str> = self.ids.iter().map(String::as_str).collect();
        all.union(pool).map(ToString::to_string).collect()
    }
}

impl State {
    /// NUMA nodes that it should be near. All of them are none.
    fn near(&self, need: &Need<'_>) -> Option<u64> {
        let nodes = self.near.get(need.uid)?.get(need.container)?;
        Some(*nodes).filter(|nodes| *nodes != 0)
    }

    /// Chooses for a container of a pod with this spec. `preferred` is what the plugin answered, if it was asked.
    ///
    /// # Errors
    /// There are not enough, in upstream's words.
    pub fn choose(
        &self,
        spec: &PodSpec,
        need: &Need<'_>,
        preferred: Option<&[String]>,
    ) -> Result<Choice, String> {
        let name = need.resource;
        let held = self.of(need.uid, need.container).and_then(|r| r.get(name));
        if let Some(held) = held.map(|a| a.devices.len()) {
            if held == need.count {
                return Ok(Choice::Held);
            }
            return Err(format!(
                "pod {:?} container {:?} changed request for resource {name:?} from {held} to {}",
                need.uid, need.container, need.count
            ));
        }
        let resource = self
            .resources
            .get(name)
            .ok_or_else(|| format!("cannot allocate unregistered device {name}"))?;
        let devices: BTreeMap<&str, &Device> = resource
            .devices
            .iter()
            .filter(|(_, d)| d.healthy)
            .map(|(id, d)| (id.as_str(), d))
            .collect();
        if devices.is_empty() {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {name}"
            ));
        }
        let mut taken = Taken {
            ids: BTreeSet::new(),
            count: need.count,
        };
        let reusable = self.reusable(spec, need.uid, need.container, name);
        let works = |id: &&str| devices.contains_key(id);
        taken.take(reusable.iter().map(String::as_str).filter(works));
        let used = self.in_use(name);
        let free: BTreeSet<&str> = devices
            .keys()
            .copied()
            .filter(|d| !used.contains(d))
            .collect();
        if free.len() < taken.lacks() {
            return Err(format!(
                "requested number of devices unavailable for {name}. Requested: {}, Available: {}",
                taken.lacks(),
                free.len()
            ));
        }
        let [near, far, anywhere] = by_affinity(&free, &devices, self.near(need));
        // Only among those that are near there is something to prefer, if they are enough.
        let pool = if near.len() > taken.lacks() {
            near.clone()
        } else {
            taken.take(near.iter().copied());
            free.clone()
        };
        if taken.lacks() > 0 && resource.options.preferences {
            let Some(preferred) = preferred else {
                return Ok(Choice::Ask(Question {
                    available: taken.with(&pool),
                    must: taken.ids.iter().cloned().collect(),
                    size: need.count,
                }));
            };
            let wanted = preferred.iter().map(String::as_str);
            taken.take(wanted.filter(|id| pool.contains(id)));
        }
        taken.take(near.into_iter().chain(far).chain(anywhere));
        Ok(Choice::Take(taken.ids))
    }
}

/// Devices on the nodes wanted, on others, and on none.
fn by_affinity<'a>(
    free: &BTreeSet<&'a str>,
    devices: &BTreeMap<&str, &Device>,
    near: Option<u64>,
) -> [BTreeSet<&'a str>; 3] {
    let mut sorted = [const { BTreeSet::new() }; 3];
    for id in free {
        let nodes = devices.get(id).map(|d| &d.nodes);
        let place = match (near, nodes) {
            (Some(mask), Some(nodes)) if nodes.iter().any(|n| super::hints::has(mask, *n)) => 0,
            (Some(_), Some(nodes)) if !nodes.is_empty() => 1,
            _ => 2,
        };
        sorted[place].insert(*id);
    }
    sorted
}
