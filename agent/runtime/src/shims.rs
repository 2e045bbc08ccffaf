//! Which shim a pod's containers run under: its own, or one of a few that all pods are spread among.
//!
//! containerd's runc shim puts containers of one group into one process. The group is chosen by the pod's UID alone, so
//! that nothing has to be remembered. A shim ends with its last container, and one that is ending still answers a start;
//! so in a shared group tasks are made and deleted one at a time.

use tokio::sync::{Mutex, MutexGuard};

/// The groups there are.
pub(crate) struct Shims(Vec<Mutex<()>>);

impl Shims {
    /// One a pod, or so many for all.
    pub(crate) fn new(shared: Option<u32>) -> Self {
        let n = shared.map_or(0, |n| n.max(1));
        Self((0..n).map(|_| Mutex::default()).collect())
    }

    fn index(&self, uid: &str) -> Option<usize> {
        let hash = |h: usize, b: u8| h.wrapping_mul(31).wrapping_add(b.into());
        uid.bytes().fold(0, hash).checked_rem(self.0.len())
    }

    /// The group of a pod's containers.
    pub(crate) fn group(&self, uid: &str) -> String {
        match self.index(uid) {
            Some(i) => format!("keelson-{i}"),
            None => uid.to_owned(),
        }
    }

    /// Whether pods share.
    pub(crate) fn are_shared(&self) -> bool {
        !self.0.is_empty()
    }

    /// Keeps others from making and deleting tasks in a pod's group, if it is shared.
    pub(crate) async fn hold(&self, uid: &str) -> Option<MutexGuard<'_, ()>> {
        match self.index(uid).and_then(|i| self.0.get(i)) {
            Some(group) => Some(group.lock().await),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn pods_have_their_own_or_are_spread() {
        let uids: Vec<String> = (0..110u64)
            .map(|n| {
                format!(
                    "{:08x}-0000-4000-8000-{:012x}",
                    n * 2_654_435_761 % (1 << 32),
                    n
                )
            })
            .collect();
        for (shared, groups, most) in [
            (None, 110, 1),
            (Some(0), 1, 110),
            (Some(1), 1, 110),
            (Some(11), 11, 25),
        ] {
            let shims = Shims::new(shared);
            let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
            for uid in &uids {
                *sizes.entry(shims.group(uid)).or_default() += 1;
            }
            let largest = sizes.values().copied().max().unwrap_or_default();
            assert_eq!(sizes.len(), groups, "{shared:?}");
            assert!(largest <= most, "{shared:?}: {sizes:?}");
        }
    }
}
