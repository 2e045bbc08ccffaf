//! iptables, by `iptables-save` and one `iptables-restore --noflush` a change, over standard input.

use std::process::Stdio;

use keelson_proxy_plan::iptables::{Ruleset, leftovers};
use keelson_proxy_plan::model::Family;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;

/// Seconds to wait for the lock that the legacy variant's programs share.
const LOCK_SECONDS: &str = "5";

/// The programs of a family.
fn programs(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("iptables-save", "iptables-restore"),
        Family::V6 => ("ip6tables-save", "ip6tables-restore"),
    }
}

/// Whether there is a program to ask: without one no rule of ours can be there.
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.into_iter()
        .any(|dir| dir.join("iptables-save").exists())
}

/// Reads our chains and jumps back from the kernel.
pub async fn read(family: Family) -> Result<Ruleset, Error> {
    Ok(Ruleset::parse(&save(family).await?))
}

/// Removes what Debian's `portmap` leaves when the last host port is gone.
pub async fn remove_leftovers(family: Family) -> Result<(), Error> {
    match leftovers(&save(family).await?) {
        Some(transaction) => apply(family, &transaction).await,
        None => Ok(()),
    }
}

async fn save(family: Family) -> Result<String, Error> {
    let (program, _) = programs(family);
    let output = Command::new(program)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.map_err(|source| Error::Start { program, source })?;
    if !output.status.success() {
        return Err(refused(program, &output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Carries out a transaction: all of it or, where a line is refused, none of it.
pub async fn apply(family: Family, transaction: &str) -> Result<(), Error> {
    let (_, program) = programs(family);
    let fail = |source| Error::Start { program, source };
    let mut child = Command::new(program)
        .args(["--noflush", "--wait", LOCK_SECONDS])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail)?;
    let mut input = child
        .stdin
        .take()
        .ok_or_else(|| fail(std::io::ErrorKind::BrokenPipe.into()))?;
    let send = async move {
        // A program that refuses a line may end before it has read all: its words tell more than the broken pipe.
        let _ = input.write_all(transaction.as_bytes()).await;
    };
    let ((), output) = tokio::join!(send, child.wait_with_output());
    let output = output.map_err(fail)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(refused(program, &output.stderr))
    }
}

fn refused(program: &'static str, stderr: &[u8]) -> Error {
    Error::Refused {
        program,
        message: String::from_utf8_lossy(stderr).trim().replace('\n', "; "),
    }
}
