//! Which files of a container's log are rotated, packed and removed ("Log rotation", `containerLogMaxSize`).

use jiff::Timestamp;

/// How much of a container's log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Bytes from which on a log is rotated; none: never.
    pub max_size: Option<u64>,
    /// Files of one log, the one that is written included; two at least.
    pub max_files: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_size: Some(10 << 20),
            max_files: 5,
        }
    }
}

/// What is to be done, in this order; then the log takes the new name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Files to remove.
    pub remove: Vec<String>,
    /// Files to pack.
    pub pack: Vec<String>,
    /// The log's name from now on.
    pub rename: String,
}

/// Ending of a packed file, and of one that is being packed.
pub const PACKED: &str = ".gz";
/// What an interrupted packing leaves.
pub const UNFINISHED: &str = ".tmp";

/// Whether a file belongs to a log: the log itself, or a rotated part of it.
pub fn is_part(log: &str, file: &str) -> bool {
    file.strip_prefix(log)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The steps for a log that is too large. `rotated`: the parts that are there, by name.
pub fn steps(log: &str, rotated: &[String], policy: &Policy, now: Timestamp) -> Steps {
    let mut steps = Steps {
        rename: format!("{log}.{}", now.strftime("%Y%m%d-%H%M%S")),
        ..Steps::default()
    };
    let own = rotated.iter().filter(|f| *f != log && is_part(log, f));
    let mut kept = Vec::new();
    for file in own {
        let packed = format!("{file}{PACKED}");
        if file.ends_with(UNFINISHED) || rotated.contains(&packed) {
            steps.remove.push(file.clone());
        } else {
            kept.push(file.clone());
        }
    }
    // Times sort as text.
    kept.sort();
    let room = policy.max_files.saturating_sub(2);
    let old = kept.len().saturating_sub(room);
    steps.remove.extend(kept.drain(..old));
    steps.pack = kept.into_iter().filter(|f| !f.ends_with(PACKED)).collect();
    steps
}

/// The file that was begun after the one at hand: the log itself, or the next of those that were rotated meanwhile and
/// are not packed. `current`: the name the file at hand has now; `None` when it is gone or packed.
pub fn after<'a>(log: &'a str, names: &'a [String], current: Option<&str>) -> &'a str {
    let rotated = |n: &&String| {
        n.as_str() != log && is_part(log, n) && !n.ends_with(PACKED) && !n.ends_with(UNFINISHED)
    };
    let Some(current) = current.filter(|c| *c != log) else {
        return log;
    };
    let later = names
        .iter()
        .filter(rotated)
        .filter(|n| n.as_str() > current);
    later.min().map_or(log, String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_file_of_a_reader() {
        let all = [
            "0.log",
            "0.log.1",
            "0.log.2",
            "0.log.3.gz",
            "0.log.4",
            "0.log.5.gz.tmp",
        ];
        let all = all.map(str::to_owned);
        for (name, current, want) in [
            ("the first", Some("0.log.1"), "0.log.2"),
            ("packed ones are passed over", Some("0.log.2"), "0.log.4"),
            ("the last", Some("0.log.4"), "0.log"),
            ("gone", None, "0.log"),
            ("the log itself", Some("0.log"), "0.log"),
        ] {
            assert_eq!(after("0.log", &all, current), want, "{name}");
        }
    }

    #[test]
    fn rotations() {
        let now: Timestamp = "2026-11-21T18:05:09Z".parse().expect("time");
        let policy = |max_files| Policy {
            max_files,
            ..Policy::default()
        };
        let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        type Row = (
            &'static str,
            usize,
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
        );
        let rows: [Row; 6] = [
            ("the first time", 5, &["0.log"], &[], &[]),
            (
                "the last rotated one is packed",
                5,
                &["0.log", "0.log.20261121-1"],
                &[],
                &["0.log.20261121-1"],
            ),
            (
                "packed ones stay",
                5,
                &["0.log.1.gz", "0.log.2"],
                &[],
                &["0.log.2"],
            ),
            (
                "the oldest go",
                4,
                &["0.log.3", "0.log.2.gz", "0.log.1.gz"],
                &["0.log.1.gz"],
                &["0.log.3"],
            ),
            (
                "two files: nothing but the log and the last",
                2,
                &["0.log.3"],
                &["0.log.3"],
                &[],
            ),
            (
                "what an interrupted packing left, and others' files",
                5,
                &["0.log.1", "0.log.1.gz", "0.log.2.gz.tmp", "1.log", "0.logs"],
                &["0.log.1", "0.log.2.gz.tmp"],
                &[],
            ),
        ];
        for (name, files, there, remove, pack) in rows {
            let got = steps("0.log", &names(there), &policy(files), now);
            let want = Steps {
                remove: names(remove),
                pack: names(pack),
                rename: "0.log.20261121-180509".into(),
            };
            assert_eq!(got, want, "{name}");
        }
    }
}
