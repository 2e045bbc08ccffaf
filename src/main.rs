//! `keelson`: parse, build, run, wait for a signal, drain.

mod cleanup;
mod cluster;
mod doctor;
mod explain;
mod image;
mod images;
mod join;
mod keeper;
mod machine;
mod memory;
mod network;
mod node;
mod options;
mod pinning;
mod plugins;
mod policy;
mod pressure;
mod proxy;
mod rotate;
mod server;
mod swap;
mod token;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use options::{AgentOptions, LogFormat, ServerOptions};

/// A small Kubernetes: API server, scheduler, controllers, node agent and service proxy in one binary.
///
/// `keelson server` on one machine is a whole cluster. More machines join it with a token:
///
///   server#  keelson token create
///   other#   keelson agent --server https://SERVER:6443 --token K10...
///
/// kubectl works with /etc/keelson/admin.kubeconfig.
#[derive(Parser)]
#[command(version, about, long_about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look. RUST_LOG sets what is logged (default: info).
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the control plane and, unless told otherwise, a node on this machine.
    Server(Box<ServerOptions>),
    /// Joins this machine to a cluster as a node.
    Agent(Box<AgentOptions>),
    /// Runs the service proxy alone, against any Kubernetes API server.
    Proxy(Box<proxy::Args>),
    /// Answers about what runs, from the live state of this node: where does a connection go, and why?
    Explain(explain::Args),
    /// Makes, lists and deletes the tokens that nodes join with.
    Token(token::Args),
    /// Ends all pods of this node and removes what keelson put into the kernel and under its directories of state.
    /// Stop the server or agent first. The cluster's data stays unless --data is given.
    Cleanup(Box<cleanup::Args>),
    /// Lists what pods left on this node that nobody needs any more, and why; --fix takes it away. Agent and pods may
    /// go on meanwhile.
    Doctor(Box<doctor::Args>),
    /// Makes an image archive of files: for images that need no registry.
    Image(image::Args),
}

fn main() -> ExitCode {
    memory::tune();
    let cli = Cli::parse();
    init_log(cli.log_format);
    // Fails only when one is set already, and then this one is.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers(&cli.command))
        .max_blocking_threads(BLOCKING)
        .enable_all()
        .build()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keelson: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A node's work waits for others nearly all the time: a second thread would mostly wake the first one, and cost memory.
/// A server answers many at once.
fn workers(command: &Command) -> usize {
    match command {
        Command::Agent(_) | Command::Proxy(_) => 1,
        _ => 2,
    }
}

/// For file systems, redb and netlink.
const BLOCKING: usize = 32;

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Server(options) => server::run(options.load()?, signals()?).await,
        Command::Agent(options) => node::run_agent(options.load()?, signals()?).await,
        Command::Proxy(args) => proxy::run(*args, signals()?).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Token(args) => token::run(args).await,
        Command::Cleanup(args) => cleanup::run(*args).await,
        Command::Doctor(args) => doctor::run(*args).await,
        Command::Image(args) => image::run(&args),
    }
}

/// A token that the first SIGTERM or SIGINT cancels; a second one ends the process at once.
fn signals() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if token.is_cancelled() {
                std::process::exit(1);
            }
            tracing::info!("shutting down");
            token.cancel();
        }
    });
    Ok(shutdown)
}

fn init_log(format: LogFormat) {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // It traces messages as a whole, and one of them holds the node's WireGuard key.
    if let Ok(quiet) = "netlink_proto=debug".parse()
        && filter
            .max_level_hint()
            .is_none_or(|most| most > tracing::Level::DEBUG)
    {
        filter = filter.add_directive(quiet);
    }
    let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
}
