//! Many services and their slices, all functions of a number, as objects of the API server.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::task::JoinHandle;

use super::{TARGET, endpoint};

/// Services in a namespace.
const TOGETHER: usize = 100;
/// Requests under way at once.
const AT_ONCE: usize = 16;
/// An event that does not come is no event.
const PATIENCE: Duration = Duration::from_secs(10);
/// Left to the API's own services.
const FIRST: u32 = 1024;
/// Endpoints that no service has at first.
const OTHERS: u32 = 1 << 19;

/// Services of so many endpoints each.
#[derive(Clone)]
pub(crate) struct Objects {
    client: Client,
    endpoints: u32,
    /// Every which one is UDP.
    udp: usize,
}

/// A service's cluster address.
pub(crate) fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + FIRST + n as u32)
}

/// Which service the k-th change is about: all over the range.
pub(crate) fn spread(k: usize, size: usize) -> usize {
    // A prime that divides no size.
    k * 7919 % size
}

impl Objects {
    pub(crate) fn new(client: Client, endpoints: u32, udp: usize) -> Self {
        Self {
            client,
            endpoints,
            udp,
        }
    }

    fn of<K>(&self, n: usize) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &format!("many-{}", n / TOGETHER))
    }

    /// Makes services and slices, and the namespaces that begin with them.
    pub(crate) async fn create(&self, which: Range<usize>) -> anyhow::Result<()> {
        for n in which.clone().step_by(TOGETHER) {
            let namespace = json!({"metadata": {"name": format!("many-{}", n / TOGETHER)}});
            let all = Api::<Namespace>::all(self.client.clone());
            all.create(&PostParams::default(), &serde_json::from_value(namespace)?)
                .await?;
        }
        stream::iter(which)
            .map(|n| async move {
                let slices = self.of::<EndpointSlice>(n);
                slices
                    .create(&PostParams::default(), &self.slice(n, 0)?)
                    .await?;
                self.add(n).await
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Makes one service whose slice is there.
    pub(crate) async fn add(&self, n: usize) -> anyhow::Result<()> {
        let service = json!({
            "metadata": {"name": name(n)},
            "spec": {"clusterIP": address(n), "ports": [{"name": "p", "port": 80, "protocol": self.protocol(n)}]},
        });
        let service = serde_json::from_value(service)?;
        let services = self.of::<Service>(n);
        services.create(&PostParams::default(), &service).await?;
        Ok(())
    }

    /// Deletes one; its slice stays.
    pub(crate) async fn remove(&self, n: usize) -> anyhow::Result<()> {
        let services = self.of::<Service>(n);
        services.delete(&name(n), &DeleteParams::default()).await?;
        Ok(())
    }

    /// Gives a service so many endpoints that are others than at first; 0: those of the beginning.
    pub(crate) async fn replace(&self, n: usize, others: u32) -> anyhow::Result<()> {
        self.of::<EndpointSlice>(n)
            .replace(&name(n), &PostParams::default(), &self.slice(n, others)?)
            .await?;
        Ok(())
    }

    fn protocol(&self, n: usize) -> &'static str {
        if n.is_multiple_of(self.udp) {
            "UDP"
        } else {
            "TCP"
        }
    }

    fn slice(&self, n: usize, others: u32) -> anyhow::Result<EndpointSlice> {
        let first = 1 + n as u32 * self.endpoints;
        let ip = |i: u32| match i < others {
            true => *endpoint(OTHERS + first + i).ip(),
            false => *endpoint(first + i).ip(),
        };
        let endpoints = (0..self.endpoints).map(|i| {
            json!({"addresses": [ip(i)], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": "other"})
        });
        Ok(serde_json::from_value(json!({
            "metadata": {"name": name(n), "labels": {"kubernetes.io/service-name": name(n)}},
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{"name": "p", "port": TARGET, "protocol": self.protocol(n)}],
        }))?)
    }

    /// Begins to watch for the next event about a service's slice; gives when it came.
    pub(crate) async fn next_event(
        &self,
        n: usize,
    ) -> anyhow::Result<JoinHandle<anyhow::Result<Instant>>> {
        let slices = self.of::<EndpointSlice>(n);
        let list = slices.list(&ListParams::default().limit(1)).await?;
        let version = list.metadata.resource_version;
        let version = version.context("a list has a version")?;
        let one = WatchParams::default().fields(&format!("metadata.name={}", name(n)));
        let mut events = slices.watch(&one, &version).await?.boxed();
        let first = async move {
            while let Some(event) = events.next().await {
                if let WatchEvent::Modified(_) = event? {
                    return Ok(Instant::now());
                }
            }
            anyhow::bail!("the watch ended")
        };
        Ok(tokio::spawn(async {
            let event = tokio::time::timeout(PATIENCE, first).await;
            event.context("the API told nobody")?
        }))
    }
}

fn name(n: usize) -> String {
    format!("svc-{n}")
}
