//! Flags and configuration files. Both have the same names: a flag `--cluster-cidr` is `clusterCidr` in the file.
//! A flag wins over the file, the file over the default.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use ipnet::IpNet;
use keelson_agent_plan::memory_manager::Reservation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// What the handler of a RuntimeClass means.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct RuntimeHandler {
    /// containerd's runtime [default: io.containerd.runc.v2].
    pub(crate) runtime_type: String,
    /// The OCI runtime's program [default: runc].
    pub(crate) binary_name: String,
}

/// How much pods may swap.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct MemorySwap {
    /// NoSwap or LimitedSwap.
    pub(crate) swap_behavior: String,
}

/// Pods of a priority, and their time when the machine shuts down.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ShutdownGroup {
    /// The lowest in the group.
    pub(crate) priority: i32,
    /// For all of them together.
    pub(crate) shutdown_grace_period_seconds: i64,
}

/// What a server and an agent both need to run a node.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeOptions {
    /// This node's name [default: the host's name].
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Addresses of this node, one a family [default: the one that leads to the server].
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_ip: Option<Vec<IpAddr>>,
    /// Labels for this node at registration, as key=value.
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_label: Option<Vec<String>>,
    /// Taints for this node at registration, as key=value:Effect.
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_taint: Option<Vec<String>>,
    /// What carries services' traffic on this node: auto, nftables, iptables, ipvs or userspace [default: auto, which is
    /// nftables where the kernel has it, else iptables].
    #[arg(long)]
    pub(crate) proxy_mode: Option<String>,
    /// Where the proxy's /healthz and /livez answer, for load balancers: an address with a port, or empty: nowhere
    /// [default: 0.0.0.0:10256, which is all addresses of both families].
    #[arg(long)]
    pub(crate) proxy_healthz_bind_address: Option<String>,
    /// Where the proxy's /metrics, /proxyMode and /configz answer, without authentication; empty: nowhere
    /// [default: 127.0.0.1:10249].
    #[arg(long)]
    pub(crate) proxy_metrics_bind_address: Option<String>,
    /// How pods reach those on other nodes: host-gw (routes; nodes must share a segment), vxlan (such routes between nodes
    /// that share a segment, VXLAN between others), wireguard (encrypted, between all) or none (bring your own network
    /// plugin) [default: an agent's is its server's, a server's is vxlan].
    #[arg(long)]
    pub(crate) network: Option<String>,
    /// VXLAN also between nodes that share a segment: for clouds that drop what comes from addresses that they have not
    /// given out [default: an agent's is its server's, a server's is false].
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) always_encapsulate: Option<bool>,
    /// VXLAN network identifier [default: an agent's is its server's, a server's is 1].
    #[arg(long)]
    pub(crate) vxlan_vni: Option<u32>,
    /// VXLAN's UDP port [default: an agent's is its server's, a server's is 8472].
    #[arg(long)]
    pub(crate) vxlan_port: Option<u16>,
    /// WireGuard's UDP port [default: an agent's is its server's, a server's is 51820].
    #[arg(long)]
    pub(crate) wireguard_port: Option<u16>,
    /// Bytes of the largest packet between nodes, where that is less than this node's links and routes say.
    #[arg(long)]
    pub(crate) network_mtu: Option<u32>,
    /// Most pods on this node [default: 110].
    #[arg(long)]
    pub(crate) max_pods: Option<u32>,
    /// Most processes and threads of one pod [default: as many as the node lets].
    #[arg(long)]
    pub(crate) pod_pids_limit: Option<i64>,
    /// Files of pods that run here without the API [default: /etc/keelson/static-pods].
    #[arg(long)]
    pub(crate) static_pods: Option<PathBuf>,
    /// Lets so many pods share a shim (10 without a number): each then costs a part of its memory, but all of them
    /// restart when it dies [default: every pod has its own].
    #[arg(long, num_args = 0..=1, default_missing_value = "10", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) shim_sharing: Option<u32>,
    /// Where CSI drivers make themselves known [default: DATA/plugins_registry].
    #[arg(long)]
    pub(crate) plugins_registry: Option<PathBuf>,
    /// Where device plugins register and have their sockets [default: /var/lib/kubelet/device-plugins, as plugins expect].
    #[arg(long)]
    pub(crate) device_plugins: Option<PathBuf>,
    /// Where is answered who has which device [default: /var/lib/kubelet/pod-resources].
    #[arg(long)]
    pub(crate) pod_resources: Option<PathBuf>,
    /// Sysctls pods may set besides the safe ones; a prefix ends in *.
    #[arg(long, value_delimiter = ',')]
    pub(crate) allowed_unsafe_sysctls: Option<Vec<String>>,
    /// Handlers of RuntimeClasses besides runc; only in the file: `{name: {runtimeType, binaryName}}`.
    #[arg(skip)]
    pub(crate) runtime_handlers: Option<BTreeMap<String, RuntimeHandler>>,
    /// Where the agent answers for logs and exec [default: [::]:10250].
    #[arg(long)]
    pub(crate) agent_bind: Option<SocketAddr>,
    /// containerd's socket [default: /run/containerd/containerd.sock].
    #[arg(long, env = "KEELSON_CONTAINERD")]
    pub(crate) containerd: Option<PathBuf>,
    /// containerd's namespace [default: k8s.io].
    #[arg(long)]
    pub(crate) containerd_namespace: Option<String>,
    /// Top cgroup of all pods [default: kubepods].
    #[arg(long)]
    pub(crate) cgroup_root: Option<String>,
    /// Who makes cgroups: cgroupfs (keelson itself) or systemd [default: cgroupfs].
    #[arg(long)]
    pub(crate) cgroup_driver: Option<String>,
    /// Registries that speak plain HTTP, beside those on loopback, as host:port.
    #[arg(long, value_delimiter = ',')]
    pub(crate) insecure_registry: Option<Vec<String>>,
    /// File of mirrors, credentials and TLS of registries, as k3s has it [default: /etc/keelson/registries.yaml].
    #[arg(long)]
    pub(crate) registries: Option<PathBuf>,
    /// Image pulls at one time [default: 3].
    #[arg(long)]
    pub(crate) max_parallel_image_pulls: Option<usize>,
    /// Pulls one image after the other.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) serialize_image_pulls: Option<bool>,
    /// Whose right to use an image on the node is verified: NeverVerify, NeverVerifyPreloadedImages,
    /// NeverVerifyAllowlistedImages or AlwaysVerify [default: NeverVerifyPreloadedImages].
    #[arg(long)]
    pub(crate) image_pull_credentials_verification_policy: Option<String>,
    /// Images for every pod under NeverVerifyAllowlistedImages, without tags.
    #[arg(long, value_delimiter = ',')]
    pub(crate) preloaded_images_verification_allowlist: Option<Vec<String>>,
    /// File of plugins that have credentials for images (CredentialProviderConfig).
    #[arg(long)]
    pub(crate) image_credential_provider_config: Option<PathBuf>,
    /// Where these plugins are [default: /usr/local/lib/keelson/credential-providers].
    #[arg(long)]
    pub(crate) image_credential_provider_bin_dir: Option<PathBuf>,
    /// Folder of image archives that are imported at start [default: DATA-DIR/images].
    #[arg(long)]
    pub(crate) images_dir: Option<PathBuf>,
    /// Where CNI configurations are; ours is written when there is none [default: /etc/cni/net.d].
    #[arg(long)]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins are, ours is put into the first [default: /opt/cni/bin,/usr/lib/cni].
    #[arg(long, value_delimiter = ',')]
    pub(crate) cni_bin_dir: Option<Vec<PathBuf>>,
    /// Where containers' logs are written [default: /var/log/pods].
    #[arg(long)]
    pub(crate) log_dir: Option<PathBuf>,
    /// State that outlives a reboot [default: /var/lib/keelson].
    #[arg(long)]
    pub(crate) data_dir: Option<PathBuf>,
    /// State that does not [default: /run/keelson].
    #[arg(long)]
    pub(crate) run_dir: Option<PathBuf>,
    // What follows stands in files only, under upstream's names (KubeletConfiguration).
    #[arg(skip)]
    pub(crate) runtime_request_timeout: Option<String>,
    #[arg(skip)]
    pub(crate) eviction_hard: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) eviction_soft: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) eviction_soft_grace_period: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) eviction_minimum_reclaim: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) eviction_pressure_transition_period: Option<String>,
    #[arg(skip)]
    pub(crate) eviction_max_pod_grace_period: Option<u32>,
    #[arg(skip)]
    pub(crate) merge_default_eviction_settings: Option<bool>,
    /// Ours: between two looks at the node's signals [default: 10s].
    #[arg(skip)]
    pub(crate) eviction_monitoring_period: Option<String>,
    #[arg(skip)]
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub(crate) image_gc_high_threshold_percent: Option<u8>,
    #[arg(skip)]
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub(crate) image_gc_low_threshold_percent: Option<u8>,
    #[arg(skip)]
    #[serde(rename = "imageMinimumGCAge")]
    pub(crate) image_minimum_gc_age: Option<String>,
    #[arg(skip)]
    #[serde(rename = "imageMaximumGCAge")]
    pub(crate) image_maximum_gc_age: Option<String>,
    /// Ours: between two looks at images [default: 5m].
    #[arg(skip)]
    #[serde(rename = "imageGCPeriod")]
    pub(crate) image_gc_period: Option<String>,
    #[arg(skip)]
    pub(crate) container_log_max_size: Option<String>,
    #[arg(skip)]
    pub(crate) container_log_max_files: Option<usize>,
    #[arg(skip)]
    pub(crate) kube_reserved: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) system_reserved: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) enforce_node_allocatable: Option<Vec<String>>,
    #[arg(skip)]
    pub(crate) memory_reservation_policy: Option<String>,
    #[arg(skip)]
    pub(crate) memory_throttling_factor: Option<f64>,
    #[arg(skip)]
    pub(crate) memory_swap: Option<MemorySwap>,
    #[arg(skip)]
    pub(crate) fail_swap_on: Option<bool>,
    #[arg(skip)]
    pub(crate) cpu_manager_policy: Option<String>,
    #[arg(skip)]
    pub(crate) cpu_manager_policy_options: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) cpu_manager_reconcile_period: Option<String>,
    #[arg(skip)]
    #[serde(rename = "reservedSystemCPUs")]
    pub(crate) reserved_system_cpus: Option<String>,
    #[arg(skip)]
    pub(crate) memory_manager_policy: Option<String>,
    #[arg(skip)]
    pub(crate) reserved_memory: Option<Vec<Reservation>>,
    #[arg(skip)]
    pub(crate) topology_manager_policy: Option<String>,
    #[arg(skip)]
    pub(crate) topology_manager_policy_options: Option<BTreeMap<String, String>>,
    #[arg(skip)]
    pub(crate) topology_manager_scope: Option<String>,
    #[arg(skip)]
    pub(crate) shutdown_grace_period: Option<String>,
    #[arg(skip)]
    pub(crate) shutdown_grace_period_critical_pods: Option<String>,
    #[arg(skip)]
    pub(crate) shutdown_grace_period_by_pod_priority: Option<Vec<ShutdownGroup>>,
}

/// Flags of `keelson server`.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct ServerOptions {
    /// File with any of these options, in YAML; unknown ones are refused. KubeletConfiguration's fields about eviction,
    /// image collection, log rotation, reserved resources, CPU, memory and topology manager and shutdowns stand there too,
    /// under their names [default: /etc/keelson/config.yaml, if it is there].
    #[arg(long)]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Runs the control plane only.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) no_agent: Option<bool>,
    /// Where the API answers [default: [::]:6443].
    #[arg(long)]
    pub(crate) bind: Option<SocketAddr>,
    /// Address by which nodes and pods reach the API [default: this node's].
    #[arg(long)]
    pub(crate) advertise_address: Option<IpAddr>,
    /// More names and addresses for the API's certificate.
    #[arg(long, value_delimiter = ',')]
    pub(crate) tls_san: Option<Vec<String>>,
    /// Pods' addresses, one range a family [default: 10.42.0.0/16].
    #[arg(long, value_delimiter = ',')]
    pub(crate) cluster_cidr: Option<Vec<IpNet>>,
    /// Services' addresses, one range a family [default: 10.43.0.0/16].
    #[arg(long, value_delimiter = ',')]
    pub(crate) service_cidr: Option<Vec<IpNet>>,
    /// Ports for NodePort services, as FIRST-LAST [default: 30000-32767].
    #[arg(long)]
    pub(crate) service_node_port_range: Option<String>,
    /// The cluster's DNS domain [default: cluster.local].
    #[arg(long)]
    pub(crate) cluster_domain: Option<String>,
    /// Addresses that pods ask for names, one a family [default: the tenth address of each service range].
    #[arg(long, value_delimiter = ',')]
    pub(crate) cluster_dns: Option<Vec<IpAddr>>,
    /// Nodes don't answer for the cluster's names: something else does at --cluster-dns (CoreDNS run as pods), or nobody,
    /// and pods ask whom the node asks.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) no_dns: Option<bool>,
    /// Makes a token Secret for every service account, as clusters before 1.24 did.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) legacy_token_secrets: Option<bool>,
    /// How long certificates are valid that the cluster signs and the server gives itself; at least 30s. All are
    /// renewed by themselves before they end [default: 8760h].
    #[arg(long)]
    pub(crate) cluster_signing_duration: Option<String>,
    /// Where the administrator's kubeconfig is written (mode 0600) [default: /etc/keelson/admin.kubeconfig].
    #[arg(long)]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) node: NodeOptions,
}

/// Flags of `keelson agent`.
#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct AgentOptions {
    /// File with any of these options, in YAML; unknown ones are refused. KubeletConfiguration's fields about eviction,
    /// image collection, log rotation, reserved resources, CPU, memory and topology manager and shutdowns stand there too,
    /// under their names [default: /etc/keelson/config.yaml, if it is there].
    #[arg(long)]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// The server to join, as https://HOST:6443.
    #[arg(long, env = "KEELSON_SERVER")]
    pub(crate) server: Option<String>,
    /// A join token (`keelson token create` on the server). Needed once; the node's certificate lasts.
    #[arg(long, env = "KEELSON_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) node: NodeOptions,
}

impl ServerOptions {
    /// With what the file says where no flag does.
    pub(crate) fn load(self) -> anyhow::Result<Self> {
        let Some(path) = file(self.config.as_deref()) else {
            return Ok(self);
        };
        let (own, node) = read(&path, &self, &self.node)?;
        Ok(Self {
            node,
            config: None,
            ..own
        })
    }
}

impl AgentOptions {
    /// With what the file says where no flag does.
    pub(crate) fn load(self) -> anyhow::Result<Self> {
        let Some(path) = file(self.config.as_deref()) else {
            return Ok(self);
        };
        let (own, node) = read(&path, &self, &self.node)?;
        Ok(Self {
            node,
            config: None,
            ..own
        })
    }
}

/// What is read where nothing else is told.
const CONFIG: &str = "/etc/keelson/config.yaml";

/// The file that is told, or the usual one if it is there.
fn file(told: Option<&Path>) -> Option<PathBuf> {
    let usual = || Some(PathBuf::from(CONFIG)).filter(|path| path.exists());
    told.map(Path::to_owned).or_else(usual)
}

/// A node's options with what the usual file says where no flag does; what else stands there is not looked at.
pub(crate) fn of_node(flags: &NodeOptions) -> anyhow::Result<NodeOptions> {
    let Some(path) = file(None) else {
        return Ok(flags.clone());
    };
    let (_, node) = read(&path, &Value::Null, flags)?;
    Ok(node)
}

/// Reads a file and lays flags over it: fields of the node go one way, the others the other. (serde's `flatten`
/// can't refuse unknown fields.)
fn read<T: Serialize + DeserializeOwned>(
    path: &Path,
    flags: &T,
    node: &NodeOptions,
) -> anyhow::Result<(T, NodeOptions)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text, flags, node).with_context(|| format!("configuration {}", path.display()))
}

fn parse<T: Serialize + DeserializeOwned>(
    text: &str,
    flags: &T,
    node: &NodeOptions,
) -> anyhow::Result<(T, NodeOptions)> {
    let file: Value = serde_yaml_ng::from_str(text).context("not YAML")?;
    let (mut own, mut of_node) = (serde_json::Map::new(), serde_json::Map::new());
    let known = serde_json::to_value(NodeOptions::default())?;
    match file {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                let side = if known.get(&name).is_some() {
                    &mut of_node
                } else {
                    &mut own
                };
                side.insert(name, value);
            }
        }
        _ => bail!("a mapping of options is needed"),
    }
    Ok((lay_over(own, flags)?, lay_over(of_node, node)?))
}

fn lay_over<T: Serialize + DeserializeOwned>(
    mut file: serde_json::Map<String, Value>,
    flags: &T,
) -> anyhow::Result<T> {
    // Read once alone, so that an error names the file's field and not a flag's.
    check::<T>(Value::Object(file.clone()))?;
    if let Value::Object(flags) = serde_json::to_value(flags)? {
        file.extend(flags.into_iter().filter(|(_, v)| !v.is_null()));
    }
    check(Value::Object(file))
}

fn check<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
    serde_path_to_error::deserialize(value)
        .map_err(|e| anyhow::anyhow!("field {}: {}", e.path(), e.inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str, flags: ServerOptions) -> anyhow::Result<ServerOptions> {
        let (own, node) = parse(text, &flags, &flags.node)?;
        Ok(ServerOptions { node, ..own })
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flags = ServerOptions {
            cluster_domain: Some("flag.local".into()),
            ..ServerOptions::default()
        };
        let text = "clusterDomain: file.local\nclusterCidr: [10.0.0.0/8, 'fd00::/48']\nnodeName: n1\nmaxPods: 5\n";
        let options = server(text, flags).expect("valid");
        assert_eq!(options.cluster_domain.as_deref(), Some("flag.local"));
        assert_eq!(options.cluster_cidr.map(|c| c.len()), Some(2));
        assert_eq!(
            (options.node.node_name.as_deref(), options.node.max_pods),
            (Some("n1"), Some(5))
        );
        assert!(
            server("", ServerOptions::default())
                .expect("empty")
                .bind
                .is_none()
        );
    }

    #[test]
    fn a_node_of_any_role_is_read() {
        let flags = NodeOptions::default();
        let text = "clusterCidr: [10.0.0.0/8]\nserver: https://x:6443\ndataDir: /data\n";
        let (_, node) = parse(text, &Value::Null, &flags).expect("valid");
        assert_eq!(node.data_dir, Some("/data".into()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        let cases = [
            ("clusterCdir: [10.0.0.0/8]", "clusterCdir"),
            ("clusterCidr: [10.0.0.0/99]", "clusterCidr[0]"),
            ("maxPods: many", "maxPods"),
            ("- a list", "mapping"),
            ("server: https://x", "server"),
            ("evictionHard: 5", "evictionHard"),
            ("evictionHard: {memory.available: [1]}", "evictionHard"),
            (
                "imageGcHighThresholdPercent: 80",
                "imageGcHighThresholdPercent",
            ),
            (
                "imageGCHighThresholdPercent: 300",
                "imageGCHighThresholdPercent",
            ),
            ("a: [", "YAML"),
        ];
        for (text, word) in cases {
            let error = format!(
                "{:#}",
                server(text, ServerOptions::default()).expect_err(text)
            );
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
