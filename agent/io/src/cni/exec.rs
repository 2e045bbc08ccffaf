//! One run of one plugin: environment, standard input, time limit.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Attachment, Error, result};

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

impl Verb {
    fn command(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    /// For errors, as upstream words them.
    fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Del => "delete",
            Self::Check => "check",
            Self::Gc => "gc",
            Self::Status => "status",
        }
    }

    /// GC and STATUS are about the network, not about one attachment.
    fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

pub(super) struct Call<'a> {
    pub(super) bin_dirs: &'a [PathBuf],
    pub(super) network: &'a str,
    pub(super) plugin: &'a str,
    pub(super) verb: Verb,
    pub(super) attachment: &'a Attachment,
    pub(super) stdin: &'a Value,
    pub(super) timeout: Duration,
}

/// Where a plugin is.
pub(super) fn find(bin_dirs: &[PathBuf], plugin: &str) -> Result<PathBuf, Error> {
    let found = bin_dirs
        .iter()
        .map(|d| d.join(plugin))
        .find(|p| p.is_file());
    found.ok_or_else(|| Error::NoPlugin {
        name: plugin.to_owned(),
        dirs: bin_dirs.to_vec(),
    })
}

/// Runs a plugin; its result, or null when it printed none. A plugin that takes too long is killed.
pub(super) async fn run(call: &Call<'_>) -> Result<Value, Error> {
    let path = find(call.bin_dirs, call.plugin)?;
    let finished = tokio::time::timeout(call.timeout, output(call, &path)).await;
    let output = finished.map_err(|_| Error::Timeout {
        plugin: call.plugin.to_owned(),
        network: call.network.to_owned(),
        verb: call.verb.word(),
        seconds: call.timeout.as_secs(),
    })?;
    let output = output.map_err(|source| Error::Io {
        action: "run plugin",
        path,
        source,
    })?;
    let fail = |code, message| Error::Plugin {
        plugin: call.plugin.to_owned(),
        network: call.network.to_owned(),
        verb: call.verb.word(),
        code,
        message,
    };
    if !output.status.success() {
        let (code, message) = result::failure(&output.stdout, &output.stderr);
        return Err(fail(code, message));
    }
    if call.verb != Verb::Add || output.stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout).map_err(|e| fail(0, format!("result: {e}")))
}

async fn output(call: &Call<'_>, path: &Path) -> std::io::Result<std::process::Output> {
    let mut command = Command::new(path);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let dirs = std::env::join_paths(call.bin_dirs).map_err(std::io::Error::other)?;
    command
        .env("CNI_COMMAND", call.verb.command())
        .env("CNI_PATH", dirs);
    let a = call.attachment;
    if call.verb.has_attachment() {
        command
            .env("CNI_CONTAINERID", &a.uid)
            .env("CNI_NETNS", &a.netns);
        command
            .env("CNI_IFNAME", &a.ifname)
            .env("CNI_ARGS", a.args());
    }
    // A thread that starts a process stands still until that runs: not the one that all others wait for.
    let child = tokio::task::spawn_blocking(move || command.spawn()).await;
    let mut child = child.map_err(std::io::Error::other)??;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that fails early does not read; its exit says more than our broken pipe.
        _ = stdin.write_all(call.stdin.to_string().as_bytes()).await;
    }
    child.wait_with_output().await
}
