//! The CPU manager's part of the configuration, under upstream's names.

use std::collections::BTreeMap;

use crate::cpuset::CpuSet;
use crate::eviction::Error;
use crate::topology::{self, flag};

/// `cpuManagerPolicyOptions` of the static policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `full-pcpus-only`: whole cores or the pod is refused.
    pub full_cores: bool,
    /// `distribute-cpus-across-numa`: evenly from several NUMA nodes where one is not enough.
    pub distribute: bool,
    /// `align-by-socket`: a socket's NUMA nodes are as good as one.
    pub align_by_socket: bool,
    /// `strict-cpu-reservation`: reserved CPUs are not even in the shared pool.
    pub strict: bool,
}

/// How CPUs are handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The policy is `static`; else `none`.
    pub exclusive: bool,
    /// For the static policy.
    pub options: Options,
    /// `reservedSystemCPUs`; empty: as many as are reserved by number.
    pub reserved: CpuSet,
}

impl Settings {
    /// The policy's name.
    pub fn policy(&self) -> &'static str {
        if self.exclusive { "static" } else { "none" }
    }

    /// From the configuration's fields as they are written.
    pub fn parse(
        policy: Option<&str>,
        options: &BTreeMap<String, String>,
        reserved: Option<&str>,
        topology: topology::Policy,
    ) -> Result<Self, Error> {
        const OPTIONS: &str = "cpuManagerPolicyOptions";
        let exclusive = match policy.unwrap_or("none") {
            "none" | "" => false,
            "static" => true,
            other => {
                let why = format!("unknown policy: {other:?}, needed is \"none\" or \"static\"");
                return Err(Error::new("cpuManagerPolicy", None, why));
            }
        };
        let text = reserved.unwrap_or_default();
        let reserved = CpuSet::parse(text).ok_or_else(|| {
            let why = format!("unable to parse {text:?}, needed is a list such as 0-1,4");
            Error::new("reservedSystemCPUs", None, why)
        })?;
        if !exclusive && let Some(name) = options.keys().next() {
            let why =
                "received unsupported options for policy \"none\", set cpuManagerPolicy: static";
            return Err(Error::new(OPTIONS, Some(name), why));
        }
        let mut own = Options::default();
        for (name, text) in options {
            let place = match name.as_str() {
                "full-pcpus-only" => &mut own.full_cores,
                "distribute-cpus-across-numa" => &mut own.distribute,
                "align-by-socket" => &mut own.align_by_socket,
                "strict-cpu-reservation" => &mut own.strict,
                "distribute-cpus-across-cores" | "prefer-align-cpus-by-uncorecache" => {
                    let why = "is not supported; there are full-pcpus-only, distribute-cpus-across-numa, align-by-socket and strict-cpu-reservation";
                    return Err(Error::new(OPTIONS, Some(name), why));
                }
                _ => {
                    let why = format!("unknown CPU Manager Policy option: {name:?}");
                    return Err(Error::new(OPTIONS, Some(name), why));
                }
            };
            *place = flag(OPTIONS, name, text)?;
        }
        if own.align_by_socket && topology == topology::Policy::SingleNumaNode {
            let why = "Topology manager single-numa-node policy is incompatible with CPUManager align-by-socket policy option";
            return Err(Error::new(OPTIONS, Some("align-by-socket"), why));
        }
        Ok(Self {
            exclusive,
            options: own,
            reserved,
        })
    }
}
