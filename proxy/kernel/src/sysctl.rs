//! Kernel parameters that rules need to work.

use crate::Error;

/// Lets a packet from 127.0.0.1 leave for a pod: NodePorts on localhost (IPv4). The ruleset's
/// `KUBE-FIREWALL` chain shuts what this opens.
pub const ROUTE_LOCALNET: &str = "net.ipv4.conf.all.route_localnet";

/// Sets a parameter if it is something else.
pub fn set(name: &str, value: u32) -> Result<(), Error> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let fail = |source| Error::Sysctl {
        path: path.clone(),
        source,
    };
    let value = value.to_string();
    if std::fs::read_to_string(&path).map_err(fail)?.trim() != value {
        std::fs::write(&path, value).map_err(fail)?;
    }
    Ok(())
}

/// Sets a parameter to 1 if it is 0.
pub fn enable(name: &str) -> Result<(), Error> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let fail = |source| Error::Sysctl {
        path: path.clone(),
        source,
    };
    if std::fs::read_to_string(&path).map_err(fail)?.trim() == "0" {
        std::fs::write(&path, "1").map_err(fail)?;
    }
    Ok(())
}
