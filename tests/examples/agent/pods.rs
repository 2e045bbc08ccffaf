//! Pods of the benchmark: bound to the node by their maker, so that no scheduler is measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use keelson_tests::Node;
use keelson_tests::images::ECHO;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;

/// Requests under way at once.
const AT_ONCE: usize = 32;

type Phases = BTreeMap<String, String>;

/// Pods of namespace default, and what a watch says of them.
pub(crate) struct Pods {
    api: Api<Pod>,
    node: String,
    cgroups: PathBuf,
    phases: watch::Receiver<Phases>,
}

impl Pods {
    /// Begins to watch.
    pub(crate) fn new(client: Client, node: &Node) -> Self {
        let api = Api::default_namespaced(client);
        let (sender, phases) = watch::channel(Phases::new());
        let mut events = watcher(api.clone(), Config::default()).boxed();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                sender.send_modify(|phases| note(phases, event));
            }
        });
        let v1 = Path::new("/sys/fs/cgroup/pids");
        let top = if v1.exists() {
            v1
        } else {
            Path::new("/sys/fs/cgroup")
        };
        Self {
            api,
            node: node.name.clone(),
            cgroups: top.join(&node.cgroup),
            phases,
        }
    }

    /// Makes pods; returns when all run.
    pub(crate) async fn create(&self, prefix: &str, n: usize) -> anyhow::Result<()> {
        self.create_probed(prefix, n, None).await
    }

    /// The same with a readiness probe, in JSON.
    pub(crate) async fn create_probed(
        &self,
        prefix: &str,
        n: usize,
        probe: Option<&str>,
    ) -> anyhow::Result<()> {
        stream::iter(0..n)
            .map(|i| async move {
                let mut pod = self.pod(&format!("{prefix}-{i}"))?;
                let main = pod.spec.iter_mut().flat_map(|s| &mut s.containers);
                for container in main {
                    container.readiness_probe = probe.map(serde_json::from_str).transpose()?;
                }
                self.api.create(&PostParams::default(), &pod).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let running = |phases: &Phases| phases.values().filter(|p| *p == "Running").count() >= n;
        self.phases.clone().wait_for(running).await?;
        Ok(())
    }

    fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        Ok(serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": self.node,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": ECHO}],
            },
        }))?)
    }

    /// Waits until the status says that a pod's process has ended.
    pub(crate) async fn ended(&self, name: &str) -> anyhow::Result<()> {
        let ended = |phases: &Phases| phases.get(name).is_some_and(|p| p == "Failed");
        self.phases.clone().wait_for(ended).await?;
        Ok(())
    }

    /// Running pods and their processes' PIDs, as seen from here.
    pub(crate) async fn processes(&self) -> anyhow::Result<Vec<(String, i32)>> {
        let running = ListParams::default().fields("status.phase=Running");
        let pods = self.api.list(&running).await?;
        let pid = |pod: Pod| {
            let name = pod.metadata.name.context("a name")?;
            let uid = pod.metadata.uid.context("a UID")?;
            let group = find(&self.cgroups, &format!("pod{uid}")).context("a cgroup")?;
            let pid = first_process(&group).context("a process")?;
            Ok((name, pid))
        };
        pods.items.into_iter().map(pid).collect()
    }

    /// Deletes all; returns when they are gone.
    pub(crate) async fn delete_all(&self) -> anyhow::Result<()> {
        let (how, which) = (DeleteParams::default(), ListParams::default());
        self.api.delete_collection(&how, &which).await?;
        self.phases.clone().wait_for(Phases::is_empty).await?;
        Ok(())
    }
}

fn note(phases: &mut Phases, event: Result<Event<Pod>, kube::runtime::watcher::Error>) {
    let entry = |pod: Pod| {
        let phase = pod.status.and_then(|s| s.phase);
        Some((pod.metadata.name?, phase.unwrap_or_default()))
    };
    match event {
        Ok(Event::Init) => phases.clear(),
        Ok(Event::InitApply(pod) | Event::Apply(pod)) => phases.extend(entry(pod)),
        Ok(Event::Delete(pod)) => {
            pod.metadata.name.and_then(|name| phases.remove(&name));
        }
        Ok(Event::InitDone) => {}
        Err(error) => eprintln!("watch: {error}"),
    }
}

fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.is_dir())
}

fn find(top: &Path, name: &str) -> Option<PathBuf> {
    folders(top).find_map(|path| match path.ends_with(name) {
        true => Some(path),
        false => find(&path, name),
    })
}

fn first_process(group: &Path) -> Option<i32> {
    let own = fs::read_to_string(group.join("cgroup.procs")).ok();
    let own = own.and_then(|text| text.lines().next()?.parse().ok());
    own.or_else(|| folders(group).find_map(|path| first_process(&path)))
}
