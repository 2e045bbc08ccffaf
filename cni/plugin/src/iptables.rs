//! iptables' programs: what they print is read, what they are to do is handed to them as one text, which they carry out
//! whole or not at all.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use keelson_cni_plan::nft::Family;
use keelson_cni_plan::portmap::Wanted;
use keelson_cni_plan::portmap::iptables as plan;
use keelson_cni_plan::protocol::{Error, code};

/// Seconds to wait for the lock that the legacy variant's programs share.
const LOCK_SECONDS: &str = "30";
/// Runtimes start plugins with any search path.
const PLACES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The programs that print and restore a family's rules.
fn programs(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["iptables-save", "iptables-restore"],
        Family::V6 => ["ip6tables-save", "ip6tables-restore"],
    }
}

fn command(program: &str) -> Command {
    let own = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{own}:{PLACES}"));
    command
}

/// Whether the programs are installed and this kernel serves them.
pub(crate) fn is_there() -> bool {
    saved(Family::V4).is_ok()
}

/// Adds an attachment's rules.
pub(crate) fn add(wanted: &Wanted, owner: &str) -> Result<(), Error> {
    let text = plan::add(&saved(wanted.family)?, wanted, owner);
    restore(wanted.family, &text)
}

/// Removes the rules of owners that are gone. A family that this machine has no rules for has none of ours.
pub(crate) fn remove(family: Family, gone: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let Ok(saved) = saved(family) else {
        return Ok(());
    };
    match plan::remove(&saved, gone) {
        Some(text) => restore(family, &text),
        None => Ok(()),
    }
}

/// What is not there of what an attachment is to have.
pub(crate) fn missing(wanted: &Wanted, owner: &str) -> Result<Option<String>, Error> {
    Ok(plan::missing(&saved(wanted.family)?, wanted, owner))
}

fn saved(family: Family) -> Result<String, Error> {
    let [program, _] = programs(family);
    let output = command(program)
        .args(["-t", "nat"])
        .stdin(Stdio::null())
        .output();
    let output = succeeded(program, output)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn restore(family: Family, text: &str) -> Result<(), Error> {
    let [_, program] = programs(family);
    let mut child = command(program)
        .args(["--noflush", "--wait", LOCK_SECONDS])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| fail(program, e))?;
    if let Some(mut input) = child.stdin.take() {
        // One that refuses a line may end before it has read all, and says why.
        let _ = input.write_all(text.as_bytes());
    }
    succeeded(program, child.wait_with_output()).map(|_| ())
}

fn succeeded(program: &str, output: std::io::Result<Output>) -> Result<Output, Error> {
    let output = output.map_err(|e| fail(program, e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(fail(program, said.trim().replace('\n', "; ")));
    }
    Ok(output)
}

fn fail(program: &str, why: impl std::fmt::Display) -> Error {
    Error::new(code::DELEGATE_FAILED, format!("run {program}"), why)
}
