//! From the file's fields to what the agent is told about the machine's systemd: cgroups and shutdowns.

use anyhow::bail;
use keelson_agent::Driver;
use keelson_agent_plan::shutdown::{self, Settings};

use crate::options::NodeOptions;

/// Lays what the options say over the defaults.
pub(crate) fn configure(
    config: &mut keelson_agent::Config,
    options: &NodeOptions,
) -> anyhow::Result<()> {
    config.cgroup_driver = driver(
        options.cgroup_driver.as_deref(),
        keelson_agent::under_systemd,
    )?;
    let by_priority = options.shutdown_grace_period_by_pod_priority.iter();
    config.shutdown = shutdown::parse(&Settings {
        period: options.shutdown_grace_period.clone(),
        critical_pods: options.shutdown_grace_period_critical_pods.clone(),
        by_priority: by_priority
            .flatten()
            .map(|g| (g.priority, g.shutdown_grace_period_seconds))
            .collect(),
    })?;
    Ok(())
}

/// cgroupfs works everywhere; who runs systemd may have it keep the cgroups, as it wants to be their only writer.
fn driver(wanted: Option<&str>, systemd: impl Fn() -> bool) -> anyhow::Result<Driver> {
    match wanted {
        None | Some("cgroupfs") => Ok(Driver::Cgroupfs),
        Some("systemd") if systemd() => Ok(Driver::Systemd),
        Some("systemd") => bail!(
            "cgroupDriver is \"systemd\", but systemd does not run here (there is no /run/systemd/system): use cgroupfs"
        ),
        Some(other) => bail!("cgroupDriver is {other:?}, needed is cgroupfs or systemd"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers() {
        let rows = [
            (None, true, Ok(Driver::Cgroupfs)),
            (Some("cgroupfs"), true, Ok(Driver::Cgroupfs)),
            (Some("cgroupfs"), false, Ok(Driver::Cgroupfs)),
            (Some("systemd"), true, Ok(Driver::Systemd)),
            (Some("systemd"), false, Err("does not run here")),
            (Some("Systemd"), true, Err("cgroupfs or systemd")),
        ];
        for (wanted, systemd, want) in rows {
            let got = driver(wanted, || systemd);
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{wanted:?}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{wanted:?}: {error}");
                }
                (got, want) => panic!("{wanted:?}: {got:?} and not {want:?}"),
            }
        }
    }

    #[test]
    fn shutdown_has_upstreams_names() {
        let read = |text: &str| {
            let options: NodeOptions = serde_yaml_ng::from_str(text).expect("fields");
            let mut config = keelson_agent::Config::new("n", Vec::new());
            let done = configure(&mut config, &options);
            done.map(|()| {
                let groups = config.shutdown.iter();
                groups.map(|g| (g.priority, g.seconds)).collect::<Vec<_>>()
            })
        };
        let critical = 2_000_000_000;
        assert_eq!(read("{}").expect("nothing"), []);
        let text = "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n";
        assert_eq!(read(text).expect("periods"), [(0, 20), (critical, 10)]);
        let text =
            "shutdownGracePeriodByPodPriority: [{priority: 7, shutdownGracePeriodSeconds: 3}]";
        assert_eq!(read(text).expect("priorities"), [(7, 3)]);
        assert!(read("shutdownGracePeriod: 1").is_err());
    }
}
