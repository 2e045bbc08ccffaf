//! Whether a container was killed for memory. The kernel counts that in its cgroup, which runc keeps until the task is
//! deleted. Where systemd keeps the cgroups a scope goes with its last process, and the count with it: then it is told
//! by the pod's cgroup, which counts for all below it (v2), by what it had counted when the container started and what
//! was put down to others since, and by containerd's event (v1; it may come late).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cgroup::is_slice;
use crate::runtime::Runtime;
use crate::stats::oom_kills;

/// Exit code of a process that was killed.
const KILLED: i32 = 128 + 9;
/// Lines of a container's file: what its pod had counted at its start, and what was found at its end.
const BEFORE: &str = "before ";
const FOUND: &str = "found ";

/// What was seen of kills for memory.
#[derive(Default)]
pub(crate) struct Kills(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Containers of which containerd said so.
    told: HashSet<String>,
    /// How many of a pod's are put down to a container, by its slice.
    counted: HashMap<String, u64>,
}

impl Kills {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// containerd says so.
    pub(crate) fn tell(&self, id: String) {
        self.lock().told.insert(id);
    }

    /// A container is gone.
    pub(super) fn forget(&self, id: &str) {
        self.lock().told.remove(id);
    }

    /// A pod's cgroup is gone.
    pub(crate) fn forget_pod(&self, slice: &str) {
        self.lock().counted.remove(slice);
    }
}

/// What a pod's cgroup has counted, where the container's own can't be asked later.
pub(super) fn before(cgroup: &str) -> Option<u64> {
    let (slice, _) = cgroup.rsplit_once('/')?;
    is_slice(slice).then(|| oom_kills(slice))
}

/// The line for it.
pub(super) fn note(before: Option<u64>) -> String {
    before.map_or(String::new(), |n| format!("\n{BEFORE}{n}"))
}

fn noted<'a>(text: &'a str, line: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(line))
}

/// Whether one more kill was counted than is known of.
fn is_more(code: i32, counted: u64, before: u64, others: u64) -> bool {
    code == KILLED && counted > before.max(others)
}

impl Runtime {
    /// Whether a container that has ended was killed for memory; its cgroup, absolute within the hierarchy.
    pub fn was_killed_for_memory(&self, id: &str, cgroup: &str, code: i32) -> bool {
        let own = oom_kills(cgroup) > 0;
        let slice = cgroup.rsplit_once('/').map(|(slice, _)| slice);
        let Some(slice) = slice.filter(|s| is_slice(s) && !own) else {
            return own;
        };
        let path = self.start_file(id);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut seen = self.inner.kills.lock();
        if seen.told.contains(id) {
            return true;
        }
        // Found once, it stays so, whatever happens to others of the pod.
        if let Some(found) = noted(&text, FOUND) {
            return found == "true";
        }
        let counted = oom_kills(slice);
        let before = noted(&text, BEFORE).and_then(|n| n.parse().ok());
        let others = seen.counted.insert(slice.to_owned(), counted);
        let found = is_more(code, counted, before.unwrap_or(0), others.unwrap_or(0));
        drop(seen);
        // Not kept, it is found again.
        let file = fs::OpenOptions::new().append(true).open(&path);
        let _ = file.and_then(|mut f| f.write_all(format!("\n{FOUND}{found}").as_bytes()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_put_down_to_who_was_killed() {
        let rows = [
            ("the first", KILLED, 1, 0, 0, true),
            ("it ended by itself", 0, 1, 0, 0, false),
            ("killed, but not for memory", KILLED, 0, 0, 0, false),
            ("another was, before it started", KILLED, 1, 1, 0, false),
            ("another was, while it ran", KILLED, 1, 0, 1, false),
            ("another was, and it too", KILLED, 2, 0, 1, true),
        ];
        for (name, code, counted, before, others, want) in rows {
            assert_eq!(is_more(code, counted, before, others), want, "{name}");
        }
    }

    #[test]
    fn notes_are_read_back() {
        let text = format!("2026-01-01T00:00:00Z{}\n{FOUND}true", note(Some(3)));
        assert_eq!(noted(&text, BEFORE), Some("3"));
        assert_eq!(noted(&text, FOUND), Some("true"));
        assert_eq!(noted("2026-01-01T00:00:00Z", BEFORE), None);
        assert_eq!(before("/kubepods/pod1/c"), None);
    }
}
