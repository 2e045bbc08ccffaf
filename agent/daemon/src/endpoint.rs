//! The node's HTTPS endpoint, served from what the workers published.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use keelson_agent_io::endpoint::{
    Config, ContainerRef, ContainerUse, ExecOptions, Pods, Refusal, Session, TerminalSize, router,
};
use keelson_agent_plan::{AttemptState, names};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::attach;
use crate::config::Serving;
use crate::shared::{Entry, Shared, chain};

/// Bytes of standard input on their way.
const PIPE: usize = 64 << 10;

/// Binds the endpoint and returns the task that serves it.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    serving: Serving,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let tls = keelson_serving::server_config(
        &serving.cert_pem,
        &serving.key_pem,
        Some(&serving.client_ca_pem),
    )
    .context("set up TLS of the agent's endpoint")?;
    let listener = keelson_serving::bind(serving.bind)
        .await
        .context("agent's endpoint")?;
    let metrics = shared.clone();
    let service = router(Config {
        node_name: shared.config.node_name.clone(),
        client: shared.client.clone(),
        roots: shared.roots.clone(),
        metrics: Arc::new(move || metrics_text(&metrics)),
        pods: Arc::new(Node(shared.clone())),
    });
    let shutdown = shared.shutdown.clone();
    Ok(async move {
        if let Err(error) = keelson_serving::serve(listener, tls, service, shutdown).await {
            tracing::error!(%error, "agent's endpoint ended");
        }
    })
}

fn metrics_text(shared: &Shared) -> String {
    let (mut pods, mut running) = (0, 0);
    for entry in shared.entries().values() {
        pods += 1;
        running += entry
            .containers
            .values()
            .flatten()
            .filter(|a| a.is_running())
            .count();
    }
    format!(
        "# HELP kubelet_active_pods The number of pods the kubelet considers active.\n# TYPE kubelet_active_pods gauge\nkubelet_active_pods {pods}\n\
         # HELP kubelet_running_containers Number of containers currently running.\n# TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n"
    )
}

struct Node(Arc<Shared>);

impl Node {
    /// The pod of that name; of several (one that goes and its successor) the youngest.
    fn find(&self, namespace: &str, name: &str) -> Result<Entry, Refusal> {
        let entries = self.0.entries();
        let ours = entries.values().filter(|e| {
            let m = &e.pod.metadata;
            m.namespace.as_deref() == Some(namespace) && m.name.as_deref() == Some(name)
        });
        let found = ours.max_by_key(|e| e.pod.metadata.creation_timestamp.as_ref().map(|t| t.0));
        found
            .cloned()
            .ok_or_else(|| Refusal::not_found(format!("pod \"{name}\" not found")))
    }
}

#[async_trait]
impl Pods for Node {
    async fn pods(&self) -> Vec<Pod> {
        self.0
            .entries()
            .values()
            .map(|e| Pod::clone(&e.pod))
            .collect()
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
        let m = &entry.pod.metadata;
        let uid = m.uid.as_deref().unwrap_or_default();
        Ok(ContainerRef {
            id: run.id.clone(),
            log_path: names::log_path(
                &self.0.config.log_dir,
                namespace,
                pod,
                uid,
                container,
                run.attempt,
            ),
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

    async fn usage(&self) -> Vec<ContainerUse> {
        let mut running = Vec::new();
        for entry in self.0.entries().values() {
            let m = &entry.pod.metadata;
            let text = |o: &Option<String>| o.clone().unwrap_or_default();
            for (name, runs) in entry.containers.iter() {
                let Some(run) = runs.last() else { continue };
                let AttemptState::Running { started, .. } = run.state else {
                    continue;
                };
                running.push((
                    run.id.clone(),
                    ContainerUse {
                        pod_uid: text(&m.uid),
                        namespace: text(&m.namespace),
                        pod: text(&m.name),
                        container: name.clone(),
                        started: started.as_second(),
                        ..ContainerUse::default()
                    },
                ));
            }
        }
        let mut uses = Vec::new();
        for (id, mut used) in running {
            // One that has just ended has no figures.
            let Ok(stats) = self.0.runtime.stats(&id).await else {
                continue;
            };
            (used.cpu_nanoseconds, used.memory_working_set) =
                (stats.cpu_nanos, stats.memory_working_set);
            uses.push(used);
        }
        uses
    }

    fn config(&self) -> serde_json::Value {
        let c = &self.0.config;
        serde_json::json!({"kubeletconfig": {
            "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "clusterDNS": c.cluster_dns, "clusterDomain": c.cluster_domain, "maxPods": c.max_pods,
            "podPidsLimit": c.pod_pids_limit.unwrap_or(-1), "containerRuntimeEndpoint": c.containerd_socket,
        }})
    }
}

/// Why there is no such run, in upstream's words.
fn absent(entry: &Entry, pod: &str, container: &str, previous: bool) -> String {
    if previous {
        return format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
    }
    let status = entry.pod.status.as_ref();
    let lists = status.map(|s| {
        [
            &s.container_statuses,
            &s.init_container_statuses,
            &s.ephemeral_container_statuses,
        ]
    });
    let mut all = lists.into_iter().flatten().flatten().flatten();
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
