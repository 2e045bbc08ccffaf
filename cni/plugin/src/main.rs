//! `keelson-cni`: the CNI bridge plugin. The runtime starts it for every pod, so it does its work in
//! a dozen netlink messages and ends.

mod commands;
mod ledger;
mod net;
mod ports;

use std::io::{Read, Write};
use std::process::ExitCode;

use keelson_cni_plan::NetConf;
use keelson_cni_plan::protocol::{Args, Command, Error, VERSIONS, code};
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
    if std::env::var_os("CNI_COMMAND").is_none() {
        eprintln!(
            "keelson-cni {}: a CNI bridge plugin, started by a container runtime (versions {})",
            env!("CARGO_PKG_VERSION"),
            VERSIONS.join(", ")
        );
        return Ok(None);
    }
    let args = Args::from_env(|name| std::env::var(name).ok())?;
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
    if args.command == Command::Version {
        return Ok(Some(
            json!({"cniVersion": VERSIONS.last(), "supportedVersions": VERSIONS}),
        ));
    }
    let conf = NetConf::parse(&input)?;
    let in_version = |e: Error| Error {
        cni_version: conf.version().to_owned(),
        ..e
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| in_version(Error::new(code::IO_FAILURE, "start", e)))?;
    runtime
        .block_on(commands::run(&args, &conf))
        .map_err(in_version)
}
