//! Who goes first: usage above the request, then priority, then how far above.

use std::cmp::Ordering;

use super::Signal;

/// Which of a pod's disk figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Containers' own layers.
    pub root: bool,
    /// Logs and volumes.
    pub local: bool,
}

/// What is measured of a pod for a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Bytes of the working set.
    Memory,
    /// Bytes on disk.
    Disk(Parts),
    /// Inodes.
    Inodes(Parts),
    /// Tasks.
    Pids,
}

/// What is measured for a signal. `dedicated`: images have a file system of their own.
pub fn measure(signal: Signal, dedicated: bool) -> Measure {
    let image = matches!(signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
    let parts = Parts {
        root: !dedicated || image,
        local: !dedicated || !image,
    };
    match signal.resource() {
        "memory" => Measure::Memory,
        "pids" => Measure::Pids,
        "inodes" => Measure::Inodes(parts),
        _ => Measure::Disk(parts),
    }
}

/// Whether removing dead containers and unused images helps: where they are is where it is short.
pub fn reclaims(signal: Signal, dedicated: bool) -> bool {
    matches!(measure(signal, dedicated), Measure::Disk(p) | Measure::Inodes(p) if p.root)
}

/// A pod that could go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its UID.
    pub uid: String,
    /// Its priority; 0 without one.
    pub priority: i32,
    /// What it uses; nobody knows what one without a figure does, so it goes first.
    pub usage: Option<u64>,
    /// What it asked for; 0 of what nobody can ask for.
    pub request: u64,
}

/// Sorts those that go first to the front.
pub fn rank(measure: Measure, candidates: &mut [Candidate]) {
    let exceeds =
        |c: &Candidate| measure != Measure::Pids && c.usage.is_some_and(|u| u > c.request);
    let above = |c: &Candidate| i128::from(c.usage.unwrap_or(0)) - i128::from(c.request);
    candidates.sort_by(|a, b| {
        let unknown = b.usage.is_none().cmp(&a.usage.is_none());
        let order = [
            unknown,
            exceeds(b).cmp(&exceeds(a)),
            a.priority.cmp(&b.priority),
            above(b).cmp(&above(a)),
            // So that the same figures give the same pod.
            a.uid.cmp(&b.uid),
        ];
        order.into_iter().fold(Ordering::Equal, Ordering::then)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        // Name, priority, usage, request; in the order in which they go.
        type Pods = &'static [(&'static str, i32, Option<u64>, u64)];
        let rows: [(&str, Measure, Pods); 6] = [
            (
                "best effort before what is below its request",
                Measure::Memory,
                &[("be", 0, Some(10), 0), ("within", 0, Some(500), 1000)],
            ),
            (
                "above the request before a lower priority below it",
                Measure::Memory,
                &[("above", 1000, Some(101), 100), ("low", -10, Some(99), 100)],
            ),
            (
                "of those above, the lower priority",
                Measure::Memory,
                &[("low", 1, Some(11), 10), ("high", 2, Some(900), 10)],
            ),
            (
                "of one priority, the one furthest above",
                Measure::Memory,
                &[
                    ("far", 0, Some(300), 100),
                    ("big", 0, Some(1100), 1000),
                    ("small", 0, Some(60), 50),
                ],
            ),
            (
                "unknown figures first",
                Measure::Memory,
                &[("unknown", 100, None, 0), ("above", 0, Some(5), 1)],
            ),
            (
                "tasks: priority alone, then the number",
                Measure::Pids,
                &[
                    ("low", 0, Some(1), 0),
                    ("many", 5, Some(90), 0),
                    ("few", 5, Some(9), 0),
                ],
            ),
        ];
        for (name, measure, want) in rows {
            let all = want
                .iter()
                .map(|(uid, priority, usage, request)| Candidate {
                    uid: (*uid).into(),
                    priority: *priority,
                    usage: *usage,
                    request: *request,
                });
            let mut all: Vec<Candidate> = all.rev().collect();
            rank(measure, &mut all);
            let got: Vec<&str> = all.iter().map(|c| c.uid.as_str()).collect();
            let want: Vec<&str> = want.iter().map(|w| w.0).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn what_counts_follows_the_file_systems() {
        use Signal::{
            ImagefsAvailable, MemoryAvailable, NodefsAvailable, NodefsInodesFree, PidAvailable,
        };
        let parts = |root, local| Parts { root, local };
        let rows = [
            (
                NodefsAvailable,
                false,
                Measure::Disk(parts(true, true)),
                true,
            ),
            (
                ImagefsAvailable,
                false,
                Measure::Disk(parts(true, true)),
                true,
            ),
            (
                NodefsAvailable,
                true,
                Measure::Disk(parts(false, true)),
                false,
            ),
            (
                ImagefsAvailable,
                true,
                Measure::Disk(parts(true, false)),
                true,
            ),
            (
                NodefsInodesFree,
                true,
                Measure::Inodes(parts(false, true)),
                false,
            ),
            (MemoryAvailable, false, Measure::Memory, false),
            (PidAvailable, false, Measure::Pids, false),
        ];
        for (signal, dedicated, want, frees) in rows {
            assert_eq!(
                (measure(signal, dedicated), reclaims(signal, dedicated)),
                (want, frees),
                "{signal} {dedicated}"
            );
        }
    }
}
