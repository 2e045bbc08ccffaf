//! What a volume is made of, as a value: from a pod's `volumes[]` and what the caller fetched for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ClusterTrustBundleProjection, ConfigMap, DownwardAPIVolumeFile, KeyToPath,
    ProjectedVolumeSource, Secret, Volume, VolumeProjection,
};

use super::payload::{File, Keys, Part};
use super::{Bundles, Error, HostPathType, bundle, host_path};

/// Where an emptyDir lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The node's disk.
    Disk,
    /// A tmpfs.
    Memory,
    /// A hugetlbfs with pages of so many bytes.
    HugePages(u64),
}

/// The plugin a volume belongs to; upstream's directory names, so that tools find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// `emptyDir`.
    EmptyDir,
    /// `hostPath`.
    HostPath,
    /// `configMap`.
    ConfigMap,
    /// `secret`.
    Secret,
    /// `projected`.
    Projected,
    /// `downwardAPI`.
    DownwardApi,
    /// A local volume.
    Local,
    /// `nfs`.
    Nfs,
    /// `csi`.
    Csi,
    /// `image`.
    Image,
}

impl Plugin {
    /// Those whose directories are mount points of what belongs to others.
    pub(super) const MOUNTED: [Self; 3] = [Self::Local, Self::Nfs, Self::Image];

    /// The directory below `volumes`.
    pub fn dir(self) -> &'static str {
        match self {
            Self::EmptyDir => "kubernetes.io~empty-dir",
            Self::HostPath => "kubernetes.io~host-path",
            Self::ConfigMap => "kubernetes.io~configmap",
            Self::Secret => "kubernetes.io~secret",
            Self::Projected => "kubernetes.io~projected",
            Self::DownwardApi => "kubernetes.io~downward-api",
            Self::Local => "kubernetes.io~local-volume",
            Self::Nfs => "kubernetes.io~nfs",
            Self::Csi => "kubernetes.io~csi",
            Self::Image => "kubernetes.io~image",
        }
    }

    /// Whether its files must not touch a disk.
    pub fn in_memory(self) -> bool {
        matches!(self, Self::Secret | Self::Projected | Self::DownwardApi)
    }
}

/// What to materialise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An empty directory that lives as long as the pod.
    EmptyDir {
        /// Disk or memory.
        medium: Medium,
        /// Bytes; only memory enforces it.
        size_limit: Option<u64>,
    },
    /// A path of the host.
    HostPath {
        /// Absolute.
        path: PathBuf,
        /// What must be there, or is made.
        kind: HostPathType,
    },
    /// Files from the API, updated as a whole.
    Files {
        /// Which kind of volume.
        plugin: Plugin,
        /// Mode of files that name none.
        default_mode: u32,
        /// Where the files come from; later parts win.
        parts: Vec<Part>,
    },
    /// A block device of the host, given as one.
    Device {
        /// The device node.
        path: PathBuf,
    },
    /// A directory of the node, or a device of it that is mounted.
    Local {
        /// Absolute.
        path: PathBuf,
        /// The device's file system.
        fs_type: Option<String>,
        /// How it is mounted.
        options: Vec<String>,
    },
    /// An NFS export.
    Nfs {
        /// A name or an address.
        server: String,
        /// What it exports.
        path: String,
        /// How it is mounted.
        options: Vec<String>,
        /// Nobody writes.
        read_only: bool,
    },
}

/// Something the caller must fetch for a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// A ConfigMap of the pod's namespace.
    ConfigMap {
        /// Its name.
        name: String,
        /// Whether the pod starts without it.
        optional: bool,
    },
    /// A Secret of the pod's namespace.
    Secret {
        /// Its name.
        name: String,
        /// Whether the pod starts without it.
        optional: bool,
    },
    /// A token of the pod's service account, bound to the pod.
    Token {
        /// Empty: the API server's own audience.
        audience: String,
        /// Seconds, at least 600.
        expiration_seconds: i64,
    },
    /// ClusterTrustBundles.
    Trust(Bundles),
}

/// What the caller fetched. An object that does not exist is absent.
#[derive(Clone, Default)]
pub struct Data {
    /// By name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// By name.
    pub secrets: BTreeMap<String, Secret>,
    /// By audience and expiration seconds, as in [`Want::Token`].
    pub tokens: BTreeMap<(String, i64), String>,
    /// What the bundles hold, by what was asked for.
    pub trust: BTreeMap<Bundles, Vec<String>>,
    /// Bytes of a page of an emptyDir whose medium is huge pages.
    pub page_size: Option<u64>,
}

/// Resolves one downward API file to its contents; the error says why not.
pub type Downward<'a> = &'a dyn Fn(&DownwardAPIVolumeFile) -> Result<String, String>;

const DEFAULT_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

/// What must be fetched before [`Source::from_volume`] can be called.
pub fn wants(volume: &Volume) -> Vec<Want> {
    if let Some(c) = &volume.config_map {
        return vec![Want::ConfigMap {
            name: c.name.clone(),
            optional: c.optional == Some(true),
        }];
    }
    if let Some(s) = &volume.secret {
        let name = s.secret_name.clone().unwrap_or_default();
        return vec![Want::Secret {
            name,
            optional: s.optional == Some(true),
        }];
    }
    let sources = volume
        .projected
        .iter()
        .flat_map(|p| p.sources.iter().flatten());
    sources.filter_map(projection_want).collect()
}

fn projection_want(p: &VolumeProjection) -> Option<Want> {
    if let Some(c) = &p.config_map {
        return Some(Want::ConfigMap {
            name: c.name.clone(),
            optional: c.optional == Some(true),
        });
    }
    if let Some(s) = &p.secret {
        return Some(Want::Secret {
            name: s.name.clone(),
            optional: s.optional == Some(true),
        });
    }
    if let Some(b) = &p.cluster_trust_bundle {
        return Some(Want::Trust(Bundles::of(b)));
    }
    let t = p.service_account_token.as_ref()?;
    let audience = t.audience.clone().unwrap_or_default();
    Some(Want::Token {
        audience,
        expiration_seconds: t.expiration_seconds.unwrap_or(TOKEN_SECONDS),
    })
}

impl Source {
    /// A pod's volume as a value. `size_limit` of an emptyDir is read as a quantity of bytes.
    pub fn from_volume(
        volume: &Volume,
        data: &Data,
        downward: Downward<'_>,
    ) -> Result<Self, Error> {
        if let Some(e) = &volume.empty_dir {
            return empty_dir(volume, e, data);
        }
        if let Some(h) = &volume.host_path {
            let kind =
                HostPathType::parse(h.type_.as_deref().unwrap_or_default()).ok_or_else(|| {
                    unsupported(
                        volume,
                        format!("hostPath type {:?}", h.type_),
                        host_path::TYPES,
                    )
                })?;
            return Ok(Self::HostPath {
                path: PathBuf::from(&h.path),
                kind,
            });
        }
        if let Some(nfs) = super::persistent::nfs_of(volume) {
            return Ok(nfs);
        }
        let (plugin, mode, parts) = if let Some(c) = &volume.config_map {
            let part = config_map(data, &c.name, c.items.as_deref(), c.optional);
            (Plugin::ConfigMap, c.default_mode, vec![part])
        } else if let Some(s) = &volume.secret {
            let name = s.secret_name.as_deref().unwrap_or_default();
            (
                Plugin::Secret,
                s.default_mode,
                vec![secret(data, name, s.items.as_deref(), s.optional)],
            )
        } else if let Some(d) = &volume.downward_api {
            let part = downward_part(volume, d.items.as_deref().unwrap_or_default(), downward)?;
            (Plugin::DownwardApi, d.default_mode, vec![part])
        } else if let Some(p) = &volume.projected {
            (
                Plugin::Projected,
                p.default_mode,
                projected(volume, p, data, downward)?,
            )
        } else {
            return Err(unsupported(volume, other_kind(volume), SOURCES));
        };
        Ok(Self::Files {
            plugin,
            default_mode: mode_bits(mode.unwrap_or(DEFAULT_MODE)),
            parts,
        })
    }

    /// The plugin.
    pub fn plugin(&self) -> Plugin {
        match self {
            Self::EmptyDir { .. } => Plugin::EmptyDir,
            Self::HostPath { .. } => Plugin::HostPath,
            Self::Device { .. } | Self::Local { .. } => Plugin::Local,
            Self::Nfs { .. } => Plugin::Nfs,
            Self::Files { plugin, .. } => *plugin,
        }
    }
}

fn empty_dir(
    volume: &Volume,
    e: &k8s_openapi::api::core::v1::EmptyDirVolumeSource,
    data: &Data,
) -> Result<Source, Error> {
    let medium = match (e.medium.as_deref().unwrap_or_default(), data.page_size) {
        ("", _) => Medium::Disk,
        ("Memory", _) => Medium::Memory,
        (_, Some(size)) => Medium::HugePages(size),
        (m, None) => {
            return Err(unsupported(
                volume,
                format!("emptyDir medium {m:?}"),
                "\"\", \"Memory\", \"HugePages\" or \"HugePages-SIZE\"",
            ));
        }
    };
    let size_limit = match &e.size_limit {
        None => None,
        Some(q) => Some(bytes(&q.0).ok_or_else(|| {
            unsupported(
                volume,
                format!("emptyDir sizeLimit {:?}", q.0),
                "a number of bytes, such as 64Mi",
            )
        })?),
    };
    Ok(Source::EmptyDir {
        medium,
        size_limit: size_limit.filter(|n| *n > 0),
    })
}

fn projected(
    volume: &Volume,
    p: &ProjectedVolumeSource,
    data: &Data,
    downward: Downward<'_>,
) -> Result<Vec<Part>, Error> {
    let mut parts = Vec::new();
    for s in p.sources.iter().flatten() {
        parts.push(if let Some(c) = &s.config_map {
            config_map(data, &c.name, c.items.as_deref(), c.optional)
        } else if let Some(c) = &s.secret {
            secret(data, &c.name, c.items.as_deref(), c.optional)
        } else if let Some(d) = &s.downward_api {
            downward_part(volume, d.items.as_deref().unwrap_or_default(), downward)?
        } else if let Some(t) = &s.service_account_token {
            let key = (
                t.audience.clone().unwrap_or_default(),
                t.expiration_seconds.unwrap_or(TOKEN_SECONDS),
            );
            let token = data.tokens.get(&key);
            let token = token.ok_or_else(|| Error::Missing {
                kind: "serviceaccount token",
                name: key.0.clone(),
            })?;
            Part::Token {
                path: t.path.clone(),
                token: token.clone(),
            }
        } else if let Some(b) = &s.cluster_trust_bundle {
            Part::Values(vec![trust(b, data)?])
        } else if s.pod_certificate.is_some() {
            return Err(unsupported(
                volume,
                "projected source podCertificate".into(),
                PROJECTIONS,
            ));
        } else {
            continue;
        });
    }
    Ok(parts)
}

/// One file with all trust anchors asked for. Without any it is there all the same, empty, if it may be.
fn trust(projection: &ClusterTrustBundleProjection, data: &Data) -> Result<File, Error> {
    let asked = Bundles::of(projection);
    let found = data.trust.get(&asked).map_or(&[][..], Vec::as_slice);
    if found.is_empty() && projection.optional != Some(true) {
        return Err(Error::Missing {
            kind: "clustertrustbundle",
            name: asked.describe(),
        });
    }
    Ok(File {
        path: projection.path.clone(),
        mode: None,
        data: bundle::merged(found)?,
    })
}

fn config_map(
    data: &Data,
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Part {
    let found = data.config_maps.get(name).map(|c| {
        let text = c
            .data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = c
            .binary_data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone()));
        text.chain(binary).collect()
    });
    keys("configmap", name, found, items, optional)
}

fn secret(data: &Data, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Part {
    let found = data.secrets.get(name);
    let found = found.map(|s| {
        s.data
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.0.clone()))
            .collect()
    });
    keys("secret", name, found, items, optional)
}

fn keys(
    kind: &'static str,
    name: &str,
    data: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
) -> Part {
    let items = items.filter(|i| !i.is_empty());
    let items = items.map(|i| {
        i.iter()
            .map(|i| (i.key.clone(), i.path.clone(), i.mode.map(mode_bits)))
            .collect()
    });
    Part::Keys(Keys {
        kind,
        name: name.to_owned(),
        data,
        items,
        optional: optional == Some(true),
    })
}

fn downward_part(
    volume: &Volume,
    items: &[DownwardAPIVolumeFile],
    resolve: Downward<'_>,
) -> Result<Part, Error> {
    let file = |i: &DownwardAPIVolumeFile| {
        let data = resolve(i).map_err(|why| Error::Downward {
            volume: volume.name.clone(),
            path: i.path.clone(),
            why,
        })?;
        Ok(File {
            path: i.path.clone(),
            mode: i.mode.map(mode_bits),
            data: data.into_bytes(),
        })
    };
    items
        .iter()
        .map(file)
        .collect::<Result<_, Error>>()
        .map(Part::Values)
}

fn mode_bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

/// Sources of a pod's own volumes; those of a claim are [`super::of_volume`]'s.
const SOURCES: &str = "configMap, csi, downwardAPI, emptyDir, ephemeral, hostPath, image, nfs, persistentVolumeClaim, projected or secret";
const PROJECTIONS: &str =
    "clusterTrustBundle, configMap, downwardAPI, secret or serviceAccountToken";

fn unsupported(volume: &Volume, what: String, instead: &'static str) -> Error {
    Error::Unsupported {
        volume: volume.name.clone(),
        what,
        instead,
    }
}

/// The name of the source that is set, such as `nfs`: the serialized volume's other key.
fn other_kind(volume: &Volume) -> String {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let keys = value.as_object().into_iter().flat_map(|o| o.keys());
    keys.filter(|k| *k != "name")
        .map(|k| format!("source {k}"))
        .next()
        .unwrap_or_else(|| "an empty source".into())
}

/// A quantity as bytes, rounded up. Source: the quantity grammar of the API conventions.
pub fn bytes(text: &str) -> Option<u64> {
    const SUFFIXES: [(&str, f64); 16] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
        ("", 1.0),
    ];
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(s, f)| Some((text.strip_suffix(s)?, f)))?;
    let value = number
        .parse::<f64>()
        .ok()
        .filter(|v| v.is_finite() && *v >= 0.0)?
        * factor;
    Some(value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_are_bytes() {
        let table = [
            ("0", Some(0)),
            ("100", Some(100)),
            ("1Ki", Some(1024)),
            ("1.5Gi", Some(1_610_612_736)),
            ("10M", Some(10_000_000)),
            ("1500m", Some(2)),
            ("1e3", Some(1000)),
            ("", None),
            ("-1", None),
            ("1Q", None),
            ("inf", None),
        ];
        for (text, want) in table {
            assert_eq!(bytes(text), want, "{text}");
        }
    }
}
