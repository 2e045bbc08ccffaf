//! Names and places of CSI volumes, upstream's: people and tools look for them there.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn hash(parts: &[&str]) -> String {
    let mut all = Sha256::new();
    parts.iter().for_each(|p| all.update(p));
    all.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The VolumeAttachment of a volume on a node.
pub fn attachment(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hash(&[handle, driver, node]))
}

/// The handle of a pod's own volume, which the driver has never heard of before.
pub fn inline_handle(namespace: &str, pod_uid: &str, volume: &str) -> String {
    format!("csi-{}", hash(&[namespace, pod_uid, volume]))
}

/// Where a volume stands once a node, before it is given to pods: below the agent's root.
pub fn staging(root: &Path, driver: &str, handle: &str) -> PathBuf {
    let dir = root.join("plugins/kubernetes.io/csi").join(driver);
    dir.join(hash(&[handle])).join("globalmount")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        let sum = "9072ed11cc1acb5fa433a877ff339b6311d013f33bddd1d0092711a8ace5b16d";
        assert_eq!(attachment("h", "d", "n"), format!("csi-{sum}"));
        assert_ne!(inline_handle("ns", "u", "a"), inline_handle("ns", "u", "b"));
        assert!(staging(Path::new("/r"), "d", "h").starts_with("/r/plugins/kubernetes.io/csi/d"));
    }
}
