//! Kernel parameters that rules need to work.

use crate::Error;

/// Lets a packet from 127.0.0.1 leave for a pod: NodePorts on localhost (IPv4). The ruleset's
/// `KUBE-FIREWALL` chain shuts what this opens.
pub const ROUTE_LOCALNET: &str = "net.ipv4.conf.all.route_localnet";

/// Sets a parameter to 1 if it is 0.
pub fn enable(name: &str) -> Result<(), Error> {
    change(name, |now| (now == "0").then_some(1))
}

/// Sets a parameter if it has another value.
pub fn set(name: &str, value: u64) -> Result<(), Error> {
    change(name, |now| (now != value.to_string()).then_some(value))
}

fn change(name: &str, to: impl FnOnce(&str) -> Option<u64>) -> Result<(), Error> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let fail = |source| Error::Sysctl {
        path: path.clone(),
        source,
    };
    let now = std::fs::read_to_string(&path).map_err(fail)?;
    match to(now.trim()) {
        Some(value) => std::fs::write(&path, value.to_string()).map_err(fail),
        None => Ok(()),
    }
}
