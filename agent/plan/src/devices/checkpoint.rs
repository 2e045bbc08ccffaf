//! What outlives the agent, in the form of upstream's `kubelet_internal_checkpoint`: other programs read that file to
//! learn who has which device.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Assigned, Device, Resource, State};

/// Upstream's node of devices without one.
const NOWHERE: &str = "-1";

/// The file's text. The sum is of this very text: upstream's is of a Go program's memory, and can't be had.
pub fn encode(state: &State) -> String {
    let mut entries = Vec::new();
    for (uid, containers) in &state.assigned {
        for (container, resources) in containers {
            for (resource, has) in resources {
                entries.push(json!({
                    "PodUID": uid,
                    "ContainerName": container,
                    "ResourceName": resource,
                    "DeviceIDs": by_node(has),
                    "AllocResp": has.answer,
                }));
            }
        }
    }
    let ids = |r: &Resource| r.devices.keys().cloned().collect::<Vec<_>>();
    let registered = state.resources.iter().map(|(name, r)| (name, ids(r)));
    let registered: BTreeMap<_, _> = registered.collect();
    let data = json!({"PodDeviceEntries": entries, "RegisteredDevices": registered});
    let sum = sum(&data);
    json!({"Data": data, "Checksum": sum}).to_string()
}

/// What the file says. The plugins are away until they register again.
///
/// # Errors
/// It is not such a file, or not whole.
pub fn decode(text: &str, now: Timestamp) -> Result<State, String> {
    let file: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let data = file.get("Data").ok_or("it has no data")?;
    if file.get("Checksum").and_then(Value::as_u64) != Some(sum(data).into()) {
        return Err("its sum is another one".into());
    }
    let mut state = State::default();
    for entry in items(data.get("PodDeviceEntries")) {
        let text = |key: &str| {
            let value = entry.get(key).and_then(Value::as_str);
            value.map(str::to_owned).ok_or(format!("{key} is missing"))
        };
        let mut has = Assigned {
            answer: text("AllocResp")?,
            ..Assigned::default()
        };
        let nodes = entry.get("DeviceIDs").and_then(Value::as_object);
        for (node, ids) in nodes.into_iter().flatten() {
            for id in items(Some(ids)).filter_map(Value::as_str) {
                let on = has.devices.entry(id.to_owned()).or_default();
                on.extend(node.parse::<u32>());
            }
        }
        let pod = state.assigned.entry(text("PodUID")?).or_default();
        let container = pod.entry(text("ContainerName")?).or_default();
        container.insert(text("ResourceName")?, has);
    }
    let registered = data.get("RegisteredDevices").and_then(Value::as_object);
    for (name, ids) in registered.into_iter().flatten() {
        let ids = items(Some(ids)).filter_map(Value::as_str);
        let resource = Resource {
            devices: ids.map(|id| (id.to_owned(), Device::default())).collect(),
            away: Some(now),
            ..Resource::default()
        };
        state.resources.insert(name.clone(), resource);
    }
    Ok(state)
}

fn items(of: Option<&Value>) -> impl Iterator<Item = &Value> {
    of.and_then(Value::as_array).into_iter().flatten()
}

/// One with several nodes stands under each.
fn by_node(has: &Assigned) -> BTreeMap<String, BTreeSet<&String>> {
    let mut all: BTreeMap<String, BTreeSet<&String>> = BTreeMap::new();
    for (id, nodes) in &has.devices {
        let names: Vec<String> = match nodes.is_empty() {
            true => vec![NOWHERE.to_owned()],
            false => nodes.iter().map(ToString::to_string).collect(),
        };
        for node in names {
            all.entry(node).or_default().insert(id);
        }
    }
    all
}

/// FNV-1a, 32 bits.
fn sum(data: &Value) -> u32 {
    let step = |sum: u32, byte: u8| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    data.to_string().bytes().fold(0x811c_9dc5, step)
}
