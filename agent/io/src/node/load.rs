//! What the machine as a whole uses at the moment: read only when somebody asks for figures.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use procfs::prelude::*;

use super::facts::{Error, Roots, content, text};

/// What was read at one moment. Sizes are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// When.
    pub at: Timestamp,
    /// CPU time of all processors that was not idle, nanoseconds.
    pub cpu_nanoseconds: u64,
    /// The part of it in user space.
    pub cpu_user: u64,
    /// Memory.
    pub memory: u64,
    /// Memory that nothing uses.
    pub memory_free: u64,
    /// Memory that could be had without swapping.
    pub memory_available: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Swap.
    pub swap: u64,
    /// Swap that nothing uses.
    pub swap_free: u64,
    /// Page faults since boot.
    pub page_faults: u64,
    /// Page faults since boot that had to read.
    pub major_page_faults: u64,
    /// Interfaces but `lo`.
    pub interfaces: Vec<Interface>,
}

/// Counters of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Such as `eth0`.
    pub name: String,
    /// Received: bytes, packets, errors, dropped.
    pub received: [u64; 4],
    /// Sent: bytes, packets, errors, dropped.
    pub sent: [u64; 4],
}

impl Load {
    /// Memory in use without what could be dropped at once.
    pub fn working_set(&self) -> u64 {
        self.memory.saturating_sub(self.memory_available)
    }
}

/// Reads the machine's load.
pub fn load(roots: &Roots) -> Result<Load, Error> {
    let path = roots.proc.join("stat");
    let stat = text(&path)?;
    let (user, system) = busy(&stat).ok_or_else(|| content(&path, "no cpu line"))?;
    let path = roots.proc.join("meminfo");
    let memory = procfs::Meminfo::from_file(&path).map_err(|e| content(&path, &e.to_string()))?;
    let faults = text(&roots.proc.join("vmstat"))?;
    Ok(Load {
        at: Timestamp::now(),
        cpu_nanoseconds: user + system,
        cpu_user: user,
        memory: memory.mem_total,
        memory_free: memory.mem_free,
        memory_available: memory
            .mem_available
            .ok_or_else(|| content(&path, "no MemAvailable"))?,
        rss: memory.anon_pages.unwrap_or_default(),
        cache: memory.cached,
        swap: memory.swap_total,
        swap_free: memory.swap_free,
        page_faults: counter(&faults, "pgfault"),
        major_page_faults: counter(&faults, "pgmajfault"),
        interfaces: interfaces(&text(&roots.proc.join("net/dev"))?),
    })
}

/// The counters of the network namespace this thread is in; empty if they cannot be read.
pub(crate) fn own_interfaces() -> Vec<Interface> {
    let text = fs::read_to_string(Path::new("/proc/thread-self/net/dev"));
    interfaces(&text.unwrap_or_default())
}

/// Time in user space and in the kernel, nanoseconds; the kernel counts in 1/100 s. The time of guests is in that of
/// their user.
pub(super) fn busy(stat: &str) -> Option<(u64, u64)> {
    const TICK: u64 = 10_000_000;
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let at = |i: usize| ticks.get(i).copied();
    let user = at(0)? + at(1)?;
    let system = at(2)? + at(5)? + at(6)? + at(7)?;
    Some((user * TICK, system * TICK))
}

fn counter(vmstat: &str, key: &str) -> u64 {
    let value = |line: &str| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    };
    vmstat.lines().find_map(value).unwrap_or_default()
}

/// `/proc/net/dev` without `lo`.
fn interfaces(dev: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let n: Vec<u64> = counters
            .split_whitespace()
            .map_while(|n| n.parse().ok())
            .collect();
        let four = |from: usize| n.get(from..from + 4)?.try_into().ok();
        Some(Interface {
            name: name.trim().to_owned(),
            received: four(0)?,
            sent: four(8)?,
        })
    };
    dev.lines()
        .filter_map(line)
        .filter(|i| i.name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_but_the_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
               lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
             eth0:     1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n";
        let eth0 = Interface {
            name: "eth0".into(),
            received: [1, 2, 3, 4],
            sent: [5, 6, 7, 8],
        };
        assert_eq!(interfaces(text), [eth0]);
        assert_eq!(interfaces("eth0: 1 2"), []);
    }

    #[test]
    fn this_machine_is_used() {
        let load = load(&Roots::host("/")).expect("load");
        assert!(load.cpu_nanoseconds > load.cpu_user && load.cpu_user > 0);
        assert!(load.working_set() > 0 && load.memory > load.memory_free);
        assert!(load.page_faults > load.major_page_faults && load.rss > 0);
    }
}
