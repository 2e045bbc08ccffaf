//! Containers' log files: rotated, packed, removed. The logger goes on with whatever file has the log's name, and has it
//! locked until all is in it that the container wrote.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use keelson_agent_plan::log_rotation::{PACKED, Policy, UNFINISHED, after, is_part, steps};
use rustix::io::Errno;
use rustix::process::{
    Flock, FlockType, Pid, PidfdFlags, Signal, fcntl_getlk, pidfd_open, pidfd_send_signal,
};

/// How long a logger may take to write down a container's last words: its disk may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// Rotates a log if it is too large; true if it was. Blocks.
pub fn rotate(log: &Path, policy: &Policy, now: Timestamp) -> io::Result<bool> {
    let size = match fs::metadata(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        meta => meta?,
    };
    if policy.max_size.is_none_or(|max| size.len() < max) {
        return Ok(false);
    }
    let (dir, name) = parts(log)?;
    let steps = steps(name, &names(dir)?, policy, now);
    if dir.join(&steps.rename).exists() {
        // Rotated in this very second.
        return Ok(false);
    }
    for file in &steps.remove {
        gone(fs::remove_file(dir.join(file)))?;
    }
    for file in &steps.pack {
        pack(&dir.join(file))?;
    }
    let old = dir.join(&steps.rename);
    fs::rename(log, &old)?;
    // Whoever asks for the log finds one; the logger opens it now, or with its next line.
    let mode = size.mode() & 0o777;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(mode).open(log)?;
    tell(&File::open(old)?, Signal::USR1)?;
    Ok(true)
}

/// Waits until all is in a log that its container wrote, which has ended. Blocks, for some seconds at most.
///
/// # Errors
/// The log can't be read, or its logger has not written all of it down in this time. One that has no logger any more is
/// as it is.
pub fn settle(log: &Path) -> io::Result<()> {
    let file = File::open(log)?;
    tell(&file, Signal::USR2)?;
    let (begin, mut pause) = (Instant::now(), Duration::from_micros(100));
    while logger(&file).is_some() {
        if begin.elapsed() > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Who writes a log: the holder of its lock.
fn logger(log: &File) -> Option<Pid> {
    let whole = Flock::from(FlockType::ReadLock);
    fcntl_getlk(log, &whole).ok()??.pid
}

/// Sends a log's logger a signal, if it has one.
fn tell(log: &File, signal: Signal) -> io::Result<()> {
    let Some(pid) = logger(log) else {
        return Ok(());
    };
    // Held, and asked for once more: no other process gets its number and the signal.
    let sent = pidfd_open(pid, PidfdFlags::empty()).and_then(|held| match logger(log) {
        Some(same) if same == pid => pidfd_send_signal(&held, signal),
        _ => Ok(()),
    });
    match sent {
        Err(Errno::SRCH) => Ok(()),
        sent => Ok(sent?),
    }
}

/// Removes a log and its rotated parts.
pub fn remove(log: &Path) -> io::Result<()> {
    let (dir, name) = parts(log)?;
    let all = match names(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        all => all?,
    };
    for file in all.iter().filter(|f| is_part(name, f)) {
        gone(fs::remove_file(dir.join(file)))?;
    }
    Ok(())
}

/// The file to read after the one with this identity (device and inode) was read to its end: the next that was rotated
/// meanwhile, or the log itself. Blocks.
pub(crate) fn next(log: &Path, identity: (u64, u64)) -> io::Result<PathBuf> {
    let (dir, name) = parts(log)?;
    let names = names(dir)?;
    let is_it = |n: &&String| {
        let found = fs::metadata(dir.join(n));
        found.is_ok_and(|m| (m.dev(), m.ino()) == identity)
    };
    let current = names.iter().find(is_it).map(String::as_str);
    Ok(dir.join(after(name, &names, current)))
}

/// Packs a file and removes it; repeated after a crash.
fn pack(file: &Path) -> io::Result<()> {
    let name = file.display();
    let (unfinished, packed) = (
        format!("{name}{PACKED}{UNFINISHED}"),
        format!("{name}{PACKED}"),
    );
    let to = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&unfinished)?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut File::open(file)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(unfinished, packed)?;
    fs::remove_file(file)
}

fn parts(log: &Path) -> io::Result<(&Path, &str)> {
    let name = log.file_name().and_then(|n| n.to_str());
    log.parent()
        .zip(name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a log's path"))
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.flatten();
    Ok(entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect())
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_log_is_rotated_packed_and_removed() {
        let dir = tempfile::tempdir().expect("directory");
        let log = dir.path().join("0.log");
        let policy = Policy {
            max_size: Some(10),
            max_files: 3,
        };
        let at = |s: i64| Timestamp::from_second(1_800_000_000 + s).expect("time");
        assert!(!rotate(&log, &policy, at(0)).expect("no log yet"));
        fs::write(dir.path().join("1.log"), "another's").expect("log");
        for n in 0..4 {
            fs::write(&log, format!("lines of {n}\n")).expect("log");
            assert!(rotate(&log, &policy, at(n)).expect("rotate"), "{n}");
            assert_eq!(fs::read(&log).expect("a new log").len(), 0);
            assert!(!rotate(&log, &policy, at(n)).expect("small"), "{n}");
        }
        let mut there = names(dir.path()).expect("names");
        there.sort();
        assert_eq!(there.len(), 4, "{there:?}");
        assert!(
            there[1].ends_with(PACKED) && !there[2].ends_with(PACKED),
            "{there:?}"
        );
        let mut text = String::new();
        let packed = File::open(dir.path().join(&there[1])).expect("packed");
        flate2::read::GzDecoder::new(packed)
            .read_to_string(&mut text)
            .expect("gzip");
        assert_eq!(text, "lines of 2\n");
        assert_eq!(
            fs::read_to_string(dir.path().join(&there[2])).expect("last"),
            "lines of 3\n"
        );
        remove(&log).expect("remove");
        assert_eq!(names(dir.path()).expect("names"), ["1.log"]);
        remove(&log).expect("again");
    }
}
