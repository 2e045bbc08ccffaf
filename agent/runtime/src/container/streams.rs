//! A container's streams: where its output goes, and how others come to it afterwards.
//!
//! ```text
//! plain               stdout, stderr -> logger (the shim starts it)
//! terminal            the same, and the logger listens on <run>/io/<id>/attach; input by <run>/io/<id>/stdin
//! input, no terminal  stdout, stderr -> FIFOs -> logger (started here): the shim has no input beside a logger
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use containerd_client::services::v1::{
    CloseIoRequest, Container as Object, CreateTaskRequest, ResizePtyRequest,
};
use nix::sys::stat::Mode;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::label;
use crate::client::{QUICK, ask, or_absent};
use crate::error::Error;
use crate::runtime::Runtime;

/// The streams of a running container.
#[derive(Debug)]
pub struct Attached {
    /// Frames: the stream (1 or 2), a length (32 bits, big endian), bytes. Ends with the logger.
    pub output: UnixStream,
    /// Standard input, if it was asked for and the container has one.
    pub stdin: Option<pipe::Sender>,
    /// Standard input is to be closed when this client has gone.
    pub once: bool,
}

/// What a container's labels say about its streams.
struct Wanted<'a> {
    log: &'a str,
    terminal: bool,
    stdin: &'a str,
    dir: PathBuf,
}

impl Wanted<'_> {
    /// Somebody may come for its streams.
    fn open(&self) -> bool {
        !self.log.is_empty() && (self.terminal || !self.stdin.is_empty())
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn fifos(&self) -> &'static [&'static str] {
        match (self.stdin.is_empty(), self.terminal) {
            (true, _) => &[],
            (false, true) => &["stdin"],
            (false, false) => &["stdin", "stdout", "stderr"],
        }
    }
}

impl Runtime {
    fn wanted<'a>(&self, object: &'a Object) -> Wanted<'a> {
        let text = |key: &str| object.labels.get(key).map_or("", String::as_str);
        Wanted {
            log: text(label::LOG),
            terminal: text(label::TTY) == "true",
            stdin: text(label::STDIN),
            dir: self.streams_dir(&object.id),
        }
    }

    fn streams_dir(&self, id: &str) -> PathBuf {
        self.config().run_dir.join("io").join(id)
    }

    /// Fills in a task's streams. The process, if there is one, reads them and must be ended when no task is made.
    pub(super) fn streams(
        &self,
        object: &Object,
        task: &mut CreateTaskRequest,
    ) -> Result<Option<Child>, Error> {
        let wanted = self.wanted(object);
        task.terminal = wanted.terminal;
        if wanted.log.is_empty() {
            return Ok(None);
        }
        // Not by the logger: a shim that was given up may start one when the pod has been removed.
        if let Some(dir) = Path::new(wanted.log).parent() {
            fs::create_dir_all(dir).map_err(Error::io("make", dir.display()))?;
        }
        let logger = &self.config().logger;
        if !wanted.open() {
            task.stdout = logger_uri(logger, &[("log", wanted.log)]);
            task.stderr.clone_from(&task.stdout);
            return Ok(None);
        }
        self.forget_streams(&object.id)?;
        fs::create_dir_all(&wanted.dir).map_err(Error::io("make", wanted.dir.display()))?;
        for name in wanted.fifos() {
            let path = wanted.dir.join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
                .map_err(Error::errno("make fifo", path.display()))?;
        }
        let attach = wanted.path("attach");
        let told = [("log", wanted.log), ("attach", attach.as_str())];
        if !wanted.stdin.is_empty() {
            task.stdin = wanted.path("stdin");
        }
        if wanted.terminal || wanted.stdin.is_empty() {
            task.stdout = logger_uri(logger, &told);
            return Ok(None);
        }
        (task.stdout, task.stderr) = (wanted.path("stdout"), wanted.path("stderr"));
        let mut command = Command::new(logger);
        for (name, value) in told {
            command.args([name, value]);
        }
        command.args(["stdout", &task.stdout, "stderr", &task.stderr]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // It outlives the agent, and takes no signal meant for the agent's group.
        let child = command.process_group(0).spawn();
        child
            .map(Some)
            .map_err(Error::io("start", logger.display()))
    }

    /// Removes what [`Runtime::streams`] made.
    pub(super) fn forget_streams(&self, id: &str) -> Result<(), Error> {
        let dir = self.streams_dir(id);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", dir.display())(e))
            }
            _ => Ok(()),
        }
    }

    /// Joins a running container's streams; `None` for one that was made without terminal and input.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Option<Attached>, Error> {
        let object = self.object(id).await?;
        let object = object.ok_or_else(|| Error::not_found("container", id))?;
        let wanted = self.wanted(&object);
        if !wanted.open() {
            return Ok(None);
        }
        let path = wanted.dir.join("attach");
        let output = UnixStream::connect(&path)
            .await
            .map_err(Error::io("connect to", path.display()))?;
        let path = wanted.dir.join("stdin");
        let sender = || {
            let opened = pipe::OpenOptions::new().open_sender(&path);
            opened.map_err(Error::io("open fifo", path.display()))
        };
        let stdin = (stdin && !wanted.stdin.is_empty()).then(sender);
        Ok(Some(Attached {
            output,
            stdin: stdin.transpose()?,
            once: wanted.stdin == "once",
        }))
    }

    /// Closes a container's standard input: the shim holds it open until then.
    pub async fn container_close_stdin(&self, id: &str) -> Result<(), Error> {
        let message = CloseIoRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            stdin: true,
        };
        let closed = ask!(
            self.client(),
            tasks.close_io(message),
            QUICK,
            "close input of container",
            id
        );
        or_absent(closed).map(|_| ())
    }

    /// Sets the size of a container's terminal, in characters.
    pub async fn container_resize(&self, id: &str, width: u16, height: u16) -> Result<(), Error> {
        let message = ResizePtyRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            width: width.into(),
            height: height.into(),
        };
        let resized = ask!(
            self.client(),
            tasks.resize_pty(message),
            QUICK,
            "resize terminal of container",
            id
        );
        or_absent(resized).map(|_| ())
    }
}

/// containerd starts `binary://<path>?<key>=<value>` as `<path> <key> <value>`.
fn logger_uri(logger: &Path, words: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match char::from(byte) {
                c if c.is_ascii_alphanumeric() || "/-_.~".contains(c) => c.to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let words: Vec<String> = words
        .iter()
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    let path = escape(&logger.display().to_string());
    format!("binary://{path}?{}", words.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_paths_are_escaped() {
        let uri = logger_uri(
            Path::new("/opt/k l/logger"),
            &[("log", "/var/log/a&b=c/0.log"), ("attach", "/run/a")],
        );
        assert_eq!(
            uri,
            "binary:///opt/k%20l/logger?log=/var/log/a%26b%3Dc/0.log&attach=/run/a"
        );
    }
}
