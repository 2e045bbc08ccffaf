//! A test bed: each node of a layout a virtual machine, everybody else a network namespace.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Done};

use anyhow::{Context, ensure};
use keelson_tests::eventually;
use keelson_tests::testbed::CLIENT;
use keelson_tests::testbed::layout::{Kind, Layout};
use keelson_tests::wait::secs;
use tempfile::TempDir;

use crate::dist::{Dist, INSIDE};
use crate::machine::Machine;
use crate::wires::{self, Wired};

/// How long a server may take until it answers, and a node until it is ready, on a host that is shared.
const READY: u64 = 600;

/// Machines, running. They and their networks go with this value.
pub struct Bed {
    /// What it is made of.
    pub layout: Layout,
    nodes: Vec<(String, Machine)>,
    _networks: Networks,
    /// Of the user: its kubeconfig, and the disk that all machines read.
    home: TempDir,
}

/// Namespaces, bridges and links.
struct Networks {
    unmake: String,
}

impl Drop for Networks {
    fn drop(&mut self) {
        // Nobody is left to hear of it, and the next bed of this name does the same first.
        let _ = bash(&self.unmake);
    }
}

/// How keelson comes onto a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The Debian package and `keelson-setup`.
    Package,
    /// `install.sh --airgap`.
    Script,
}

impl Bed {
    /// Boots all machines; nothing of ours is installed on them.
    ///
    /// # Errors
    /// When the layout is more than virtual machines can do here, or a network can't be made.
    ///
    /// # Panics
    /// When a machine does not boot.
    pub fn boot(layout: Layout, dist: &Dist) -> anyhow::Result<Self> {
        let plan = wires::plan(&layout)?;
        bash(&plan.unmake)?;
        let networks = Networks {
            unmake: plan.unmake,
        };
        bash(&plan.make)?;
        let room = format!("/run/netns/{}", wires::room(&layout));
        Machine::image();
        let home = tempfile::tempdir()?;
        let disk = home.path().join("disk");
        Machine::disk(&disk, dist);
        let boot = |node: &Wired| {
            let mut vm = Command::new("nsenter");
            vm.arg(format!("--net={room}"));
            let wanted = [
                ("KEELSON_VM_NAME", node.name.as_ref()),
                // Emulated ones of several machines would only wait for each other.
                ("KEELSON_VM_CPUS", "1".as_ref()),
                ("KEELSON_VM_NICS", node.nics.as_ref()),
                ("KEELSON_VM_DISK", disk.as_os_str()),
            ];
            (node.name.clone(), Machine::begin(vm, &wanted))
        };
        let mut nodes: Vec<(String, Machine)> = plan.nodes.iter().map(boot).collect();
        for ((_, machine), node) in nodes.iter_mut().zip(&plan.nodes) {
            machine.await_boot();
            machine.sh(&node.setup);
        }
        Ok(Self {
            layout,
            nodes,
            _networks: networks,
            home,
        })
    }

    /// The machine of a node.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn node(&mut self, name: &str) -> &mut Machine {
        let found = self.nodes.iter_mut().find(|(n, _)| n == name);
        found.map(|(_, m)| m).expect("a node of the layout")
    }

    /// The node with the API server.
    pub fn server(&mut self) -> &mut Machine {
        let name = server(&self.layout).to_owned();
        self.node(&name)
    }

    /// Names of all nodes, in the order of the description.
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Does the same on all nodes at one time; what it gave, in the order of the description.
    ///
    /// # Panics
    /// When one does.
    pub fn at_once<T: Send>(&mut self, work: impl Fn(&str, &mut Machine) -> T + Sync) -> Vec<T> {
        let (work, nodes) = (&work, self.nodes.iter_mut());
        std::thread::scope(|scope| {
            let threads: Vec<_> = nodes
                .map(|(name, machine)| scope.spawn(move || work(name, machine)))
                .collect();
            let done = threads.into_iter().map(|thread| thread.join());
            done.map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        })
    }

    /// Makes a node a server, or an agent that joins by a token: as a user does it. Waits until it is ready.
    ///
    /// # Panics
    /// When it fails, with what was said.
    pub fn install(&mut self, name: &str, by: By) {
        let machine = self
            .layout
            .machine(name)
            .expect("a node of the layout")
            .clone();
        let arguments = match machine.kind {
            Kind::Server => format!("server --node-ip {}", addresses(&self.layout, name)),
            _ => {
                let server = addresses(&self.layout, server(&self.layout));
                let server = server.split(',').next().unwrap_or_default().to_owned();
                let token = self.server().sh("keelson token create");
                format!("agent --server https://{server}:6443 --token {token}")
            }
        };
        let script = by.script(&format!("{arguments} {}", machine.flags.join(" ")));
        let is_server = machine.kind == Kind::Server;
        let node = self.node(name);
        node.until(600, "systemctl is-active containerd");
        println!("{}", node.sh(&script));
        if is_server {
            self.fetch_kubeconfig().expect("a kubeconfig");
        }
        self.user_until(
            READY,
            &format!("kubectl wait node/{name} --for=condition=Ready --timeout=60s"),
        );
    }

    /// The administrator's kubeconfig, for another machine than the server.
    fn fetch_kubeconfig(&mut self) -> anyhow::Result<()> {
        let address = addresses(&self.layout, server(&self.layout));
        let first = address.split(',').next().unwrap_or_default();
        let text = self.server().until(600, "cat $KUBECONFIG");
        let text = text.replace("https://127.0.0.1:", &format!("https://{first}:"));
        Ok(std::fs::write(self.kubeconfig(), text)?)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("kubeconfig")
    }

    /// What a user does with kubectl from beyond the router: not emulated, so it takes no time from what is looked at.
    ///
    /// # Panics
    /// When it fails, with what it said.
    #[track_caller]
    pub fn user(&self, script: &str) -> String {
        self.outside(CLIENT, script).expect("a user's script")
    }

    /// The same until it succeeds.
    ///
    /// # Panics
    /// When it does not within so many seconds.
    #[track_caller]
    pub fn user_until(&self, seconds: u64, script: &str) -> String {
        eventually(script, secs(seconds), || self.outside(CLIENT, script))
    }

    /// Runs a script on a machine that is no node: a router, a gateway or the client.
    ///
    /// # Errors
    /// When it fails, with all that it said.
    pub fn outside(&self, machine: &str, script: &str) -> anyhow::Result<String> {
        let space = wires::space(&self.layout, machine);
        let done = Command::new("ip")
            .args(["netns", "exec", &space, "bash", "-c", script])
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.home.path())
            .output();
        Ok(said(done.context("run ip")?, script)?.trim_end().to_owned())
    }

    /// Runs a script on any machine; its exit code and what it said.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn run(&mut self, name: &str, script: &str) -> anyhow::Result<crate::Output> {
        if self.layout.machine(name)?.is_node() {
            return Ok(self.node(name).run(script));
        }
        let done = self.outside(name, script);
        let code = i32::from(done.is_err());
        let text = done.unwrap_or_else(|error| format!("{error:#}"));
        Ok(crate::Output { code, text })
    }
}

impl By {
    /// What a user types.
    fn script(self, arguments: &str) -> String {
        match self {
            // A machine without a registry: the images come as archives.
            By::Package => format!(
                "set -e
dpkg -i {INSIDE}/keelson.deb
install -D -t /var/lib/keelson/images {INSIDE}/release/images/*
keelson-setup {arguments}"
            ),
            By::Script => {
                format!("{INSIDE}/release/install.sh --airgap {INSIDE}/release {arguments}")
            }
        }
    }
}

/// A node's addresses by which others find it, with commas.
///
/// # Panics
/// When there is none of this name.
pub fn addresses(layout: &Layout, name: &str) -> String {
    let machine = layout.machine(name).expect("a node of the layout");
    let nets = machine.node_addresses().iter();
    let ips: Vec<String> = nets.map(|net| net.addr().to_string()).collect();
    ips.join(",")
}

fn bash(script: &str) -> anyhow::Result<String> {
    let done = Command::new("bash").args(["-c", script]).output();
    said(done.context("run bash")?, script)
}

fn said(done: Done, script: &str) -> anyhow::Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        done.status.success(),
        "{}: {script}\n{}{}",
        done.status,
        text(&done.stdout),
        text(&done.stderr)
    );
    Ok(text(&done.stdout))
}

/// The name of the node with the API server.
///
/// # Panics
/// When a layout has none, which none is made without.
pub fn server(layout: &Layout) -> &str {
    let found = layout.machines.iter().find(|m| m.kind == Kind::Server);
    &found.expect("a layout has a server").name
}

/// Removes the networks that a bed of this layout has, if one was killed.
///
/// # Errors
/// When the layout can't be planned.
pub fn clear(layout: &Layout) -> anyhow::Result<()> {
    bash(&wires::plan(layout)?.unmake).map(drop)
}

/// The description's file, laid out.
///
/// # Errors
/// As [`Layout::of`].
pub fn read(path: &Path) -> anyhow::Result<Layout> {
    Layout::of(&keelson_tests::testbed::Description::read(path)?)
}
