//! Calls of plugins, timed from the start of their process to its end.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use keelson_tests::bins::program;
use keelson_tests::figures::Samples;
use keelson_tests::space::Space;
use serde_json::{Value, json};
use tempfile::TempDir;

const DEBIANS: &str = "/usr/lib/cni";

/// Whose plugins.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Lane {
    Ours,
    Debians,
}

impl Lane {
    pub(crate) const BOTH: [Self; 2] = [Self::Ours, Self::Debians];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "keelson-cni",
            Self::Debians => "Debian's",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Plain,
    Masquerade,
    HostPort,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Masquerade, Self::HostPort];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "bridge and host-local",
            Self::Masquerade => "with masquerade",
            Self::HostPort => "with a host port",
        }
    }

    /// The most that our ADD may take, as a part of Debian's.
    pub(crate) fn aim(self) -> Option<(&'static str, f64)> {
        match self {
            Self::Plain => Some(("cni-add", 0.20)),
            Self::Masquerade => Some(("cni-add-masquerade", 0.10)),
            Self::HostPort => None,
        }
    }
}

/// How long calls took.
#[derive(Default)]
pub(crate) struct Times {
    pub(crate) add: Samples,
    pub(crate) del: Samples,
}

/// A node for each lane, and pods.
pub(crate) struct Pair {
    kind: Kind,
    nodes: [Space; 2],
    pods: Vec<Space>,
    dir: TempDir,
}

impl Pair {
    pub(crate) fn new(kind: Kind, pods: usize) -> anyhow::Result<Self> {
        let nodes = [
            Space::new("ours", "", &[])?,
            Space::new("debians", "", &[])?,
        ];
        // One more for each node, that stays: what all pods of a node need is there.
        let pods: anyhow::Result<Vec<Space>> =
            (0..pods + 2).map(|_| Space::new("pod", "", &[])).collect();
        let pair = Self {
            kind,
            nodes,
            pods: pods?,
            dir: tempfile::tempdir()?,
        };
        for (i, lane) in Lane::BOTH.into_iter().enumerate() {
            pair.nodes[i].enter(|| pair.call(lane, "ADD", pair.busy() + i, None))?;
        }
        Ok(pair)
    }

    /// How many pods come and go.
    fn busy(&self) -> usize {
        self.pods.len() - 2
    }

    /// The chain of plugins, each with its configuration.
    fn chain(&self, lane: Lane, pod: usize) -> Vec<(PathBuf, Value)> {
        let ours = lane == Lane::Ours;
        let ports = json!({"portMappings": [
            {"hostPort": 30_000 + pod, "containerPort": 80, "protocol": "tcp"}]});
        let mut bridge = json!({"cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "bench0",
            "isGateway": true, "ipMasq": self.kind == Kind::Masquerade,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]],
                "routes": [{"dst": "0.0.0.0/0"}], "dataDir": self.dir.path().join(lane.name())}});
        let mut portmap = json!({"cniVersion": "1.0.0", "name": "pods", "type": "portmap"});
        let mut chain = Vec::new();
        match (self.kind == Kind::HostPort, ours) {
            (true, true) => bridge["runtimeConfig"] = ports,
            (true, false) => {
                portmap["runtimeConfig"] = ports;
                chain.push((PathBuf::from(DEBIANS).join("portmap"), portmap));
            }
            (false, _) => {}
        }
        let first = if ours {
            program("keelson-cni")
        } else {
            PathBuf::from(DEBIANS).join("bridge")
        };
        chain.insert(0, (first, bridge));
        chain
    }

    /// Carries a command out by a lane's whole chain, in the network that this thread is in. ADD gives its result, which
    /// a runtime remembers and hands to DEL.
    fn call(
        &self,
        lane: Lane,
        command: &str,
        pod: usize,
        previous: Option<Value>,
    ) -> anyhow::Result<(Duration, Option<Value>)> {
        let mut chain = self.chain(lane, pod);
        if command == "DEL" {
            chain.reverse();
        }
        let (mut result, mut spent) = (previous, Duration::ZERO);
        for (program, mut conf) in chain {
            if let Some(result) = &result {
                conf["prevResult"] = Value::clone(result);
            }
            let begin = Instant::now();
            let mut child = Command::new(&program)
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", format!("pod-{pod}"))
                .env(
                    "CNI_NETNS",
                    format!("/proc/{}/ns/net", self.pods[pod].init()),
                )
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", DEBIANS)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("start {}", program.display()))?;
            let mut input = child.stdin.take().context("its input is a pipe")?;
            input.write_all(conf.to_string().as_bytes())?;
            drop(input);
            let output = child.wait_with_output()?;
            spent += begin.elapsed();
            let said = String::from_utf8_lossy(&output.stdout);
            anyhow::ensure!(
                output.status.success(),
                "{} {command}: {said}",
                program.display()
            );
            if command == "ADD" {
                result = Some(serde_json::from_slice(&output.stdout)?);
            }
        }
        Ok((spent, result))
    }

    /// By turns, so that what else this machine does concerns both.
    pub(crate) fn one_at_a_time(&self, rounds: usize) -> anyhow::Result<[Times; 2]> {
        let mut times = [Times::default(), Times::default()];
        for _ in 0..rounds {
            for (i, lane) in Lane::BOTH.into_iter().enumerate() {
                let both = self.nodes[i].enter(|| {
                    let (add, result) = self.call(lane, "ADD", 0, None)?;
                    anyhow::Ok((add, self.call(lane, "DEL", 0, result)?.0))
                });
                let (add, del) = both?;
                times[i].add.push(add);
                times[i].del.push(del);
            }
        }
        Ok(times)
    }

    /// Each pod's ADD and DEL, all pods at once; the pairs a second of each lane. By turns too.
    pub(crate) fn at_once(&self, each: usize) -> anyhow::Result<[f64; 2]> {
        const TURNS: usize = 3;
        let mut spent = [Duration::ZERO; 2];
        for _ in 0..TURNS {
            for (i, lane) in Lane::BOTH.into_iter().enumerate() {
                let begin = Instant::now();
                std::thread::scope(|scope| {
                    let one = |pod: usize| {
                        move || {
                            self.nodes[i].enter(|| {
                                for _ in 0..each {
                                    let (_, result) = self.call(lane, "ADD", pod, None)?;
                                    self.call(lane, "DEL", pod, result)?;
                                }
                                anyhow::Ok(())
                            })
                        }
                    };
                    let all: Vec<_> = (0..self.busy()).map(|p| scope.spawn(one(p))).collect();
                    all.into_iter().try_for_each(|thread| match thread.join() {
                        Ok(done) => done,
                        Err(panic) => std::panic::resume_unwind(panic),
                    })
                })?;
                spent[i] += begin.elapsed();
            }
        }
        let pairs = (TURNS * each * self.busy()) as f64;
        Ok(spent.map(|time| pairs / time.as_secs_f64()))
    }
}
