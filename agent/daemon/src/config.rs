//! What the agent is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::IpNet;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::core::v1::Taint;
use keelson_agent_io::cni::Cni;
use keelson_agent_plan::eviction::{self, Settings, Threshold};
use keelson_agent_plan::image_gc::Policy;
use keelson_agent_plan::log_rotation;
use keelson_agent_plan::memory;
use keelson_agent_plan::reserve::Reserved;
use keelson_agent_plan::shutdown::Group;
use keelson_agent_plan::{access, cpu_manager, memory_manager, topology};
use keelson_runtime::{Driver, Handler};
use keelson_serving::Certs;
use tokio::sync::watch;

/// The serving side of port 10250.
#[derive(Clone)]
pub struct Serving {
    /// Where to listen.
    pub bind: SocketAddr,
    /// What to serve with; whoever renews it swaps it.
    pub certs: Arc<Certs>,
    /// Who signs client certificates, PEM.
    pub client_ca_pem: String,
}

/// Who restricts pods' networks. The agent knows nothing of how: whoever runs it gives it one.
pub trait NetworkGuard: Send + Sync {
    /// The network plugin gave a pod these addresses; none of its processes runs before this ends. An error is told as
    /// the network's are, and it is tried again. Asked again of pods that are found when the agent starts.
    fn added(&self, pod: &Pod, ips: &[IpAddr]) -> BoxFuture<'static, Result<(), String>>;

    /// The network plugin took the pod's addresses back.
    fn removed(&self, pod: &Pod);
}

/// When pods must go so that the node lives.
#[derive(Clone)]
pub struct Eviction {
    /// From which on.
    pub thresholds: Vec<Threshold>,
    /// How long a condition outlasts its cause.
    pub transition: SignedDuration,
    /// The most seconds a pod gets that a soft threshold evicts.
    pub max_grace: i64,
    /// Between two looks.
    pub period: Duration,
}

impl Default for Eviction {
    /// Upstream's.
    fn default() -> Self {
        let settings = Settings {
            enforce_pods: true,
            ..Settings::default()
        };
        Self {
            thresholds: eviction::parse(&settings).unwrap_or_default(),
            transition: SignedDuration::from_mins(5),
            max_grace: 0,
            period: Duration::from_secs(10),
        }
    }
}

/// How CPUs and memory are handed out to those who are to have their own.
#[derive(Clone)]
pub struct Pinning {
    /// CPUs.
    pub cpu: cpu_manager::Settings,
    /// Between two looks at the CPUs that containers may use.
    pub period: std::time::Duration,
    /// Memory.
    pub memory: memory_manager::Settings,
    /// What goes together.
    pub topology: topology::Settings,
}

impl Default for Pinning {
    /// Nobody has any; with upstream's period.
    fn default() -> Self {
        Self {
            cpu: cpu_manager::Settings::default(),
            period: std::time::Duration::from_secs(10),
            memory: memory_manager::Settings::default(),
            topology: topology::Settings::default(),
        }
    }
}

/// Everything the agent needs to know. Directories can differ per node, so that several nodes on one
/// machine do not meet.
#[derive(Clone)]
pub struct Config {
    /// This node's name.
    pub node_name: String,
    /// Its addresses, the preferred family first, as they are now.
    pub node_ips: watch::Receiver<Vec<IpAddr>>,
    /// Labels besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints at registration.
    pub taints: Vec<Taint>,
    /// State that survives a reboot: volumes, hosts files, CNI results.
    pub root_dir: PathBuf,
    /// Directories that are volumes of claims; empty: none.
    pub storage_dir: PathBuf,
    /// Where plugins make themselves known by their sockets.
    pub plugins_dir: PathBuf,
    /// Where device plugins register and have their sockets: a path that they have built in.
    pub device_plugins_dir: PathBuf,
    /// Where is answered who has which device.
    pub pod_resources_dir: PathBuf,
    /// State that does not: pinned namespaces.
    pub run_dir: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
    /// Root of static paths of the host (`etc/hosts`, `etc/resolv.conf`).
    pub etc_dir: PathBuf,
    /// CNI configuration.
    pub cni_conf_dir: PathBuf,
    /// CNI plugins.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Who restricts pods' networks before their processes start; none: nobody does.
    pub network_guard: Option<Arc<dyn NetworkGuard>>,
    /// Name of the bridge in the CNI configuration that the agent writes when there is no other. `None`:
    /// it writes none.
    pub cni_bridge: Option<String>,
    /// How other nodes' pods are reached; `None`: that is not the agent's business. Name, pod addresses and the place of
    /// the key are those of this configuration.
    pub network: Option<keelson_overlay::Options>,
    /// containerd's socket.
    pub containerd_socket: PathBuf,
    /// containerd's namespace.
    pub containerd_namespace: String,
    /// The `keelson-logger` binary.
    pub logger: PathBuf,
    /// Top cgroup of all pods.
    pub cgroup_root: String,
    /// Who makes cgroups.
    pub cgroup_driver: Driver,
    /// Pods that share a shim; each has its own when unset.
    pub shim_sharing: Option<u32>,
    /// How long containerd may take to start or end a container.
    pub runtime_request_timeout: Duration,
    /// Memory beyond limits.
    pub memory: memory::Policy,
    /// Does not start on a node with swap.
    pub fail_swap_on: bool,
    /// containerd's snapshotter; its default when unset.
    pub snapshotter: Option<String>,
    /// Registries spoken to over plain HTTP besides loopback ones.
    pub insecure_registries: Vec<String>,
    /// The cluster DNS service.
    pub cluster_dns: Vec<IpAddr>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// All pods' addresses: not masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// The HTTPS endpoint; `None`: no endpoint.
    pub serving: Option<Serving>,
    /// Most pods.
    pub max_pods: u32,
    /// Sysctls pods may set besides the safe ones: names, or prefixes that end in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Most tasks of one pod; no limit when unset.
    pub pod_pids_limit: Option<i64>,
    /// What the handlers of RuntimeClasses mean, besides `runc`.
    pub runtime_handlers: BTreeMap<String, Handler>,
    /// When pods must go.
    pub eviction: Eviction,
    /// When images go.
    pub image_gc: Policy,
    /// Between two looks at images.
    pub image_gc_period: Duration,
    /// When logs are rotated.
    pub logs: log_rotation::Policy,
    /// Kept from pods.
    pub reserved: Reserved,
    /// Who has CPUs and memory of their own.
    pub pinning: Pinning,
    /// In which groups pods end before the machine shuts down; none: it is not waited for.
    pub shutdown: Vec<Group>,
    /// All pods together are held to what is not reserved.
    pub enforce_pods: bool,
    /// Image archives imported at start; their images are not collected.
    pub images_dir: Option<PathBuf>,
    /// Files of static pods.
    pub static_pods: Option<PathBuf>,
    /// Pulls at one time.
    pub parallel_pulls: usize,
    /// Mirrors, credentials and TLS of registries, in k3s' form; need not be there.
    pub registries: PathBuf,
    /// Docker configurations with credentials for every pod of this node; need not be there.
    pub docker_configs: Vec<PathBuf>,
    /// Plugins that have credentials for images (`CredentialProviderConfig`).
    pub credential_providers: Option<PathBuf>,
    /// Where these plugins are.
    pub credential_provider_dir: PathBuf,
    /// Whose right to an image on the node is verified.
    pub pull_policy: access::Policy,
    /// Shown as `kubeletVersion`.
    pub version: String,
}

impl Config {
    /// Defaults of a node with this name and these addresses, in the places of one that has the machine to
    /// itself.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: watch::channel(node_ips).1,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            root_dir: "/var/lib/keelson/agent".into(),
            storage_dir: "/var/lib/keelson/storage".into(),
            plugins_dir: "/var/lib/keelson/plugins_registry".into(),
            device_plugins_dir: "/var/lib/kubelet/device-plugins".into(),
            pod_resources_dir: "/var/lib/kubelet/pod-resources".into(),
            run_dir: "/run/keelson".into(),
            log_dir: "/var/log/pods".into(),
            etc_dir: "/etc".into(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            network_guard: None,
            cni_bridge: Some("keelson0".into()),
            network: Some(keelson_overlay::Options::new(String::new(), Vec::new())),
            containerd_socket: "/run/containerd/containerd.sock".into(),
            containerd_namespace: "k8s.io".into(),
            logger: "/usr/local/bin/keelson-logger".into(),
            cgroup_root: "kubepods".into(),
            cgroup_driver: Driver::default(),
            shim_sharing: None,
            runtime_request_timeout: Duration::from_secs(120),
            memory: memory::Policy::default(),
            fail_swap_on: false,
            snapshotter: None,
            insecure_registries: Vec::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            cluster_cidrs: Vec::new(),
            serving: None,
            max_pods: 110,
            allowed_unsafe_sysctls: Vec::new(),
            pod_pids_limit: None,
            runtime_handlers: BTreeMap::new(),
            eviction: Eviction::default(),
            image_gc: Policy::default(),
            image_gc_period: Duration::from_secs(300),
            logs: log_rotation::Policy::default(),
            reserved: Reserved::default(),
            pinning: Pinning::default(),
            shutdown: Vec::new(),
            enforce_pods: true,
            images_dir: None,
            static_pods: None,
            parallel_pulls: 3,
            registries: "/etc/keelson/registries.yaml".into(),
            docker_configs: Vec::new(),
            credential_providers: None,
            credential_provider_dir: "/usr/local/lib/keelson/credential-providers".into(),
            pull_policy: access::Policy::default(),
            version: concat!("v1.36.0+keelson-", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// The node's addresses now.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        self.node_ips.borrow().clone()
    }

    /// The node's pod network.
    pub(crate) fn cni(&self) -> Cni {
        Cni::load(
            &self.cni_conf_dir,
            self.cni_bin_dirs.clone(),
            self.root_dir.join("cni"),
        )
    }

    /// What the runtime is told.
    pub fn runtime(&self) -> keelson_runtime::Config {
        keelson_runtime::Config {
            socket: self.containerd_socket.clone(),
            namespace: self.containerd_namespace.clone(),
            run_dir: self.run_dir.clone(),
            root_dir: self.root_dir.clone(),
            log_dir: self.log_dir.clone(),
            logger: self.logger.clone(),
            cgroup_root: self.cgroup_root.clone(),
            cgroup_driver: self.cgroup_driver,
            shims: self
                .shim_sharing
                .map(|pods| self.max_pods.div_ceil(pods.max(1))),
            request_timeout: self.runtime_request_timeout,
            snapshotter: self.snapshotter.clone(),
            insecure_registries: self.insecure_registries.clone(),
            registries: self.registries.clone(),
        }
    }
}
