//! Import of OCI and docker archives, streamed: no blob is ever held in memory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;
use tokio::runtime::Handle;

use super::content::Blob;
use super::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, digest_of};
use super::name;
use crate::client::Lease;
use crate::error::Error;
use crate::runtime::Runtime;

const CHUNK: usize = 1 << 20;
const LARGEST_INDEX: u64 = 8 << 20;
/// containerd's own annotation carries the whole name; OCI's may be a tag only.
const NAME_KEYS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// What one pass over the archive found.
#[derive(Default)]
struct Found {
    index: Option<Vec<u8>>,
    docker: Option<Vec<u8>>,
    /// Files by their path in the archive, as they are in the content store.
    files: BTreeMap<String, Stored>,
}

#[derive(Clone)]
struct Stored {
    digest: String,
    size: u64,
    /// First bytes, which tell how it is compressed.
    magic: [u8; 4],
}

/// An image of the archive and its names.
type Target = (Descriptor, Vec<String>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Runtime {
    /// Imports an OCI or docker archive (tar, plain, gzip or zstd) and unpacks its images for this
    /// machine. Returns the names, normalised. Doing it again changes nothing.
    pub async fn import(&self, archive: &Path) -> Result<Vec<String>, Error> {
        self.client()
            .with_lease("import", async |lease| {
                let found = self.store_archive(lease, archive).await?;
                let targets = match (&found.index, &found.docker) {
                    (Some(index), _) => oci_targets(archive, index)?,
                    (None, Some(list)) => self.docker_targets(lease, &found, list).await?,
                    (None, None) => {
                        return Err(bad(archive, "neither index.json nor manifest.json"));
                    }
                };
                let mut all = Vec::new();
                for (target, names) in targets {
                    self.finish_image(lease, &target, &names).await?;
                    all.extend(names);
                }
                Ok(all)
            })
            .await
    }

    /// Reads the archive once, on a thread that may block, and writes every blob to the store.
    async fn store_archive(&self, lease: &Lease, archive: &Path) -> Result<Found, Error> {
        let (runtime, lease, path) = (self.clone(), lease.clone(), archive.to_owned());
        let handle = Handle::current();
        tokio::task::spawn_blocking(move || runtime.read_archive(&handle, &lease, &path))
            .await
            .map_err(|error| bad(archive, error.to_string()))?
    }

    fn read_archive(&self, handle: &Handle, lease: &Lease, path: &Path) -> Result<Found, Error> {
        let unreadable = |error| Error::io("read archive", path.display())(error);
        let mut archive = tar::Archive::new(open(path).map_err(unreadable)?);
        let mut found = Found::default();
        let mut links = Vec::new();
        for entry in archive.entries().map_err(unreadable)? {
            let mut entry = entry.map_err(unreadable)?;
            let name = entry.path().map_err(unreadable)?;
            let name = name.to_string_lossy().trim_start_matches("./").to_owned();
            let kind = entry.header().entry_type();
            if let (true, Some(target)) = (
                kind.is_symlink() || kind.is_hard_link(),
                entry.link_name().map_err(unreadable)?,
            ) {
                links.push((name, target.to_string_lossy().into_owned()));
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            match name.as_str() {
                "oci-layout" | "repositories" => {}
                "index.json" => found.index = Some(small(&mut entry).map_err(unreadable)?),
                "manifest.json" => found.docker = Some(small(&mut entry).map_err(unreadable)?),
                _ => {
                    let stored = self.store_entry(handle, lease, path, &name, &mut entry)?;
                    found.files.insert(name, stored);
                }
            }
        }
        for (name, target) in links {
            // Layers shared in old docker archives: "../<other layer>/layer.tar".
            let target = target.trim_start_matches("../");
            if let Some(stored) = found.files.get(target).cloned() {
                found.files.insert(name, stored);
            }
        }
        Ok(found)
    }

    fn store_entry(
        &self,
        handle: &Handle,
        lease: &Lease,
        path: &Path,
        name: &str,
        entry: &mut tar::Entry<'_, Box<dyn Read + Send>>,
    ) -> Result<Stored, Error> {
        let size = entry.header().size().unwrap_or_default();
        let expected = name
            .strip_prefix("blobs/")
            .map(|digest| digest.replace('/', ":"));
        let mut magic = None;
        let chunks = std::iter::from_fn(|| {
            let mut chunk = Vec::with_capacity(CHUNK);
            match entry.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
                Ok(0) => None,
                Ok(_) => {
                    magic.get_or_insert_with(|| first_bytes(&chunk));
                    Some(Ok(Bytes::from(chunk)))
                }
                Err(error) => Some(Err(Error::io("read archive", path.display())(error))),
            }
        });
        let blob = Blob {
            digest: expected,
            size,
            labels: HashMap::new(),
        };
        let source = futures::stream::iter(chunks);
        let digest = handle.block_on(self.client().write_blob(lease, blob, source))?;
        Ok(Stored {
            digest,
            size,
            magic: magic.unwrap_or_default(),
        })
    }

    /// Makes the manifests docker archives lack.
    async fn docker_targets(
        &self,
        lease: &Lease,
        found: &Found,
        list: &[u8],
    ) -> Result<Vec<Target>, Error> {
        let entries: Vec<DockerEntry> = serde_json::from_slice(list)
            .map_err(|error| Error::invalid("archive", "manifest.json", error.to_string()))?;
        let mut targets = Vec::new();
        for entry in entries {
            let manifest = docker_manifest(found, &entry)?;
            let json = serde_json::to_vec(&manifest)
                .map_err(|error| Error::invalid("manifest", &entry.config, error.to_string()))?;
            let target = Descriptor {
                media_type: OCI_MANIFEST.into(),
                digest: digest_of(&json),
                size: json.len() as u64,
                ..Descriptor::default()
            };
            let blob = Blob {
                digest: Some(target.digest.clone()),
                size: target.size,
                ..Blob::default()
            };
            self.client().write_bytes(lease, blob, json.into()).await?;
            let names = entry.repo_tags.unwrap_or_default();
            targets.push((target, normalised(names)?));
        }
        Ok(targets)
    }
}

fn docker_manifest(found: &Found, entry: &DockerEntry) -> Result<Manifest, Error> {
    let descriptor = |path: &str, media_type: &dyn Fn(&Stored) -> String| {
        let stored = found.files.get(path);
        let stored = stored.ok_or_else(|| Error::invalid("archive", path, "missing"))?;
        Ok(Descriptor {
            media_type: media_type(stored),
            digest: stored.digest.clone(),
            size: stored.size,
            ..Descriptor::default()
        })
    };
    let layers = entry.layers.iter();
    let layers = layers.map(|path| descriptor(path, &|layer| layer_type(&layer.magic)));
    Ok(Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        config: Some(descriptor(&entry.config, &|_| OCI_CONFIG.into())?),
        layers: layers.collect::<Result<_, Error>>()?,
        manifests: Vec::new(),
    })
}

/// The images of an OCI layout that carry a name; a single nameless one cannot be referred to.
fn oci_targets(archive: &Path, index: &[u8]) -> Result<Vec<Target>, Error> {
    let index = Manifest::parse("index.json", index)?;
    let mut by_digest: BTreeMap<String, Target> = BTreeMap::new();
    for entry in index.manifests {
        let name = NAME_KEYS.iter().find_map(|key| entry.annotations.get(*key));
        let Some(name) = name else { continue };
        let names = normalised([name.clone()])?;
        let target = by_digest
            .entry(entry.digest.clone())
            .or_insert_with(|| (entry, Vec::new()));
        target.1.extend(names);
    }
    if by_digest.is_empty() {
        return Err(bad(archive, "no image in index.json has a name annotation"));
    }
    Ok(by_digest.into_values().collect())
}

fn normalised(names: impl IntoIterator<Item = String>) -> Result<Vec<String>, Error> {
    let names = names.into_iter();
    names.map(|name| Ok(name::parse(&name)?.whole())).collect()
}

fn open(path: &Path) -> std::io::Result<Box<dyn Read + Send>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    let length = file.read(&mut magic)?;
    let file = BufReader::with_capacity(1 << 18, File::open(path)?);
    Ok(match compression(&magic[..length]) {
        Some("gzip") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some(_) => Box::new(zstd::Decoder::with_buffer(file)?),
        None => Box::new(file),
    })
}

fn compression(magic: &[u8]) -> Option<&'static str> {
    if magic.starts_with(&[0x1f, 0x8b]) {
        Some("gzip")
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Some("zstd")
    } else {
        None
    }
}

fn layer_type(magic: &[u8]) -> String {
    match compression(magic) {
        Some(kind) => format!("{OCI_LAYER}+{kind}"),
        None => OCI_LAYER.to_owned(),
    }
}

fn first_bytes(chunk: &[u8]) -> [u8; 4] {
    let mut magic = [0; 4];
    for (to, from) in magic.iter_mut().zip(chunk) {
        *to = *from;
    }
    magic
}

fn small(entry: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(LARGEST_INDEX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn bad(archive: &Path, reason: impl Into<String>) -> Error {
    Error::invalid("archive", archive.display().to_string(), reason)
}
