//! The exec protocol: parameters from the environment, errors on standard output (specification, sections 2 and 5).

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::args::Extra;
use crate::config::Attachment;

/// Versions of the specification whose requests are understood and whose results are given.
pub const VERSIONS: &[&str] = &[
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// Error codes of the specification ("Well-known Error Codes").
pub mod code {
    /// The version asked for is not understood.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not understood.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is not known, or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A needed environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO_FAILURE: u32 = 5;
    /// The configuration is not JSON of the right form.
    pub const DECODE_FAILURE: u32 = 6;
    /// The configuration says something that can't be.
    pub const INVALID_CONFIG: u32 = 7;
    /// The namespace can't be the container's. The reference's code, which the specification reserves and does not tell.
    pub const INVALID_NETNS: u32 = 8;
    /// Something is in the way that will go: try again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin can't serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Ours: the kernel refused.
    pub const KERNEL: u32 = 100;
    /// Ours: no address is left.
    pub const NO_ADDRESS: u32 = 101;
    /// Ours: CHECK found something that is not as it should be.
    pub const CHECK_FAILED: u32 = 102;
    /// Ours: a plugin that this one calls (address management, host ports) failed without a code, or is missing.
    pub const DELEGATE_FAILED: u32 = 103;
}

/// An error as the runtime reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct Error {
    /// The version the error is in.
    #[serde(rename = "cniVersion")]
    pub cni_version: String,
    /// See [`code`].
    pub code: u32,
    /// Short.
    pub msg: String,
    /// Long.
    pub details: String,
}

/// Characters of an error's details: what somebody else wrote is quoted in them, and runtimes log them.
const LONGEST: usize = 2000;

impl Error {
    /// An error of a code; the version is set where it is printed.
    pub fn new(code: u32, msg: impl Into<String>, details: impl std::fmt::Display) -> Self {
        Self {
            cni_version: "1.0.0".into(),
            code,
            msg: msg.into(),
            details: details.to_string().chars().take(LONGEST).collect(),
        }
    }
}

/// Refuses a command that a version of the specification does not have.
pub fn allowed(command: Command, version: &str) -> Result<(), Error> {
    let place = |v: &str| VERSIONS.iter().position(|known| *known == v);
    if place(version) >= place(command.since()) {
        return Ok(());
    }
    let (name, since) = (command.name(), command.since());
    let why = format!("{name} exists since {since}, the configuration is in {version}");
    Err(Error::new(
        code::INCOMPATIBLE_VERSION,
        "incompatible CNI version",
        why,
    ))
}

/// The version that a configuration is in; without one it is of the oldest.
pub fn version(input: &[u8]) -> Result<&'static str, Error> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versioned {
        #[serde(default)]
        cni_version: String,
    }
    let unreadable = |e: &dyn std::fmt::Display| {
        Error::new(
            code::DECODE_FAILURE,
            "network configuration can't be read",
            e,
        )
    };
    // What reads structures would take a list of their fields too.
    if input.trim_ascii_start().first() != Some(&b'{') {
        return Err(unreadable(&"it is no JSON object"));
    }
    let conf: Versioned = serde_json::from_slice(input).map_err(|e| unreadable(&e))?;
    let asked = Some(conf.cni_version.as_str()).filter(|v| !v.is_empty());
    let asked = asked.unwrap_or(VERSIONS[0]);
    let known = VERSIONS.iter().find(|v| **v == asked);
    known.copied().ok_or_else(|| {
        let why = format!("{asked:?}; understood are {}", VERSIONS.join(", "));
        Error::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", why)
    })
}

/// What the runtime wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Command {
    /// Give the container an interface.
    Add,
    /// Take it away.
    Del,
    /// Is it as it should be?
    Check,
    /// Free what no valid attachment owns.
    Gc,
    /// Could ADD be served?
    Status,
    /// Which versions?
    #[default]
    Version,
}

impl Command {
    /// From `CNI_COMMAND`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// As `CNI_COMMAND` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the specification that has the command.
    pub fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => VERSIONS[0],
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }

    /// The environment variables that a command needs.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }
}

/// Checked parameters of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`; DEL may come without.
    pub netns: Option<PathBuf>,
    /// `CNI_PATH`.
    pub path: Vec<PathBuf>,
    /// `CNI_ARGS`.
    pub extra: Extra,
}

impl Args {
    /// Checks the environment, handed in as a lookup.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let text = get("CNI_COMMAND").unwrap_or_default();
        let env =
            |details: String| Error::new(code::INVALID_ENVIRONMENT, "invalid environment", details);
        let command = Command::parse(&text).ok_or_else(|| {
            env(format!(
                "CNI_COMMAND is {text:?}, allowed are ADD, DEL, CHECK, GC, STATUS and VERSION"
            ))
        })?;
        let value = |name: &str| get(name).filter(|v| !v.is_empty());
        let needed = command.needs();
        if let Some(missing) = needed.iter().find(|n| value(n).is_none()) {
            return Err(env(format!("{missing} is missing")));
        }
        let args = Self {
            command,
            container: value("CNI_CONTAINERID").unwrap_or_default(),
            ifname: value("CNI_IFNAME").unwrap_or_default(),
            netns: value("CNI_NETNS").map(PathBuf::from),
            path: value("CNI_PATH")
                .unwrap_or_default()
                .split(':')
                .filter(|p| !p.is_empty())
                .map(PathBuf::from)
                .collect(),
            extra: match needed.contains(&"CNI_CONTAINERID") {
                true => Extra::parse(&value("CNI_ARGS").unwrap_or_default())?,
                false => Extra::default(),
            },
        };
        if needed.contains(&"CNI_CONTAINERID") && !valid_container(&args.container) {
            return Err(env(format!(
                "CNI_CONTAINERID is {:?}, allowed are letters, digits, '_', '.', '-', not first a sign",
                args.container
            )));
        }
        if needed.contains(&"CNI_IFNAME") && !valid_ifname(&args.ifname) {
            return Err(env(format!(
                "CNI_IFNAME is {:?}, allowed are 1 to 15 characters without '/', ':' and space",
                args.ifname
            )));
        }
        Ok(args)
    }

    /// The attachment that the call is about.
    pub fn attachment(&self) -> Attachment {
        Attachment {
            container: self.container.clone(),
            ifname: self.ifname.clone(),
        }
    }

    /// The namespace's path, where the command needs one.
    pub fn netns(&self) -> Result<&Path, Error> {
        let missing = || {
            Error::new(
                code::INVALID_ENVIRONMENT,
                "invalid environment",
                "CNI_NETNS is missing",
            )
        };
        self.netns.as_deref().ok_or_else(missing)
    }
}

/// The specification's form of container ids and network names; also keeps them usable as file names.
pub fn valid_container(id: &str) -> bool {
    id.len() <= 253
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// What the kernel takes as a link's name (`dev_valid_name`).
pub fn valid_ifname(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_ascii_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(pairs: &[(&str, &str)]) -> Result<Args, Error> {
        Args::from_env(|k| {
            pairs
                .iter()
                .find(|(n, _)| *n == k)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn environment_is_checked_by_command() {
        let full = |c| {
            vec![
                ("CNI_COMMAND", c),
                ("CNI_CONTAINERID", "a"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", "/n"),
            ]
        };
        let without = |c, what: &str| {
            full(c)
                .into_iter()
                .filter(|(n, _)| *n != what)
                .collect::<Vec<_>>()
        };
        for command in ["ADD", "CHECK"] {
            assert!(args(&full(command)).is_ok());
            for what in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
                let e = args(&without(command, what)).expect_err(what);
                assert_eq!(
                    (e.code, e.details),
                    (code::INVALID_ENVIRONMENT, format!("{what} is missing"))
                );
            }
        }
        assert_eq!(
            args(&without("DEL", "CNI_NETNS")).expect("no netns").netns,
            None
        );
        assert!(args(&without("DEL", "CNI_CONTAINERID")).is_err());
        for command in ["VERSION", "STATUS"] {
            assert!(args(&[("CNI_COMMAND", command)]).is_ok());
        }
        assert!(args(&[("CNI_COMMAND", "GC")]).is_err());
        assert!(args(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/p")]).is_ok());
        let mut bad = full("ADD");
        bad.push(("CNI_ARGS", "FOO"));
        assert_eq!(
            args(&bad).expect_err("form").code,
            code::INVALID_ENVIRONMENT
        );
        assert!(args(&[("CNI_COMMAND", "add")]).is_err());
        assert!(args(&[]).is_err());
    }

    #[test]
    fn hostile_names_are_refused() {
        for id in ["../x", "a/b", "", ".a", "a b", &"x".repeat(300)] {
            assert!(!valid_container(id), "{id}");
        }
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\u{7}",
            "sixteen-letters-",
        ] {
            assert!(!valid_ifname(name), "{name}");
        }
        assert!(valid_ifname("fifteen-letters") && valid_container("pod_1.x-Y"));
    }
}
