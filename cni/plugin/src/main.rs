//! `keelson-cni`: CNI plugins in one binary. The runtime starts it for every pod, so it does its work in
//! a dozen netlink messages and ends.

mod attach;
mod bandwidth;
mod bridge;
mod errors;
mod exec;
mod gate;
mod host_local;
mod ipam;
mod iptables;
mod ledger;
mod loopback;
mod masquerade;
mod net;
mod netfilter;
mod netlink;
mod portmap;
mod ports;
mod ptp;
mod spoof;
mod steps;
mod types;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use keelson_cni_plan::protocol::{self, Args, Command, Error, VERSIONS, code};
use serde_json::{Value, json};

/// A configuration is a few hundred bytes; a result of a long chain some kilobytes.
const MAX_CONFIG: u64 = 1 << 20;

fn main() -> ExitCode {
    let (printed, ok) = match run() {
        Ok(Some(value)) => (value, true),
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => (json!(error), false),
    };
    // The runtime may have gone; there is nobody else to tell.
    let _ = writeln!(std::io::stdout(), "{printed}");
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run() -> Result<Option<Value>, Error> {
    let program = std::env::args_os()
        .next()
        .map(PathBuf::from)
        .unwrap_or_default();
    let plugin = types::find(&program)?;
    if std::env::var_os("CNI_COMMAND").is_none() {
        eprintln!(
            "{} of keelson {}: a CNI plugin, started by a container runtime (versions {})",
            plugin.names[0],
            env!("CARGO_PKG_VERSION"),
            VERSIONS.join(", ")
        );
        return Ok(None);
    }
    let args = Args::from_env(|name| std::env::var(name).ok())?;
    let input = read()?;
    let version = protocol::version(&input);
    let in_version = |e: Error| match &version {
        Ok(v) => Error {
            cni_version: (*v).to_owned(),
            ..e
        },
        Err(_) => e,
    };
    if args.command == Command::Version {
        let version = version.unwrap_or_else(|_| VERSIONS[VERSIONS.len() - 1]);
        return Ok(Some(
            json!({"cniVersion": version, "supportedVersions": VERSIONS}),
        ));
    }
    version
        .clone()
        .and_then(|v| protocol::allowed(args.command, v))
        .and_then(|()| (plugin.run)(&args, &input))
        .map_err(in_version)
}

fn read() -> Result<Vec<u8>, Error> {
    let mut input = Vec::new();
    let read = std::io::stdin()
        .take(MAX_CONFIG + 1)
        .read_to_end(&mut input);
    read.map_err(|e| Error::new(code::IO_FAILURE, "read configuration", e))?;
    if input.len() as u64 > MAX_CONFIG {
        return Err(Error::new(
            code::DECODE_FAILURE,
            "network configuration can't be read",
            "it is longer than 1 MiB",
        ));
    }
    Ok(input)
}
