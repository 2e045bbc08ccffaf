//! Configuration of the proxy as a drop-in for kube-proxy: its file and its flags become one typed value
//! ([`Settings`]). What is wrong is refused, all of it at once and with its path; what has no effect here is a warning.
//!
//! ```text
//! file (strict) <- flags -> defaults (upstream's) -> checks (upstream's) -> Settings
//! ```

mod check;
mod duration;
mod file;
mod flags;
mod given;
mod settings;
mod settle;

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

pub use file::{API_VERSION, File, KIND};
pub use flags::Flags;
pub use settings::{
    Conntrack, DetectLocal, Ipvs, Logging, Masquerade, Mode, NodePortAddress, Periods, Settings,
};

/// What came of a file and flags.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to do.
    pub settings: Settings,
    /// The whole file as it is in force, defaults filled in: for `/configz` and `--write-config-to`.
    pub effective: File,
    /// What has no effect here, a sentence each.
    pub warnings: Vec<String>,
}

/// What is wrong, a sentence each, beginning with the field's path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Invalid(pub Vec<String>);

impl Loaded {
    /// Reads the file that `--config` names, if any, and lays the flags over it.
    pub fn read(flags: &Flags) -> anyhow::Result<Self> {
        let Some(path) = &flags.config else {
            return Ok(Self::new(None, flags)?);
        };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let loaded = Self::new(Some(&text), flags);
        loaded.with_context(|| format!("configuration {}", path.display()))
    }

    /// From a file's text and flags.
    pub fn new(text: Option<&str>, flags: &Flags) -> Result<Self, Invalid> {
        let mut warnings = Vec::new();
        let mut fields = match text {
            None => Value::Object(serde_json::Map::new()),
            Some(text) => parse(text)?,
        };
        let given = flags.given();
        for flag in &given {
            set(&mut fields, flag.path, flag.value.clone());
        }
        // kube-proxy drops nearly all flags where there is a file.
        let known = ["hostname-override", "v", "logging-format"];
        let mut beside: Vec<_> = given.iter().map(|g| g.flag).collect();
        beside.retain(|flag| !known.contains(flag));
        beside.dedup();
        if text.is_some() && !beside.is_empty() {
            let flags = beside.join(", --");
            warnings.push(format!(
                "--{flags}: wins over the file, kube-proxy would drop it"
            ));
        }
        let mut file: File = check(fields)?;
        file.fill();
        let settings = settle::settle(&file, flags, &mut warnings)?;
        Ok(Self {
            settings,
            effective: file,
            warnings,
        })
    }

    /// What `/configz` answers.
    pub fn configz(&self) -> Value {
        serde_json::json!({"kubeproxy.config.k8s.io": self.effective})
    }

    /// Writes the file that is in force.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_yaml_ng::to_string(&self.effective)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// Reads a file alone first, so that an error names its field and not a flag's.
fn parse(text: &str) -> Result<Value, Invalid> {
    let yaml: Result<serde_yaml_ng::Value, _> = serde_yaml_ng::from_str(text);
    let yaml = yaml.map_err(|e| Invalid(vec![format!("not YAML: {e}")]))?;
    if !yaml.is_mapping() {
        return Err(Invalid(vec!["a mapping of fields is needed".into()]));
    }
    let value = serde_json::to_value(yaml);
    let value = value.map_err(|e| Invalid(vec![format!("not a configuration: {e}")]))?;
    let file = check(value.clone())?;
    let is = (file.api_version.as_deref(), file.kind.as_deref());
    if is != (Some(API_VERSION), Some(KIND)) {
        let (version, kind) = (is.0.unwrap_or_default(), is.1.unwrap_or_default());
        return Err(Invalid(vec![format!(
            "apiVersion and kind are {version:?} and {kind:?}, needed are {API_VERSION} and {KIND}"
        )]));
    }
    Ok(value)
}

fn check(value: Value) -> Result<File, Invalid> {
    let file = serde_path_to_error::deserialize(value);
    file.map_err(|e| Invalid(vec![format!("{}: {}", e.path(), e.inner())]))
}

/// Sets a field by its path, making what it stands in.
fn set(fields: &mut Value, path: &str, value: Value) {
    let mut at = fields;
    for name in path.split('.') {
        if !at.is_object() {
            *at = Value::Object(serde_json::Map::new());
        }
        let Value::Object(map) = at else { return };
        at = map.entry(name).or_insert(Value::Null);
    }
    *at = value;
}

#[cfg(test)]
mod tests;
