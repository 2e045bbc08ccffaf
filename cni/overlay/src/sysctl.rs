//! Settings of the kernel that pods' packets need. Each is changed only where it stands in the way, and told with why.

use std::fs;
use std::path::Path;

use ipnet::IpNet;

const NET: &str = "/proc/sys/net";

/// A setting: its path below [`NET`], what it has to be, and why.
struct Setting {
    path: String,
    value: &'static str,
    why: &'static str,
}

/// Sets what this node's pods and these tunnels need; gives what could not be set.
pub(crate) fn set<'a>(own: &[IpNet], tunnels: impl Iterator<Item = &'a str>) -> Vec<String> {
    let net = Path::new(NET);
    let mut wanted = Vec::new();
    let on = |path: &str| read(net, path).is_some_and(|v| v != "0");
    if own.iter().any(|c| c.addr().is_ipv4()) && !on("ipv4/ip_forward") {
        let why = "packets between pods and the network are forwarded";
        wanted.push(setting("ipv4/ip_forward", "1", why));
    }
    if own.iter().any(|c| c.addr().is_ipv6()) && !on("ipv6/conf/all/forwarding") {
        wanted.extend(accept_ra(net));
        let why = "packets between pods and the network are forwarded";
        wanted.push(setting("ipv6/conf/all/forwarding", "1", why));
    }
    wanted.extend(tunnels.filter_map(|tunnel| rp_filter(net, tunnel)));
    wanted.iter().filter_map(|s| s.apply(net)).collect()
}

fn setting(path: &str, value: &'static str, why: &'static str) -> Setting {
    let path = path.to_owned();
    Setting { path, value, why }
}

/// Where IPv6 is forwarded, a link whose routes come by router advertisements loses them unless it says 2.
fn accept_ra(net: &Path) -> Vec<Setting> {
    let links = fs::read_dir(net.join("ipv6/conf")).into_iter().flatten();
    let names = links
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let names = names.filter(|n| !["all", "default", "lo"].contains(&n.as_str()));
    let paths = names.map(|n| format!("ipv6/conf/{n}/accept_ra"));
    let paths = paths.filter(|p| read(net, p).is_some_and(|v| v == "1"));
    let why = "router advertisements are to be accepted though packets are forwarded";
    paths.map(|p| setting(&p, "2", why)).collect()
}

/// The larger of a link's own and everybody's counts; 1 asks for the same way back, which is another for a while when
/// nodes move between segments.
fn rp_filter(net: &Path, tunnel: &str) -> Option<Setting> {
    let path = format!("ipv4/conf/{tunnel}/rp_filter");
    let strict = |path: &str| read(net, path).is_some_and(|v| v == "1");
    let all = strict("ipv4/conf/all/rp_filter");
    let loose = read(net, &path).is_some_and(|v| v == "2");
    let why = "a node's packets may come by the tunnel while those to it go straight";
    ((all || strict(&path)) && !loose).then(|| setting(&path, "2", why))
}

fn read(net: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(net.join(path)).ok()?;
    Some(text.trim().to_owned())
}

impl Setting {
    /// What went wrong.
    fn apply(&self, net: &Path) -> Option<String> {
        let name = format!("net/{}", self.path);
        let before = read(net, &self.path);
        match fs::write(net.join(&self.path), self.value) {
            Ok(()) => {
                tracing::info!(
                    sysctl = name,
                    ?before,
                    now = self.value,
                    why = self.why,
                    "set"
                );
                None
            }
            Err(error) => Some(format!("set sysctl {name} to {}: {error}", self.value)),
        }
    }
}
