//! A node: agent, service proxy and CNI plugin on this machine. The same for a server's own node and one that joined.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use keelson_agent::Certs;
use keelson_auth::pki::Issued;
use keelson_proxy::config::{Flags, Loaded};
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::{self, Cluster};
use crate::images;
use crate::join::{self, Joined};
use crate::keeper::Systemd;
use crate::machine;
use crate::memory;
use crate::network;
use crate::options::{AgentOptions, NodeOptions};
use crate::pinning;
use crate::plugins;
use crate::policy::Guard;
use crate::pressure;
use crate::rotate;

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// Outlives a reboot.
    pub(crate) data: PathBuf,
    /// Does not.
    pub(crate) run: PathBuf,
}

impl Paths {
    pub(crate) fn of(options: &NodeOptions) -> Self {
        Self {
            data: options
                .data_dir
                .clone()
                .unwrap_or_else(|| "/var/lib/keelson".into()),
            run: options
                .run_dir
                .clone()
                .unwrap_or_else(|| "/run/keelson".into()),
        }
    }
}

/// All that a node needs to run.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) proxy_client: Client,
    pub(crate) certs: Arc<Certs>,
    pub(crate) ca_pem: String,
    pub(crate) options: NodeOptions,
    pub(crate) cluster: Cluster,
    pub(crate) name: String,
    pub(crate) ips: watch::Receiver<Vec<IpAddr>>,
}

/// `keelson agent`: joins if it has not yet, then runs a node until shutdown.
pub(crate) async fn run_agent(
    options: AgentOptions,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let paths = Paths::of(&options.node);
    let name = name(options.node.node_name.as_deref())?;
    let server = options
        .server
        .clone()
        .context("--server is needed: https://HOST:6443")?;
    check(&options.node, &name)?;
    // Told by the server, so not known before the first join.
    let facts = paths.data.join("agent/cluster.json");
    let known = cluster::kept(&facts).map_or_else(Vec::new, |c| c.cluster_cidrs);
    let first = addresses(&options.node, Some(&server), &known)?;
    let (tell, pods) = watch::channel(known);
    let ips = rotate::addresses(&options.node, Some(&server), (&first, pods), &shutdown);
    let (node, joined, serving) = tokio::select! {
        joined = joined(options, &server, &paths, &name, ips.clone()) => joined?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let _ = tell.send(node.cluster.cluster_cidrs.clone());
    let mut tasks = JoinSet::new();
    let serving = (serving, node.certs.clone());
    let renewing = rotate::joined(joined, name.clone(), serving, ips, shutdown.clone());
    tasks.spawn(renewing);
    spawn(&mut tasks, node, &shutdown)?;
    tracing::info!(node = name, server, "keelson agent is up");
    tokio::spawn(memory::give_back());
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.context("a part panicked").and_then(|r| r);
        if ended.is_err() && result.is_ok() {
            result = ended;
            shutdown.cancel();
        }
    }
    result
}

/// How long a node that has run before waits for the server: its pods must not.
const SERVER_WITHIN: Duration = Duration::from_secs(10);

/// Joins, tells the cluster of this node, and gathers what it needs to run. A node that has run before goes on with
/// what it was told then while the server is away.
async fn joined(
    options: AgentOptions,
    server: &str,
    paths: &Paths,
    name: &str,
    ips: watch::Receiver<Vec<IpAddr>>,
) -> anyhow::Result<(Node, Joined, Issued)> {
    let dir = paths.data.join("agent");
    let token = options.token.as_deref();
    let joined = join::join(server, token, name, &dir.join("pki")).await?;
    let known = ips.borrow().clone();
    let mut config = places(&options.node, name, known.clone());
    registration(&mut config, &options.node)?;
    let (facts, sans) = (dir.join("cluster.json"), join::sans(name, &known));
    let kept = joined.kept_serving(&sans).zip(cluster::kept(&facts));
    let ask = async {
        let register = keelson_agent::announce(&config, &joined.client).await;
        register.context("register the node")?;
        let serving = joined.serving(&sans).await?;
        let cluster = cluster::read(&joined.client).await?;
        cluster::keep(&facts, &cluster)?;
        anyhow::Ok((serving, cluster))
    };
    let (serving, cluster) = match kept {
        None => ask.await?,
        Some(kept) => {
            let told = tokio::time::timeout(SERVER_WITHIN, ask).await;
            told.unwrap_or_else(|_| bail!("it does not answer"))
                .unwrap_or_else(|error| {
                    let error = format!("{error:#}");
                    tracing::warn!(server, error, "the server is away: going on as before");
                    kept
                })
        }
    };
    let node = Node {
        certs: certs(&serving)?,
        cluster,
        proxy_client: joined.client.clone(),
        client: joined.client.clone(),
        ca_pem: joined.ca_pem.clone(),
        options: options.node,
        name: name.to_owned(),
        ips,
    };
    Ok((node, joined, serving))
}

/// What the agent serves with, to be swapped.
pub(crate) fn certs(serving: &Issued) -> anyhow::Result<Arc<Certs>> {
    let certs = Certs::new(&serving.cert_pem, &serving.key_pem);
    Ok(Arc::new(certs.context("read the serving certificate")?))
}

/// Starts agent, proxy and enforcement of policies.
pub(crate) fn spawn(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    node: Node,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let settings = proxy_settings(&node)?;
    keelson_proxy::kernel_settings(&settings.settings.conntrack);
    let proxy = keelson_proxy::Config {
        mode: settings.settings.mode,
        health_check_addresses: node.ips.borrow().clone(),
        ports: keelson_proxy::Ports {
            healthz: settings.settings.healthz,
            metrics: settings.settings.metrics,
            hard_fail: false,
            configz: settings.configz(),
        },
        ..proxy_config(&node.name, &node.cluster)
    };
    let (enforcer, policies) = keelson_proxy::policy::new(keelson_proxy::policy::Config {
        node_name: node.name.clone(),
        ipvs: proxy.mode == keelson_proxy::Mode::Ipvs,
        ruleset: proxy.ruleset.clone(),
        ..keelson_proxy::policy::Config::default()
    });
    tasks.spawn(policies.run(node.proxy_client.clone(), shutdown.clone()));
    tasks.spawn(keelson_proxy::run(
        proxy,
        node.proxy_client.clone(),
        shutdown.clone(),
    ));
    let mut config = agent_config(&node)?;
    config.network_guard = Some(Arc::new(Guard(enforcer)));
    plugins::install(config.cni_bin_dirs.first())?;
    tasks.spawn(keelson_agent::run(config, node.client, shutdown.clone()));
    Ok(())
}

/// What a node's proxy does in this cluster.
pub(crate) fn proxy_config(name: &str, cluster: &Cluster) -> keelson_proxy::Config {
    keelson_proxy::Config {
        node_name: name.to_owned(),
        rules: keelson_proxy::Options {
            pods: keelson_proxy::Pods::Within(cluster.cluster_cidrs.clone()),
            ..keelson_proxy::Options::default()
        },
        dns: dns(cluster),
        ..keelson_proxy::Config::default()
    }
}

/// kube-proxy's configuration as a node's options make it.
fn proxy_settings(node: &Node) -> anyhow::Result<Loaded> {
    let cidrs = node.cluster.cluster_cidrs.iter().map(ToString::to_string);
    let options = &node.options;
    let mut flags = Flags::default();
    flags.mode = options.proxy_mode.clone();
    flags.hostname_override = Some(node.name.clone());
    flags.cluster_cidr = Some(cidrs.collect::<Vec<_>>().join(","));
    flags.healthz_bind_address = options.proxy_healthz_bind_address.clone();
    flags.metrics_bind_address = options.proxy_metrics_bind_address.clone();
    Loaded::new(None, &flags).context("options of the proxy")
}

/// The cluster's names, where nodes answer them themselves.
fn dns(cluster: &Cluster) -> Option<keelson_proxy::Dns> {
    const PORT: u16 = 53;
    let at = |ip: &IpAddr| SocketAddr::new(*ip, PORT);
    (cluster.node_dns && !cluster.cluster_dns.is_empty()).then(|| keelson_proxy::Dns {
        zone: cluster.cluster_domain.clone(),
        listen: cluster.cluster_dns.iter().map(at).collect(),
        keeper: Systemd::is_here().then(|| Arc::new(Systemd) as Arc<_>),
        ..keelson_proxy::Dns::default()
    })
}

/// The agent's configuration without its certificate: what `cleanup` needs too.
pub(crate) fn places(options: &NodeOptions, name: &str, ips: Vec<IpAddr>) -> keelson_agent::Config {
    let paths = Paths::of(options);
    let mut config = keelson_agent::Config::new(name, ips);
    config.root_dir = paths.data.join("agent");
    config.storage_dir = paths.data.join("storage");
    config.plugins_dir = options
        .plugins_registry
        .clone()
        .unwrap_or_else(|| paths.data.join("plugins_registry"));
    config.run_dir = paths.run;
    config.images_dir = Some(
        options
            .images_dir
            .clone()
            .unwrap_or_else(|| paths.data.join("images")),
    );
    config.logger = sibling("keelson-logger");
    set(&mut config.log_dir, &options.log_dir);
    set(&mut config.device_plugins_dir, &options.device_plugins);
    set(&mut config.pod_resources_dir, &options.pod_resources);
    set(&mut config.cni_conf_dir, &options.cni_conf_dir);
    set(&mut config.cni_bin_dirs, &options.cni_bin_dir);
    set(&mut config.containerd_socket, &options.containerd);
    set(
        &mut config.containerd_namespace,
        &options.containerd_namespace,
    );
    set(&mut config.cgroup_root, &options.cgroup_root);
    set(&mut config.insecure_registries, &options.insecure_registry);
    set(&mut config.max_pods, &options.max_pods);
    config.pod_pids_limit = options.pod_pids_limit;
    config.shim_sharing = options.shim_sharing;
    let handlers = options.runtime_handlers.clone().unwrap_or_default();
    config.runtime_handlers = handlers
        .into_iter()
        .map(|(name, h)| {
            let handler = keelson_agent::Handler {
                runtime_type: h.runtime_type,
                binary: h.binary_name,
            };
            (name, handler)
        })
        .collect();
    set(&mut config.registries, &options.registries);
    config.static_pods = Some(
        options
            .static_pods
            .clone()
            .unwrap_or_else(|| "/etc/keelson/static-pods".into()),
    );
    set(
        &mut config.allowed_unsafe_sysctls,
        &options.allowed_unsafe_sysctls,
    );
    config
}

fn agent_config(node: &Node) -> anyhow::Result<keelson_agent::Config> {
    let mut config = places(&node.options, &node.name, Vec::new());
    config.node_ips = node.ips.clone();
    registration(&mut config, &node.options)?;
    network::configure(&mut config, &node.options, &node.cluster.network)?;
    config.cluster_cidrs = node.cluster.cluster_cidrs.clone();
    config.cluster_dns = node.cluster.cluster_dns.clone();
    config.cluster_domain = node.cluster.cluster_domain.clone();
    config.serving = Some(keelson_agent::Serving {
        bind: node
            .options
            .agent_bind
            .unwrap_or_else(|| SocketAddr::new(crate::server::any_address(), 10250)),
        certs: node.certs.clone(),
        client_ca_pem: node.ca_pem.clone(),
    });
    Ok(config)
}

/// Whether a node can be run with these options: told before anything is begun.
pub(crate) fn check(options: &NodeOptions, name: &str) -> anyhow::Result<()> {
    network::check(options)?;
    registration(&mut places(options, name, Vec::new()), options)
}

/// What the Node is registered with, and what must be right before it is.
fn registration(config: &mut keelson_agent::Config, options: &NodeOptions) -> anyhow::Result<()> {
    config.labels = labels(options.node_label.as_deref().unwrap_or_default())?;
    config.taints = taints(options.node_taint.as_deref().unwrap_or_default())?;
    machine::configure(config, options)?;
    pressure::configure(config, options)?;
    let timeout = &options.runtime_request_timeout;
    pressure::set(
        &mut config.runtime_request_timeout,
        "runtimeRequestTimeout",
        timeout,
    )?;
    pinning::configure(config, options)?;
    images::configure(config, options, &Paths::of(options).data)
}

fn set<T: Clone>(place: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        *place = value.clone();
    }
}

/// A program beside this one.
pub(crate) fn sibling(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok();
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .map(|dir| dir.join(name));
    beside
        .filter(|p| p.exists())
        .unwrap_or_else(|| Path::new("/usr/local/bin").join(name))
}

/// This node's name: told, or the host's.
pub(crate) fn name(told: Option<&str>) -> anyhow::Result<String> {
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").map(|n| n.trim().to_lowercase());
    let name = match told {
        Some(name) => name.to_owned(),
        None => host().context("read the host's name")?,
    };
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty()
        || name.len() > 253
        || !name.chars().all(valid)
        || name.starts_with(['-', '.'])
        || name.ends_with(['-', '.'])
    {
        bail!(
            "node-name is {name:?}, allowed are lower case letters, digits, '-' and '.', first and last a letter or digit"
        );
    }
    Ok(name)
}

/// This node's addresses: told, or the source that the kernel chooses towards the server (towards the outside
/// where there is none), which is the right one also on machines with many. Where pods have the other family too, the
/// one that the kernel chooses towards the outside by it, if there is a way.
pub(crate) fn addresses(
    options: &NodeOptions,
    server: Option<&str>,
    pods: &[IpNet],
) -> anyhow::Result<Vec<IpAddr>> {
    // No packet is sent: connecting a UDP socket only looks a route up (these are for documentation).
    const OUTSIDE: [(bool, &str); 2] = [(true, "192.0.2.1:9"), (false, "[2001:db8::1]:9")];
    if let Some(ips) = options.node_ip.clone().filter(|ips| !ips.is_empty()) {
        return Ok(ips);
    }
    let source = match server {
        Some(server) => join::host_port(server).and_then(|to| towards(to.as_str())),
        None => towards(OUTSIDE[0].1).or_else(|_| towards(OUTSIDE[1].1)),
    };
    let source = source.context("find this node's address: no route; give it by --node-ip")?;
    let has = |v4: bool| pods.iter().any(|c| c.addr().is_ipv4() == v4);
    let other = OUTSIDE
        .iter()
        .filter(|(v4, _)| source.is_ipv4() != *v4 && has(*v4));
    let others = other.filter_map(|(_, to)| towards(to).ok());
    Ok([source].into_iter().chain(others).collect())
}

fn towards(to: &str) -> anyhow::Result<IpAddr> {
    let mut last = anyhow::anyhow!("{to} has no address");
    for to in
        std::net::ToSocketAddrs::to_socket_addrs(to).with_context(|| format!("look {to} up"))?
    {
        let any: SocketAddr = if to.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        match UdpSocket::bind(any).and_then(|s| s.connect(to).and_then(|()| s.local_addr())) {
            Ok(address) => return Ok(address.ip()),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn labels(list: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |l: &String| l.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    list.iter()
        .map(|l| pair(l).with_context(|| format!("node-label is {l:?}, needed is key=value")))
        .collect()
}

fn taints(list: &[String]) -> anyhow::Result<Vec<Taint>> {
    list.iter().map(|t| taint(t).with_context(|| format!("node-taint is {t:?}, needed is key=value:NoSchedule, :PreferNoSchedule or :NoExecute"))).collect()
}

fn taint(text: &str) -> Option<Taint> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = pair
        .split_once('=')
        .map_or((pair, None), |(k, v)| (k, Some(v)));
    let known =
        ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) && !key.is_empty();
    known.then(|| Taint {
        key: key.into(),
        value: value.map(str::to_owned),
        effect: effect.into(),
        time_added: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints_as_kubectl_writes_them() {
        assert_eq!(
            taint("a=b:NoSchedule").map(|t| (t.key, t.value, t.effect)),
            Some(("a".into(), Some("b".into()), "NoSchedule".into()))
        );
        assert_eq!(
            taint("a:NoExecute").map(|t| (t.key, t.value)),
            Some(("a".into(), None))
        );
        for wrong in ["a=b", "a=b:Never", ":NoSchedule", ""] {
            assert!(taint(wrong).is_none(), "{wrong}");
        }
        assert!(labels(&["a=b".into(), "c".into()]).is_err());
    }

    #[test]
    fn names_of_nodes_are_checked() {
        let with = |n: &str| name(Some(n));
        assert!(with("node-1.example").is_ok());
        for wrong in ["", "Node", "-a", "a_b", "../x", &"x".repeat(300)] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
    }
}
