//! The engine: one task that knows policies, pods and namespaces, and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use keelson_proxy_plan::policy::state::State;
use kube::ResourceExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::writer::Writer;
use super::{Config, Request};
use crate::RETRY;
use crate::feed::{self, Change, Feed, Watched};

/// Where a static pod comes from; absent for pods of the API.
const SOURCE: &str = "kubernetes.io/config.source";
/// In the API, a static pod's image: it has another UID.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Namespace and name.
type Key = (String, String);
/// Who waits for a pod's rules.
type Waiter = oneshot::Sender<Result<(), String>>;

/// A pod of this node that has addresses.
struct Given {
    uid: String,
    ips: Vec<IpAddr>,
    /// The pod itself, where the API may not have it.
    pod: Option<Box<Pod>>,
}

/// Enforces policies on a node; made by [`super::new`].
pub struct Engine {
    config: Config,
    requests: mpsc::UnboundedReceiver<Request>,
    waits_for: watch::Sender<String>,
    state: State,
    policies: Feed,
    pods: Feed,
    namespaces: Feed,
    /// There is at least one policy: pods and namespaces count.
    any: bool,
    given: BTreeMap<Key, Given>,
    /// Pods that the agent told of before the watch did.
    introduced: BTreeSet<Key>,
    waiters: Vec<Waiter>,
    /// What was told of parts of policies that mean nothing.
    invalid: BTreeSet<String>,
    written: Option<Instant>,
    due: Option<Instant>,
}

/// Pods and namespaces, while they are followed.
#[derive(Default)]
struct Followed {
    pods: Option<BoxStream<'static, Watched<Pod>>>,
    namespaces: Option<BoxStream<'static, Watched<Namespace>>>,
}

impl Engine {
    pub(super) fn new(
        config: Config,
        requests: mpsc::UnboundedReceiver<Request>,
        waits_for: watch::Sender<String>,
    ) -> Self {
        Self {
            state: State::new(&config.node_name),
            config,
            requests,
            waits_for,
            policies: Feed::default(),
            pods: Feed::default(),
            namespaces: Feed::default(),
            any: false,
            given: BTreeMap::new(),
            introduced: BTreeSet::new(),
            waiters: Vec::new(),
            invalid: BTreeSet::new(),
            written: None,
            due: None,
        }
    }

    /// Runs until shutdown. Rules stay when it ends: nobody is let in meanwhile.
    pub async fn run(
        mut self,
        client: kube::Client,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut writer = Writer::new(&self.config);
        let mut policies = feed::watch::<NetworkPolicy>(&client);
        let mut followed = Followed::default();
        let mut resync = tokio::time::interval(self.config.resync);
        loop {
            let due = self.due;
            let changed = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(event) = policies.next() => self.policy(event),
                Some(event) = next(&mut followed.pods) => self.pod(event),
                Some(event) = next(&mut followed.namespaces) => self.namespace(event),
                Some(request) = self.requests.recv() => self.request(request),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.sync(&mut writer).await;
                    false
                }
                _ = resync.tick() => writer.look_for_drift(),
            };
            self.follow(&client, &mut followed);
            self.tell();
            self.dirty(changed || !writer.has_synced());
        }
    }

    /// Pods and namespaces are followed while there are policies. A node without any has nothing to do and nothing to
    /// remember but its own pods' addresses, which the API may tell late.
    fn follow(&mut self, client: &kube::Client, followed: &mut Followed) {
        match (self.any, followed.pods.is_some()) {
            (true, false) => {
                followed.pods = Some(feed::watch(client));
                followed.namespaces = Some(feed::watch(client));
                for (key, given) in &self.given {
                    if let Some(pod) = &given.pod {
                        self.state.set_pod(pod);
                        self.introduced.insert(key.clone());
                    }
                }
            }
            (false, true) => {
                *followed = Followed::default();
                (self.pods, self.namespaces) = (Feed::default(), Feed::default());
                self.introduced.clear();
                self.state = State::new(&self.config.node_name);
                for ((namespace, name), given) in &self.given {
                    self.state
                        .set_addresses(namespace, name, &given.uid, &given.ips);
                }
            }
            _ => {}
        }
    }

    fn policy(&mut self, event: Watched<NetworkPolicy>) -> bool {
        let state = &mut self.state;
        let changed = self.policies.take(event, |change| match change {
            Change::Set(policy) => state.set_policy(&policy),
            Change::Removed(namespace, name) => state.remove_policy(&namespace, &name),
            Change::Listed(all) => {
                state.retain(Some(&all), None, None);
                true
            }
        });
        self.any = self.state.policies().next().is_some();
        if changed {
            self.tell_invalid();
        }
        changed
    }

    fn pod(&mut self, event: Watched<Pod>) -> bool {
        let (state, given, introduced) = (&mut self.state, &self.given, &mut self.introduced);
        self.pods.take(event, |change| match change {
            Change::Set(mut pod) => {
                let key = key(&pod);
                // A mirror stands for the static pod, which is who has the addresses.
                if pod.annotations().contains_key(MIRROR)
                    && let Some(own) = given.get(&key)
                {
                    pod.metadata.uid = Some(own.uid.clone());
                }
                introduced.remove(&key);
                state.set_pod(&pod)
            }
            Change::Removed(namespace, name) => {
                introduced.remove(&(namespace.clone(), name.clone()));
                state.remove_pod(&namespace, &name)
            }
            Change::Listed(mut all) => {
                all.extend(introduced.iter().cloned());
                state.retain(None, Some(&all), None);
                true
            }
        })
    }

    fn namespace(&mut self, event: Watched<Namespace>) -> bool {
        let state = &mut self.state;
        self.namespaces.take(event, |change| match change {
            Change::Set(namespace) => state.set_namespace(&namespace),
            Change::Removed(_, name) => state.remove_namespace(&name),
            Change::Listed(all) => {
                state.retain(None, None, Some(&all));
                true
            }
        })
    }

    fn request(&mut self, request: Request) -> bool {
        match request {
            Request::Enforce(pod, ips, done) => self.enforce(pod, ips, done),
            Request::Released([namespace, name, uid]) => self.released((namespace, name), &uid),
        }
    }

    fn enforce(&mut self, pod: Box<Pod>, ips: Vec<IpAddr>, done: Waiter) -> bool {
        let key = key(&pod);
        let uid = pod.uid().unwrap_or_default();
        self.state.set_addresses(&key.0, &key.1, &uid, &ips);
        let is_static = pod.annotations().contains_key(SOURCE);
        if self.policies.complete && !self.any {
            // Nobody left to wait for.
            let _ = done.send(Ok(()));
        } else {
            // What the watch told of this pod is newer than what the agent was told.
            if self.state.pod_uid(&key.0, &key.1) != Some(&uid) {
                self.state.set_pod(&pod);
                self.introduced.insert(key.clone());
            }
            self.waiters.push(done);
        }
        let pod = is_static.then_some(pod);
        self.given.insert(key, Given { uid, ips, pod });
        true
    }

    fn released(&mut self, key: Key, uid: &str) -> bool {
        let mut changed = self.state.set_addresses(&key.0, &key.1, uid, &[]);
        if self.given.get(&key).is_some_and(|g| g.uid == uid) {
            self.given.remove(&key);
            if self.introduced.remove(&key) {
                changed |= self.state.remove_pod(&key.0, &key.1);
            }
        }
        changed
    }

    /// What must be known before anything is written: half a picture would cut off the other half.
    fn lacks(&self) -> Vec<(&'static str, &Feed)> {
        let mut all = vec![("networkpolicies", &self.policies)];
        if self.any {
            all.extend([("pods", &self.pods), ("namespaces", &self.namespaces)]);
        }
        all.retain(|(_, feed)| !feed.complete);
        all
    }

    /// Says what is waited for.
    fn tell(&self) {
        let lacks = self.lacks().into_iter().map(|(name, feed)| {
            let why = feed.error.as_ref().map(|e| format!(" ({e})"));
            format!("the list of {name}{}", why.unwrap_or_default())
        });
        let mut text = lacks.collect::<Vec<_>>().join(", ");
        if text.is_empty() {
            text = "the kernel".into();
        }
        self.waits_for.send_if_modified(|old| {
            let is_new = *old != text;
            *old = text;
            is_new
        });
    }

    fn dirty(&mut self, changed: bool) {
        if changed && self.lacks().is_empty() {
            let now = Instant::now();
            let next = self.written.map_or(now, |w| w + self.config.coalesce);
            self.due.get_or_insert(next.max(now));
        }
    }

    async fn sync(&mut self, writer: &mut Writer) {
        self.due = None;
        if !self.lacks().is_empty() {
            return;
        }
        let done = match self.any {
            true => writer.sync(&mut self.state).await,
            false => writer.clear().await,
        };
        self.written = Some(Instant::now());
        if let Err(error) = &done {
            tracing::warn!(node = self.config.node_name, %error, "network policies not written, trying again");
            writer.forget_applied();
            self.due = Some(Instant::now() + RETRY);
        }
        let done = done.map_err(|e| e.to_string());
        for waiter in self.waiters.drain(..) {
            // Who does not wait any more was told that.
            let _ = waiter.send(done.clone());
        }
    }

    fn tell_invalid(&mut self) {
        let now: BTreeSet<String> = self.state.invalid().map(ToString::to_string).collect();
        for part in now.difference(&self.invalid) {
            tracing::warn!("{part}");
        }
        self.invalid = now;
    }
}

fn key(pod: &Pod) -> Key {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

/// The next of a stream; without a stream there is never one.
async fn next<T>(stream: &mut Option<BoxStream<'static, T>>) -> Option<T> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}
