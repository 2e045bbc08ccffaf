//! The logger as containerd starts it: streams on 3 and 4, ready on 5.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Standard input becomes the container's stdout, standard output the ready pipe.
fn start(log: &str) -> Child {
    let script = "exec \"$0\" log \"$1\" 3<&0 4</dev/null 5>&1 </dev/null >/dev/null";
    Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_keelson-logger"), log])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ready(logger: &mut Child) {
    let mut rest = Vec::new();
    logger
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut rest)
        .unwrap();
}

#[test]
fn it_outlives_what_ends_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut logger = start(path.to_str().unwrap());
    ready(&mut logger);
    let pid = Pid::from_raw(logger.id().cast_signed());
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        kill(pid, signal).unwrap();
    }
    let mut input = logger.stdin.take().unwrap();
    input.write_all(b"one\ntwo").unwrap();
    drop(input);
    assert!(logger.wait().unwrap().success());
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.split_once('Z').unwrap().1)
        .collect();
    assert_eq!(lines, [" stdout F one", " stdout P two"]);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
}

/// The process that has a file locked.
fn holder(path: &std::path::Path) -> Option<i32> {
    let mut lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(fs::File::open(path).unwrap(), FcntlArg::F_GETLK(&mut lock)).unwrap();
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

#[test]
fn the_lock_is_held_until_the_last_words_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut logger = start(path.to_str().unwrap());
    ready(&mut logger);
    let pid = Pid::from_raw(logger.id().cast_signed());
    assert_eq!(holder(&path), Some(pid.as_raw()));
    // The same file again, and another.
    for rotated in [false, true] {
        if rotated {
            fs::rename(&path, dir.path().join("old.log")).unwrap();
        }
        kill(pid, Signal::SIGUSR1).unwrap();
        for _ in 0..1000 {
            if path.exists() && holder(&path).is_some() {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        assert_eq!(holder(&path), Some(pid.as_raw()), "rotated: {rotated}");
    }
    // Its end stays open, as the shim has it; a terminal's worth is on the way, and then a word without an end.
    let mut input = logger.stdin.take().unwrap();
    kill(pid, Signal::SIGSTOP).unwrap();
    for n in 0..4000 {
        writeln!(input, "line {n}").unwrap();
    }
    input.write_all(b"DONE").unwrap();
    kill(pid, Signal::SIGUSR2).unwrap();
    assert_eq!(holder(&path), Some(pid.as_raw()));
    assert_eq!(fs::read(&path).unwrap(), b"");
    kill(pid, Signal::SIGCONT).unwrap();
    while holder(&path).is_some() {
        sleep(Duration::from_millis(1));
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 4001);
    assert!(text.ends_with(" stdout P DONE\n"), "{text}");
    // Whoever survived the container is heard all the same.
    writeln!(input, "late").unwrap();
    drop(input);
    assert!(logger.wait().unwrap().success());
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with(" stdout F late\n"), "{text}");
}

#[test]
fn a_full_disk_does_not_stop_the_container() {
    let mut logger = start("/dev/full");
    ready(&mut logger);
    let mut input = logger.stdin.take().unwrap();
    let line = [b'x'; 999]
        .iter()
        .chain(b"\n")
        .copied()
        .collect::<Vec<u8>>();
    for _ in 0..1000 {
        input.write_all(&line).unwrap();
    }
    drop(input);
    assert!(logger.wait().unwrap().success());
}

#[test]
fn without_its_descriptors_it_says_so() {
    let binary = env!("CARGO_BIN_EXE_keelson-logger");
    let output = Command::new("sh")
        .args(["-c", "exec \"$0\" log /dev/null 3<&- 4<&- 5<&-", binary])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("descriptor 3 was not handed over"), "{text}");
}

#[test]
fn a_holder_reaps_and_stays() {
    // The child becomes the holder's, as an orphan's parent is process 1.
    let script = "sleep 0.1 & exec \"$0\" hold";
    let mut holder = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_keelson-logger")])
        .spawn()
        .unwrap();
    let pid = holder.id();
    let children = || {
        let of = |entry: fs::DirEntry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (_, rest) = stat.rsplit_once(") ")?;
            let parent = rest.split(' ').nth(1)?.parse().ok()?;
            (pid == parent).then_some(())
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(of)
            .count()
    };
    let holds = || {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|l| l.ends_with("hold\0") && !l.starts_with("sh\0"))
    };
    for _ in 0..500 {
        if holds() && children() == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(children(), 0, "a child is left");
    let pid = Pid::from_raw(pid.cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    kill(pid, Signal::SIGINT).unwrap();
    assert!(holder.try_wait().unwrap().is_none());
    kill(pid, Signal::SIGKILL).unwrap();
    holder.wait().unwrap();
}

/// A shim that was given up may start one when all of the pod has been removed.
#[test]
fn a_folder_that_is_gone_is_not_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("pod");
    let mut logger = start(folder.join("0.log").to_str().unwrap());
    assert!(!logger.wait().unwrap().success());
    assert!(!folder.exists());
}
