//! What the files with the state of CPU and memory manager have in common: upstream's layout, checksum included, so that
//! a node can change between a kubelet and this agent without being drained.

/// FNV-1a of 32 bits, of the text that upstream's programs print of the value.
pub(crate) fn checksum(text: &str) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    text.bytes().fold(0x811c_9dc5, step)
}

/// A map as it is printed there.
pub(crate) fn map<K: std::fmt::Display>(entries: impl IntoIterator<Item = (K, String)>) -> String {
    let entries = entries.into_iter().map(|(k, v)| format!("{k}:{v}"));
    format!("map[{}]", entries.collect::<Vec<_>>().join(" "))
}

/// Why a file cannot be gone on from, and what to do.
pub fn refused(manager: &str, file: &std::path::Path, why: &str) -> String {
    format!(
        "could not restore state from checkpoint: {why}, please drain this node and delete the {manager} manager checkpoint file {:?} before restarting the agent",
        file.display().to_string()
    )
}

/// The file is another policy's.
pub(crate) fn other_policy(configured: &str, found: &str) -> String {
    format!("configured policy {configured:?} differs from state checkpoint policy {found:?}")
}

pub(crate) const CORRUPT: &str = "checkpoint is corrupted";
