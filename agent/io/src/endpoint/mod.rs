//! The node's HTTPS endpoint (port 10250): logs, exec, attach, port forwarding, figures.
//!
//! Every route is authenticated and authorized, `/healthz` too; see `auth`. What the routes show comes from
//! the daemon through [`Pods`].

mod auth;
mod exec;
pub mod figures;
mod forward;
mod lines;
mod logs;
mod looks;
mod reply;
mod routes;
pub mod spdy;
mod upgrade;
mod websocket;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use reply::Refusal;
pub use routes::router;

/// A container that a route is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// The runtime's id.
    pub id: String,
    /// The CRI log file, `/var/log/pods/<ns>_<pod>_<uid>/<container>/<attempt>.log`.
    pub log_path: PathBuf,
    /// Whether it runs now.
    pub running: bool,
    /// Whether it was started with a terminal.
    pub tty: bool,
}

/// What `/exec`, `/attach` and `/run` ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// Program and arguments; empty for attach.
    pub command: Vec<String>,
    /// Whether a terminal is wanted; stderr is then part of stdout.
    pub tty: bool,
    /// Whether the client sends standard input.
    pub stdin: bool,
    /// Whether the client reads standard output.
    pub stdout: bool,
    /// Whether the client reads standard error.
    pub stderr: bool,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A process that a client is joined to. Dropping it ends the streams; whether the process is killed then
/// is the maker's choice.
pub struct Session {
    /// Present when asked for. Closed (shut down) when the client closes its side.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Present when asked for.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Present when asked for and there is no terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes sizes of the client's terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code. Polled until done, beside the streams.
    pub exit: BoxFuture<'static, Result<i32, Refusal>>,
}

/// The pods of this node, as the endpoint sees them: the daemon implements it.
#[async_trait]
pub trait Pods: Send + Sync + 'static {
    /// All pods bound to this node, with their status.
    async fn pods(&self) -> Vec<Pod>;

    /// A container by name; `previous` asks for the attempt before the latest. A [`Refusal`] with upstream's
    /// words says why there is none.
    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerRef, Refusal>;

    /// Starts a process in a running container.
    async fn exec(&self, id: &str, options: ExecOptions) -> Result<Session, Refusal>;

    /// Joins a container's own streams. `None`: the runtime offers no such thing; output then comes from the
    /// log, and standard input is refused.
    async fn attach(
        &self,
        _container: &ContainerRef,
        _options: ExecOptions,
    ) -> Result<Option<Session>, Refusal> {
        Ok(None)
    }

    /// The network namespace of a pod for port forwarding; `None` for a pod on the host's network.
    async fn netns(&self, namespace: &str, pod: &str) -> Result<Option<PathBuf>, Refusal>;

    /// What running pods use; no more is read than is asked for.
    async fn usage(&self, _depth: figures::Depth) -> Vec<figures::PodUse> {
        Vec::new()
    }

    /// What the node's own parts use.
    async fn system(&self, _depth: figures::Depth) -> figures::System {
        figures::System::default()
    }

    /// What is wrong with the agent, for `/healthz/syncloop`; `None` when nothing is.
    fn unhealthy(&self) -> Option<String> {
        None
    }

    /// Prometheus text of the probes' outcomes, for `/metrics/probes`.
    fn probe_metrics(&self) -> String {
        String::new()
    }

    /// Removes a directory that was a volume (`keelson.io/local-path`); one that is not there is removed.
    async fn remove_storage(&self, _name: &str) -> Result<(), Refusal> {
        Err(Refusal::not_found("this node keeps no volumes"))
    }

    /// The agent's configuration for `/configz`, without secrets.
    fn config(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}

/// What the endpoint needs.
#[derive(Clone)]
pub struct Config {
    /// This node's name: authorization asks about `nodes/<subresource>` of it.
    pub node_name: String,
    /// The pods.
    pub pods: Arc<dyn Pods>,
    /// For TokenReview and SubjectAccessReview.
    pub client: kube::Client,
    /// Where the node's own figures are read.
    pub roots: crate::node::Roots,
    /// Prometheus text of the agent's own metrics for `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}
