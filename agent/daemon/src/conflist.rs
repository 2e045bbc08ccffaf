//! The CNI configuration that the agent writes where there is no other.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use keelson_agent_io::cni::is_of_pods;
use serde_json::{Value, json};

/// The file; others' files in the directory win.
pub(crate) const CONF_FILE: &str = "10-keelson.conflist";

/// A bridge with an address of each family, for packets of so many bytes (0: as many as links have by themselves); host
/// ports by the plugin too. The agent speaks the highest of the versions, which has STATUS and GC. Others may read the
/// file as well, and a libcni before 1.2 (containerd 1.6's) knows nothing after 1.0.0: it refuses a result of 1.1.0, and
/// reads `cniVersion` only.
pub(crate) fn bridge(bridge: &str, mtu: u32, cidrs: &[IpNet], data_dir: &Path) -> Value {
    let ranges: Vec<Value> = cidrs.iter().map(|c| json!([{"subnet": c}])).collect();
    let default = |c: &IpNet| match c {
        IpNet::V4(_) => json!({"dst": "0.0.0.0/0"}),
        IpNet::V6(_) => json!({"dst": "::/0"}),
    };
    let routes: Vec<Value> = cidrs.iter().map(default).collect();
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "keelson",
        "plugins": [
            {"type": "keelson-cni", "bridge": bridge, "isGateway": true, "hairpinMode": true, "mtu": mtu,
             "capabilities": {"portMappings": true},
             "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": data_dir}},
        ],
    })
}

/// Writes the file as a whole, if it is not there as it should be and nobody else configures the network.
pub(crate) fn write(dir: &Path, conf: &Value) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(CONF_FILE);
    let text = format!("{conf:#}\n");
    if std::fs::read_to_string(&path).ok().as_deref() == Some(&text) || in_the_way(dir)?.is_some() {
        return Ok(());
    }
    let new = dir.join(format!(".{CONF_FILE}.new"));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, &path)
}

/// Removes it, if it is there.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(CONF_FILE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Somebody else's configuration, which stays the one that counts: there is none of ours.
pub(crate) fn in_the_way(dir: &Path) -> io::Result<Option<PathBuf>> {
    if dir.join(CONF_FILE).exists() {
        return Ok(None);
    }
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut paths = entries.flatten().map(|e| e.path());
    Ok(paths.find(|p| is_of_pods(p)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_configuration_wins_and_ours_follows_the_node() {
        let dir = tempfile::tempdir().expect("directory");
        let conf = |c: &str| bridge("br0", 1450, &[c.parse().expect("cidr")], Path::new("/d"));
        let read = || std::fs::read_to_string(dir.path().join(CONF_FILE)).ok();
        std::fs::write(dir.path().join("99-other.conf"), "{}").expect("write");
        write(dir.path(), &conf("10.42.0.0/24")).expect("written");
        assert_eq!(read(), None, "somebody else's is there");
        std::fs::remove_file(dir.path().join("99-other.conf")).expect("removed");
        let podmans = json!({"name": "podman", "cniVersion": "0.4.0", "plugins": [{"type": "bridge", "bridge": "cni-podman0"}]});
        let podmans_file = dir.path().join("87-podman-bridge.conflist");
        std::fs::write(podmans_file, podmans.to_string()).expect("write");
        for cidr in ["10.42.0.0/24", "10.42.1.0/24"] {
            write(dir.path(), &conf(cidr)).expect("written");
            assert!(read().is_some_and(|t| t.contains(cidr)), "{cidr}");
        }
        assert!(read().is_some_and(|t| t.contains("\"mtu\": 1450")));
        std::fs::write(dir.path().join("99-other.conf"), "{}").expect("write");
        write(dir.path(), &conf("10.42.2.0/24")).expect("written");
        assert!(
            read().is_some_and(|t| t.contains("10.42.2.0/24")),
            "ours was there first"
        );
        for _ in 0..2 {
            remove(dir.path()).expect("removed");
        }
        assert_eq!(read(), None);
    }
}
