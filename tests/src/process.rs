//! A program under test: started, ended in any way, its log kept.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::space::{Space, child_of};
use crate::wait::eventually;

/// A running program.
pub struct Process {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a space; what it says is appended to `log`.
    pub fn start(
        space: &Space,
        program: &Path,
        args: &[String],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = space
            .command(program)
            .args(args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        // nsenter forks to enter the PID namespace: the program is its child.
        let pid = eventually("start of a program", Duration::from_secs(10), || {
            if let Some(status) = child.try_wait()? {
                return Ok(Err(status));
            }
            child_of(child.id())
                .map(Ok)
                .context("nsenter has no child yet")
        });
        let pid = pid.map_err(|status| {
            anyhow::anyhow!("{}: {status}\n{}", program.display(), tail(log, 20))
        })?;
        Ok(Self {
            child,
            pid,
            log: log.to_owned(),
        })
    }

    /// Its PID, as seen from outside.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// An error when it has ended.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("it ended: {status}\n{}", tail(&self.log, 20)),
        }
    }

    /// Sends a signal and waits for the end.
    pub fn end(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.pid).expect("a PID"));
        if self.child.try_wait().is_ok_and(|s| s.is_none()) {
            kill(pid, signal).expect("signal a child of ours");
        }
        let end = eventually("end of a program", Duration::from_secs(60), || {
            self.child
                .try_wait()?
                .with_context(|| format!("it runs\n{}", tail(&self.log, 20)))
        });
        // nsenter hands a signal's death on only after its child's: the PID is free now.
        debug_assert!(!Path::new(&format!("/proc/{}", self.pid)).exists());
        end
    }
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log)
        .map(|t| String::from_utf8_lossy(&t).into_owned())
        .unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
