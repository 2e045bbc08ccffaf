//! Two pods never have the same address: looked at as long as a test runs, over the API and in the nodes' namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use keelson_tests::Bed;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

/// How often is looked into the namespaces.
const EVERY: Duration = Duration::from_millis(200);

/// What both lookers know.
#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// The nodes' first processes.
    inits: Mutex<Vec<u32>>,
    found: Mutex<BTreeSet<String>>,
    /// Pods' addresses that were seen over the API, and rounds through the namespaces: not to look at nothing.
    addresses: AtomicUsize,
    rounds: AtomicUsize,
}

/// Looks until it is told to stop.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn new(bed: &Bed) -> Self {
        let shared = Arc::new(Shared::default());
        let server = File::open(format!("/proc/{}/ns/net", bed.server().space.init())).unwrap();
        let (kubeconfig, one, two) = (bed.kubeconfig(), shared.clone(), shared.clone());
        let api = move || {
            setns(server, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(over_the_api(kubeconfig, &one));
        };
        let threads = vec![
            std::thread::spawn(api),
            std::thread::spawn(move || in_namespaces(&two)),
        ];
        let watch = Self { shared, threads };
        watch.follow(bed);
        watch
    }

    /// Nodes may have other namespaces now.
    pub(crate) fn follow(&self, bed: &Bed) {
        let inits = bed.nodes.iter().map(|n| n.space.init()).collect();
        *self.shared.inits.lock().unwrap() = inits;
    }

    /// # Panics
    /// When there was a duplicate, or nothing was looked at.
    pub(crate) fn done(self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let found = self.shared.found.lock().unwrap();
        assert!(found.is_empty(), "{found:#?}");
        let seen = [&self.shared.addresses, &self.shared.rounds].map(|n| n.load(Ordering::Relaxed));
        assert!(seen.iter().all(|n| *n >= 10), "seen were but {seen:?}");
    }
}

/// The addresses of pods that have one of their own and have not ended.
#[derive(Default)]
struct Known(BTreeMap<String, (String, BTreeSet<String>)>);

impl Known {
    fn apply(&mut self, pod: &Pod, shared: &Shared) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let on_host = pod
            .spec
            .as_ref()
            .is_some_and(|s| s.host_network == Some(true));
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        self.0.remove(&uid);
        // What is on its way out has given its address back, or soon will.
        if on_host || ended || pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let name = pod.metadata.name.clone().unwrap_or_default();
        let ips: BTreeSet<String> = status
            .pod_ips
            .unwrap_or_default()
            .into_iter()
            .map(|ip| ip.ip)
            .collect();
        shared.addresses.fetch_add(ips.len(), Ordering::Relaxed);
        for (other, taken) in self.0.values() {
            for ip in taken.intersection(&ips) {
                let text = format!("the API says that {name} and {other} have {ip}");
                shared.found.lock().unwrap().insert(text);
            }
        }
        self.0.insert(uid, (name, ips));
    }
}

async fn over_the_api(kubeconfig: Kubeconfig, shared: &Shared) {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.unwrap()).unwrap();
    let mut events = watcher(Api::<Pod>::all(client), watcher::Config::default()).boxed();
    let mut known = Known::default();
    while !shared.over.load(Ordering::Relaxed) {
        let Ok(event) = tokio::time::timeout(EVERY, events.next()).await else {
            continue;
        };
        // The watch begins again after an error.
        match event {
            Some(Ok(Event::Apply(pod) | Event::InitApply(pod))) => known.apply(&pod, shared),
            Some(Ok(Event::Delete(pod))) => {
                _ = known.0.remove(&pod.metadata.uid.unwrap_or_default())
            }
            Some(Ok(Event::Init)) => known = Known::default(),
            Some(Ok(Event::InitDone) | Err(_)) | None => {}
        }
    }
}

fn in_namespaces(shared: &Shared) {
    while !shared.over.load(Ordering::Relaxed) {
        let inits = shared.inits.lock().unwrap().clone();
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        for (init, pod) in inits.iter().flat_map(|init| pinned(*init)) {
            // It may have gone since.
            for ip in addresses(init, &pod).unwrap_or_default() {
                let own = format!("{pod} of process {init}");
                if let Some(other) = owners.insert(ip.clone(), own.clone()) {
                    shared
                        .found
                        .lock()
                        .unwrap()
                        .insert(format!("{own} and {other} have {ip}"));
                }
            }
        }
        if !owners.is_empty() {
            shared.rounds.fetch_add(1, Ordering::Relaxed);
        }
        std::thread::sleep(EVERY);
    }
}

/// The pods that have network namespaces on a node.
fn pinned(init: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{init}/root/run/keelson/ns"));
    let pods = entries.into_iter().flatten().flatten();
    pods.map(|entry| (init, entry.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// A pod's addresses, without those that everybody has.
fn addresses(init: u32, pod: &str) -> anyhow::Result<Vec<String>> {
    let net = File::open(format!("/proc/{init}/root/run/keelson/ns/{pod}/net"))?;
    let own = File::open("/proc/self/ns/net")?;
    let same = |a: &File, b: &File| {
        use std::os::unix::fs::MetadataExt;
        Ok::<_, std::io::Error>(
            (a.metadata()?.dev(), a.metadata()?.ino())
                == (b.metadata()?.dev(), b.metadata()?.ino()),
        )
    };
    let node = File::open(format!("/proc/{init}/ns/net"))?;
    if same(&net, &node)? || same(&net, &own)? {
        return Ok(Vec::new());
    }
    let thread = std::thread::spawn(move || {
        // A pin is a plain file until the namespace is on it.
        setns(net, CloneFlags::CLONE_NEWNET).context("enter a pod's network")?;
        let all = getifaddrs()?.filter_map(|i| i.address);
        let ips = all.filter_map(|address| {
            let v4 = address
                .as_sockaddr_in()
                .map(|a| std::net::IpAddr::from(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
        });
        let global = ips.filter(|ip| match ip {
            std::net::IpAddr::V4(ip) => !ip.is_loopback(),
            std::net::IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        });
        Ok(global.map(|ip| ip.to_string()).collect())
    });
    thread
        .join()
        .map_err(|_| anyhow::anyhow!("looking panicked"))?
}
