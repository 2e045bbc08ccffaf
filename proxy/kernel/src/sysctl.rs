//! Kernel parameters that rules need to work.

use crate::Error;

/// Lets a packet from 127.0.0.1 leave for a pod: NodePorts on localhost (IPv4). The ruleset's
/// `KUBE-FIREWALL` chain shuts what this opens.
pub const ROUTE_LOCALNET: &str = "net.ipv4.conf.all.route_localnet";

/// Packets between ports of a bridge meet IPv4's rules, and IPv6's. There only with the module `br_netfilter`.
const BRIDGES: [&str; 2] = [
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
];

/// Lets what goes between pods of one bridge meet rules; `may_load`: loads `br_netfilter` if it is missing.
pub fn filter_bridges(may_load: bool) -> Result<(), Error> {
    let enable_all = || BRIDGES.iter().try_for_each(|name| enable(name));
    match enable_all() {
        Err(_) if may_load => {
            // Where it fails the files are missing still, which is what is told.
            let _ = std::process::Command::new("modprobe")
                .arg("br_netfilter")
                .output();
            enable_all()
        }
        other => other,
    }
}

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
