//! Where containerd listens and where the runtime keeps its files.

use std::path::PathBuf;
use std::time::Duration;

use crate::cgroup::Driver;

/// Paths and names the [`crate::Runtime`] works with. All of them can differ per node, so that
/// several nodes on one machine do not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// containerd's gRPC socket.
    pub socket: PathBuf,
    /// containerd namespace, created when missing.
    pub namespace: String,
    /// Volatile state: pinned namespaces under `ns/`, FIFOs of running execs under `exec/`.
    pub run_dir: PathBuf,
    /// Persistent state of the agent.
    pub root_dir: PathBuf,
    /// Root of the CRI-format container logs.
    pub log_dir: PathBuf,
    /// The `keelson-logger` binary, absolute: containerd's shim starts it.
    pub logger: PathBuf,
    /// Name of the top cgroup, relative to the hierarchy's root, without a leading slash.
    pub cgroup_root: String,
    /// Who makes cgroups.
    pub cgroup_driver: Driver,
    /// Among so many shims all pods are spread; each pod has its own when unset.
    pub shims: Option<u32>,
    /// How long a call may take that starts a process (KubeletConfiguration's `runtimeRequestTimeout`).
    pub request_timeout: Duration,
    /// Snapshotter to use; containerd's default (`overlayfs`) when unset.
    pub snapshotter: Option<String>,
    /// Registries (`host[:port]`) spoken to over plain HTTP besides the loopback ones.
    pub insecure_registries: Vec<String>,
    /// Mirrors, credentials and TLS of registries, in k3s' form; need not be there.
    pub registries: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socket: "/run/containerd/containerd.sock".into(),
            namespace: "k8s.io".into(),
            run_dir: "/run/keelson".into(),
            root_dir: "/var/lib/keelson/agent".into(),
            log_dir: "/var/log/pods".into(),
            logger: "/usr/local/bin/keelson-logger".into(),
            cgroup_root: "kubepods".into(),
            cgroup_driver: Driver::default(),
            shims: None,
            request_timeout: Duration::from_secs(120),
            snapshotter: None,
            insecure_registries: Vec::new(),
            registries: "/etc/keelson/registries.yaml".into(),
        }
    }
}

impl Config {
    /// The snapshotter in use.
    pub fn snapshotter(&self) -> &str {
        self.snapshotter.as_deref().unwrap_or("overlayfs")
    }
}
