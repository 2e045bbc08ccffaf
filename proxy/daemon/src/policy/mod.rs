//! NetworkPolicies on a node: watches them, and pods and namespaces while there are any, lets the plan decide, writes
//! what differs.
//!
//! ```text
//! watch -> State -> (coalesce) -> what changed -> transaction -> kernel (nftables)
//! the agent: a pod's addresses -> the same way -> its processes may start
//! ```

mod engine;
mod writer;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use keelson_proxy_plan::nft::policies::TABLE;
use tokio::sync::{mpsc, oneshot, watch};

pub use engine::Engine;

use crate::tables::{self, Ruleset};

/// How policies are enforced.
#[derive(Clone, Debug)]
pub struct Config {
    /// Node it runs on: whose pods are restricted here.
    pub node_name: String,
    /// Least time between two writes: a change is written at once, a burst of them together.
    pub coalesce: Duration,
    /// How often it is looked whether others changed our rules, to mend them.
    pub resync: Duration,
    /// How long a pod's start waits until its rules are in force, before that is an error.
    pub patience: Duration,
    /// Services go by IPVS, whose packets come by another hook.
    pub ipvs: bool,
    /// Shared with the service proxy's.
    pub ruleset: Ruleset,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            coalesce: Duration::from_millis(5),
            resync: Duration::from_secs(10),
            patience: Duration::from_secs(10),
            ipvs: false,
            ruleset: Ruleset::default(),
        }
    }
}

/// What the agent tells.
enum Request {
    /// The network plugin gave a pod these addresses.
    Enforce(Box<Pod>, Vec<IpAddr>, oneshot::Sender<Result<(), String>>),
    /// It took them back: namespace, name and UID.
    Released([String; 3]),
}

/// Tells the engine of the pods that start and end on its node.
#[derive(Clone, Debug)]
pub struct Enforcer {
    requests: mpsc::UnboundedSender<Request>,
    /// What the engine waits for; nothing: it knows all.
    waits_for: watch::Receiver<String>,
    patience: Duration,
}

/// The engine, and how it is told of pods.
pub fn new(config: Config) -> (Enforcer, Engine) {
    let (requests, received) = mpsc::unbounded_channel();
    let (told, waits_for) = watch::channel(String::new());
    let enforcer = Enforcer {
        requests,
        waits_for,
        patience: config.patience,
    };
    (enforcer, Engine::new(config, received, told))
}

impl Enforcer {
    /// A pod has these addresses from now on. Comes back when the rules for them are in the kernel: at once when there
    /// are no policies. Errors: the API's lists are not there in time, or the kernel refuses.
    pub async fn enforce(&self, pod: &Pod, ips: &[IpAddr]) -> anyhow::Result<()> {
        let (done, answer) = oneshot::channel();
        let request = Request::Enforce(Box::new(pod.clone()), ips.to_vec(), done);
        let ended = || anyhow!("network policies are not enforced any more: keelson ends");
        self.requests.send(request).map_err(|_| ended())?;
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => bail!("network policies are not in force: {error}"),
            Ok(Err(_)) => Err(ended()),
            Err(_) => {
                let waits_for = self.waits_for.borrow().clone();
                let seconds = self.patience.as_secs();
                bail!(
                    "network policies are not in force after {seconds} s: waiting for {waits_for}"
                )
            }
        }
    }

    /// A pod's addresses were taken back.
    pub fn released(&self, namespace: &str, name: &str, uid: &str) {
        let pod = [namespace, name, uid].map(str::to_owned);
        // Without an engine there is nobody to care.
        let _ = self.requests.send(Request::Released(pod));
    }
}

/// Removes the policies' tables. Goes on after errors and gives them all.
pub fn cleanup() -> Vec<keelson_proxy_kernel::Error> {
    tables::remove(TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn without_the_api_no_pod_starts_and_the_error_says_why() {
        // Nobody listens there.
        let nowhere = "http://127.0.0.1:1".parse().expect("address");
        let client = kube::Client::try_from(kube::Config::new(nowhere)).expect("client");
        let config = Config {
            node_name: "me".into(),
            patience: Duration::from_secs(1),
            ..Config::default()
        };
        let (enforcer, engine) = new(config);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(engine.run(client, shutdown.clone()));
        let pod = Pod::default();
        let error = enforcer.enforce(&pod, &[[10, 42, 0, 2].into()]).await;
        let error = error.expect_err("nothing is known").to_string();
        assert!(
            error.contains("waiting for the list of networkpolicies ("),
            "{error}"
        );
        shutdown.cancel();
        running.await.expect("task").expect("ends");
        let error = enforcer
            .enforce(&pod, &[])
            .await
            .expect_err("nobody is there");
        assert!(
            error.to_string().contains("not enforced any more"),
            "{error}"
        );
    }
}
