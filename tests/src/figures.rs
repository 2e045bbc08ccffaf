//! What a benchmark prints: samples, aims, and a process's use.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::Context;

/// Durations in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub fn push(&mut self, sample: Duration) {
        let sample = sample.as_secs_f64() * 1e3;
        let place = self.0.partition_point(|s| *s < sample);
        self.0.insert(place, sample);
    }

    /// The median.
    pub fn p50(&self) -> f64 {
        self.percentile(50)
    }

    /// What one in a hundred exceeds.
    pub fn p99(&self) -> f64 {
        self.percentile(99)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that so many of a hundred do not exceed; no number without samples.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        let mut all: Vec<f64> = samples.into_iter().map(|s| s.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99, n) = (self.p50(), self.p99(), self.0.len());
        write!(f, "median {p50:.1} ms, p99 {p99:.1} ms of {n}")
    }
}

/// A figure and what it should be.
pub struct Aim {
    name: &'static str,
    figure: f64,
    bound: f64,
    unit: &'static str,
    most: bool,
}

impl Aim {
    /// The figure should be below the bound.
    pub fn most(name: &'static str, figure: f64, bound: f64, unit: &'static str) -> Self {
        Self {
            name,
            figure,
            bound,
            unit,
            most: true,
        }
    }

    /// The figure should reach the bound.
    pub fn least(name: &'static str, figure: f64, bound: f64, unit: &'static str) -> Self {
        Self {
            most: false,
            ..Self::most(name, figure, bound, unit)
        }
    }

    fn met(&self) -> bool {
        if self.most {
            self.figure < self.bound
        } else {
            self.figure >= self.bound
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            figure,
            bound,
            unit,
            most,
        } = self;
        let sign = if *most { '<' } else { '≥' };
        let met = if self.met() { "met" } else { "missed" };
        write!(
            f,
            "aim {name}: {figure:.2} {unit} (aim {sign} {bound} {unit}): {met}"
        )
    }
}

/// USER_HZ is 100 on every architecture that Debian has.
const TICK_MS: f64 = 10.0;

/// Milliseconds that this machine's processors have worked since it was started, whoever for.
pub fn machine_ms() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("a line")?;
    let ticks: Vec<f64> = all
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq; proc_stat(5)
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat is short");
    };
    Ok((user + nice + system + irq + softirq) * TICK_MS)
}

/// What a process holds and has used.
pub struct Usage {
    pss_kb: f64,
    /// Its own time on the processors, in ticks.
    ticks: f64,
    /// That of the processes it has started and waited for.
    children: f64,
}

impl Usage {
    /// Now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:"));
        let pss = pss.and_then(|p| p.trim().strip_suffix(" kB"));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name before may have spaces in it.
        let (_, fields) = stat.rsplit_once(") ").context("a process")?;
        let times = fields.split(' ').skip(11).take(4).map(str::parse::<f64>);
        let [user, system, child_user, child_system] = times.collect::<Result<Vec<_>, _>>()?[..]
        else {
            anyhow::bail!("stat of process {pid} is short");
        };
        Ok(Self {
            pss_kb: pss.context("a size")?.parse()?,
            ticks: user + system,
            children: child_user + child_system,
        })
    }

    /// Proportional set size.
    pub fn pss_mb(&self) -> f64 {
        self.pss_kb / 1024.0
    }

    /// Milliseconds on the processors since an earlier look: its own, and of processes it has waited for.
    pub fn ms_since(&self, earlier: &Self) -> [f64; 2] {
        [self.ticks - earlier.ticks, self.children - earlier.children].map(|ticks| ticks * TICK_MS)
    }

    /// Percent of one core since an earlier look.
    pub fn cpu_since(&self, earlier: &Self, elapsed: Duration) -> f64 {
        (self.ticks - earlier.ticks) / elapsed.as_secs_f64()
    }
}

/// What runs on a node for its pods.
pub struct Beside {
    /// How many processes.
    pub processes: usize,
    /// Their proportional set sizes together.
    pub pss_mb: f64,
}

/// Agent, shims and log writers: all that shares containerd's mount namespace, containerd itself left out. A pod's own
/// processes have namespaces of their own.
pub fn beside(containerd: u32) -> anyhow::Result<Beside> {
    let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let here = space(containerd).context("containerd is gone")?;
    let mut own = Beside {
        processes: 0,
        pss_mb: 0.0,
    };
    let all = fs::read_dir("/proc")?.flatten();
    for pid in all.filter_map(|e| e.file_name().to_str()?.parse().ok()) {
        if pid == containerd || space(pid).as_ref() != Some(&here) {
            continue;
        }
        if let Ok(usage) = Usage::of(pid) {
            own.processes += 1;
            own.pss_mb += usage.pss_mb();
        }
    }
    Ok(own)
}
