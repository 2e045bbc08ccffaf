//! From the file's fields to what the agent is told about eviction, images and reserved resources.

use std::time::Duration;

use jiff::SignedDuration;
use keelson_agent_plan::duration;
use keelson_agent_plan::eviction::{self, Error, Settings};
use keelson_agent_plan::quantity;
use keelson_agent_plan::reserve;
use keelson_agent_plan::{log_rotation, memory};

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
    logs(&mut config.logs, options)?;
    let kube = reserve::parse("kubeReserved", &map(&options.kube_reserved))?;
    let system = reserve::parse("systemReserved", &map(&options.system_reserved))?;
    config.reserved = kube.and(system);
    config.memory = memory(options)?;
    config.fail_swap_on = options.fail_swap_on == Some(true);
    Ok(())
}

/// What is done about memory beyond limits.
fn memory(options: &NodeOptions) -> Result<memory::Policy, Error> {
    let allowed = |field: &str, given: &str, known: &str| {
        Error::new(
            field,
            None,
            format!("{given:?} is not supported, only {known}"),
        )
    };
    let reserve = match options.memory_reservation_policy.as_deref() {
        None | Some("None") => false,
        Some("TieredReservation") => true,
        Some(other) => {
            let known = "\"None\" or \"TieredReservation\"";
            return Err(allowed("memoryReservationPolicy", other, known));
        }
    };
    let throttle = options.memory_throttling_factor;
    if let Some(factor) = throttle.filter(|f| !(*f > 0.0 && *f <= 1.0)) {
        let why = format!("{factor} is not greater than 0 and less than or equal to 1.0");
        return Err(Error::new("memoryThrottlingFactor", None, why));
    }
    let swap = options.memory_swap.as_ref();
    let swap = match swap.map_or("", |s| s.swap_behavior.as_str()) {
        "" | "NoSwap" => false,
        "LimitedSwap" => true,
        other => {
            let known = "\"NoSwap\" or \"LimitedSwap\"";
            return Err(allowed("memorySwap.swapBehavior", other, known));
        }
    };
    Ok(memory::Policy {
        reserve,
        throttle,
        swap,
    })
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

/// A negative size switches rotation off.
fn logs(policy: &mut log_rotation::Policy, options: &NodeOptions) -> Result<(), Error> {
    if let Some(text) = &options.container_log_max_size {
        let wrong = || {
            Error::new(
                "containerLogMaxSize",
                None,
                format!("{text:?} is not a quantity"),
            )
        };
        let size = quantity::value(text).ok_or_else(wrong)?;
        policy.max_size = u64::try_from(size).ok();
    }
    if let Some(files) = options.container_log_max_files {
        if files < 2 {
            let why = format!("{files} must be greater than 1");
            return Err(Error::new("containerLogMaxFiles", None, why));
        }
        policy.max_files = files;
    }
    Ok(())
}

pub(crate) fn time(field: &str, text: &Option<String>) -> Result<Option<SignedDuration>, Error> {
    let read = |t: &String| {
        let why = || format!("{t:?} is not a duration such as 1m30s");
        duration::parse(t).ok_or_else(|| Error::new(field, None, why()))
    };
    text.as_ref().map(read).transpose()
}

/// A time that is never none.
pub(crate) fn set(place: &mut Duration, field: &str, text: &Option<String>) -> Result<(), Error> {
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
containerLogMaxSize: 1Mi
containerLogMaxFiles: 3
memoryReservationPolicy: TieredReservation
memoryThrottlingFactor: 0.9
memorySwap: {swapBehavior: LimitedSwap}
failSwapOn: true
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
        let logs = config.logs;
        assert_eq!((logs.max_size, logs.max_files), (Some(1 << 20), 3));
        assert!(!config.enforce_pods);
        let memory = memory::Policy {
            reserve: true,
            throttle: Some(0.9),
            swap: true,
        };
        assert!(config.memory == memory && config.fail_swap_on);
        let default = read("{}").expect("defaults");
        let off = read("containerLogMaxSize: '-1'").expect("off");
        assert_eq!(off.logs.max_size, None);
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
            ("containerLogMaxFiles: 1", "containerLogMaxFiles"),
            ("containerLogMaxSize: big", "containerLogMaxSize"),
            ("evictionMonitoringPeriod: 0s", "evictionMonitoringPeriod"),
            (
                "imageGCLowThresholdPercent: 90",
                "imageGCLowThresholdPercent",
            ),
            ("systemReserved: {memory: x}", "systemReserved[memory]"),
            (
                "memoryReservationPolicy: All",
                "memoryReservationPolicy: \"All\" is not supported, only \"None\" or \"TieredReservation\"",
            ),
            (
                "memoryThrottlingFactor: 1.5",
                "memoryThrottlingFactor: 1.5 is not",
            ),
            (
                "memorySwap: {swapBehavior: UnlimitedSwap}",
                "memorySwap.swapBehavior: \"UnlimitedSwap\"",
            ),
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
