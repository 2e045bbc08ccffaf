//! The node's HTTPS endpoint, served from what the workers published.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use keelson_agent_io::endpoint::figures::{Depth, PodUse, System};
use keelson_agent_io::endpoint::{
    Config, ContainerRef, ExecOptions, Pods, Refusal, Session, TerminalSize, router,
};
use keelson_agent_io::volumes::Storage;
use keelson_agent_plan::{AttemptState, names};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::attach;
use crate::config::Serving;
use crate::shared::{Entry, Shared, chain};
use crate::{metrics, usage};

/// The node is looked at each 10 s; when it was not for so long, something hangs.
const STUCK: Duration = Duration::from_secs(120);

/// Bytes of standard input on their way.
const PIPE: usize = 64 << 10;

/// Binds the endpoint and returns the task that serves it.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    serving: Serving,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let tls =
        keelson_serving::server_config_with(serving.certs.clone(), Some(&serving.client_ca_pem))
            .context("set up TLS of the agent's endpoint")?;
    let listener = keelson_serving::bind(serving.bind)
        .await
        .context("agent's endpoint")?;
    let metrics = shared.clone();
    let service = router(Config {
        node_name: shared.config.node_name.clone(),
        client: shared.client.clone(),
        roots: shared.roots.clone(),
        metrics: Arc::new(move || metrics::text(&metrics)),
        pods: Arc::new(Node(shared.clone())),
    });
    let shutdown = shared.shutdown.clone();
    Ok(async move {
        if let Err(error) = keelson_serving::serve(listener, tls, service, shutdown).await {
            tracing::error!(%error, "agent's endpoint ended");
        }
    })
}

struct Node(Arc<Shared>);

impl Node {
    fn find(&self, namespace: &str, name: &str) -> Result<Entry, Refusal> {
        let found = of_name(self.0.entries().values(), namespace, name).cloned();
        found.ok_or_else(|| Refusal::not_found(format!("pod \"{name}\" not found")))
    }
}

/// The pod of that name: of several (ones that go and their successor) the one that the API has. Only of those that it
/// has no more does the youngest count, as times are whole seconds.
fn of_name<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    namespace: &str,
    name: &str,
) -> Option<&'a Entry> {
    let ours = entries.filter(|e| {
        let m = &e.pod.metadata;
        m.namespace.as_deref() == Some(namespace) && m.name.as_deref() == Some(name)
    });
    ours.max_by_key(|e| {
        let created = e.pod.metadata.creation_timestamp.as_ref();
        (!e.forgotten, created.map(|t| t.0))
    })
}

#[async_trait]
impl Pods for Node {
    async fn remove_storage(&self, name: &str) -> Result<(), Refusal> {
        let storage = Storage::new(&self.0.config.storage_dir);
        let named = name.to_owned();
        let removed = tokio::task::spawn_blocking(move || storage.remove(&named)).await;
        let removed = removed.map_err(Refusal::internal)?;
        removed.map_err(|e| Refusal::internal(chain(&e)))?;
        tracing::info!(directory = name, "volume removed");
        Ok(())
    }

    async fn pods(&self) -> Vec<Pod> {
        self.0.entries().values().map(Entry::whole).collect()
    }

    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerRef, Refusal> {
        let entry = self.find(namespace, pod)?;
        let spec = entry.pod.spec.as_ref();
        let mut all = spec.into_iter().flat_map(|s| {
            s.containers
                .iter()
                .chain(s.init_containers.iter().flatten())
                .map(|c| (&c.name, c.tty))
                .chain(
                    s.ephemeral_containers
                        .iter()
                        .flatten()
                        .map(|c| (&c.name, c.tty)),
                )
        });
        let Some((_, tty)) = all.find(|(name, _)| *name == container) else {
            return Err(Refusal::bad_request(format!(
                "container {container} is not valid for pod {pod}"
            )));
        };
        let started = |a: &&keelson_agent_plan::Attempt| a.state != AttemptState::Created;
        let runs = entry
            .containers
            .get(container)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut started = runs.iter().rev().filter(started);
        let run = if previous {
            started.nth(1)
        } else {
            started.next()
        };
        let Some(run) = run else {
            return Err(Refusal::bad_request(absent(
                &entry, pod, container, previous,
            )));
        };
        let dir = &self.0.config.log_dir;
        Ok(ContainerRef {
            id: run.id.clone(),
            log_path: names::log_path(dir, &entry.pod, container, run.attempt),
            running: run.is_running(),
            tty: tty == Some(true),
        })
    }

    async fn exec(&self, id: &str, options: ExecOptions) -> Result<Session, Refusal> {
        let wanted = keelson_runtime::ExecOptions {
            cmd: options.command,
            tty: options.tty,
            stdin: options.stdin,
        };
        let made = self
            .0
            .runtime
            .exec(id, &wanted)
            .await
            .map_err(|e| Refusal::internal(chain(&e)))?;
        let stdin = made.stdin.map(|mut to| {
            let (ours, mut from) = tokio::io::duplex(PIPE);
            tokio::spawn(async move {
                // Ends when the client closes its side, or the process no longer reads.
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.flush().await;
            });
            Box::new(ours) as _
        });
        let (resize, mut sizes) = mpsc::channel::<TerminalSize>(4);
        let process = made.process.clone();
        tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                if let Err(error) = process.resize(size.width, size.height).await {
                    tracing::debug!(error = %chain(&error), "terminal not resized");
                }
            }
        });
        let process = made.process;
        Ok(Session {
            stdin,
            stdout: options.stdout.then_some(Box::new(made.stdout) as _),
            stderr: made
                .stderr
                .filter(|_| options.stderr)
                .map(|s| Box::new(s) as _),
            resize: Some(resize),
            exit: Box::pin(async move {
                process
                    .wait()
                    .await
                    .map_err(|e| Refusal::internal(chain(&e)))
            }),
        })
    }

    async fn attach(
        &self,
        container: &ContainerRef,
        options: ExecOptions,
    ) -> Result<Option<Session>, Refusal> {
        attach::session(self.0.clone(), &container.id, &options).await
    }

    async fn netns(&self, namespace: &str, pod: &str) -> Result<Option<PathBuf>, Refusal> {
        let entry = self.find(namespace, pod)?;
        let host = entry.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        match entry.netns {
            Some(netns) => Ok(Some(netns)),
            None if host => Ok(None),
            None => Err(Refusal::bad_request(format!(
                "pod {pod} has no network yet"
            ))),
        }
    }

    async fn usage(&self, depth: Depth) -> Vec<PodUse> {
        usage::pods(&self.0, depth).await
    }

    async fn system(&self, depth: Depth) -> System {
        usage::system(&self.0, depth).await
    }

    fn unhealthy(&self) -> Option<String> {
        let idle = self.0.metrics.since_turn();
        (idle > STUCK).then(|| format!("sync Loop took longer than expected: {}s", idle.as_secs()))
    }

    fn probe_metrics(&self) -> String {
        self.0.metrics.probes_text()
    }

    fn config(&self) -> serde_json::Value {
        configz(&self.0.config)
    }
}

/// The configuration under upstream's names, as far as it has them (KubeletConfiguration, v1beta1).
fn configz(c: &crate::Config) -> serde_json::Value {
    let serving = c.serving.as_ref().map(|s| s.bind);
    serde_json::json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": serving.map(|s| s.ip()),
        "port": serving.map(|s| s.port()),
        "allowedUnsafeSysctls": c.allowed_unsafe_sysctls,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": c.cgroup_root,
        "clusterDNS": c.cluster_dns,
        "clusterDomain": c.cluster_domain,
        "containerLogMaxFiles": c.logs.max_files,
        "containerLogMaxSize": c.logs.max_size.map(|n| n.to_string()),
        "containerRuntimeEndpoint": format!("unix://{}", c.containerd_socket.display()),
        "cpuManagerPolicy": c.pinning.cpu.policy(),
        "cpuManagerReconcilePeriod": format!("{}s", c.pinning.period.as_secs_f64()),
        "reservedSystemCPUs": c.pinning.cpu.reserved.to_string(),
        "memoryManagerPolicy": c.pinning.memory.policy(),
        "topologyManagerPolicy": c.pinning.topology.policy.to_string(),
        "topologyManagerScope": c.pinning.topology.scope.to_string(),
        "eventBurst": 100,
        "eventRecordQPS": 50,
        "healthzPort": 0,
        "imagePullCredentialsVerificationPolicy": c.pull_policy.verification.to_string(),
        "preloadedImagesVerificationAllowlist": c.pull_policy.allowlist,
        "maxParallelImagePulls": c.parallel_pulls,
        "maxPods": c.max_pods,
        "nodeLeaseDurationSeconds": 40,
        "podPidsLimit": c.pod_pids_limit.unwrap_or(-1),
        "serializeImagePulls": c.parallel_pulls == 1,
        "staticPodPath": c.static_pods,
    })
}

/// Why there is no such run, in upstream's words.
fn absent(entry: &Entry, pod: &str, container: &str, previous: bool) -> String {
    if previous {
        return format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
    }
    let status = &entry.status;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut all = lists.into_iter().flatten().flatten();
    let state = all
        .find(|s| s.name == container)
        .and_then(|s| s.state.clone());
    let reason = state.and_then(|s| s.waiting).and_then(|w| w.reason);
    let why = match reason.as_deref() {
        None => return format!("container \"{container}\" in pod \"{pod}\" is not available"),
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(other) => other,
    };
    format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn entry(namespace: &str, second: i64, forgotten: bool) -> Entry {
        let mut pod = Pod::default();
        pod.metadata.name = Some("a".into());
        pod.metadata.namespace = Some(namespace.into());
        pod.metadata.creation_timestamp = jiff::Timestamp::from_second(second).ok().map(Time);
        Entry {
            tx: mpsc::unbounded_channel().0,
            pod: Arc::new(pod),
            status: Arc::default(),
            containers: Arc::default(),
            netns: None,
            allocated: None,
            waits: false,
            forgotten,
        }
    }

    #[test]
    fn a_name_is_of_the_pod_that_the_api_has() {
        let (gone, here) = (true, false);
        for (pods, wanted) in [
            (vec![("other", 9, here)], None),
            (vec![("ns", 7, here), ("other", 9, here)], Some(0)),
            // Two pods of one name within a second, as the map has them.
            (vec![("ns", 7, gone), ("ns", 7, here)], Some(1)),
            (vec![("ns", 7, here), ("ns", 7, gone)], Some(0)),
            (vec![("ns", 8, gone), ("ns", 7, gone)], Some(0)),
        ] {
            let entries: Vec<Entry> = pods.iter().map(|&(ns, at, f)| entry(ns, at, f)).collect();
            let found = of_name(entries.iter(), "ns", "a");
            let at = entries
                .iter()
                .position(|e| found.is_some_and(|f| std::ptr::eq(e, f)));
            assert_eq!(at, wanted, "{pods:?}");
        }
    }
}
