//! Latency of connections, measured by turns through all lanes, so that the machine's moods meet all alike.

use std::time::Duration;

use keelson_tests::figures::Samples;
use rand::seq::SliceRandom;

use crate::knock::{Answer, knock};
use crate::plan::{endpoint, service};
use crate::report::FEW;
use crate::table::Table;

/// Where connections go in the order of services.
const PLACES: [&str; 4] = ["first", "middle", "last", "random"];
/// Connections through each lane that are not counted.
const WARM: usize = 40;
/// A connection that takes longer was lost.
const LOST: Duration = Duration::from_millis(900);

/// Which way connections go.
#[derive(Clone)]
pub(crate) struct Way {
    /// Of the shape in its lane.
    pub(crate) name: String,
    /// Straight to endpoints, past no rules.
    pub(crate) direct: bool,
    /// To the addresses of so many services, or of their endpoints.
    pub(crate) services: usize,
    /// The client's device.
    pub(crate) device: String,
}

/// What connections took.
pub(crate) struct Latency {
    way: Way,
    /// By place.
    samples: [Vec<Duration>; 4],
}

/// All latencies of a size.
pub(crate) struct Round {
    pub(crate) size: usize,
    lanes: Vec<Latency>,
}

/// Measures; in the client's network.
pub(crate) fn by_turns(size: usize, ways: Vec<Way>, samples: usize) -> anyhow::Result<Round> {
    let latency = |way| Latency {
        way,
        samples: Default::default(),
    };
    let mut lanes: Vec<Latency> = ways.into_iter().map(latency).collect();
    for round in 0..samples + WARM {
        lanes.shuffle(&mut rand::rng());
        let place = round % PLACES.len();
        for lane in &mut lanes {
            let took = lane.way.connect(place)?;
            if round >= WARM {
                lane.samples[place].push(took);
            }
        }
    }
    lanes.sort_by_key(|l| (!l.way.direct, l.way.services));
    Ok(Round { size, lanes })
}

impl Way {
    fn connect(&self, place: usize) -> anyhow::Result<Duration> {
        let last = self.services - 1;
        let n = [0, last / 2, last, rand::random_range(0..=last)][place];
        let to = match self.direct {
            true => endpoint(n, rand::random_range(0..=1)),
            false => service(n).address,
        };
        let attempt = knock(&self.device, to, LOST)?;
        let (name, answer) = (&self.name, attempt.answer);
        anyhow::ensure!(
            answer == Answer::Open,
            "{name}, {} services: {to} is {answer:?}",
            self.services
        );
        Ok(attempt.took)
    }
}

impl Latency {
    fn all(&self) -> Samples {
        self.samples.iter().flatten().copied().collect()
    }
}

impl Round {
    fn direct(&self, services: usize) -> Samples {
        let direct = |lane: &&Latency| lane.way.direct && lane.way.services == services;
        self.lanes
            .iter()
            .find(direct)
            .map(Latency::all)
            .unwrap_or_default()
    }

    /// What a shape adds to the median of direct connections to as many endpoints, in microseconds.
    fn added(&self, name: &str, services: usize) -> f64 {
        let this = |lane: &&Latency| lane.way.name == name && lane.way.services == services;
        let through = self.lanes.iter().find(this).map(Latency::all);
        micros(through.unwrap_or_default().p50() - self.direct(services).p50())
    }

    /// What it adds with so many services, in parts of what it adds with few.
    pub(crate) fn growth(&self, name: &str, services: usize) -> f64 {
        self.added(name, services) / self.added(name, FEW)
    }

    pub(crate) fn table(&self) -> Table {
        let heads = [
            "shape",
            "services",
            "p50",
            "p99",
            "added p50",
            "added p99",
            "to with 10",
        ];
        let mut table = Table::new(&[&heads[..], &PLACES].concat());
        for lane in &self.lanes {
            let (all, way) = (lane.all(), &lane.way);
            let direct = self.direct(way.services);
            let (added, tail, growth) = match way.direct {
                true => Default::default(),
                false => (
                    format!("{:.1}", micros(all.p50() - direct.p50())),
                    format!("{:.1}", micros(all.p99() - direct.p99())),
                    format!("{:.2}", self.growth(&way.name, way.services)),
                ),
            };
            let place = |samples: &Vec<Duration>| {
                let samples: Samples = samples.iter().copied().collect();
                format!("{:.1}", micros(samples.p50()))
            };
            let [first, middle, last, random] = lane.samples.each_ref().map(place);
            table.row([
                way.name.clone(),
                way.services.to_string(),
                format!("{:.1}", micros(all.p50())),
                format!("{:.1}", micros(all.p99())),
                added,
                tail,
                growth,
                first,
                middle,
                last,
                random,
            ]);
        }
        table
    }
}

fn micros(ms: f64) -> f64 {
    ms * 1e3
}
