//! What images were pulled with, kept on disk: one file an image, named by its digest, as upstream's image manager has
//! them (`kubelet.config.k8s.io/v1alpha1`). A file in `pulling` says that a pull was begun; one that is left by a crash
//! makes its image count as pulled, with nobody known to have a right to it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use keelson_agent_plan::access::{self, Known, Pulled, Secret};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const VERSION: &str = "kubelet.config.k8s.io/v1alpha1";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    api_version: String,
    last_updated_time: String,
    image_ref: String,
    /// By image name without tag.
    credential_mapping: BTreeMap<String, Entry>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretEntry {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Intent<'a> {
    kind: &'static str,
    api_version: &'static str,
    image: &'a str,
}

/// The records of one node.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    pulled: PathBuf,
    pulling: PathBuf,
}

impl Records {
    /// Records below the agent's root.
    pub(crate) fn new(root: &Path) -> io::Result<Records> {
        let root = root.join("image_manager");
        let records = Records {
            pulled: root.join("pulled"),
            pulling: root.join("pulling"),
        };
        fs::create_dir_all(&records.pulled)?;
        fs::create_dir_all(&records.pulling)?;
        Ok(records)
    }

    /// What is known of an image by the name (normalised) a pod has for it, and by that without its tag. `names` are
    /// all names it has here: one that is being pulled counts. A name that was there without a pull stays one that
    /// anybody may use, also when the same image is pulled by another name.
    pub(crate) fn known(
        &self,
        digest: &str,
        names: &[String],
        name: &str,
        repository: &str,
    ) -> Known {
        let record = self.read(digest);
        let begun = names.iter().any(|name| file(&self.pulling, name).exists());
        let was_pulled = record.is_some();
        let pulled = record
            .and_then(|mut r| r.credential_mapping.remove(repository))
            .map(pulled);
        let loaded = pulled.is_none() && !begun && names.iter().any(|n| n == name);
        Known {
            by_agent: (was_pulled || begun) && !loaded,
            pulled,
        }
    }

    /// A pull of an image (a whole name) begins.
    pub(crate) fn begin(&self, image: &str) -> io::Result<()> {
        let intent = Intent {
            kind: "ImagePullIntent",
            api_version: VERSION,
            image,
        };
        write(&file(&self.pulling, image), &serde_json::to_vec(&intent)?)
    }

    /// It has ended, well with what it gave and showed, or not.
    pub(crate) fn end(
        &self,
        image: &str,
        repository: &str,
        got: Option<(&str, Pulled)>,
    ) -> io::Result<()> {
        if let Some((digest, now)) = got {
            let mut record = self.read(digest).unwrap_or_else(|| Record {
                kind: "ImagePulledRecord".to_owned(),
                api_version: VERSION.to_owned(),
                last_updated_time: String::new(),
                image_ref: digest.to_owned(),
                credential_mapping: BTreeMap::new(),
            });
            let known = record.credential_mapping.remove(repository).map(pulled);
            let learned = entry(access::learned(known, now));
            record
                .credential_mapping
                .insert(repository.to_owned(), learned);
            record.last_updated_time = Timestamp::now().to_string();
            write(&file(&self.pulled, digest), &serde_json::to_vec(&record)?)?;
        }
        match fs::remove_file(file(&self.pulling, image)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// A record that cannot be read counts as none for this name, but the image as pulled: it is verified again.
    fn read(&self, digest: &str) -> Option<Record> {
        let path = file(&self.pulled, digest);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            read => read.unwrap_or_default(),
        };
        let record = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "record of a pulled image cannot be read");
            Record {
                kind: "ImagePulledRecord".to_owned(),
                api_version: VERSION.to_owned(),
                last_updated_time: String::new(),
                image_ref: digest.to_owned(),
                credential_mapping: BTreeMap::new(),
            }
        });
        Some(record)
    }
}

fn pulled(entry: Entry) -> Pulled {
    if entry.node_pods_accessible {
        return Pulled::ByAnybody;
    }
    let secrets = entry.kubernetes_secrets.into_iter().map(|s| Secret {
        uid: s.uid,
        namespace: s.namespace,
        name: s.name,
        hash: s.credential_hash,
    });
    Pulled::With(secrets.collect())
}

fn entry(pulled: Pulled) -> Entry {
    match pulled {
        Pulled::ByAnybody => Entry {
            node_pods_accessible: true,
            ..Entry::default()
        },
        Pulled::With(secrets) => {
            let secrets = secrets.into_iter().map(|s| SecretEntry {
                uid: s.uid,
                namespace: s.namespace,
                name: s.name,
                credential_hash: s.hash,
            });
            Entry {
                node_pods_accessible: false,
                kubernetes_secrets: secrets.collect(),
            }
        }
    }
}

/// `sha256-<hash of the name>`.
fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("sha256-{}", hash(&[name])))
}

/// A hash of texts, in hexadecimal.
pub(crate) fn hash(parts: &[&str]) -> String {
    let mut all = Sha256::new();
    for part in parts {
        all.update(part.as_bytes());
        all.update([0]);
    }
    let bytes: [u8; 32] = all.finalize().into();
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_outlive_the_agent() {
        let dir = tempfile::tempdir().expect("directory");
        let records = || Records::new(dir.path()).expect("records");
        let known =
            |names: &[String]| records().known("sha256:d", names, "r.example/a:1", "r.example/a");
        let names = ["r.example/a:1".to_owned()];
        assert_eq!(known(&names), Known::default());
        records().begin("r.example/a:1").expect("begun");
        assert!(known(&names).by_agent, "a crash left it");
        assert!(!known(&[]).by_agent, "another image");
        let secret = Secret {
            uid: "u".into(),
            namespace: "ns".into(),
            name: "s".into(),
            hash: "h".into(),
        };
        let with = Pulled::With(vec![secret]);
        let got = Some(("sha256:d", with.clone()));
        records()
            .end("r.example/a:1", "r.example/a", got)
            .expect("ended");
        let found = known(&[]);
        assert_eq!((found.by_agent, found.pulled), (true, Some(with)));
        let other = |there: &[String]| {
            let known = records().known("sha256:d", there, "r.example/b:1", "r.example/b");
            (known.by_agent, known.pulled)
        };
        assert_eq!(other(&[]), (true, None), "under another name");
        let loaded = ["r.example/b:1".to_owned()];
        assert_eq!(other(&loaded), (false, None), "that was loaded");
        let got = Some(("sha256:d", Pulled::ByAnybody));
        records()
            .end("r.example/a:1", "r.example/a", got)
            .expect("ended");
        assert_eq!(known(&[]).pulled, Some(Pulled::ByAnybody));
        records().begin("r.example/a:2").expect("begun");
        records()
            .end("r.example/a:2", "r.example/a", None)
            .expect("ended");
        assert_eq!(
            fs::read_dir(dir.path().join("image_manager/pulling"))
                .expect("folder")
                .count(),
            0
        );
        fs::write(file(&records().pulled, "sha256:d"), "{").expect("broken");
        assert_eq!((known(&[]).by_agent, known(&[]).pulled), (true, None));
    }
}
