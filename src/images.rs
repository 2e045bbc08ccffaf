//! From the options to what the agent is told about images' pulls.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::options::NodeOptions;

/// Lays what the options say over the defaults. `data` is where the node's state is.
pub(crate) fn configure(
    config: &mut keelson_agent::Config,
    options: &NodeOptions,
    data: &Path,
) -> anyhow::Result<()> {
    if let Some(most) = options.max_parallel_image_pulls {
        config.parallel_pulls = most;
    }
    if config.parallel_pulls == 0 {
        bail!("max-parallel-image-pulls is 0, at least 1 is needed");
    }
    if options.serialize_image_pulls == Some(true) {
        config.parallel_pulls = 1;
    }
    let policy = &mut config.pull_policy;
    if let Some(wanted) = &options.image_pull_credentials_verification_policy {
        let parsed = wanted.parse().map_err(anyhow::Error::msg);
        policy.verification = parsed.context("image-pull-credentials-verification-policy")?;
    }
    if let Some(list) = &options.preloaded_images_verification_allowlist {
        policy.allowlist = list.clone();
    }
    config.credential_providers = options.image_credential_provider_config.clone();
    if let Some(dir) = &options.image_credential_provider_bin_dir {
        config.credential_provider_dir = dir.clone();
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let folders = [Some(data.to_owned()), home.map(|home| home.join(".docker"))];
    let files = folders.into_iter().flatten().map(|f| f.join("config.json"));
    config.docker_configs = files.collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let with = |change: fn(&mut NodeOptions)| {
            let mut options = NodeOptions::default();
            change(&mut options);
            let mut config = keelson_agent::Config::new("n", Vec::new());
            configure(&mut config, &options, Path::new("/data")).map(|()| config)
        };
        type Change = fn(&mut NodeOptions);
        let rows: [(&str, Change); 2] = [
            ("max-parallel-image-pulls", |o| {
                o.max_parallel_image_pulls = Some(0);
            }),
            ("NeverVerify,", |o| {
                o.image_pull_credentials_verification_policy = Some("Maybe".into());
            }),
        ];
        for (word, change) in rows {
            let error = with(change)
                .err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default();
            assert!(error.contains(word), "{word}: {error}");
        }
        let config = with(|o| o.serialize_image_pulls = Some(true)).expect("valid");
        assert_eq!(config.parallel_pulls, 1);
        assert_eq!(
            config.docker_configs.first(),
            Some(&"/data/config.json".into())
        );
    }
}
