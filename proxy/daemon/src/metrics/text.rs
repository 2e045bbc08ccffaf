//! Prometheus text, version 0.0.4.

use std::fmt::{Display, Write};
use std::time::Duration;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Text that is being written.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a metric: what follows belongs to it.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: &str) {
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (i, (key, value)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let value = value.replace('\n', "\\n");
            _ = write!(self.0, "{before}{key}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        _ = writeln!(self.0, " {value}");
    }

    /// All values of a histogram.
    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], of: &Histogram) {
        let bucket = format!("{name}_bucket");
        let bounds = of.bounds.iter().map(f64::to_string).chain(["+Inf".into()]);
        let mut below = 0;
        for (bound, count) in bounds.zip(&of.counts) {
            below += count;
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, of.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, below);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Times counted by upper bounds in seconds, which go up.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    pub(super) fn new(bounds: Vec<f64>) -> Self {
        Self {
            counts: vec![0; bounds.len() + 1],
            bounds,
            sum: Duration::ZERO,
        }
    }

    pub(super) fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(took);
    }
}
