//! What was measured, as tables and aims.

use std::fmt;
use std::time::Duration;

use keelson_tests::figures::{Aim, Samples};

use crate::latency::Round;
use crate::table::Table;

/// Kinds of change, in the order of their samples.
pub(crate) const KINDS: [&str; 3] = ["endpoint replaced", "service added", "service removed"];

/// Services that added latency at other sizes is compared with.
pub(crate) const FEW: usize = 10;

/// For each kind: from the write or the start of the tool, and (ours) from the API's event.
pub(crate) type Changes = [(Samples, Samples); 3];

/// Time for changes of all kinds together: fewer are made where one takes long, but at least a few.
const BUDGET: Duration = Duration::from_secs(90);
const FEWEST: usize = 3;

/// Whether no more changes are to be made.
pub(crate) fn enough(rounds: usize, spent: Duration) -> bool {
    spent > BUDGET && rounds >= FEWEST
}

/// From an empty kernel to all rules in place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cold {
    /// The load itself, where it is known, and from the start of the process, where it reads the API.
    Took {
        load: Option<Duration>,
        whole: Option<Duration>,
    },
    /// It was ended at the limit.
    Over(Duration),
}

/// A shape at a size.
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) size: usize,
    pub(crate) cold: Cold,
    pub(crate) changes: Option<Changes>,
    /// Of a proxy's process.
    pub(crate) process: Option<Held>,
}

/// What a proxy's process held, in MB, and used.
pub(crate) struct Held {
    /// Some seconds after its load.
    pub(crate) loaded: f64,
    /// After changes and churn.
    pub(crate) after: f64,
    /// Percent of a core while nothing happened.
    pub(crate) idle: f64,
    /// Percent of a core during the churn.
    pub(crate) churn: f64,
    /// Writes a second that came about.
    pub(crate) rate: f64,
}

/// Everything.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) measured: Vec<Measured>,
    pub(crate) rounds: Vec<Round>,
}

impl Report {
    fn of(&self, name: &str, size: usize) -> Option<&Measured> {
        self.measured
            .iter()
            .find(|m| m.name == name && m.size == size)
    }

    /// The figures that should be reached, of one of our modes beside the peers' shape of the same kind.
    pub(crate) fn aims(&self, own: &str, peer: &str) -> Vec<Aim> {
        let mut aims = Vec::new();
        const SIZE: usize = 10_000;
        if let Some(measured) = self.of(own, SIZE) {
            let load = measured.cold.seconds();
            aims.push(Aim::most("cold-load-10000", load, 0.5, "s"));
            if let Some(peer) = self.of(peer, SIZE) {
                let part = load / peer.cold.seconds();
                aims.push(Aim::most(
                    "cold-load-10000-to-nft-shape",
                    part,
                    0.05,
                    "times",
                ));
            }
            if let Some(held) = &measured.process {
                aims.push(Aim::most("pss-10000", held.loaded, 40.0, "MB"));
            }
        }
        let changes = self
            .measured
            .iter()
            .filter(|m| m.name == own)
            .filter_map(|m| m.changes.as_ref());
        let (write, event) = changes
            .flatten()
            .fold((f64::NAN, f64::NAN), |(write, event), (w, e)| {
                (write.max(w.p99()), event.max(e.p99()))
            });
        aims.push(Aim::most("change-p99-any-size", event, 5.0, "ms"));
        aims.push(Aim::most(
            "change-p99-any-size-from-write",
            write,
            5.0,
            "ms",
        ));
        if let Some(round) = self.rounds.last().filter(|round| round.size > FEW) {
            let ratio = round.growth(own, round.size);
            aims.push(Aim::most("added-latency-flat", ratio, 1.1, "times"));
        }
        aims
    }
}

impl Cold {
    /// The load itself, else the whole; the limit when it was over.
    fn seconds(&self) -> f64 {
        match self {
            Cold::Took { load, whole } => load.or(*whole).map_or(f64::NAN, |t| t.as_secs_f64()),
            Cold::Over(limit) => limit.as_secs_f64(),
        }
    }
}

impl fmt::Display for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Cold::Took { load, whole: None } => write!(f, "loaded in {}", seconds(load)),
            Cold::Took { load, whole } => {
                let load = load.map_or("?".to_owned(), |load| seconds(Some(load)));
                write!(f, "in place after {}, the load {load}", seconds(whole))
            }
            Cold::Over(limit) => write!(f, "not loaded within {} s", limit.as_secs()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.colds()
            .print(f, "Cold load, from an empty kernel to all rules in place")?;
        self.changes().print(
            f,
            "One change, ms (peers: from the start of the tool to its end)",
        )?;
        for round in &self.rounds {
            let title = format!("Connect latency at {} services, µs, by turns", round.size);
            round.table().print(f, &title)?;
        }
        self.processes().print(f, "The proxy's process")
    }
}

impl Report {
    fn colds(&self) -> Table {
        let mut table = Table::new(&[
            "services",
            "shape",
            "load",
            "from start of process",
            "load to keelson's",
        ]);
        for m in &self.measured {
            let own = self
                .measured
                .iter()
                .find(|o| o.size == m.size && o.process.is_some());
            let ratio = own.map_or(f64::NAN, |own| m.cold.seconds() / own.cold.seconds());
            let (load, whole) = match m.cold {
                Cold::Took { load, whole } => (seconds(load), seconds(whole)),
                Cold::Over(limit) => (format!("> {} s", limit.as_secs()), String::new()),
            };
            let over = if matches!(m.cold, Cold::Over(_)) {
                "> "
            } else {
                ""
            };
            let ratio = format!("{over}{}", times(ratio));
            table.row([m.size.to_string(), m.name.clone(), load, whole, ratio]);
        }
        table
    }

    fn changes(&self) -> Table {
        let mut table = Table::new(&[
            "services",
            "shape",
            "change",
            "p50",
            "p99",
            "of",
            "event p50",
            "event p99",
            "p50 to keelson's",
        ]);
        for m in &self.measured {
            let own = self
                .measured
                .iter()
                .find(|o| o.size == m.size && o.process.is_some());
            for (place, (kind, (took, event))) in
                KINDS.iter().zip(m.changes.iter().flatten()).enumerate()
            {
                let own = own
                    .and_then(|o| o.changes.as_ref())
                    .and_then(|c| c.get(place));
                let ratio = own.map_or(f64::NAN, |(own, _)| took.p50() / own.p50());
                let from_event = |ms: f64| {
                    if event.count() == 0 {
                        String::new()
                    } else {
                        format!("{ms:.2}")
                    }
                };
                table.row([
                    m.size.to_string(),
                    m.name.clone(),
                    (*kind).to_owned(),
                    format!("{:.2}", took.p50()),
                    format!("{:.2}", took.p99()),
                    took.count().to_string(),
                    from_event(event.p50()),
                    from_event(event.p99()),
                    times(ratio),
                ]);
            }
        }
        table
    }

    fn processes(&self) -> Table {
        let mut table = Table::new(&[
            "services",
            "proxy",
            "PSS MB",
            "after changes",
            "idle CPU %",
            "churn CPU %",
            "writes/s",
        ]);
        for (m, held) in self
            .measured
            .iter()
            .filter_map(|m| Some((m, m.process.as_ref()?)))
        {
            table.row([
                m.size.to_string(),
                m.name.clone(),
                format!("{:.1}", held.loaded),
                format!("{:.1}", held.after),
                format!("{:.1}", held.idle),
                format!("{:.1}", held.churn),
                format!("{:.0}", held.rate),
            ]);
        }
        table
    }
}

fn times(ratio: f64) -> String {
    if ratio.is_nan() {
        String::new()
    } else {
        format!("{ratio:.1}")
    }
}

fn seconds(took: Option<Duration>) -> String {
    took.map(|t| format!("{:.3} s", t.as_secs_f64()))
        .unwrap_or_default()
}
