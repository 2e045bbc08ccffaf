//! `memory_manager_state`, as the kubelet writes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Block, Entries, Node, State, Table};
use crate::checkpoint::{CORRUPT, checksum, map, other_policy};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    machine_state: BTreeMap<u32, Node>,
    #[serde(default, skip_serializing_if = "Entries::is_empty")]
    entries: Entries,
    #[serde(default)]
    checksum: u32,
}

fn list(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
    format!("[{}]", numbers.join(" "))
}

fn table(t: &Table) -> String {
    format!(
        "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} Reserved:(uint64){} Free:(uint64){}}}",
        t.total, t.system_reserved, t.allocatable, t.reserved, t.free
    )
}

fn node(n: &Node) -> String {
    format!(
        "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){} Cells:([]int){}}}",
        n.number_of_assignments,
        map(n.memory_map.iter().map(|(name, t)| (name, table(t)))),
        list(&n.cells)
    )
}

fn block(b: &Block) -> String {
    format!(
        "{{NUMAAffinity:([]int){} Type:(v1.ResourceName){} Size:(uint64){}}}",
        list(&b.numa_affinity),
        b.resource,
        b.size
    )
}

fn blocks(all: &[Block]) -> String {
    let all: Vec<String> = all.iter().map(block).collect();
    format!("[{}]", all.join(" "))
}

impl File {
    fn sum(&self) -> u32 {
        let pods = self.entries.iter().map(|(uid, own)| {
            let own = own.iter().map(|(name, all)| (name, blocks(all)));
            (uid, map(own))
        });
        checksum(&format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){} Entries:(state.ContainerMemoryAssignments){} Checksum:(checksum.Checksum)0}}",
            self.policy_name,
            map(self.machine_state.iter().map(|(id, n)| (id, node(n)))),
            map(pods)
        ))
    }
}

/// The file's text.
pub fn write(policy: &str, state: &State) -> String {
    let mut file = File {
        policy_name: policy.to_owned(),
        machine_state: state.machine.clone(),
        entries: state.entries.clone(),
        checksum: 0,
    };
    file.checksum = file.sum();
    serde_json::to_string(&file).unwrap_or_default()
}

/// What the text says, if it is this policy's. Texts are upstream's.
pub fn read(policy: &str, text: &str) -> Result<State, String> {
    let file: File = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if file.checksum != file.sum() {
        return Err(CORRUPT.into());
    }
    if file.policy_name != policy {
        return Err(other_policy(policy, &file.policy_name));
    }
    Ok(State {
        machine: file.machine_state,
        entries: file.entries,
    })
}
