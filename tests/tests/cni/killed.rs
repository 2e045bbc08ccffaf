//! A call that is killed, by a tracer, when it enters its n-th system call: whatever n is, the next GC or DEL leaves
//! nothing of it, and the next ADD works.

use std::fs::File;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bed::{Bed, environment};
use crate::load::{assert_same, state};

/// Runs a call until it enters its n-th system call, and kills it there; whether it came so far.
fn killed(bed: &Bed, command: &str, pod: &str, conf: &Value, n: usize) -> bool {
    let input = bed.dir.path().join("input");
    std::fs::write(&input, conf.to_string()).expect("write");
    // It waits for the tracer before it becomes the plugin; `follow` waits for its end.
    #[allow(clippy::zombie_processes)]
    let child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", bed.node))
        .args(["sh", "-c", "kill -STOP $$; exec \"$0\""])
        .arg(bed.program("bridge"))
        .envs(environment(command, pod, "eth0"))
        .stdin(File::open(&input).expect("input"))
        .stdout(Stdio::null())
        .spawn()
        .expect("nsenter (Debian: util-linux)");
    let pid = Pid::from_raw(child.id() as i32);
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("wait");
    assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    let options =
        Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(pid, options).expect("trace");
    kill(pid, Signal::SIGCONT).expect("continue");
    follow(pid, n)
}

/// Lets it go on from stop to stop; true when it was killed.
fn follow(pid: Pid, n: usize) -> bool {
    let (mut is_plugin, mut entering, mut count) = (false, true, 0);
    loop {
        match waitpid(pid, None).expect("wait") {
            WaitStatus::Exited(..) => return false,
            WaitStatus::Signaled(..) => return true,
            WaitStatus::PtraceEvent(_, _, event)
                if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 =>
            {
                // What follows is the end of the call that made it the plugin.
                (is_plugin, entering) = (true, false);
            }
            WaitStatus::PtraceSyscall(_) if is_plugin => {
                count += usize::from(entering);
                entering = !entering;
                if count == n {
                    kill(pid, Signal::SIGKILL).expect("kill");
                }
            }
            _ => {}
        }
        // One that was killed meanwhile can't be told to go on.
        let _ = ptrace::syscall(pid, None);
    }
}

/// Kills ADD and DEL at every `step`-th system call, one after the other.
pub(crate) fn at_every(step: usize) {
    let bed = Bed::new();
    let pod = bed.pod("a");
    let mut conf = bed.bridge();
    conf["runtimeConfig"] =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let mut gc = bed.bridge();
    gc["cni.dev/valid-attachments"] = json!([]);
    let call = |command: &str, conf: &Value| {
        let result = bed.call("bridge", command, &pod, conf);
        result.unwrap_or_else(|e| panic!("{command}: {e}"))
    };
    let whole = || {
        call("ADD", &conf);
        call("DEL", &conf);
    };
    whole();
    let before = state(&bed);
    let clean = |how: &str, n: usize| {
        let what = format!("{how} killed at its {n}. call");
        assert_same(&before, &state(&bed), &what);
    };
    // What cleans up after each kind of death.
    for (command, by) in [("ADD", "GC"), ("ADD", "DEL"), ("DEL", "GC"), ("DEL", "DEL")] {
        let mut n = 1;
        loop {
            if command == "DEL" {
                call("ADD", &conf);
            }
            let died = killed(&bed, command, &pod, &conf, n);
            call(by, if by == "GC" { &gc } else { &conf });
            clean(&format!("{command}, cleaned by {by},"), n);
            if !died {
                break;
            }
            n += step;
        }
        assert!(n > 30, "{command} has only {n} calls: nothing was tried");
        eprintln!("{command}, then {by}: killed at every {step}. of {n} calls");
        whole();
    }
}

#[test]
fn a_killed_call_leaves_nothing_after_the_next() {
    at_every(11);
}
