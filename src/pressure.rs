//! From the file's fields to what the agent is told about eviction, images and reserved resources.

use std::time::Duration;

use jiff::SignedDuration;
use keelson_agent_plan::duration;
use keelson_agent_plan::eviction::{self, Error, Settings};
use keelson_agent_plan::reserve;

use crate::options::NodeOptions;

/// Lays what the options say over the defaults.
pub(crate) fn configure(
    config: &mut keelson_agent::Config,
    options: &NodeOptions,
) -> anyhow::Result<()> {
    config.enforce_pods = enforce_pods(options.enforce_node_allocatable.as_deref())?;
    let map = |m: &Option<_>| m.clone().unwrap_or_default();
    let settings = Settings {
        hard: options.eviction_hard.clone(),
        soft: map(&options.eviction_soft),
        soft_grace: map(&options.eviction_soft_grace_period),
        minimum_reclaim: map(&options.eviction_minimum_reclaim),
        merge_defaults: options.merge_default_eviction_settings == Some(true),
        enforce_pods: config.enforce_pods,
    };
    let eviction = &mut config.eviction;
    eviction.thresholds = eviction::parse(&settings)?;
    let transition = &options.eviction_pressure_transition_period;
    if let Some(d) = time("evictionPressureTransitionPeriod", transition)? {
        eviction.transition = d;
    }
    if let Some(seconds) = options.eviction_max_pod_grace_period {
        eviction.max_grace = i64::from(seconds);
    }
    let period = &options.eviction_monitoring_period;
    set(&mut eviction.period, "evictionMonitoringPeriod", period)?;
    let gc = &mut config.image_gc;
    gc.high = options.image_gc_high_threshold_percent.unwrap_or(gc.high);
    gc.low = options.image_gc_low_threshold_percent.unwrap_or(gc.low);
    if let Some(age) = time("imageMinimumGCAge", &options.image_minimum_gc_age)? {
        gc.min_age = age;
    }
    let max_age = time("imageMaximumGCAge", &options.image_maximum_gc_age)?;
    gc.max_age = max_age.filter(SignedDuration::is_positive);
    gc.check()?;
    let period = &options.image_gc_period;
    set(&mut config.image_gc_period, "imageGCPeriod", period)?;
    let kube = reserve::parse("kubeReserved", &map(&options.kube_reserved))?;
    let system = reserve::parse("systemReserved", &map(&options.system_reserved))?;
    config.reserved = kube.and(system);
    Ok(())
}

/// `pods` (the default) or `none`.
fn enforce_pods(wanted: Option<&[String]>) -> Result<bool, Error> {
    const FIELD: &str = "enforceNodeAllocatable";
    let Some(wanted) = wanted else {
        return Ok(true);
    };
    let mut pods = false;
    for (place, what) in wanted.iter().enumerate() {
        match what.as_str() {
            "pods" => pods = true,
            "none" if wanted.len() == 1 => {}
            other => {
                let why = format!("{other:?} is not supported, only \"pods\" or \"none\" alone");
                return Err(Error::new(FIELD, Some(&place.to_string()), why));
            }
        }
    }
    Ok(pods)
}

fn time(field: &str, text: &Option<String>) -> Result<Option<SignedDuration>, Error> {
    let read = |t: &String| {
        let why = || format!("{t:?} is not a duration such as 1m30s");
        duration::parse(t).ok_or_else(|| Error::new(field, None, why()))
    };
    text.as_ref().map(read).transpose()
}

/// A pause between two looks: never none.
fn set(place: &mut Duration, field: &str, text: &Option<String>) -> Result<(), Error> {
    match time(field, text)? {
        None => {}
        Some(d) if d.is_positive() => *place = d.unsigned_abs(),
        Some(_) => return Err(Error::new(field, None, "must be greater than 0")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<keelson_agent::Config> {
        let options: NodeOptions = serde_yaml_ng::from_str(text)?;
        let mut config = keelson_agent::Config::new("n", Vec::new());
        configure(&mut config, &options).map(|()| config)
    }

    #[test]
    fn fields_have_upstreams_names() {
        let text = "
evictionHard: {memory.available: 1Gi}
evictionSoft: {nodefs.available: 20%}
evictionSoftGracePeriod: {nodefs.available: 1m}
evictionMaxPodGracePeriod: 7
evictionPressureTransitionPeriod: 30s
imageGCHighThresholdPercent: 70
imageGCLowThresholdPercent: 60
imageMinimumGCAge: 1s
imageMaximumGCAge: 24h
kubeReserved: {cpu: 100m}
systemReserved: {memory: 1Gi}
enforceNodeAllocatable: [none]
";
        let config = read(text).expect("valid");
        let shown = config.eviction.thresholds.iter();
        let shown: Vec<String> = shown.map(|t| t.signal.to_string()).collect();
        assert_eq!(shown, ["memory.available", "nodefs.available"]);
        let eviction = &config.eviction;
        assert_eq!((eviction.transition.as_secs(), eviction.max_grace), (30, 7));
        let gc = config.image_gc;
        assert_eq!((gc.high, gc.low, gc.min_age.as_secs()), (70, 60, 1));
        assert_eq!(gc.max_age.map(|d| d.as_hours()), Some(24));
        let reserved = config.reserved;
        assert_eq!((reserved.cpu, reserved.memory), (100, 1 << 30));
        assert!(!config.enforce_pods);
        let default = read("{}").expect("defaults");
        assert!(default.enforce_pods && default.eviction.thresholds.len() == 6);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            ("evictionHard: {memory: 1Gi}", "evictionHard[memory]"),
            (
                "evictionPressureTransitionPeriod: soon",
                "evictionPressureTransitionPeriod: \"soon\"",
            ),
            ("evictionMonitoringPeriod: 0s", "evictionMonitoringPeriod"),
            (
                "imageGCLowThresholdPercent: 90",
                "imageGCLowThresholdPercent",
            ),
            ("systemReserved: {memory: x}", "systemReserved[memory]"),
            (
                "enforceNodeAllocatable: [pods, system-reserved]",
                "enforceNodeAllocatable[1]: \"system-reserved\" is not supported",
            ),
        ];
        for (text, want) in rows {
            let error = format!("{:#}", read(text).err().expect(text));
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
