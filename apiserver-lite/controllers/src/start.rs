//! Which controllers run, and how they start: one set of caches, then all of them, while we lead.

use std::sync::Arc;

use anyhow::Context;
use futures::future::BoxFuture;
use ipnet::IpNet;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::aggregation::Aggregation;
use crate::caches::Caches;
use crate::cronjob::CronJobs;
use crate::csr::{Requests, Sign};
use crate::daemonset::DaemonSets;
use crate::deployment::Deployments;
use crate::disruption::Disruptions;
use crate::endpoints::EndpointsController;
use crate::endpointslice::{EndpointSlices, Mirror};
use crate::gc::GarbageCollector;
use crate::job::Jobs;
use crate::namespace::Namespaces;
use crate::node::{NodeLifecycle, TaintEviction, Timing};
use crate::podcidr::{Networks, PodCidrs};
use crate::podgc::PodGc;
use crate::quota::Quotas;
use crate::replicaset::Replicas;
use crate::runner::{self, Controller, Work};
use crate::serviceaccount::{AccountTokens, Basics, MakeToken, Tokens};
use crate::statefulset::StatefulSets;
use crate::volume::{Attaching, Binder, Ephemeral, LocalPath, Protection};

/// What the controllers need to know. [`Config::new`] has upstream's defaults.
#[derive(Clone)]
pub struct Config {
    /// Whether to work only while holding the Lease `kube-system/kube-controller-manager`.
    pub leader_elect: bool,
    /// Who we are on that Lease: of several processes each another.
    pub identity: String,
    /// The cluster's authority (PEM), for `kube-root-ca.crt` and token Secrets.
    pub ca_pem: String,
    /// Makes the tokens of token Secrets.
    pub make_token: MakeToken,
    /// Signs node and client certificates.
    pub sign: Sign,
    /// Whether every ServiceAccount gets a token Secret, as in clusters before 1.24.
    pub account_token_secrets: bool,
    /// The pod networks, at most one a family; empty: nodes get none from us.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 pod network.
    pub node_prefix_v4: u8,
    /// Prefix length of a node's IPv6 pod network.
    pub node_prefix_v6: u8,
    /// How patiently nodes are watched.
    pub node_timing: Timing,
    /// Ended pods that are kept (`--terminated-pod-gc-threshold`); 0: all.
    pub ended_pods: usize,
}

impl Config {
    /// Upstream's defaults.
    pub fn new(ca_pem: String, make_token: MakeToken, sign: Sign) -> Self {
        Self {
            leader_elect: true,
            identity: format!("keelson_{:08x}", rand::random::<u32>()),
            ca_pem,
            make_token,
            sign,
            account_token_secrets: false,
            cluster_cidrs: Vec::new(),
            node_prefix_v4: 24,
            node_prefix_v6: 64,
            node_timing: Timing::default(),
            ended_pods: 12500,
        }
    }
}

/// Runs all controllers until shutdown. An error means that the lease was lost: the work has stopped, and whoever
/// runs us decides whether to begin anew.
pub async fn run(
    client: Client,
    config: Config,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if !config.leader_elect {
        work(client, config, shutdown).await;
        return Ok(());
    }
    let options =
        keelson_election::Options::new("kube-system", "kube-controller-manager", &config.identity);
    let leader = client.clone();
    keelson_election::run_leading(client, options, shutdown, |stop| work(leader, config, stop))
        .await
        .context("lead the controllers")
}

/// A controller, its queue, and how many workers it may have.
type Row = (Arc<dyn Controller>, Work, usize);

fn row<C: Controller>((controller, work): (C, Work), workers: usize) -> Row {
    (Arc::new(controller), work, workers)
}

fn controllers(
    caches: &Arc<Caches>,
    collector: &Arc<GarbageCollector>,
    client: &Client,
    config: &Config,
) -> Vec<Row> {
    let c = caches;
    let networks = Networks {
        cluster: config.cluster_cidrs.clone(),
        v4: config.node_prefix_v4,
        v6: config.node_prefix_v6,
    };
    let deployments = Deployments::new(
        c.deployments.clone(),
        c.replica_sets.clone(),
        c.pods.clone(),
    );
    let tokens = Tokens::new(
        c,
        client.clone(),
        config.ca_pem.clone(),
        config.make_token.clone(),
    );
    let mut rows = vec![
        row(deployments, 4),
        row(Replicas::new(c.replica_sets.clone(), c.pods.clone()), 4),
        row(
            Replicas::new(c.replication_controllers.clone(), c.pods.clone()),
            2,
        ),
        row(StatefulSets::new(c), 2),
        row(DaemonSets::new(c), 2),
        row(Jobs::new(c), 4),
        row(CronJobs::new(c), 1),
        row(Disruptions::new(c), 1),
        row(Quotas::new(c, collector), 1),
        row(EndpointSlices::new(c), 4),
        row(EndpointsController::new(c), 2),
        row(Mirror::new(c), 1),
        row(Namespaces::new(c, client.clone()), 2),
        row(Basics::new(c, config.ca_pem.clone()), 2),
        row(tokens, 1),
        row(NodeLifecycle::new(c, config.node_timing.clone()), 2),
        row(TaintEviction::new(c), 2),
        // Two workers could give the same network twice.
        row(PodCidrs::new(c, networks), 1),
        row(PodGc::new(c, client.clone(), config.ended_pods), 1),
        row(Requests::new(c, client.clone(), config.sign.clone()), 1),
        row(Aggregation::new(c), 1),
        // Two workers could give one volume to two claims.
        row(Binder::new(c), 1),
        row(Protection::new(c, client.clone()), 1),
        row(Ephemeral::new(c), 1),
        row(Attaching::new(c), 1),
        row(LocalPath::new(c, client.clone()), 1),
    ];
    if config.account_token_secrets {
        rows.push(row(AccountTokens::new(c), 1));
    }
    rows
}

async fn work(client: Client, config: Config, shutdown: CancellationToken) {
    let caches = Arc::new(Caches::default());
    // Subscribed before the first list, they miss nothing.
    let (collector, garbage) = GarbageCollector::new(client.clone());
    let rows = controllers(&caches, &collector, &client, &config);
    let watching = caches.run(&client);
    let working = async {
        caches.synced().await;
        tracing::info!(controllers = rows.len(), "controllers start");
        let run = |(controller, work, workers): Row| -> BoxFuture<'static, ()> {
            let (client, shutdown) = (client.clone(), shutdown.clone());
            Box::pin(runner::run(controller, client, work, workers, shutdown))
        };
        futures::future::join_all(rows.into_iter().map(run)).await;
    };
    let collecting = collect(collector, garbage, client.clone(), shutdown.clone());
    let all = async { tokio::join!(watching, working, collecting) };
    shutdown.run_until_cancelled(all).await;
}

/// Collects garbage once the graph is complete.
async fn collect(
    collector: Arc<GarbageCollector>,
    work: Work,
    client: Client,
    shutdown: CancellationToken,
) {
    let working = async {
        collector.complete().await;
        runner::run(collector.clone(), client, work, 4, shutdown).await;
    };
    tokio::join!(collector.clone().watch(), working);
}
