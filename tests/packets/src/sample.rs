//! Worlds with their packets, sent for real.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use keelson_proxy_plan::model::{Entry, Family, Protocol};
use keelson_proxy_plan::options::Options;
use keelson_proxy_plan::packet::{Node, Outcome, Packet};

use crate::{Bed, World};

/// Packets of a world.
const PACKETS: usize = 60;
/// So many are drawn at most: there are worlds in which nothing is served.
const DRAWN: usize = 400;
/// Of those that pass, and of those that are refused, which are most, there are at most so many.
const COMMON: usize = 12;

/// A world at one moment.
#[derive(Debug)]
pub struct Case {
    /// All addresses are of this family.
    pub family: Family,
    /// Its services.
    pub entries: Vec<Entry>,
    /// What rules depend on beside them.
    pub options: Options,
    /// The node that has the rules.
    pub node: Node,
}

/// How a sample went.
#[derive(Debug, Default)]
pub struct Told {
    /// How many packets were to meet what.
    pub met: BTreeMap<&'static str, usize>,
    /// Those that met something else, for people.
    pub differing: Vec<String>,
}

/// The word for what becomes of a packet.
pub fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Refused => "refused",
        Outcome::Dropped => "dropped",
        Outcome::Sent(_) => "sent",
    }
}

impl Case {
    fn new(world: &mut World) -> Self {
        let (state, options, node) = (world.state(), world.options(), world.node());
        Self {
            family: world.family(),
            entries: state.all().flatten().collect(),
            options,
            node,
        }
    }
}

/// Has rules written for worlds of these seeds, one after the other in each of so many beds, sends each world's packets,
/// and compares. Of a packet for which `decide` has no word there is nothing to compare.
///
/// # Panics
/// When rules can't be written.
pub fn sample(
    seeds: Range<u64>,
    beds: usize,
    write: impl Fn(&Bed, &Case) + Sync,
    decide: impl Fn(&Case, &Packet) -> Option<Outcome> + Sync,
) -> Told {
    let told = Mutex::new(Told::default());
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let bed = Bed::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return;
            }
            let mut world = World::new(seed);
            let case = Case::new(&mut world);
            write(&bed, &case);
            let wanted = packets(&mut world, |packet| decide(&case, packet));
            let differing = bed.differing(&wanted);
            let mut told = told.lock().expect("nobody panics with it");
            for (_, outcome) in &wanted {
                *told.met.entry(kind(outcome)).or_default() += 1;
            }
            told.differing
                .extend(differing.iter().map(|(packet, want, seen)| {
                    format!(
                        "seed {seed}, {packet}\n  want {want:?}\n  seen {seen:?}\n  {:?}",
                        case.options
                    )
                }));
        }
    };
    std::thread::scope(|scope| {
        (0..beds).for_each(|_| drop(scope.spawn(work)));
    });
    told.into_inner().expect("nobody panicked")
}

/// A world's packets, and what is said of each. Not everybody has sockets for SCTP.
fn packets(
    world: &mut World,
    decide: impl Fn(&Packet) -> Option<Outcome>,
) -> Vec<(Packet, Outcome)> {
    let mut met = BTreeMap::<_, usize>::new();
    let all = std::iter::repeat_with(|| world.packet());
    let told = all
        .filter(|p| p.protocol != Protocol::Sctp)
        .filter_map(|p| decide(&p).map(|outcome| (p, outcome)));
    let chosen = told.take(DRAWN).filter(|(_, outcome)| {
        let met = met.entry(kind(outcome)).or_default();
        *met += 1;
        let common = matches!(outcome, Outcome::Pass | Outcome::Refused);
        !common || *met <= COMMON
    });
    chosen.take(PACKETS).collect()
}

impl Told {
    /// # Panics
    /// When a packet met something else, or hardly any met one of the four.
    #[track_caller]
    pub fn assert_same(&self, what: &str) {
        println!("{what}: {:?}", self.met);
        let (count, lines) = (self.differing.len(), self.differing.join("\n"));
        assert!(count == 0, "{what}: {count} differ\n{lines}");
        // A test of nothing would pass as well.
        let each = self.met.len() == 4 && self.met.values().all(|n| *n >= 40);
        assert!(each, "{what}: {:?}", self.met);
    }
}
