//! Network configuration: found, parsed, and written for one plugin.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Attachment, Error};

/// A network: its plugins in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// The file it comes from.
    pub file: String,
    /// Its name.
    pub name: String,
    /// The protocol version that is spoken.
    pub version: String,
    /// No CHECK.
    pub disable_check: bool,
    /// No GC.
    pub disable_gc: bool,
    /// Plugin configurations, each an object with a `type`.
    pub plugins: Vec<Value>,
}

/// Versions we speak, oldest first.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A configuration without a version speaks the first one, whose results have another shape.
const UNVERSIONED: &str = "0.1.0";

impl Network {
    /// Whether the spoken version is at least this one.
    pub(super) fn at_least(&self, major: u32, minor: u32) -> bool {
        let mut parts = self
            .version
            .split('.')
            .map(|p| p.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }

    /// Parses the content of a `.conflist`, or of a `.conf`/`.json` with one plugin.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, Error> {
        let bad = |why: String| Error::Config {
            file: file.to_owned(),
            why,
        };
        let value: Value = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        let object = value
            .as_object()
            .ok_or_else(|| bad("must be an object".into()))?;
        let name = object
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !valid_name(name) {
            return Err(bad(format!("invalid network name {name:?}")));
        }
        let plugins = match object.get("plugins") {
            _ if !file.ends_with(".conflist") => vec![value.clone()],
            Some(Value::Array(list)) => list.clone(),
            _ => return Err(bad("'plugins' must be a list".into())),
        };
        if plugins.is_empty() {
            return Err(bad("no plugins in list".into()));
        }
        if let Some(i) = plugins.iter().position(|p| type_of(p).is_empty()) {
            return Err(bad(format!("plugins[{i}]: missing 'type'")));
        }
        let flag = |key: &str| matches!(object.get(key), Some(Value::Bool(true)));
        Ok(Self {
            file: file.to_owned(),
            name: name.to_owned(),
            version: version(object).map_err(bad)?,
            disable_check: flag("disableCheck"),
            disable_gc: flag("disableGC"),
            plugins,
        })
    }
}

/// The highest version that both sides speak (spec 1.1, "Version considerations").
fn version(object: &Map<String, Value>) -> Result<String, String> {
    let one = object
        .get("cniVersion")
        .and_then(Value::as_str)
        .unwrap_or(UNVERSIONED);
    let several = object.get("cniVersions").and_then(Value::as_array);
    let several = several.into_iter().flatten().filter_map(Value::as_str);
    let offered: Vec<&str> = several.chain([one]).collect();
    let best = VERSIONS.iter().rev().find(|v| offered.contains(v));
    best.map(|v| (*v).to_owned())
        .ok_or_else(|| format!("unsupported cniVersion {one:?}: must be one of {VERSIONS:?}"))
}

/// The specification's grammar of network names.
fn valid_name(name: &str) -> bool {
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    first
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// A plugin's `type`; empty if it has none, or one that would leave the plugin directory.
pub(super) fn type_of(plugin: &Value) -> &str {
    let name = plugin
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if name.contains('/') { "" } else { name }
}

/// What one plugin reads on standard input.
pub(super) fn stdin(
    network: &Network,
    plugin: &Value,
    attachment: &Attachment,
    previous: &Value,
) -> Value {
    let mut conf = plugin.clone();
    conf["name"] = json!(network.name);
    conf["cniVersion"] = json!(network.version);
    if !previous.is_null() {
        conf["prevResult"] = previous.clone();
    }
    let declared = plugin.get("capabilities").and_then(Value::as_object);
    let declared = declared
        .into_iter()
        .flatten()
        .filter(|(_, on)| on.as_bool() == Some(true));
    let given: Map<String, Value> = declared
        .filter_map(|(name, _)| Some((name.clone(), attachment.capability(name)?)))
        .collect();
    if !given.is_empty() {
        conf["runtimeConfig"] = Value::Object(given);
    }
    conf
}

/// Name, time and size of the configuration files, in lexical order: what tells a changed directory.
pub(super) type Stamp = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// What podman calls the bridges of its own networks, with a number behind it.
const PODMANS: &str = "cni-podman";

/// Whether it is one of podman's own, which are of one machine and no cluster's. podman keeps them where those of pods
/// are, one of them from its package.
fn is_podmans(network: &Network) -> bool {
    let bridge = |p: &Value| p["bridge"].as_str().is_some_and(|b| b.starts_with(PODMANS));
    network.plugins.iter().any(bridge)
}

fn is_configuration(file: &Path) -> bool {
    let ending = file.extension().and_then(|e| e.to_str());
    ending.is_some_and(|e| ["conf", "conflist", "json"].contains(&e))
}

fn read(file: &Path) -> Result<Network, String> {
    let text = fs::read(file).map_err(|e| e.to_string())?;
    Network::parse(&file.display().to_string(), &text).map_err(|e| e.to_string())
}

/// Whether a file configures a network that pods may have, or is to; podman's own are none.
pub fn is_of_pods(file: &Path) -> bool {
    is_configuration(file) && !read(file).is_ok_and(|n| is_podmans(&n))
}

/// Takes the directory's stamp. A missing directory is an empty one.
pub(super) fn stamp(dir: &Path) -> Result<Stamp, Error> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Stamp::new()),
        r => r.map_err(|source| Error::Io {
            action: "read directory",
            path: dir.to_owned(),
            source,
        })?,
    };
    let paths = entries.flatten().map(|e| e.path());
    let paths = paths.filter(|p| is_configuration(p));
    let file = |p: PathBuf| {
        let meta = fs::metadata(&p).ok().filter(fs::Metadata::is_file)?;
        Some((p, meta.modified().ok(), meta.len()))
    };
    let mut stamp: Stamp = paths.filter_map(file).collect();
    stamp.sort();
    Ok(stamp)
}

/// The first valid configuration; the error says what is wrong with each file.
pub(super) fn discover(dir: &Path, stamp: &Stamp) -> Result<Network, Error> {
    let mut wrong = Vec::new();
    for (path, ..) in stamp {
        match read(path) {
            Ok(network) if is_podmans(&network) => {}
            Ok(network) => return Ok(network),
            Err(e) => {
                tracing::warn!(file = %path.display(), error = e, "cni configuration skipped");
                wrong.push(e);
            }
        }
    }
    let why = if wrong.is_empty() {
        "cni plugin not initialized".to_owned()
    } else {
        wrong.join("; ")
    };
    Err(Error::NoConfig {
        dir: dir.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations() {
        let list = |v: &str| format!(r#"{{"name":"n",{v},"plugins":[{{"type":"bridge"}}]}}"#);
        let table = [
            ("a.conflist", list(r#""cniVersion":"1.0.0""#), Ok("1.0.0")),
            (
                "a.conflist",
                list(r#""cniVersion":"1.0.0","cniVersions":["1.0.0","1.1.0","2.0.0"]"#),
                Ok("1.1.0"),
            ),
            (
                "a.conf",
                r#"{"name":"n","cniVersion":"0.3.1","type":"bridge"}"#.into(),
                Ok("0.3.1"),
            ),
            (
                "a.conflist",
                list(r#""cniVersion":"3.0.0""#),
                Err("unsupported cniVersion"),
            ),
            (
                "a.conflist",
                r#"{"name":"../x","plugins":[]}"#.into(),
                Err("invalid network name"),
            ),
            (
                "a.conflist",
                r#"{"name":"n","cniVersion":"1.0.0","plugins":[]}"#.into(),
                Err("no plugins"),
            ),
            (
                "a.conf",
                r#"{"name":"n","cniVersion":"1.0.0","type":"../sh"}"#.into(),
                Err("missing 'type'"),
            ),
            ("a.conf", "{".into(), Err("EOF")),
        ];
        for (file, text, want) in table {
            match (Network::parse(file, text.as_bytes()), want) {
                (Ok(n), Ok(version)) => assert_eq!(n.version, version, "{text}"),
                (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{text}: {e}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn only_declared_capabilities_are_given() {
        let text = br#"{"name":"n","cniVersion":"1.0.0","type":"t","capabilities":{"portMappings":true,"mac":false}}"#;
        let network = Network::parse("a.conf", text).expect("network");
        let attachment = Attachment {
            mac: Some("02:00:00:00:00:01".into()),
            bandwidth: Some(super::super::Bandwidth {
                ingress: 1,
                egress: 0,
            }),
            ports: vec![super::super::PortMapping {
                host_port: 80,
                container_port: 8080,
                protocol: "tcp".into(),
                host_ip: None,
            }],
            ..Attachment::default()
        };
        let conf = stdin(
            &network,
            &network.plugins[0],
            &attachment,
            &json!({"ips": []}),
        );
        let ports = json!([{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}]);
        assert_eq!(conf["runtimeConfig"], json!({"portMappings": ports}));
        assert_eq!(conf["prevResult"], json!({"ips": []}));
    }
}
