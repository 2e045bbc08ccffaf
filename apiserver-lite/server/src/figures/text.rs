//! An agent's `/metrics/resource`, read.

use std::collections::HashMap;

use jiff::Timestamp;

/// A container: namespace, pod, name.
pub(super) type Key = (String, String, String);

/// Cumulative CPU time and memory at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    /// When it was read.
    pub(super) at: Timestamp,
    /// CPU seconds since the start.
    pub(super) cpu: f64,
    /// Working set, bytes.
    pub(super) memory: f64,
    /// When it started, seconds since the epoch; 0 when that is not known.
    pub(super) started: f64,
}

/// One reading of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// The node.
    pub(super) node: Point,
    /// Its containers.
    pub(super) containers: HashMap<Key, Point>,
}

/// Reads the text; lines that say something else, or nothing that makes sense, are passed over. `now` is the time of
/// figures without one.
pub(super) fn read(text: &str, now: Timestamp) -> Sample {
    let mut sample = Sample::default();
    for line in text.lines() {
        if let Some(line) = parse(line) {
            take(&mut sample, &line, now);
        }
    }
    sample
}

fn take(sample: &mut Sample, line: &Line<'_>, now: Timestamp) {
    let label = |key: &str| {
        let found = line.labels.iter().find(|(k, _)| *k == key);
        found.map(|(_, v)| v.clone()).unwrap_or_default()
    };
    let point = match line.name.split_once('_') {
        Some(("node", _)) => &mut sample.node,
        Some(("container", _)) => {
            let key = (label("namespace"), label("pod"), label("container"));
            sample.containers.entry(key).or_default()
        }
        _ => return,
    };
    let at = line
        .at
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(now);
    match line.name.split_once('_') {
        Some((_, "cpu_usage_seconds_total")) => (point.cpu, point.at) = (line.value, at),
        Some((_, "memory_working_set_bytes")) => point.memory = line.value,
        Some((_, "start_time_seconds")) => point.started = line.value,
        _ => {}
    }
}

/// A sample: `name{label="value",...} value [milliseconds]`.
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
    at: Option<i64>,
}

fn parse(line: &str) -> Option<Line<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let value = words
        .next()?
        .parse::<f64>()
        .ok()
        .filter(|n| n.is_finite())?;
    let at = words.next().and_then(|ms| ms.parse().ok());
    Some(Line {
        name,
        labels,
        value,
        at,
    })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut all = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((all, rest));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    c => c,
                }),
                (_, c) => value.push(c),
            }
        };
        all.push((key, value));
        rest = after.get(end + 1..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_say() {
        let at = |ms| Timestamp::from_millisecond(ms).expect("time");
        let text = r#"# HELP node_cpu_usage_seconds_total x
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 12.5 60000
node_memory_working_set_bytes 4.096e3 60000
container_cpu_usage_seconds_total{container="c",namespace="a\"\\b",pod="p"} 1.5 61000
container_memory_working_set_bytes{pod="p", namespace="a\"\\b", container="c"} 10
container_start_time_seconds{container="c",namespace="a\"\\b",pod="p"} 42
pod_cpu_usage_seconds_total{namespace="a",pod="p"} 9 61000
container_cpu_usage_seconds_total{container="broken 1 61000
container_cpu_usage_seconds_total{container="no number"} NaN
resource_scrape_error 0
"#;
        let sample = read(text, at(99_000));
        let node = Point {
            at: at(60_000),
            cpu: 12.5,
            memory: 4096.0,
            started: 0.0,
        };
        let container = Point {
            at: at(61_000),
            cpu: 1.5,
            memory: 10.0,
            started: 42.0,
        };
        let key = ("a\"\\b".to_owned(), "p".to_owned(), "c".to_owned());
        assert_eq!(sample.node, node);
        assert_eq!(sample.containers, HashMap::from([(key, container)]));
        let late = read("node_cpu_usage_seconds_total 1\n", at(99_000));
        assert_eq!(late.node.at, at(99_000));
    }
}
