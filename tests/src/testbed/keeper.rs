//! The process that keeps a bed for people, and what it is asked to do over its socket.
//!
//! A bed lives as long as its keeper: when that ends, in any way, the kernel ends all that runs in it. A question is one
//! line of JSON, and so is the answer; one is answered after the other, on the thread that made the bed (namespaces end
//! with it).

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::description::{Description, Node};
use super::forward::Forward;
use super::layout::Kind;
use super::quality::Quality;
use super::state::State;
use crate::Bed;
use crate::bed::KUBECONFIG;

/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a keeper is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// How everything is.
    Status,
    /// To cut a link.
    Cut(String),
    /// To put a link together again.
    Mend(String),
    /// To make a link as good or bad as this.
    Degrade(String, Quality),
    /// To add a node.
    Add(Node),
    /// To take a node away.
    Remove(String),
    /// To cut a node's power and give it again.
    Reboot(String),
    /// To give a node another address of the same network.
    Move(String, Ipv4Addr),
    /// To end.
    Down,
}

/// How a bed is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What was asked for when it was made.
    pub description: Description,
    /// Its machines.
    pub machines: Vec<MachineStatus>,
}

/// How a machine is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its name.
    pub name: String,
    /// `server`, `agent`, `router`, `gateway` or `client`.
    pub kind: Kind,
    /// PID of its first process, as seen from outside.
    pub pid: u32,
    /// Its links.
    pub links: Vec<LinkStatus>,
}

/// How a link is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Its name.
    pub name: String,
    /// The machine's interface.
    pub device: String,
    /// The interface's addresses, as laid out.
    pub addresses: Vec<String>,
    /// It is cut.
    pub cut: bool,
    /// How good it is.
    pub quality: Quality,
}

/// What is answered: how the bed is, or what went wrong.
pub type Answer = Result<Status, String>;

/// Makes the bed and keeps it until it is told to end.
///
/// # Errors
/// When it can't be made; nothing is left then.
///
/// # Panics
/// When a program of the bed does not start.
pub fn keep(state: &State) -> anyhow::Result<()> {
    let description = state.description()?;
    let bed = Bed::labelled(&description, state.label(), &state.disks()?)?;
    bed.start();
    let forward = Forward::new(6443)?;
    let mut keeper = Keeper {
        description,
        bed,
        forward,
    };
    keeper.follow_server();
    keeper.write_kubeconfig(state)?;
    let listener = state.listen()?;
    for connection in listener.incoming() {
        if keeper.serve(&connection?)? {
            return keeper.end(state, &listener);
        }
    }
    Ok(())
}

struct Keeper {
    description: Description,
    bed: Bed,
    forward: Forward,
}

impl Keeper {
    /// Answers one question; true when it was the last.
    fn serve(&mut self, connection: &UnixStream) -> anyhow::Result<bool> {
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        // Who says nothing, or nonsense, gets that as the answer and disturbs nobody else.
        let read = BufReader::new(connection).read_line(&mut line);
        let request = read
            .map_err(anyhow::Error::from)
            .and_then(|_| Ok(serde_json::from_str(&line)?));
        let answer: Answer = match request {
            Ok(Request::Down) => return Ok(true),
            Ok(request) => self.answer(request),
            Err(error) => Err(format!("no request: {error:#}")),
        };
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        // It may not wait for the answer.
        let _ = (&mut &*connection).write_all(text.as_bytes());
        Ok(false)
    }

    fn answer(&mut self, request: Request) -> Answer {
        // Beds are made for tests and panic when a program does not do what it must.
        let done = catch_unwind(AssertUnwindSafe(|| self.act(request)));
        let done = done.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(anyhow::anyhow!(text.unwrap_or_default()))
        });
        self.follow_server();
        done.and_then(|()| self.status())
            .map_err(|error| format!("{error:#}"))
    }

    fn act(&mut self, request: Request) -> anyhow::Result<()> {
        match request {
            Request::Status | Request::Down => Ok(()),
            Request::Cut(link) => self.bed.cut(&link),
            Request::Mend(link) => self.bed.mend(&link),
            Request::Degrade(link, quality) => self.bed.degrade(&link, quality),
            Request::Add(node) => self.bed.add(node),
            Request::Remove(name) => self.bed.remove(&name),
            Request::Move(name, ip) => self.bed.move_node(&name, ip),
            Request::Reboot(name) => {
                let place = self.bed.place(&name)?;
                self.bed.reboot(place);
                self.bed.wait_ready();
                self.bed.wait_node_ready(&self.bed.nodes[place]);
                Ok(())
            }
        }
    }

    fn status(&self) -> anyhow::Result<Status> {
        let wiring = self.bed.wiring();
        let machines = self.bed.layout().machines.iter().map(|machine| {
            let links = machine.nics.iter().map(|nic| LinkStatus {
                name: nic.link.clone(),
                device: nic.device.clone(),
                addresses: nic.addresses.iter().map(ToString::to_string).collect(),
                cut: wiring.is_cut(&nic.link),
                quality: wiring.quality(&nic.link),
            });
            Ok(MachineStatus {
                name: machine.name.clone(),
                kind: machine.kind,
                pid: self.bed.space(&machine.name)?.init(),
                links: links.collect(),
            })
        });
        Ok(Status {
            description: self.description.clone(),
            machines: machines.collect::<anyhow::Result<_>>()?,
        })
    }

    /// After a reboot the server is in other namespaces.
    fn follow_server(&self) {
        self.forward.lead_to(self.bed.server().space.init());
    }

    /// With this kubectl on this machine reaches the API: by a port of the loopback interface.
    fn write_kubeconfig(&self, state: &State) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(self.bed.server().outside(KUBECONFIG))?;
        let mut config: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text)?;
        let clusters = config.get_mut("clusters").and_then(|c| c.as_sequence_mut());
        for cluster in clusters.context("a kubeconfig has clusters")? {
            let cluster = cluster.get_mut("cluster").context("a cluster's entry")?;
            let at = format!("https://127.0.0.1:{}", self.forward.port());
            cluster["server"] = at.into();
        }
        state.write_kubeconfig(&serde_yaml_ng::to_string(&config)?)
    }

    /// Ends the bed, then the socket: who waits for the end waits for the connection's.
    fn end(self, state: &State, listener: &UnixListener) -> anyhow::Result<()> {
        drop(self.bed);
        let _ = listener.set_nonblocking(true);
        state.remove()
    }
}
