//! Processes in running containers: probes and `kubectl exec`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, ResizePtyRequest, StartRequest,
    WaitRequest,
};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;
use prost_types::Any;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::OnceCell;

use crate::client::{QUICK, ask, call};
use crate::container::parse_signal;
use crate::error::Error;
use crate::runtime::Runtime;

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Output [`Runtime::exec_sync`] keeps; the rest is read and dropped.
const LARGEST_OUTPUT: usize = 64 << 10;
/// How long output is read after the process ended: children may hold the stream open.
const DRAIN: Duration = Duration::from_millis(500);
/// One wait call lasts so long; then it is made again.
const WAIT: Duration = Duration::from_secs(3600);
/// FIFOs of execs whose agent is gone are removed after this.
const STALE: Duration = Duration::from_secs(60);

/// Result of [`Runtime::exec_sync`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// Standard output and error as they came, cut after 64 KiB.
    pub output: Vec<u8>,
}

/// What to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// With a terminal: one output stream.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
}

/// A process started by [`Runtime::exec`]. When the session and its [`Stdin`] are dropped before
/// [`ExecSession::wait`] returned, the process is killed.
pub struct ExecSession {
    /// Standard input; [`Stdin::close`] ends it.
    pub stdin: Option<Stdin>,
    /// Standard output, or the terminal. Ends when every writer closed it.
    pub stdout: pipe::Receiver,
    /// Standard error; none with a terminal.
    pub stderr: Option<pipe::Receiver>,
    /// The process itself; take a clone to wait while the streams are used elsewhere.
    pub process: ExecProcess,
}

/// Handle to an exec's process. Clones are the same process.
#[derive(Clone)]
pub struct ExecProcess(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    container: String,
    exec: String,
    dir: PathBuf,
    code: OnceCell<i32>,
    gone: AtomicBool,
}

/// Standard input of an exec: write through [`AsyncWrite`], then [`Stdin::close`]. Dropping it
/// closes it too, in the background.
pub struct Stdin {
    sender: Option<pipe::Sender>,
    process: ExecProcess,
}

impl Stdin {
    /// Lets the process read end-of-file after what was written.
    pub async fn close(mut self) -> Result<(), Error> {
        self.sender = None;
        self.process.close_stdin().await
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        if let (Some(sender), Ok(handle)) =
            (self.sender.take(), tokio::runtime::Handle::try_current())
        {
            drop(sender);
            let process = self.process.clone();
            handle.spawn(async move { process.close_stdin().await });
        }
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.sender {
            Some(sender) => Pin::new(sender).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl ExecSession {
    /// Resizes the terminal.
    pub async fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        self.process.resize(width, height).await
    }

    /// Sends a signal to the process.
    pub async fn kill(&self, signal: &str) -> Result<(), Error> {
        self.process.kill(signal).await
    }

    /// Waits for the process to end and returns its exit code. Cancel safe; again: the same code.
    pub async fn wait(&self) -> Result<i32, Error> {
        self.process.wait().await
    }
}

impl ExecProcess {
    /// Resizes the terminal.
    pub async fn resize(&self, width: u16, height: u16) -> Result<(), Error> {
        let message = ResizePtyRequest {
            container_id: self.0.container.clone(),
            exec_id: self.0.exec.clone(),
            width: width.into(),
            height: height.into(),
        };
        let client = self.0.runtime.client();
        ask!(
            client,
            tasks.resize_pty(message),
            QUICK,
            "resize terminal in",
            &self.0.container
        )?;
        Ok(())
    }

    /// Sends a signal to the process.
    pub async fn kill(&self, signal: &str) -> Result<(), Error> {
        self.signal(parse_signal(signal)?).await
    }

    /// Waits for the process to end and returns its exit code. Cancel safe; again: the same code.
    pub async fn wait(&self) -> Result<i32, Error> {
        let code = self.0.code.get_or_try_init(|| async {
            let message = WaitRequest {
                container_id: self.0.container.clone(),
                exec_id: self.0.exec.clone(),
            };
            let client = self.0.runtime.client();
            loop {
                let request = message.clone();
                let answer = ask!(
                    client,
                    tasks.wait(request),
                    WAIT,
                    "wait for exec in",
                    &self.0.container
                );
                match answer {
                    Ok(answer) => return Ok(answer.exit_status.cast_signed()),
                    Err(Error::Timeout { .. }) => {}
                    Err(error) if error.is_unavailable() => {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        let code = *code.await?;
        self.forget();
        Ok(code)
    }

    async fn signal(&self, signal: u32) -> Result<(), Error> {
        let Inner {
            runtime,
            container,
            exec,
            ..
        } = &*self.0;
        runtime.signal(container, exec, signal, false).await
    }

    /// The shim holds the FIFO open too, so closing our end is not enough.
    async fn close_stdin(&self) -> Result<(), Error> {
        let message = CloseIoRequest {
            container_id: self.0.container.clone(),
            exec_id: self.0.exec.clone(),
            stdin: true,
        };
        let client = self.0.runtime.client();
        let closed = ask!(
            client,
            tasks.close_io(message),
            QUICK,
            "close input in",
            &self.0.container
        );
        crate::client::or_absent(closed).map(|_| ())
    }

    /// Removes the FIFOs, and the ended process from the shim. Once, and in the background: the shim
    /// waits for the streams, which children of the process may hold open for long.
    fn forget(&self) {
        if self.0.gone.swap(true, Ordering::SeqCst) {
            return;
        }
        let _ = fs::remove_dir_all(&self.0.dir);
        let (runtime, exec) = (self.0.runtime.clone(), self.0.exec.clone());
        let container = self.0.container.clone();
        tokio::spawn(async move { delete(&runtime, &container, &exec).await });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.gone.load(Ordering::SeqCst) {
            return;
        }
        // Without a tokio runtime the process of the agent is ending; the sweep removes the FIFOs.
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            let runtime = self.runtime.clone();
            let (container, exec, dir) =
                (self.container.clone(), self.exec.clone(), self.dir.clone());
            handle.spawn(async move { abandon(&runtime, &container, &exec, &dir).await });
        }
    }
}

/// Kills an exec nobody waits for any more.
async fn abandon(runtime: &Runtime, container: &str, exec: &str, dir: &Path) {
    let killed = runtime
        .signal(container, exec, Signal::SIGKILL as u32, false)
        .await;
    if let Err(error) = killed {
        tracing::debug!(container, %error, "an abandoned exec cannot be killed");
    }
    let message = WaitRequest {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
    };
    let mut service = runtime.client().tasks();
    let end = service.wait(runtime.client().request(message));
    let _ = call("wait for exec in", container, QUICK, end).await;
    let _ = fs::remove_dir_all(dir);
    delete(runtime, container, exec).await;
}

async fn delete(runtime: &Runtime, container: &str, exec: &str) {
    let message = DeleteProcessRequest {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
    };
    let client = runtime.client();
    let deleted = ask!(
        client,
        tasks.delete_process(message),
        runtime.patience(),
        "delete exec in",
        container
    );
    if let Err(error) = crate::client::or_absent(deleted) {
        tracing::debug!(container, %error, "an exec stays until its container goes");
    }
}

impl Runtime {
    /// Runs `cmd` and waits. After `timeout` the process is killed and [`Error::Timeout`] returned.
    pub async fn exec_sync(
        &self,
        id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, Error> {
        let options = ExecOptions {
            cmd: cmd.to_vec(),
            ..ExecOptions::default()
        };
        let run = async {
            let mut session = self.exec(id, &options).await?;
            let output = Mutex::default();
            let process = session.process.clone();
            let code = {
                let reading = read_all(&mut session.stdout, session.stderr.as_mut(), &output);
                let mut reading = std::pin::pin!(reading);
                tokio::select! {
                    () = &mut reading => process.wait().await?,
                    code = process.wait() => {
                        let _ = tokio::time::timeout(DRAIN, &mut reading).await;
                        code?
                    }
                }
            };
            let output = output.into_inner().unwrap_or_else(PoisonError::into_inner);
            Ok(ExecOutput { code, output })
        };
        // Dropping the session kills the process.
        match tokio::time::timeout(timeout, run).await {
            Ok(settled) => settled,
            Err(_) => Err(Error::Timeout {
                action: "exec in container",
                object: id.to_owned(),
                after: timeout,
            }),
        }
    }

    /// Starts a process with streams, as the container's user and with its environment.
    pub async fn exec(&self, id: &str, options: &ExecOptions) -> Result<ExecSession, Error> {
        let spec = self.exec_spec(id, options).await?;
        let exec = format!("exec-{:016x}", rand::random::<u64>());
        let dir = exec_dir(&self.config().run_dir).join(&exec);
        let fifos = Fifos::make(&dir, options)?;
        let process = ExecProcess(Arc::new(Inner {
            runtime: self.clone(),
            container: id.to_owned(),
            exec: exec.clone(),
            dir,
            code: OnceCell::new(),
            gone: AtomicBool::new(false),
        }));
        // Both ends are open before the process starts, so that not even a short output is lost.
        let stdout = receiver(&fifos.stdout)?;
        let stderr = fifos.stderr.as_deref().map(receiver).transpose()?;
        let sender = fifos.stdin.as_deref().map(sender).transpose()?;
        let path = |path: &Path| path.display().to_string();
        let message = ExecProcessRequest {
            container_id: id.to_owned(),
            stdin: fifos.stdin.as_deref().map(path).unwrap_or_default(),
            stdout: path(&fifos.stdout),
            stderr: fifos.stderr.as_deref().map(path).unwrap_or_default(),
            terminal: options.tty,
            spec: Some(spec),
            exec_id: exec.clone(),
        };
        ask!(
            self.client(),
            tasks.exec(message),
            self.patience(),
            "exec in container",
            id
        )?;
        let message = StartRequest {
            container_id: id.to_owned(),
            exec_id: exec,
        };
        ask!(
            self.client(),
            tasks.start(message),
            self.patience(),
            "exec in container",
            id
        )?;
        Ok(ExecSession {
            stdin: sender.map(|sender| Stdin {
                sender: Some(sender),
                process: process.clone(),
            }),
            stdout,
            stderr,
            process,
        })
    }

    /// The container's own process with other arguments.
    async fn exec_spec(&self, id: &str, options: &ExecOptions) -> Result<Any, Error> {
        let invalid = |error: serde_json::Error| Error::invalid("oci spec", id, error.to_string());
        let object = self.object(id).await?;
        let object = object.ok_or_else(|| Error::not_found("container", id))?;
        let spec = object.spec.unwrap_or_default();
        let spec: Spec = serde_json::from_slice(&spec.value).map_err(invalid)?;
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_args(Some(options.cmd.clone()));
        process.set_terminal(Some(options.tty));
        if options.tty {
            let mut env = process.env().clone().unwrap_or_default();
            if !env.iter().any(|entry| entry.starts_with("TERM=")) {
                env.push("TERM=xterm".into());
            }
            process.set_env(Some(env));
        }
        Ok(Any {
            type_url: PROCESS_TYPE.into(),
            value: serde_json::to_vec(&process).map_err(invalid)?,
        })
    }
}

struct Fifos {
    stdin: Option<PathBuf>,
    stdout: PathBuf,
    stderr: Option<PathBuf>,
}

impl Fifos {
    fn make(dir: &Path, options: &ExecOptions) -> Result<Fifos, Error> {
        fs::create_dir_all(dir).map_err(Error::io("make directory", dir.display()))?;
        let make = |name: &str| {
            let path = dir.join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
                .map_err(Error::errno("make fifo", path.display()))?;
            Ok(path)
        };
        Ok(Fifos {
            stdin: options.stdin.then(|| make("stdin")).transpose()?,
            stdout: make("stdout")?,
            // containerd 1.6 fails on stdout alone, and on stderr with a terminal.
            stderr: (!options.tty).then(|| make("stderr")).transpose()?,
        })
    }
}

fn exec_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("exec")
}

/// Removes the FIFOs of execs whose agent was killed; shims hold theirs open by descriptor.
pub(crate) fn sweep(run_dir: &Path) {
    let entries = fs::read_dir(exec_dir(run_dir))
        .into_iter()
        .flatten()
        .flatten();
    for entry in entries {
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > STALE) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn receiver(path: &Path) -> Result<pipe::Receiver, Error> {
    pipe::OpenOptions::new()
        .open_receiver(path)
        .map_err(Error::io("open fifo", path.display()))
}

/// Opened for reading too, so that it does not matter which side comes first.
fn sender(path: &Path) -> Result<pipe::Sender, Error> {
    pipe::OpenOptions::new()
        .read_write(true)
        .open_sender(path)
        .map_err(Error::io("open fifo", path.display()))
}

/// Reads both streams to their ends, keeping the first [`LARGEST_OUTPUT`] bytes in order of arrival.
async fn read_all(
    stdout: &mut pipe::Receiver,
    stderr: Option<&mut pipe::Receiver>,
    output: &Mutex<Vec<u8>>,
) {
    let errors = async {
        if let Some(stderr) = stderr {
            drain(stderr, output).await;
        }
    };
    tokio::join!(drain(stdout, output), errors);
}

async fn drain(stream: &mut pipe::Receiver, output: &Mutex<Vec<u8>>) {
    let mut buffer = vec![0; 8192];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        let room = LARGEST_OUTPUT.saturating_sub(output.len());
        output.extend(buffer.iter().take(length.min(room)));
    }
}
