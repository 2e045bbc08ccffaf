//! Thresholds from the configuration, under upstream's names.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::{Amount, NAMES, Signal, Threshold};
use crate::{duration, quantity as text_quantity};

/// A field that cannot be taken, with its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {why}")]
pub struct Error {
    /// Such as `evictionHard[memory.available]`.
    pub field: String,
    /// What is wrong.
    pub why: String,
}

impl Error {
    /// An error of a field, or of a key in it.
    pub fn new(field: &str, key: Option<&str>, why: impl Into<String>) -> Self {
        let key = key.map(|k| format!("[{k}]")).unwrap_or_default();
        Self {
            field: format!("{field}{key}"),
            why: why.into(),
        }
    }
}

type Map = BTreeMap<String, String>;

/// The configuration's maps as they are written. Unset: upstream's defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `evictionHard`.
    pub hard: Option<Map>,
    /// `evictionSoft`.
    pub soft: Map,
    /// `evictionSoftGracePeriod`.
    pub soft_grace: Map,
    /// `evictionMinimumReclaim`.
    pub minimum_reclaim: Map,
    /// `mergeDefaultEvictionSettings`: what `evictionHard` does not name keeps its default.
    pub merge_defaults: bool,
    /// All pods together are held below the node's allocatable memory.
    pub enforce_pods: bool,
}

/// Upstream's hard thresholds.
pub fn defaults() -> Map {
    let all = [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ];
    all.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// The thresholds of a configuration. One of 0 % or 100 % switches its signal off.
pub fn parse(settings: &Settings) -> Result<Vec<Threshold>, Error> {
    let hard = match (&settings.hard, settings.merge_defaults) {
        (None, _) => defaults(),
        (Some(own), false) => own.clone(),
        (Some(own), true) => defaults().into_iter().chain(own.clone()).collect(),
    };
    let mut all = thresholds("evictionHard", &hard)?;
    let mut graces = BTreeMap::new();
    for (key, text) in &settings.soft_grace {
        let field = "evictionSoftGracePeriod";
        let signal = signal(field, key)?;
        let grace = duration::parse(text).filter(|d| d.is_positive());
        let why =
            || format!("invalid eviction grace period specified: {text}, must be a positive value");
        graces.insert(
            signal,
            grace.ok_or_else(|| Error::new(field, Some(key), why()))?,
        );
    }
    for mut soft in thresholds("evictionSoft", &settings.soft)? {
        let grace = graces.get(&soft.signal).copied();
        let why = || {
            format!(
                "grace period must be specified for the soft eviction threshold {}",
                soft.signal
            )
        };
        let grace: SignedDuration = grace.ok_or_else(|| Error::new("evictionSoft", None, why()))?;
        soft.grace = Some(grace);
        all.push(soft);
    }
    for (key, text) in &settings.minimum_reclaim {
        let field = "evictionMinimumReclaim";
        let signal = signal(field, key)?;
        let amount = amount(text).map_err(|why| Error::new(field, Some(key), why))?;
        let own = all.iter_mut().filter(|t| t.signal == signal);
        own.for_each(|t| t.reclaim = Some(amount.clone()));
    }
    if settings.enforce_pods {
        let memory = all
            .iter()
            .filter(|t| t.signal == Signal::MemoryAvailable && t.grace.is_none());
        let memory: Vec<Threshold> = memory.cloned().collect();
        all.extend(memory.into_iter().map(|t| Threshold {
            signal: Signal::AllocatableMemoryAvailable,
            ..t
        }));
    }
    all.sort_by_key(|t| t.signal);
    Ok(all)
}

fn thresholds(field: &str, map: &Map) -> Result<Vec<Threshold>, Error> {
    let mut all = Vec::new();
    for (key, text) in map {
        let signal = signal(field, key)?;
        if matches!(text.as_str(), "0%" | "100%") {
            continue;
        }
        let value = amount(text).map_err(|why| Error::new(field, Some(key), why))?;
        if value.of(u64::MAX) == 0 {
            let why = format!("eviction threshold {key} must be positive: {text}");
            return Err(Error::new(field, Some(key), why));
        }
        all.push(Threshold {
            signal,
            value,
            grace: None,
            reclaim: None,
        });
    }
    Ok(all)
}

fn signal(field: &str, name: &str) -> Result<Signal, Error> {
    let known = || NAMES.map(|(_, n)| n).join(", ");
    Signal::of(name).ok_or_else(|| {
        let why = format!(
            "unsupported eviction signal {name}; supported are {}",
            known()
        );
        Error::new(field, Some(name), why)
    })
}

fn amount(text: &str) -> Result<Amount, String> {
    let Some(percent) = text.strip_suffix('%') else {
        let n = quantity(text)
            .ok_or_else(|| format!("{text:?} is neither a quantity nor a percentage"))?;
        return Ok(Amount::Quantity(n, text.to_owned()));
    };
    match percent.parse::<f64>() {
        Ok(p) if p < 0.0 => Err(format!(
            "eviction percentage threshold must be >= 0%: {text}"
        )),
        Ok(p) if p > 100.0 => Err(format!(
            "eviction percentage threshold must be <= 100%: {text}"
        )),
        Ok(p) if p.is_finite() => Ok(Amount::Part(p / 100.0)),
        _ => Err(format!("{text:?} is not a percentage")),
    }
}

/// A quantity that is not negative, in whole units.
pub fn quantity(text: &str) -> Option<u64> {
    text_quantity::value(text).and_then(|n| u64::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        let own = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        own.collect()
    }

    fn shown(all: &[Threshold]) -> Vec<String> {
        let one = |t: &Threshold| {
            let grace = t
                .grace
                .map(|g| format!(" for {}s", g.as_secs()))
                .unwrap_or_default();
            let more = t
                .reclaim
                .as_ref()
                .map(|r| format!(" +{}", r.of(1000)))
                .unwrap_or_default();
            format!("{}<{}{grace}{more}", t.signal, t.value.of(1000))
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn thresholds() {
        let none = || Settings {
            hard: Some(Map::new()),
            ..Settings::default()
        };
        let hard = |pairs: &[(&str, &str)]| Settings {
            hard: Some(map(pairs)),
            ..Settings::default()
        };
        let memory = [("memory.available", "1Ki")];
        let rows: Vec<(&str, Settings, &[&str])> = vec![
            (
                "defaults",
                Settings::default(),
                &[
                    "memory.available<104857600",
                    "nodefs.available<100",
                    "nodefs.inodesFree<50",
                    "imagefs.available<150",
                    "imagefs.inodesFree<50",
                ],
            ),
            (
                "own replace the defaults",
                hard(&memory),
                &["memory.available<1024"],
            ),
            (
                "merged",
                Settings {
                    merge_defaults: true,
                    ..hard(&[("memory.available", "1Ki"), ("nodefs.available", "20%")])
                },
                &[
                    "memory.available<1024",
                    "nodefs.available<200",
                    "nodefs.inodesFree<50",
                    "imagefs.available<150",
                    "imagefs.inodesFree<50",
                ],
            ),
            ("none", none(), &[]),
            (
                "switched off",
                hard(&[("nodefs.available", "0%"), ("pid.available", "100%")]),
                &[],
            ),
            (
                "all pods",
                Settings {
                    enforce_pods: true,
                    ..hard(&memory)
                },
                &["memory.available<1024", "allocatableMemory.available<1024"],
            ),
            (
                "soft with grace and more to reclaim",
                Settings {
                    soft: map(&[("nodefs.available", "12.5%")]),
                    soft_grace: map(&[("nodefs.available", "1m30s")]),
                    minimum_reclaim: map(&[("nodefs.available", "5%")]),
                    ..hard(&[("nodefs.available", "10%"), ("pid.available", "10")])
                },
                &[
                    "nodefs.available<100 +50",
                    "nodefs.available<125 for 90s +50",
                    "pid.available<10",
                ],
            ),
        ];
        for (name, settings, want) in rows {
            assert_eq!(shown(&parse(&settings).expect(name)), want, "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let hard = |key: &str, value: &str| Settings {
            hard: Some(map(&[(key, value)])),
            ..Settings::default()
        };
        let soft = |graces: &[(&str, &str)]| Settings {
            soft: map(&[("memory.available", "1Gi")]),
            soft_grace: map(graces),
            ..Settings::default()
        };
        let rows = [
            (
                hard("memory.free", "1Gi"),
                "field evictionHard[memory.free]: unsupported eviction signal memory.free",
            ),
            (hard("nodefs.available", "120%"), "must be <= 100%: 120%"),
            (hard("nodefs.available", "-1%"), "must be >= 0%: -1%"),
            (
                hard("nodefs.available", "-1Gi"),
                "field evictionHard[nodefs.available]",
            ),
            (
                hard("nodefs.available", "0"),
                "eviction threshold nodefs.available must be positive: 0",
            ),
            (hard("nodefs.available", "much"), "\"much\" is neither"),
            (
                soft(&[]),
                "grace period must be specified for the soft eviction threshold memory.available",
            ),
            (
                soft(&[("memory.available", "0s")]),
                "field evictionSoftGracePeriod[memory.available]: invalid eviction grace period",
            ),
            (
                soft(&[("memory.available", "soon")]),
                "must be a positive value",
            ),
            (
                Settings {
                    minimum_reclaim: map(&[("pids", "1")]),
                    ..Settings::default()
                },
                "field evictionMinimumReclaim[pids]",
            ),
        ];
        for (settings, want) in rows {
            let error = parse(&settings).expect_err(want).to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }
}
