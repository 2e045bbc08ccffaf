//! Prometheus text (version 0.0.4): families, samples, histograms.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// The content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows only.
    Counter,
    /// Any number.
    Gauge,
    /// Counts by upper bounds.
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Text that is being written.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family: what follows belongs to it.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = kind.word();
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.series(name, labels);
        _ = writeln!(self.0, " {value}");
    }

    /// One value with the time at which it was read.
    pub fn sample_at(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl Display,
        at: Timestamp,
    ) {
        self.series(name, labels);
        _ = writeln!(self.0, " {value} {}", at.as_millisecond());
    }

    /// A family of one gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, Kind::Gauge);
        self.sample(name, &[], value);
    }

    /// A family of one counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help, Kind::Counter);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &Histogram) {
        let mut below = 0;
        let bucket = format!("{name}_bucket");
        let bounds = of.bounds.iter().map(f64::to_string);
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&of.counts) {
            below += count.load(Ordering::Relaxed);
            let mut all = labels.to_vec();
            all.push(("le", &bound));
            self.sample(&bucket, &all, below);
        }
        let sum = of.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, below);
    }

    fn series(&mut self, name: &str, labels: &[(&str, &str)]) {
        self.0.push_str(name);
        if labels.is_empty() {
            return;
        }
        for (i, (key, value)) in labels.iter().enumerate() {
            let first = if i == 0 { '{' } else { ',' };
            _ = write!(self.0, "{first}{key}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        self.0.push('}');
    }

    /// What was written.
    pub fn finish(self) -> String {
        self.0
    }
}

/// Durations counted by upper bounds in seconds. Observing takes no lock.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// An empty one; the bounds go up.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        }
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = self.bounds.iter().position(|bound| seconds <= *bound);
        if let Some(count) = self.counts.get(at.unwrap_or(self.bounds.len())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_as_prometheus_reads_it() {
        let mut text = Text::default();
        text.gauge("a", "What a is.", 1.5);
        text.family("b", "What b is.", Kind::Histogram);
        let histogram = Histogram::new(&[0.5, 1.0]);
        for ms in [100, 500, 700, 9000] {
            histogram.observe(Duration::from_millis(ms));
        }
        text.histogram("b", &[("x", "\"\\\n")], &histogram);
        text.sample_at(
            "c",
            &[("x", "1"), ("y", "2")],
            3u64,
            Timestamp::from_millisecond(1500).expect("time"),
        );
        let expected = r#"# HELP a What a is.
# TYPE a gauge
a 1.5
# HELP b What b is.
# TYPE b histogram
b_bucket{x="\"\\\n",le="0.5"} 2
b_bucket{x="\"\\\n",le="1"} 3
b_bucket{x="\"\\\n",le="+Inf"} 4
b_sum{x="\"\\\n"} 10.3
b_count{x="\"\\\n"} 4
c{x="1",y="2"} 3 1500
"#;
        assert_eq!(text.finish(), expected);
    }
}
