//! Volumes on disk: `<root>/pods/<uid>/volumes/<plugin>/<name>`.
//!
//! Calls block (mounts, small files): run them with `spawn_blocking` where that matters. Every call can
//! be repeated: what stands already is kept or replaced, never doubled.

mod atomic;
mod bundle;
pub mod csi;
mod disk;
mod host_path;
mod mounts;
mod owner;
mod payload;
mod persistent;
mod source;
mod storage;
mod subpath;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use bundle::Bundles;
pub use host_path::HostPathType;
pub use owner::{Owner, give_tree as give};
pub use payload::{File, Keys, Part};
pub use persistent::{CsiRecord, Record, View, of_volume};
pub(crate) use source::bytes as quantity;
pub use source::bytes as quantity_bytes;
pub use source::{Data, Downward, Medium, Plugin, Source, Want, wants};
pub use storage::Storage;

/// What went wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that would leave its directory, such as `..` or one with a slash.
    #[error("invalid {what} {name:?}: must be one path element")]
    Name {
        /// What the name is of.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A file path that would leave the volume.
    #[error("invalid path {0:?}: must be relative and must not contain '..'")]
    Path(String),
    /// An object the volume is made of does not exist (and is not optional).
    #[error("{kind} {name:?} not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// What an object says can't be read.
    #[error("{kind} can't be read: {why}")]
    Malformed {
        /// `clustertrustbundle`.
        kind: &'static str,
        /// Why.
        why: String,
    },
    /// A key listed in `items` that the object does not have.
    #[error("references non-existent {kind} key: {key}")]
    MissingKey {
        /// `config` or `secret`, upstream's words.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A host path that is not what its type says.
    #[error("hostPath type check failed: {path} is not a {what}")]
    HostPath {
        /// The path.
        path: PathBuf,
        /// Such as `directory`.
        what: &'static str,
    },
    /// A path of a local volume where nothing is.
    #[error("path {0:?} does not exist")]
    NotThere(PathBuf),
    /// A file system that could not be mounted.
    #[error("mount {what}: {why}")]
    Mount {
        /// What was to be mounted.
        what: String,
        /// Why it was not.
        why: String,
    },
    /// A source this agent does not offer.
    #[error("volume {volume:?}: {what} is not supported by this node agent: use {instead}")]
    Unsupported {
        /// The volume's name.
        volume: String,
        /// The source.
        what: String,
        /// What is supported in its place.
        instead: &'static str,
    },
    /// A downward API reference that cannot be resolved.
    #[error("volume {volume:?}: downward API file {path:?}: {why}")]
    Downward {
        /// The volume's name.
        volume: String,
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// A subPath that leaves the volume, by `..` or by a symbolic link.
    #[error("subPath {sub_path:?} not within volume path {root}")]
    Escape {
        /// The subPath.
        sub_path: String,
        /// The volume.
        root: PathBuf,
    },
    /// The system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |e| Self::Io {
            action,
            path: path.to_owned(),
            source: e.into(),
        }
    }
}

/// Everything that went wrong in a teardown; it went on after each.
#[derive(Debug, thiserror::Error)]
#[error("tear down volumes of pod {uid}: {}", .errors.iter().map(chain).collect::<Vec<_>>().join("; "))]
pub struct Errors {
    /// The pod.
    pub uid: String,
    /// In the order met; never empty.
    pub errors: Vec<Error>,
}

fn chain(e: &Error) -> String {
    match std::error::Error::source(e) {
        Some(s) => format!("{e}: {s}"),
        None => e.to_string(),
    }
}

/// The volumes below one root.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
    storage: Option<Storage>,
}

/// Below a pod's `plugins`: where its claimed volumes were put.
const CLAIMS: &str = "keelson.io~claims";

impl Volumes {
    /// Volumes below `<root>/pods`. Nothing is made yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            storage: None,
        }
    }

    /// With directories of this node that may become volumes.
    #[must_use]
    pub fn with_storage(self, storage: Storage) -> Self {
        Self {
            storage: Some(storage),
            ..self
        }
    }

    /// A pod's directory: `<root>/pods/<uid>`.
    pub fn pod_dir(&self, uid: &str) -> Result<PathBuf, Error> {
        Ok(self.root.join("pods").join(element("pod uid", uid)?))
    }

    /// Where a volume stands: `<root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>`; for a hostPath
    /// the path itself.
    pub fn path(&self, uid: &str, name: &str, source: &Source) -> Result<PathBuf, Error> {
        if let Source::HostPath { path, .. } | Source::Device { path } = source {
            return Ok(path.clone());
        }
        let dir = self
            .pod_dir(uid)?
            .join("volumes")
            .join(source.plugin().dir());
        Ok(dir.join(element("volume name", name)?))
    }

    /// Makes a volume and returns the path to mount into containers. Called again, it leaves an emptyDir's
    /// contents alone and brings files up to date.
    pub fn materialize(
        &self,
        uid: &str,
        name: &str,
        source: &Source,
        owner: &Owner,
    ) -> Result<PathBuf, Error> {
        element("volume name", name)?;
        let path = self.path(uid, name, source)?;
        match source {
            Source::HostPath { path, kind } => host_path::ensure(path, *kind)?,
            Source::EmptyDir { medium, size_limit } => {
                self.empty_dir(uid, &path, *medium, *size_limit, owner)?
            }
            Source::Files { .. } => {
                self.files(uid, &path, source, owner)?;
            }
            Source::Device { path } => persistent::device(path)?,
            Source::Local {
                path: local,
                fs_type,
                options,
            } => {
                let used = match self
                    .storage
                    .as_ref()
                    .and_then(|s| Some((s, s.name(local)?)))
                {
                    Some((storage, name)) => storage.ensure(name)?,
                    None => persistent::local(local, fs_type.as_deref(), options, &path)?,
                };
                owner::give_tree(&used, owner)?;
                return Ok(used);
            }
            Source::Nfs {
                server,
                path: export,
                options,
                read_only,
            } => {
                self.directory(uid, &path)?;
                persistent::nfs(server, export, options, *read_only, &path)?;
            }
        }
        Ok(path)
    }

    /// Remembers where a claimed volume was put.
    pub fn record(&self, uid: &str, name: &str, record: &Record) -> Result<(), Error> {
        let path = self.record_path(uid, name)?;
        let dir = path.parent().unwrap_or(&path);
        fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
        let text = serde_json::to_vec(record).unwrap_or_default();
        // Whole or not at all.
        let new = dir.join(format!(".{name}"));
        fs::write(&new, text).map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("write", &path))
    }

    /// Where a claimed volume was put.
    pub fn recorded(&self, uid: &str, name: &str) -> Result<Record, Error> {
        let path = self.record_path(uid, name)?;
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(|e| Error::io("read", &path)(io::Error::from(e)))
    }

    /// All that is remembered of a pod's claimed volumes, by the volume's name.
    pub fn records(&self, uid: &str) -> Result<Vec<(String, Record)>, Error> {
        let dir = self.pod_dir(uid)?.join("plugins").join(CLAIMS);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            r => r.map_err(Error::io("read directory", &dir))?,
        };
        let names = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok());
        // Those with a dot were never finished.
        let names = names.filter(|n| !n.starts_with('.'));
        names
            .map(|name| Ok((name.clone(), self.recorded(uid, &name)?)))
            .collect()
    }

    /// Forgets where a claimed volume was: it is no longer there.
    pub fn forget(&self, uid: &str, name: &str) -> Result<(), Error> {
        let path = self.record_path(uid, name)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Unmounts the parts of volumes that containers were given: before the volumes themselves go.
    pub fn release_sub_paths(&self, uid: &str) -> Result<Vec<Error>, Error> {
        Ok(mounts::unmount_below(
            &self.pod_dir(uid)?.join("volume-subpaths"),
        ))
    }

    /// Where a pod's image volume stands.
    pub fn image_path(&self, uid: &str, name: &str) -> Result<PathBuf, Error> {
        let dir = self.pod_dir(uid)?.join("volumes");
        Ok(dir
            .join(Plugin::Image.dir())
            .join(element("volume name", name)?))
    }

    /// Mounts an image's files at a path of ours.
    pub fn mount_views(&self, path: &Path, views: &[View]) -> Result<(), Error> {
        persistent::views(path, views)
    }

    /// Unmounts one path of ours; nothing mounted there is fine.
    pub fn unmount(&self, path: &Path) -> Result<(), Error> {
        mounts::take_away(path)
    }

    /// Unmounts what drivers staged for the whole node. For the end of a node only: pods use it.
    pub fn unstage_all(&self) -> Vec<Error> {
        mounts::unmount_below(&self.root.join("plugins"))
    }

    fn record_path(&self, uid: &str, name: &str) -> Result<PathBuf, Error> {
        let dir = self.pod_dir(uid)?.join("plugins").join(CLAIMS);
        Ok(dir.join(element("volume name", name)?))
    }

    /// Brings a volume of files up to date in place; true if something changed. Readers see all of the old
    /// or all of the new. Volumes without files never change.
    pub fn refresh(
        &self,
        uid: &str,
        name: &str,
        source: &Source,
        owner: &Owner,
    ) -> Result<bool, Error> {
        let path = self.path(uid, name, source)?;
        match source {
            Source::Files { .. } => self.files(uid, &path, source, owner),
            _ => Ok(false),
        }
    }

    /// The pod's users may change the directory's mode, so it is set once: a marker beside it says that it was.
    fn empty_dir(
        &self,
        uid: &str,
        path: &Path,
        medium: Medium,
        limit: Option<u64>,
        owner: &Owner,
    ) -> Result<(), Error> {
        self.directory(uid, path)?;
        let name = path.file_name().unwrap_or_default();
        let marks = self
            .pod_dir(uid)?
            .join("plugins")
            .join(Plugin::EmptyDir.dir())
            .join(name);
        let mark = marks.join("ready");
        // After a reboot the marker stands, but the memory is gone.
        let mounted = medium == Medium::Disk || mounts::is_mount_point(path)?;
        match medium {
            Medium::Disk => {}
            Medium::Memory => mounts::tmpfs(path, limit)?,
            Medium::HugePages(size) => mounts::hugetlbfs(path, size, limit)?,
        }
        if mounted && mark.exists() {
            return Ok(());
        }
        owner::open(path, owner)?;
        fs::create_dir_all(&marks).map_err(Error::io("create directory", &marks))?;
        fs::write(&mark, "").map_err(Error::io("write", &mark))
    }

    fn files(&self, uid: &str, path: &Path, source: &Source, owner: &Owner) -> Result<bool, Error> {
        let Source::Files {
            plugin,
            default_mode,
            parts,
        } = source
        else {
            return Ok(false);
        };
        let files = payload::files(*default_mode, parts, owner)?;
        self.directory(uid, path)?;
        if plugin.in_memory() {
            mounts::tmpfs(path, None)?;
        }
        owner::open(path, owner)?;
        atomic::write(path, &files, owner)
    }

    /// Makes the volume's directory; the pod's own is closed to other users of the host.
    fn directory(&self, uid: &str, path: &Path) -> Result<(), Error> {
        fs::create_dir_all(path).map_err(Error::io("create directory", path))?;
        let pod = self.pod_dir(uid)?;
        owner::chmod(&pod, 0o750)
    }

    /// The path for a container's mount of part of a volume. `sub_path` is resolved below `volume` (a path
    /// that `materialize` returned) without following a link out of it; a missing one is made as a directory.
    /// What was found is bound to `<pod>/volume-subpaths/<name>/<container>/<index>`, so that nobody can swap
    /// it between the check and the mount.
    pub fn sub_path(
        &self,
        uid: &str,
        name: &str,
        container: &str,
        index: usize,
        volume: &Path,
        sub_path: &str,
    ) -> Result<PathBuf, Error> {
        let dir = self.pod_dir(uid)?.join("volume-subpaths");
        let dir = dir
            .join(element("volume name", name)?)
            .join(element("container name", container)?);
        subpath::bind(volume, sub_path, &dir.join(index.to_string()))
    }

    /// Unmounts everything below the pod's directory and removes it. Goes on after errors and returns them
    /// all; a pod that has nothing is fine. Never descends into what is still mounted.
    pub fn teardown(&self, uid: &str) -> Result<(), Errors> {
        let fail = |errors| Errors {
            uid: uid.to_owned(),
            errors,
        };
        let dir = self.pod_dir(uid).map_err(|e| fail(vec![e]))?;
        let errors = mounts::clear(&dir, |errors| {
            // What lies where something of others was mounted is theirs: nothing there is removed with its content.
            for plugin in Plugin::MOUNTED {
                mounts::remove_mount_points(&dir.join("volumes").join(plugin.dir()), errors);
            }
            // `<name>/mount`: a driver's own are a step deeper.
            let drivers = dir.join("volumes").join(Plugin::Csi.dir());
            for entry in fs::read_dir(drivers).into_iter().flatten().flatten() {
                mounts::remove_mount_points(&entry.path(), errors);
            }
        });
        if errors.is_empty() {
            Ok(())
        } else {
            Err(fail(errors))
        }
    }

    /// Whether a pod has a directory here.
    pub fn has(&self, uid: &str) -> bool {
        self.pod_dir(uid).is_ok_and(|dir| dir.exists())
    }

    /// The UIDs of pods that have a directory here, in order.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        let dir = self.root.join("pods");
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            r => r.map_err(Error::io("read directory", &dir))?,
        };
        let mut uids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read directory", &dir))?;
            uids.extend(entry.file_name().into_string());
        }
        uids.sort();
        Ok(uids)
    }
}

/// One path element, or an error: names come from the API and must not reach outside of their directory.
fn element<'a>(what: &'static str, name: &'a str) -> Result<&'a str, Error> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::Name {
            what,
            name: name.to_owned(),
        });
    }
    Ok(name)
}
