//! Writes small OCI image archives: what tests and the demo make their images with.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Error;
use crate::image::ImageConfig;
use crate::image::manifest::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Platform, digest_of};

/// A file of the image's only layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A copy of a host file.
    Copy {
        /// File on the host.
        from: PathBuf,
        /// Absolute path in the image.
        to: String,
        /// Permission bits.
        mode: u32,
    },
    /// A file with these bytes.
    Bytes {
        /// Content.
        content: Vec<u8>,
        /// Absolute path in the image.
        to: String,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it points to.
        target: String,
        /// Absolute path in the image.
        to: String,
    },
    /// A directory.
    Dir {
        /// Absolute path in the image.
        to: String,
        /// Permission bits.
        mode: u32,
    },
}

impl Entry {
    fn to(&self) -> &str {
        match self {
            Entry::Copy { to, .. }
            | Entry::Bytes { to, .. }
            | Entry::Link { to, .. }
            | Entry::Dir { to, .. } => to.trim_matches('/'),
        }
    }
}

/// Writes an OCI archive of one image for this machine's architecture to `path`. The result depends
/// on the arguments only (times are zero), so that importing it twice is one image. Missing parent
/// directories are added (mode 0755). `name` is any docker name.
pub fn write(path: &Path, name: &str, files: &[Entry], config: &ImageConfig) -> Result<(), Error> {
    let failed = |error| Error::io("write archive", path.display())(error);
    let layer = layer(files)?;
    let config = config_file(config, &digest_of(&layer))
        .to_string()
        .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG, &config),
        "layers": [descriptor(OCI_LAYER, &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor(OCI_MANIFEST, &manifest);
    if let Some(fields) = entry.as_object_mut() {
        let name = crate::image::normalise(name)?;
        fields.insert(
            "annotations".into(),
            json!({ "io.containerd.image.name": name }),
        );
    }
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });

    let mut out = tar::Builder::new(BufWriter::new(File::create(path).map_err(failed)?));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len());
        out.append_data(&mut header, name, bytes)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed)?;
    add("index.json", index.to_string().as_bytes()).map_err(failed)?;
    for blob in [&layer, &config, &manifest] {
        let name = format!("blobs/{}", digest_of(blob).replace(':', "/"));
        add(&name, blob).map_err(failed)?;
    }
    let mut file = out.into_inner().map_err(failed)?;
    file.flush().map_err(failed)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len() })
}

fn config_file(config: &ImageConfig, diff_id: &str) -> Value {
    let platform = Platform::host();
    let volumes: serde_json::Map<String, Value> = config
        .volumes
        .iter()
        .map(|path| (path.clone(), json!({})))
        .collect();
    json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "User": config.user,
            "Env": config.env,
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "WorkingDir": config.working_dir,
            "Volumes": volumes,
            "StopSignal": config.stop_signal,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created_by": "keelson" }],
    })
}

fn layer(files: &[Entry]) -> Result<Vec<u8>, Error> {
    let mut out = tar::Builder::new(Vec::new());
    let mut dirs = BTreeSet::new();
    for file in files {
        let to = file.to();
        let failed = |error| Error::io("add to image layer", to)(error);
        let parents: Vec<&Path> = Path::new(to).ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            if !parent.as_os_str().is_empty() && dirs.insert(parent.to_owned()) {
                let mut header = header(tar::EntryType::Directory, 0o755, 0);
                out.append_data(&mut header, parent, std::io::empty())
                    .map_err(failed)?;
            }
        }
        append(&mut out, file).map_err(failed)?;
        dirs.insert(PathBuf::from(to));
    }
    out.into_inner().map_err(Error::io("finish", "image layer"))
}

fn append(out: &mut tar::Builder<Vec<u8>>, file: &Entry) -> std::io::Result<()> {
    let to = file.to();
    match file {
        Entry::Copy { from, mode, .. } => {
            let content = std::fs::read(from)?;
            let mut header = header(tar::EntryType::Regular, *mode, content.len());
            out.append_data(&mut header, to, content.as_slice())
        }
        Entry::Bytes { content, mode, .. } => {
            let mut header = header(tar::EntryType::Regular, *mode, content.len());
            out.append_data(&mut header, to, content.as_slice())
        }
        Entry::Link { target, .. } => {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            out.append_link(&mut header, to, target)
        }
        Entry::Dir { mode, .. } => {
            let mut header = header(tar::EntryType::Directory, *mode, 0);
            out.append_data(&mut header, to, std::io::empty())
        }
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
