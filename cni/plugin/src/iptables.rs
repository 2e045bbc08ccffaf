//! Masquerade by iptables, for nodes whose rules are to be all there: a chain an attachment, named like its link.

use std::io::Write;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use keelson_cni_plan::config::Attachment;
use keelson_cni_plan::iptables::{self as plan, Family};
use keelson_cni_plan::names;
use keelson_cni_plan::protocol::{Error, code};

/// Masquerades for an attachment's addresses.
pub(crate) fn add(network: &str, link: &str, addresses: &[IpNet]) -> Result<(), Error> {
    for family in Family::ALL {
        let own: Vec<IpNet> = addresses
            .iter()
            .filter(|a| family.has(a))
            .copied()
            .collect();
        if !own.is_empty() {
            let now = list(family)?.ok_or_else(|| missing_program(family))?;
            restore(family, &plan::add(&now, network, link, &own))?;
        }
    }
    Ok(())
}

/// Ends that.
pub(crate) fn remove(link: &str) -> Result<(), Error> {
    change(|now| plan::remove(now, |chain, _| chain == link))
}

/// Ends it for all attachments of a network but the valid ones.
pub(crate) fn gc(network: &str, valid: &[Attachment]) -> Result<(), Error> {
    change(|now| {
        plan::remove(now, |_, tag| {
            tag.is_none_or(|t| names::is_stale_tag(t, network, valid))
        })
    })
}

/// The first address without a rule.
pub(crate) fn missing(link: &str, addresses: &[IpNet]) -> Result<Option<IpNet>, Error> {
    for family in Family::ALL {
        let now = list(family)?.unwrap_or_default();
        let mut own = addresses.iter().filter(|a| family.has(a));
        if let Some(missing) = own.find(|a| !plan::has(&now, link, a)) {
            return Ok(Some(*missing));
        }
    }
    Ok(None)
}

/// Changes both families' rules. Where there is no iptables there are no rules of it.
fn change(plan: impl Fn(&str) -> Option<String>) -> Result<(), Error> {
    for family in Family::ALL {
        let now = list(family)?;
        if let Some(text) = now.and_then(|now| plan(&now)) {
            restore(family, &text)?;
        }
    }
    Ok(())
}

pub(crate) fn missing_program(family: Family) -> Error {
    let why = format!("{} is not installed (package iptables)", family.program(""));
    Error::new(code::KERNEL, "set masquerade", why)
}

/// The rules of the table nat, as they are saved; none where the program is missing.
pub(crate) fn list(family: Family) -> Result<Option<String>, Error> {
    let program = family.program("-save");
    let output = Command::new(&program).args(["-t", "nat"]).output();
    match output {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail(&program, &e)),
        Ok(out) if out.status.success() => {
            Ok(Some(String::from_utf8_lossy(&out.stdout).into_owned()))
        }
        Ok(out) => Err(fail(&program, &String::from_utf8_lossy(&out.stderr).trim())),
    }
}

pub(crate) fn restore(family: Family, text: &str) -> Result<(), Error> {
    let program = family.program("-restore");
    let child = Command::new(&program)
        .args(["--noflush", "--wait"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|e| fail(&program, &e))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read it says why.
        let _ = input.write_all(text.as_bytes());
    }
    let out = child.wait_with_output().map_err(|e| fail(&program, &e))?;
    if out.status.success() {
        return Ok(());
    }
    Err(fail(&program, &String::from_utf8_lossy(&out.stderr).trim()))
}

fn fail(program: &str, e: &dyn std::fmt::Display) -> Error {
    Error::new(code::KERNEL, format!("run {program}"), e)
}
