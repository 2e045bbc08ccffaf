//! Clusters of namespaces on this machine, for people: `scripts/testbed netns`.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use keelson_tests::bed::KUBECONFIG;
use keelson_tests::process::tail;
use keelson_tests::testbed::description::Node;
use keelson_tests::testbed::keeper::{LinkStatus, MachineStatus, Request, Status, keep};
use keelson_tests::testbed::layout::Kind;
use keelson_tests::testbed::quality::{Delay, Percent, Rate};
use keelson_tests::testbed::state::State;
use keelson_tests::testbed::{Description, Layout, Quality};

/// How often is looked whether a bed is up.
const EVERY: Duration = Duration::from_millis(50);

/// Clusters of namespaces on this machine.
#[derive(Parser)]
#[command(name = "testbed netns")]
struct Cli {
    /// The bed [the only one there is, else `testbed`].
    #[arg(long, global = true)]
    name: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Brings a bed up; when it is up already as described, nothing is done.
    Up(Up),
    /// Takes a bed down: the machine is as it was.
    Down,
    /// Shows machines, links and nodes.
    Status,
    /// Runs a command on a machine (a node, a router, client).
    #[command(trailing_var_arg = true)]
    Exec {
        /// The machine.
        machine: String,
        /// The command [a shell].
        #[arg(allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Cuts a link: MACHINE/NETWORK, or the machine where it has but one.
    Cut {
        /// The link.
        link: String,
    },
    /// Puts a link together again; it is as good as described.
    Mend {
        /// The link.
        link: String,
    },
    /// Makes a link as bad as this, in both directions; without any flag, a perfect one.
    Degrade(Degrade),
    /// Prints the path of the administrator's kubeconfig for this machine.
    Kubeconfig,
    /// Adds a node.
    Add(Add),
    /// Takes a node away, without a warning.
    Remove {
        /// The node.
        node: String,
    },
    /// Cuts a node's power and gives it again.
    Reboot {
        /// The node.
        node: String,
    },
    /// Gives a node another address of the same network; the old one is gone.
    Move {
        /// The node.
        node: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// Keeps a bed: `up` starts it.
    #[command(hide = true)]
    Keep,
}

#[derive(Args)]
struct Up {
    /// The description (see scripts/testbed.d for examples).
    #[arg(conflicts_with = "nodes", required_unless_present = "nodes")]
    file: Option<PathBuf>,
    /// This many nodes on one segment, without a description.
    #[arg(long)]
    nodes: Option<usize>,
}

#[derive(Args)]
struct Degrade {
    /// The link.
    link: String,
    /// How many of a hundred packets are lost.
    #[arg(long, default_value = "0")]
    loss: Percent,
    /// How much later packets arrive, as 20ms.
    #[arg(long, default_value = "0ms")]
    delay: Delay,
    /// How much passes at most, as 10mbit.
    #[arg(long)]
    rate: Option<Rate>,
}

#[derive(Args)]
struct Add {
    /// Its name.
    node: String,
    /// Its networks [the first].
    #[arg(long = "network")]
    networks: Vec<String>,
    /// What keelson is started with beside what all nodes need.
    #[arg(last = true)]
    flags: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let name = cli.name.clone();
    if let Action::Up(up) = cli.action {
        return bring_up(&up, name);
    }
    let state = State::of(&name.unwrap_or_else(only_one));
    match cli.action {
        Action::Up(_) => Ok(()),
        Action::Down => {
            let _lock = state.lock()?;
            state.down()
        }
        Action::Keep => keep(&state),
        Action::Status => {
            show(&ask(&state, &Request::Status)?);
            nodes(&state)
        }
        Action::Exec { machine, command } => exec(&state, &machine, &command),
        Action::Kubeconfig => {
            ask(&state, &Request::Status)?;
            println!("{}", state.kubeconfig().display());
            Ok(())
        }
        Action::Cut { link } => tell(&state, &Request::Cut(link)),
        Action::Mend { link } => tell(&state, &Request::Mend(link)),
        Action::Degrade(Degrade {
            link,
            loss,
            delay,
            rate,
        }) => tell(
            &state,
            &Request::Degrade(link, Quality { loss, delay, rate }),
        ),
        Action::Add(Add {
            node,
            networks,
            flags,
        }) => {
            let node = Node {
                networks,
                flags,
                ..Node::named(&node)
            };
            tell(&state, &Request::Add(node))
        }
        Action::Remove { node } => tell(&state, &Request::Remove(node)),
        Action::Move { node, address } => tell(&state, &Request::Move(node, address)),
        Action::Reboot { node } => tell(&state, &Request::Reboot(node)),
    }
}

/// The only bed's name, or that of the one nobody has named.
fn only_one() -> String {
    let mut names = State::names();
    let only = names.pop().filter(|_| names.is_empty());
    only.unwrap_or_else(|| "testbed".to_owned())
}

fn ask(state: &State, request: &Request) -> anyhow::Result<Status> {
    let there = || {
        format!(
            "no such bed is up; there are: {}",
            State::names().join(", ")
        )
    };
    state.ask(request)?.with_context(there)
}

fn tell(state: &State, request: &Request) -> anyhow::Result<()> {
    ask(state, request).map(drop)
}

fn bring_up(up: &Up, name: Option<String>) -> anyhow::Result<()> {
    let mut description = match &up.file {
        Some(file) => Description::read(file)?,
        None => Description::of_nodes("testbed", up.nodes.unwrap_or_default()),
    };
    description.name = name.unwrap_or(description.name);
    let description = description.complete()?;
    let layout = Layout::of(&description)?;
    let state = State::of(&layout.name);
    let _lock = state.lock()?;
    if let Some(status) = state.ask(&Request::Status)? {
        ensure!(
            status.description == description,
            "{} is up, but with another description: take it down first",
            layout.name
        );
        return say_how(&state);
    }
    // A keeper that was killed has left files.
    state.clear()?;
    state.describe(&description)?;
    start_keeper(&state, &layout.name).inspect_err(|_| _ = state.down())?;
    say_how(&state)
}

/// Starts the process that keeps the bed, and waits until all is up.
fn start_keeper(state: &State, name: &str) -> anyhow::Result<()> {
    let log = File::create(state.log())?;
    let mut keeper = Command::new("setsid")
        .arg(std::env::current_exe()?)
        .args(["--name", name, "keep"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start setsid (util-linux)")?;
    loop {
        if let Some(status) = keeper.try_wait()? {
            bail!(
                "the bed does not come up: {status}\n{}",
                tail(&state.log(), 30)
            );
        }
        if state.ask(&Request::Status)?.is_some() {
            return Ok(());
        }
        sleep(EVERY);
    }
}

fn say_how(state: &State) -> anyhow::Result<()> {
    show(&ask(state, &Request::Status)?);
    println!("\nexport KUBECONFIG={}", state.kubeconfig().display());
    Ok(())
}

fn show(status: &Status) {
    for machine in &status.machines {
        let kind = serde_json::to_value(machine.kind).unwrap_or_default();
        let kind = kind.as_str().unwrap_or_default();
        println!("{:<16} {kind:<8} pid {}", machine.name, machine.pid);
        machine.links.iter().for_each(show_link);
    }
}

fn show_link(link: &LinkStatus) {
    let mut how = String::new();
    if link.cut {
        how += " CUT";
    }
    let quality = link.quality;
    if !quality.is_perfect() {
        how += &format!(" loss {}% delay {}", f64::from(quality.loss), quality.delay);
    }
    if let Some(rate) = quality.rate {
        how += &format!(" rate {rate}");
    }
    println!(
        "  {:<22} {:<5} {}{how}",
        link.name,
        link.device,
        link.addresses.join(" ")
    );
}

/// As the API has them; nothing where it does not answer.
fn nodes(state: &State) -> anyhow::Result<()> {
    println!();
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["get", "nodes", "-o", "wide", "--request-timeout=5s"]);
    kubectl
        .env("KUBECONFIG", state.kubeconfig())
        .status()
        .context("run kubectl")?;
    Ok(())
}

/// Becomes the command.
fn exec(state: &State, name: &str, command: &[String]) -> anyhow::Result<()> {
    let status = ask(state, &Request::Status)?;
    let found = status.machines.iter().find(|m| m.name == name);
    let Some(MachineStatus { pid, kind, .. }) = found else {
        let names: Vec<&str> = status.machines.iter().map(|m| m.name.as_str()).collect();
        bail!("no machine {name:?}: there are {}", names.join(", "));
    };
    let shell = ["bash".to_owned()];
    let command = if command.is_empty() { &shell } else { command };
    let mut nsenter = Command::new("nsenter");
    nsenter
        .args(["-t", &pid.to_string(), "-m", "-n", "-u", "-i", "-p", "--"])
        .args(command);
    nsenter.env_remove("KUBECONFIG");
    if *kind == Kind::Server {
        nsenter.env("KUBECONFIG", KUBECONFIG);
    }
    Err(nsenter.exec()).context("run nsenter (util-linux)")
}
