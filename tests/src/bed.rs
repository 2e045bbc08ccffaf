//! A bed: router, client and nodes, and kubectl.

mod calls;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use tempfile::TempDir;

pub use self::calls::{json, quoted};
use crate::node::Node;
use crate::space::Space;
use crate::testbed::description::{Description, Network, Node as NodeDescription};
use crate::testbed::layout::{Kind, Layout, Machine};
use crate::testbed::{OUTSIDE, Quality, Wiring};
use crate::wait::secs;

/// Where the administrator's kubeconfig is on the server's node.
pub const KUBECONFIG: &str = "/etc/keelson/admin.kubeconfig";

static BEDS: AtomicU32 = AtomicU32::new(0);

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// It ended with 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A cluster of one server and any number of agents. Dropping it leaves nothing.
pub struct Bed {
    /// The nodes; the first is the server.
    pub nodes: Vec<Node>,
    /// A machine outside of the cluster.
    pub client: Space,
    wiring: Wiring,
    /// Complete: who stays keeps its addresses when nodes come and go.
    description: Description,
    dir: TempDir,
    /// What its cgroups' names begin with.
    label: String,
}

impl Bed {
    /// A server without an agent.
    pub fn api(args: &[&str]) -> Self {
        let bed = Self::machines(1);
        bed.start_api(args);
        bed
    }

    fn start_api(&self, args: &[&str]) {
        self.server()
            .start_keelson(&[&["server", "--no-agent"], args].concat());
        self.server().wait_for(KUBECONFIG);
        self.wait_ready();
    }

    /// A server without a node, and one agent that joined it, started with these arguments; Ready. Each a process
    /// of its own.
    pub fn split(args: &[&str]) -> Self {
        Self::split_on(|_| {}, args)
    }

    /// The same; the agent's machine is made ready by `prepare`, before containerd runs on it.
    pub fn split_on(prepare: impl FnOnce(&Node), args: &[&str]) -> Self {
        let bed = Self::machines(2);
        bed.start_api(&[]);
        let node = &bed.nodes[1];
        prepare(node);
        node.install();
        bed.join(node, args);
        bed.wait_node_ready(node);
        bed
    }

    /// One node with containerd, without keelson yet.
    pub fn bare() -> Self {
        let bed = Self::machines(1);
        bed.server().install();
        bed
    }

    /// One node whose volumes and images are on one small disk (`size` as mount takes it), without keelson yet.
    pub fn small_disk(size: &str) -> Self {
        let bed = Self::machines(1);
        bed.server().small_disk(size);
        bed.server().start_containerd();
        bed
    }

    /// A server and an agent that joined it, each a node, the server started with these arguments; nobody tells the
    /// agent its address. All Ready.
    pub fn pair(args: &[&str]) -> Self {
        let bed = Self::machines(2);
        bed.nodes.iter().for_each(Node::install);
        bed.start_server_with(args);
        bed.join_anywhere(&bed.nodes[1], &[]);
        bed.wait_node_ready(&bed.nodes[1]);
        bed
    }

    /// A server that is a node, and agents that joined it with tokens; all Ready.
    pub fn cluster(nodes: usize) -> Self {
        let bed = Self::machines(nodes);
        bed.nodes.iter().for_each(Node::install);
        bed.start_server();
        for node in &bed.nodes[1..] {
            bed.join(node, &[]);
        }
        bed.wait_all_ready();
        bed
    }

    /// The cluster that is described, its nodes started with their own flags and nobody telling agents their addresses;
    /// all Ready.
    ///
    /// # Errors
    /// When the description contradicts itself or can't be had here.
    pub fn described(description: &Description) -> anyhow::Result<Self> {
        let bed = Self::laid_out(description)?;
        bed.start();
        Ok(bed)
    }

    /// Starts all nodes as they are described, and waits until they are Ready.
    pub fn start(&self) {
        self.nodes.iter().for_each(Node::install);
        self.start_server_with(&self.flags(self.server()));
        for node in &self.nodes[1..] {
            self.join_anywhere(node, &self.flags(node));
        }
        self.wait_all_ready();
    }

    /// Starts the server with a node on the first machine, and waits until it is Ready.
    pub fn start_server(&self) {
        self.start_server_with(&[]);
    }

    fn start_server_with(&self, args: &[&str]) {
        self.server().start_keelson(&[&["server"], args].concat());
        self.server().wait_for(KUBECONFIG);
        self.wait_ready();
        self.wait_node_ready(self.server());
    }

    /// Starts an agent with a new token.
    fn join(&self, node: &Node, args: &[&str]) {
        let ip = node.ip.to_string();
        self.join_anywhere(node, &[args, &["--node-ip", &ip]].concat());
    }

    /// The same, but its address is its own to find out.
    fn join_anywhere(&self, node: &Node, args: &[&str]) {
        let token = self.token();
        let server = format!("https://{}:6443", self.server().ip);
        let own = ["agent", "--server", &server, "--token", &token];
        node.start_keelson_anywhere(&[&own, args].concat());
    }

    /// This many machines on one segment, without programs yet.
    fn machines(nodes: usize) -> Self {
        let network =
            |name: &str, cidr: &str| Network::named(name, &[cidr.parse().expect("a range")]);
        let mut description = Description::of_nodes("test", nodes);
        description.networks = vec![
            network("nodes", "10.88.0.0/24"),
            network(OUTSIDE, "10.99.0.0/24"),
        ];
        Self::laid_out(&description).expect("machines")
    }

    /// The machines that are described, without programs yet.
    ///
    /// # Errors
    /// When the description contradicts itself or can't be had here.
    pub fn laid_out(description: &Description) -> anyhow::Result<Self> {
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let label = format!("keelson-test-{}-{number}-", std::process::id());
        Self::labelled(description, label, &std::env::temp_dir())
    }

    /// The same with a label of one's own, in a new folder below `parent`.
    ///
    /// # Errors
    /// When the description contradicts itself or can't be had here.
    pub fn labelled(
        description: &Description,
        label: String,
        parent: &Path,
    ) -> anyhow::Result<Self> {
        let description = description.complete()?;
        let layout = Layout::of(&description)?;
        let dir = tempfile::Builder::new()
            .prefix("keelson-test-")
            .tempdir_in(parent)
            .context("a folder for the nodes' files")?;
        let (wiring, client) = Wiring::new(layout)?;
        let mut bed = Self {
            nodes: Vec::new(),
            client,
            wiring,
            description,
            dir,
            label,
        };
        let mut machines: Vec<Machine> = bed.layout().nodes().cloned().collect();
        machines.sort_by_key(|machine| machine.kind != Kind::Server);
        for machine in machines {
            bed.add_machine(&machine)?;
        }
        Ok(bed)
    }

    fn add_machine(&mut self, machine: &Machine) -> anyhow::Result<()> {
        let name = &machine.name;
        let ip = first_ipv4(machine)?;
        let cgroup = format!("{}{name}", self.label);
        let node = Node::new(name, ip, cgroup, self.dir.path().join(name))?;
        self.wiring.plug(name, &node.space)?;
        self.nodes.push(node);
        Ok(())
    }

    /// The layout, as it is now.
    pub fn layout(&self) -> &Layout {
        self.wiring.layout()
    }

    /// What is between the machines.
    pub fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    /// What a node's keelson is started with, as described.
    fn flags(&self, node: &Node) -> Vec<&str> {
        let machine = self.layout().machine(&node.name);
        let flags = machine.map(|m| m.flags.iter().map(String::as_str).collect());
        flags.unwrap_or_default()
    }

    /// Puts a machine that is no node where the server's `eth0` is: as its `eth0`, with the same routes.
    pub fn attach(&mut self, space: &Space, name: &str, ip: Ipv4Addr) {
        let beside = &self.nodes[0].name;
        self.wiring
            .attach(beside, name, ip.into(), space)
            .expect("on the segment");
    }

    /// Cuts a node's power; when it is back, containerd and keelson start as they were started before.
    pub fn reboot(&mut self, node: usize) {
        self.nodes[node].reboot().expect("a machine");
        let node = &self.nodes[node];
        self.wiring.plug(&node.name, &node.space).expect("links");
        node.start_containerd();
        node.start_again();
    }

    /// A further node, which joins; Ready.
    ///
    /// # Errors
    /// When the description contradicts itself with it.
    pub fn add(&mut self, node: NodeDescription) -> anyhow::Result<()> {
        let name = node.name.clone();
        let mut description = self.description.clone();
        description.nodes.push(node);
        self.change(description)?;
        let machine = self.layout().machine(&name)?.clone();
        self.add_machine(&machine)?;
        let node = &self.nodes[self.nodes.len() - 1];
        node.install();
        self.join_anywhere(node, &self.flags(node));
        self.wait_node_ready(node);
        Ok(())
    }

    /// Takes a node away: its machine, without a warning, and then its object.
    ///
    /// # Errors
    /// When there is none of this name, or it is the server.
    pub fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        let place = self.place(name)?;
        anyhow::ensure!(
            place > 0,
            "{name} is the server, without which there is no cluster"
        );
        let mut description = self.description.clone();
        description.nodes.retain(|node| node.name != name);
        drop(self.nodes.remove(place));
        self.change(description)?;
        self.kubectl(&format!("delete node {name} --ignore-not-found"));
        Ok(())
    }

    /// Gives a node another address of the same network, at once: the old one is gone.
    ///
    /// # Errors
    /// When there is none of this name, it is the server, or the address is not free there.
    pub fn move_node(&mut self, name: &str, ip: Ipv4Addr) -> anyhow::Result<()> {
        let place = self.place(name)?;
        anyhow::ensure!(
            place > 0,
            "{name} is the server, which agents know by its address"
        );
        let old = self.nodes[place].ip;
        let mut description = self.description.clone();
        let nodes = description
            .nodes
            .iter_mut()
            .filter(|node| node.name == name);
        for address in nodes.flat_map(|node| &mut node.addresses) {
            if *address == IpAddr::from(old) {
                *address = ip.into();
            }
        }
        self.change(description)?;
        let node = &mut self.nodes[place];
        self.wiring.readdress(name, old.into(), &node.space)?;
        node.ip = ip;
        Ok(())
    }

    fn change(&mut self, description: Description) -> anyhow::Result<()> {
        let description = description.complete()?;
        self.wiring.change(Layout::of(&description)?)?;
        self.description = description;
        Ok(())
    }

    /// Which of the nodes has this name.
    ///
    /// # Errors
    /// When none has; those that are there are named.
    pub fn place(&self, name: &str) -> anyhow::Result<usize> {
        let names: Vec<&str> = self.nodes.iter().map(|n| n.name.as_str()).collect();
        let place = names.iter().position(|n| *n == name);
        place.with_context(|| format!("no node {name:?}: there are {}", names.join(", ")))
    }

    /// The space of a machine: a node, a router, a gateway or the client.
    ///
    /// # Errors
    /// When there is none of this name; those that are there are named.
    pub fn space(&self, name: &str) -> anyhow::Result<&Space> {
        let machine = self.layout().machine(name)?;
        if machine.kind == Kind::Client {
            return Ok(&self.client);
        }
        if !machine.is_node() {
            return self.wiring.router(name);
        }
        Ok(&self.nodes[self.place(name)?].space)
    }

    /// Cuts a link: `MACHINE/NETWORK`, or the machine where it has one.
    ///
    /// # Errors
    /// When there is no such link; those that are there are named.
    pub fn cut(&mut self, link: &str) -> anyhow::Result<()> {
        self.on_link(link, |wiring, link, space| {
            wiring.set_cut(link, true, space)
        })
    }

    /// Puts a link together again.
    ///
    /// # Errors
    /// When there is no such link; those that are there are named.
    pub fn mend(&mut self, link: &str) -> anyhow::Result<()> {
        self.on_link(link, |wiring, link, space| {
            wiring.set_cut(link, false, space)
        })
    }

    /// Makes a link as good or bad as this.
    ///
    /// # Errors
    /// When there is no such link (those that are there are named), or the kernel can't do it.
    pub fn degrade(&mut self, link: &str, quality: Quality) -> anyhow::Result<()> {
        self.on_link(link, |wiring, link, space| {
            wiring.degrade(link, quality, space)
        })
    }

    fn on_link(
        &mut self,
        link: &str,
        change: impl FnOnce(&mut Wiring, &str, Option<&Space>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let link = self.wiring.link(link)?;
        let machine = link.split('/').next().unwrap_or_default();
        let node = self.nodes.iter().find(|n| n.name == machine);
        change(&mut self.wiring, &link, node.map(|n| &n.space))
    }

    /// The server's node.
    pub fn server(&self) -> &Node {
        &self.nodes[0]
    }

    /// A folder for the test's own files; nodes see it at the same path.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Sends a range of addresses to a node, as a network's router would be told.
    pub fn route(&self, range: &str, node: &Node) {
        self.wiring
            .route(range, IpAddr::from(node.ip))
            .expect("a route");
    }

    /// What is wrong, for a failed test.
    pub fn logs(&self, lines: usize) -> String {
        self.nodes.iter().map(|n| n.logs(lines)).collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs(60));
            // To look around: nsenter -a -t PID of each node's first process.
            if let Some(pause) = std::env::var("KEELSON_PAUSE")
                .ok()
                .and_then(|p| p.parse().ok())
            {
                self.nodes
                    .iter()
                    .for_each(|n| eprintln!("{}: nsenter -a -t {}", n.name, n.space.init()));
                std::thread::sleep(secs(pause));
            }
            if std::env::var_os("KEELSON_KEEP").is_some() {
                self.dir.disable_cleanup(true);
                eprintln!("kept: {}", self.dir.path().display());
            }
        }
    }
}

/// The address by which others of the cluster find a machine.
fn first_ipv4(machine: &Machine) -> anyhow::Result<Ipv4Addr> {
    let found = machine
        .node_addresses()
        .iter()
        .find_map(|a| match a.addr() {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
    found.with_context(|| format!("{} has no IPv4 address", machine.name))
}
