//! A machine's worth of namespaces, held by one process.

use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

use crate::wait::eventually;

/// Keeps the namespaces and, as PID 1, reaps what is orphaned in them (bash waits for any child).
const INIT: &str = r#"
hostname "$NAME"
ip link set lo up
eval "$SETUP"
echo ready
while :; do sleep 86400 & wait; done
"#;

/// Network, mount, PID, IPC and UTS namespaces. Dropping it ends every process within.
pub struct Space {
    holder: Child,
    init: u32,
}

impl Space {
    /// New namespaces; `setup` is a bash script run inside, its arguments are environment variables.
    pub fn new(name: &str, setup: &str, env: &[(&str, &Path)]) -> anyhow::Result<Self> {
        // The death signal comes when the *thread* ends that made the space: make it on the test's own.
        let mut holder = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--net",
                "--uts",
                "--ipc",
                "--pid",
            ])
            .args([
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation",
                "private",
            ])
            .args(["bash", "-ec", INIT])
            .envs(env.iter().copied())
            .env("NAME", name)
            .env("SETUP", setup)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start setpriv unshare (util-linux)")?;
        let mut said = String::new();
        let out = holder.stdout.take().context("its output is a pipe")?;
        BufReader::new(out).read_line(&mut said)?;
        let init = child_of(holder.id()).unwrap_or_default();
        let space = Self { holder, init };
        anyhow::ensure!(
            said == "ready\n" && init > 0,
            "set up the namespaces of {name}: see above"
        );
        Ok(space)
    }

    /// PID of its first process, as seen from outside.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.init.to_string(),
            "-m",
            "-n",
            "-u",
            "-i",
            "-p",
            "--",
        ]);
        command.arg(program);
        command
    }

    /// Runs a bash script inside; its output, or an error with all it said.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        let output = self
            .command("bash")
            .args(["-o", "pipefail", "-ec", script])
            .stdin(Stdio::null())
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "{script}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// A veth pair to another space, both ends up; each end has its name there.
    pub fn wire(&self, name: &str, other: &Space, there: &str) -> anyhow::Result<()> {
        // Made from outside, where all PIDs mean the same.
        let netns = other.init.to_string();
        let made = Command::new("nsenter")
            .args([
                "-t",
                &self.init.to_string(),
                "-n",
                "ip",
                "link",
                "add",
                name,
            ])
            .args(["type", "veth", "peer", "name", there, "netns", &netns])
            .status()?;
        anyhow::ensure!(made.success(), "make the link {name} to {there}");
        self.sh(&format!("ip link set {name} up"))?;
        other.sh(&format!("ip link set {there} up"))?;
        Ok(())
    }

    /// Runs code of the test in the network of this space.
    pub fn enter<T: Send>(&self, code: impl FnOnce() -> T + Send) -> T {
        let net = File::open(format!("/proc/{}/ns/net", self.init)).expect("the space lives");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(net, CloneFlags::CLONE_NEWNET).expect("enter the network namespace");
                code()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs asynchronous code of the test in the network of this space.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, code: impl FnOnce() -> F + Send) -> T {
        self.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.expect("a runtime");
            let value = runtime.block_on(code());
            runtime.shutdown_timeout(Duration::from_secs(1));
            value
        })
    }

    /// Ends every process within at once, as a power cut would.
    pub fn cut(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let init = format!("/proc/{}", self.init);
        eventually("end of a space", Duration::from_secs(20), || {
            anyhow::ensure!(!Path::new(&init).exists(), "{init} is there");
            Ok(())
        });
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.cut();
    }
}

/// The only child of a process.
pub(crate) fn child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
