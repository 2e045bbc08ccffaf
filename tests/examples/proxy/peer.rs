//! kube-proxy's shapes, loaded as it loads them.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use keelson_tests::figures::Samples;
use keelson_tests::peers::{Change, Frame, Service, iptables, nftables};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lanes::Lane;
use crate::plan::{replaced, service, services, spread};
use crate::report::{Changes, Cold, KINDS, enough};

/// A shape and the tool that loads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    /// kube-proxy's nftables shape, by nft.
    Nft,
    /// kube-proxy's iptables shape, by iptables-nft-restore.
    IptablesNft,
    /// kube-proxy's iptables shape, by iptables-legacy-restore.
    IptablesLegacy,
}

/// What a load came to.
enum Loaded {
    Took(Duration),
    Over,
}

/// A shape in a lane.
pub(crate) struct Replay<'a> {
    peer: Peer,
    lane: &'a Lane,
    folder: &'a Path,
    limit: Duration,
    services: Vec<Service>,
    frame: Frame,
}

impl Peer {
    /// For tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Nft => "kube-proxy's nftables shape",
            Peer::IptablesNft => "kube-proxy's iptables shape, nft",
            Peer::IptablesLegacy => "kube-proxy's iptables shape, legacy",
        }
    }

    /// As upstream calls it.
    fn command(self) -> Command {
        const RESTORE: [&str; 4] = ["-w", "5", "--noflush", "--counters"];
        let (program, args) = match self {
            Peer::Nft => ("nft", &["-f", "-"][..]),
            Peer::IptablesNft => ("iptables-nft-restore", &RESTORE[..]),
            Peer::IptablesLegacy => ("iptables-legacy-restore", &RESTORE[..]),
        };
        let mut command = Command::new(program);
        command.args(args);
        command
    }

    fn full(self, services: &[Service], frame: &Frame) -> String {
        match self {
            Peer::Nft => nftables::full(services, frame),
            _ => iptables::full(services, frame),
        }
    }

    fn change(self, services: &[Service], change: &Change<'_>, frame: &Frame) -> String {
        match self {
            Peer::Nft => nftables::change(change, frame),
            _ => iptables::change(services, change, frame),
        }
    }
}

impl<'a> Replay<'a> {
    /// A shape that is not loaded yet.
    pub(crate) fn new(peer: Peer, lane: &'a Lane, folder: &'a Path, limit: Duration) -> Self {
        Self {
            peer,
            lane,
            folder,
            limit,
            services: services(lane.services),
            frame: crate::plan::frame(lane.address),
        }
    }

    /// Loads all of it into the empty kernel.
    pub(crate) fn cold(&self) -> anyhow::Result<Cold> {
        if self.peer != Peer::Nft {
            self.load(&iptables::jumps())?;
        }
        Ok(
            match self.load(&self.peer.full(&self.services, &self.frame))? {
                Loaded::Took(took) => Cold::Took {
                    load: Some(took),
                    whole: None,
                },
                Loaded::Over => Cold::Over(self.limit),
            },
        )
    }

    /// Changes of each kind, one by one: a service is removed and added again, an endpoint is replaced and put back.
    pub(crate) fn changes(&mut self, most: usize) -> anyhow::Result<Changes> {
        let mut took = KINDS.map(|_| Vec::new());
        let size = self.services.len();
        for k in 0..most {
            let n = spread(k, size);
            let (whole, other) = (service(n), replaced(n));
            self.services[n] = other.clone();
            took[0].push(self.one(&Change::Replaced {
                before: &whole,
                after: &other,
            })?);
            self.services[n] = whole.clone();
            self.one(&Change::Replaced {
                before: &other,
                after: &whole,
            })?;
            self.services.remove(n);
            took[2].push(self.one(&Change::Removed(&whole))?);
            self.services.insert(n, whole.clone());
            took[1].push(self.one(&Change::Added(&whole))?);
            if enough(k + 1, took.iter().flatten().sum()) {
                break;
            }
        }
        Ok(took.map(|took| (took.into_iter().collect(), Samples::default())))
    }

    fn one(&self, change: &Change<'_>) -> anyhow::Result<Duration> {
        match self.load(&self.peer.change(&self.services, change, &self.frame))? {
            Loaded::Took(took) => Ok(took),
            Loaded::Over => {
                anyhow::bail!("{}: a change took over {:?}", self.peer.name(), self.limit)
            }
        }
    }

    /// From the start of the tool to its end.
    fn load(&self, text: &str) -> anyhow::Result<Loaded> {
        let file = |name: &str| self.folder.join(format!("{}-{name}", self.lane.device));
        let (input, said) = (file("input"), file("said"));
        std::fs::write(&input, text)?;
        let run = || -> anyhow::Result<_> {
            let begin = Instant::now();
            let mut child = self
                .peer
                .command()
                .env("XTABLES_LOCKFILE", file("lock"))
                .stdin(File::open(&input)?)
                .stdout(Stdio::null())
                .stderr(File::create(&said)?)
                .spawn()
                .with_context(|| format!("start the tool of {}", self.peer.name()))?;
            let status = limited(&mut child, self.limit)?;
            Ok((status, begin.elapsed()))
        };
        match self.lane.node.enter(run)? {
            (None, _) => Ok(Loaded::Over),
            (Some(status), took) if status.success() => Ok(Loaded::Took(took)),
            (Some(status), _) => {
                let said = std::fs::read_to_string(&said)?;
                let said: String = said.lines().take(5).collect::<Vec<_>>().join("\n");
                anyhow::bail!(
                    "{}, {} services: {status}\n{said}",
                    self.peer.name(),
                    self.services.len()
                )
            }
        }
    }
}

/// Waits for the end; `None`: it was ended at the limit.
fn limited(child: &mut Child, limit: Duration) -> anyhow::Result<Option<std::process::ExitStatus>> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (done, waits) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let guard = scope.spawn(move || {
            let over = waits.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            over && kill(pid, Signal::SIGKILL).is_ok()
        });
        let status = child.wait();
        drop(done);
        let over = guard.join().unwrap_or_default();
        Ok((!over).then_some(status?))
    })
}
