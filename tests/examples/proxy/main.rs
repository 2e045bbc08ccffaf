//! `scripts/bench proxy`: keelson's service proxy beside the shapes that kube-proxy writes, in one run, each in a network
//! of its own: cold load, one change, added latency of connections, memory and CPU, at several numbers of services of two
//! endpoints each. Ends with a line an aim.

mod knock;
mod lanes;
mod latency;
mod objects;
mod own;
mod peer;
mod plan;
mod report;
mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use keelson_tests::Bed;

use lanes::{Lane, Lanes};
use latency::{Way, by_turns};
use objects::Objects;
use own::{Churn, Own};
use peer::{Peer, Replay};
use plan::SERVICES;
use report::{Cold, FEW, Measured, Report};

/// keelson's service proxy beside kube-proxy's shapes.
#[derive(Parser)]
struct Flags {
    /// Numbers of services, growing.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,50000")]
    sizes: Vec<usize>,
    /// Modes of keelson's proxy.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "nftables")]
    modes: Vec<String>,
    /// kube-proxy's shapes.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0.., default_value = "nft,iptables-nft,iptables-legacy")]
    peers: Vec<Peer>,
    /// Seconds after which a load is ended; the shape is not tried at larger sizes then.
    #[arg(long, default_value_t = 120)]
    limit: u64,
    /// Changes of each kind; fewer where one takes long.
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Connections through each lane at each size.
    #[arg(long, default_value_t = 4000)]
    samples: usize,
    /// Seconds of churn.
    #[arg(long, default_value_t = 20)]
    churn: u64,
    /// Writes a second during the churn.
    #[arg(long, default_value_t = 50)]
    rate: u32,
}

fn main() -> anyhow::Result<()> {
    let mut flags = Flags::parse();
    if flags.sizes.first() != Some(&FEW) {
        flags.sizes.insert(0, FEW);
    }
    anyhow::ensure!(
        flags.sizes.is_sorted(),
        "sizes have to grow: {:?}",
        flags.sizes
    );
    let report = Bench::new(&flags)?.run()?;
    println!("{report}");
    if let Some(mode) = flags.modes.first() {
        for aim in report.aims(&own_name(mode), Peer::Nft.name()) {
            println!("{aim}");
        }
    }
    Ok(())
}

fn own_name(mode: &str) -> String {
    format!("keelson {mode}")
}

/// All that runs. Dropping it leaves nothing.
struct Bench<'a> {
    flags: &'a Flags,
    /// Loaded, in the order of their making; the first is the direct way.
    lanes: Vec<Lane>,
    way: Lanes,
    bed: Bed,
    kubeconfig: PathBuf,
    report: Report,
}

impl<'a> Bench<'a> {
    fn new(flags: &'a Flags) -> anyhow::Result<Self> {
        let bed = Bed::api(&["--service-cidr", SERVICES]);
        let mut way = Lanes::new()?;
        let direct = way.add("direct", 0)?;
        Ok(Self {
            flags,
            lanes: vec![direct],
            way,
            kubeconfig: bed.kubeconfig_from_elsewhere(),
            bed,
            report: Report::default(),
        })
    }

    fn run(mut self) -> anyhow::Result<Report> {
        let mut there = 0;
        let mut peers = self.flags.peers.clone();
        for size in self.flags.sizes.clone() {
            println!("{size} services");
            if !self.flags.modes.is_empty() {
                self.bed
                    .kube(async |client| Objects::new(&client).create(there..size).await)?;
                there = size;
            }
            for mode in &self.flags.modes {
                self.own(mode, size)?;
            }
            let mut slow = Vec::new();
            for peer in &peers {
                if !self.peer(*peer, size)? {
                    slow.push(*peer);
                }
            }
            peers.retain(|peer| !slow.contains(peer));
            self.latency(size)?;
        }
        Ok(self.report)
    }

    /// One of our modes at a size.
    fn own(&mut self, mode: &str, size: usize) -> anyhow::Result<()> {
        let name = own_name(mode);
        let lane = self.way.add(&name, size)?;
        let last = u8::try_from(100 + self.lanes.len())?;
        self.bed
            .attach(&lane.node, &lane.device, [10, 88, 0, last].into());
        let (limit, changes) = (Duration::from_secs(self.flags.limit), self.flags.changes);
        let churn = Churn {
            rate: self.flags.rate,
            lasts: Duration::from_secs(self.flags.churn),
        };
        let (own, cold) = Own::cold(mode, &lane, &self.way.knocker, &self.kubeconfig, limit)?;
        println!("  {name}: {cold}");
        let (changes, process) = self.bed.kube(async |client| {
            let mut changed = None;
            let held = own.held(&client, churn, async || {
                changed = Some(own.changes(&client, changes).await?);
                Ok(())
            });
            let held = held.await?;
            anyhow::Ok((changed, held))
        })?;
        own.end();
        println!("  {name}: {:.1} MB", process.loaded);
        self.report.measured.push(Measured {
            name,
            size,
            cold,
            changes,
            process: Some(process),
        });
        self.lanes.push(lane);
        Ok(())
    }

    /// A shape at a size; whether it was loaded within the limit.
    fn peer(&mut self, peer: Peer, size: usize) -> anyhow::Result<bool> {
        let lane = self.way.add(peer.name(), size)?;
        let limit = Duration::from_secs(self.flags.limit);
        let folder: &Path = &self.bed.folder();
        let mut replay = Replay::new(peer, &lane, folder, limit);
        let cold = replay.cold()?;
        println!("  {}: {cold}", peer.name());
        let loaded = matches!(cold, Cold::Took { .. });
        let changes = loaded
            .then(|| replay.changes(self.flags.changes))
            .transpose()?;
        self.report.measured.push(Measured {
            name: peer.name().into(),
            size,
            cold,
            changes,
            process: None,
        });
        if loaded {
            self.lanes.push(lane);
        }
        Ok(loaded)
    }

    /// Connections through all lanes of this size, those of few services and the direct way.
    fn latency(&mut self, size: usize) -> anyhow::Result<()> {
        let way = |lane: &Lane, services: usize| Way {
            name: lane.name.clone(),
            direct: lane.services == 0,
            services,
            device: lane.device.clone(),
        };
        let sizes = BTreeSet::from([FEW, size]);
        let ways = self.lanes.iter().flat_map(|lane| {
            let its = sizes.iter().filter(|s| [0, **s].contains(&lane.services));
            its.map(move |services| way(lane, *services))
        });
        let (ways, samples) = (ways.collect(), self.flags.samples);
        let measured = self
            .way
            .knocker
            .begin(move || by_turns(size, ways, samples));
        self.report.rounds.push(measured.wait()??);
        Ok(())
    }
}
