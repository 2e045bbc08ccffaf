//! The files of a volume as a value: keys chosen, paths checked, modes settled. Pure.

use std::collections::BTreeMap;

use super::{Error, Owner};

/// The keys of a ConfigMap or Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// `configmap` or `secret`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// Its contents; `None` when it does not exist.
    pub data: Option<BTreeMap<String, Vec<u8>>>,
    /// Key, path and mode of the chosen keys; `None` takes all.
    pub items: Option<Vec<(String, String, Option<u32>)>>,
    /// Whether a missing object, or key, is fine.
    pub optional: bool,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Relative to the volume.
    pub path: String,
    /// Permission bits, else the volume's default.
    pub mode: Option<u32>,
    /// Contents.
    pub data: Vec<u8>,
}

/// A part of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Keys of an object.
    Keys(Keys),
    /// Files with known contents (downward API).
    Values(Vec<File>),
    /// A service account token.
    Token {
        /// Relative to the volume.
        path: String,
        /// The JWT.
        token: String,
    },
}

/// Contents and mode by path.
pub(super) type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// A token is for its pod only: with an owner to give it to, nobody else may read it.
const TOKEN_MODE: u32 = 0o600;

/// Settles all parts; later parts win over earlier ones, as upstream's projections do.
pub(super) fn files(default_mode: u32, parts: &[Part], owner: &Owner) -> Result<Files, Error> {
    let mut files = Files::new();
    for part in parts {
        match part {
            Part::Keys(keys) => files.extend(chosen(keys, default_mode)?),
            Part::Values(list) => {
                let entry = |f: &File| {
                    (
                        f.path.clone(),
                        (f.mode.unwrap_or(default_mode), f.data.clone()),
                    )
                };
                files.extend(list.iter().map(entry));
            }
            Part::Token { path, token } => {
                let mode = if owner.is_set() {
                    TOKEN_MODE
                } else {
                    default_mode
                };
                files.insert(path.clone(), (mode, token.clone().into_bytes()));
            }
        }
    }
    files.keys().try_for_each(|p| check_path(p))?;
    Ok(files)
}

fn chosen(keys: &Keys, default_mode: u32) -> Result<Files, Error> {
    let data = match &keys.data {
        Some(data) => data,
        None if keys.optional => return Ok(Files::new()),
        None => {
            return Err(Error::Missing {
                kind: keys.kind,
                name: keys.name.clone(),
            });
        }
    };
    let Some(items) = &keys.items else {
        return Ok(data
            .iter()
            .map(|(k, v)| (k.clone(), (default_mode, v.clone())))
            .collect());
    };
    let mut files = Files::new();
    for (key, path, mode) in items {
        match data.get(key) {
            Some(v) => _ = files.insert(path.clone(), (mode.unwrap_or(default_mode), v.clone())),
            None if keys.optional => {}
            None => {
                let kind = if keys.kind == "secret" {
                    "secret"
                } else {
                    "config"
                };
                return Err(Error::MissingKey {
                    kind,
                    key: key.clone(),
                });
            }
        }
    }
    Ok(files)
}

/// Relative, without `..`, and not starting with `..`: those names are the writer's own.
fn check_path(path: &str) -> Result<(), Error> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.starts_with("..")
        || path.contains('\0')
        || path.split('/').any(|e| matches!(e, ".." | "." | ""));
    if bad {
        Err(Error::Path(path.to_owned()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::check_path;

    proptest! {
        #[test]
        fn an_accepted_path_stays_below_and_off_the_writers_names(path in "[./a\\x00]{0,12}") {
            if check_path(&path).is_ok() {
                prop_assert!(Path::new(&path).components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(!path.starts_with(".."));
                prop_assert!(!path.contains('\0'));
            }
        }
    }
}
