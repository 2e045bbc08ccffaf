//! `cpu_manager_state`, as the kubelet writes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::State;
use crate::checkpoint::{CORRUPT, checksum, map, other_policy};
use crate::cpuset::CpuSet;

type Entries = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    default_cpu_set: String,
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    entries: Entries,
    #[serde(default)]
    checksum: u32,
}

impl File {
    fn sum(&self) -> u32 {
        let pods = self
            .entries
            .iter()
            .map(|(uid, own)| (uid, map(own.clone())));
        checksum(&format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string){} Checksum:(checksum.Checksum)0}}",
            self.policy_name,
            self.default_cpu_set,
            map(pods)
        ))
    }
}

/// The file's text.
pub fn write(policy: &str, state: &State) -> String {
    let own = |cpus: &BTreeMap<String, CpuSet>| {
        let own = cpus
            .iter()
            .map(|(name, cpus)| (name.clone(), cpus.to_string()));
        own.collect()
    };
    let pods = state.exclusive.iter();
    let mut file = File {
        policy_name: policy.to_owned(),
        default_cpu_set: state.shared.to_string(),
        entries: pods.map(|(uid, cpus)| (uid.clone(), own(cpus))).collect(),
        checksum: 0,
    };
    file.checksum = file.sum();
    serde_json::to_string(&file).unwrap_or_default()
}

/// What the text says, if it is this policy's. Texts are upstream's.
pub fn read(policy: &str, text: &str) -> Result<State, String> {
    let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
    // Programs of long ago wrote none.
    if file.checksum != 0 && file.checksum != file.sum() {
        return Err(CORRUPT.into());
    }
    if file.policy_name != policy {
        return Err(other_policy(policy, &file.policy_name));
    }
    let shared = CpuSet::parse(&file.default_cpu_set)
        .ok_or_else(|| format!("could not parse default cpu set {:?}", file.default_cpu_set))?;
    let mut exclusive = BTreeMap::new();
    for (pod, own) in file.entries {
        let mut cpus = BTreeMap::new();
        for (container, list) in own {
            let set = CpuSet::parse(&list).ok_or_else(|| {
                format!(
                    "could not parse cpuset {list:?} for container {container:?} in pod {pod:?}"
                )
            })?;
            cpus.insert(container, set);
        }
        exclusive.insert(pod, cpus);
    }
    Ok(State { shared, exclusive })
}
