//! Manifests, indexes and configurations, read leniently: docker's and OCI's look alike.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ImageConfig;
use crate::error::Error;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A pointer to content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

impl Platform {
    /// This machine's, in Go's words.
    pub(crate) fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.into(),
        }
    }

    fn runs_on(&self, host: &Platform) -> bool {
        let variant =
            self.variant.is_empty() || host.variant.is_empty() || self.variant == host.variant;
        self.os == host.os && self.architecture == host.architecture && variant
    }
}

/// A manifest or an index; which one shows in which fields are set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) manifests: Vec<Descriptor>,
}

impl Manifest {
    pub(crate) fn parse(digest: &str, json: &[u8]) -> Result<Manifest, Error> {
        serde_json::from_slice(json)
            .map_err(|error| Error::invalid("manifest", digest, error.to_string()))
    }

    pub(crate) fn is_index(&self) -> bool {
        self.config.is_none()
    }

    /// The media type, also for manifests that leave it out.
    pub(crate) fn kind(&self) -> &str {
        match (self.media_type.as_str(), self.is_index()) {
            ("", true) => OCI_INDEX,
            ("", false) => OCI_MANIFEST,
            (named, _) => named,
        }
    }

    /// The entry of an index for `host`: the first that names its platform, else the first that
    /// names none.
    pub(crate) fn choose(&self, host: &Platform) -> Option<&Descriptor> {
        let fits = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|p| p.runs_on(host));
        self.manifests
            .iter()
            .find(fits)
            .or_else(|| self.manifests.iter().find(|entry| entry.platform.is_none()))
    }

    /// Labels that keep what a manifest refers to from being collected. Of an index only `chosen`
    /// is in the store.
    pub(crate) fn gc_labels(&self, chosen: Option<&Descriptor>) -> HashMap<String, String> {
        let config = self.config.iter().map(|c| ("config".to_owned(), c));
        let layers = self.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| (format!("l.{i}"), layer));
        let chosen = chosen.map(|entry| ("m.0".to_owned(), entry));
        config
            .chain(layers)
            .chain(chosen)
            .map(|(key, to)| {
                (
                    format!("containerd.io/gc.ref.content.{key}"),
                    to.digest.clone(),
                )
            })
            .collect()
    }
}

/// An image's configuration file.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ConfigFile {
    #[serde(default)]
    config: Option<ProcessConfig>,
    #[serde(default)]
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ProcessConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    stop_signal: Option<String>,
}

impl ConfigFile {
    pub(crate) fn parse(digest: &str, json: &[u8]) -> Result<ConfigFile, Error> {
        serde_json::from_slice(json)
            .map_err(|error| Error::invalid("image configuration", digest, error.to_string()))
    }

    /// The digest naming the file system after all layers (image-spec, "Layer ChainID").
    pub(crate) fn chain_ids(&self) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        for diff in &self.rootfs.diff_ids {
            let next = match chain.last() {
                None => diff.clone(),
                Some(parent) => digest_of(format!("{parent} {diff}").as_bytes()),
            };
            chain.push(next);
        }
        chain
    }
}

impl From<ConfigFile> for ImageConfig {
    fn from(file: ConfigFile) -> ImageConfig {
        let config = file.config.unwrap_or_default();
        ImageConfig {
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: config.stop_signal.unwrap_or_default(),
        }
    }
}

/// `sha256:<hex>` of some bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, platform: Option<(&str, &str, &str)>) -> Descriptor {
        Descriptor {
            digest: digest.into(),
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.into(),
            }),
            ..Descriptor::default()
        }
    }

    #[test]
    fn an_index_is_resolved_for_the_platform() {
        let host = |architecture: &str, variant: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        };
        let index = Manifest {
            manifests: vec![
                entry("attestation", Some(("unknown", "unknown", ""))),
                entry("windows", Some(("windows", "amd64", ""))),
                entry("arm-v7", Some(("linux", "arm", "v7"))),
                entry("amd64", Some(("linux", "amd64", ""))),
                entry("arm64", Some(("linux", "arm64", "v8"))),
            ],
            ..Manifest::default()
        };
        for (host, expected) in [
            (host("amd64", ""), Some("amd64")),
            (host("arm64", "v8"), Some("arm64")),
            (host("arm", "v6"), None),
            (host("s390x", ""), None),
        ] {
            assert_eq!(
                index.choose(&host).map(|d| d.digest.as_str()),
                expected,
                "{host:?}"
            );
        }
    }

    #[test]
    fn chain_ids_follow_the_image_spec() {
        let file = ConfigFile {
            rootfs: RootFs {
                diff_ids: vec!["sha256:a".into(), "sha256:b".into()],
            },
            ..ConfigFile::default()
        };
        // printf 'sha256:a sha256:b' | sha256sum
        let second = "sha256:970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8";
        let chain = file.chain_ids();
        assert_eq!(chain, ["sha256:a", second]);
    }

    #[test]
    fn null_fields_of_docker_configurations_are_empty() {
        let json = br#"{"config":{"Env":null,"Cmd":["sh"],"Volumes":{"/data":{}},"Entrypoint":null},"rootfs":{"diff_ids":[]}}"#;
        let config = ImageConfig::from(ConfigFile::parse("x", json).expect("valid"));
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.volumes, ["/data"]);
        assert!(config.env.is_empty() && config.entrypoint.is_empty());
    }
}
