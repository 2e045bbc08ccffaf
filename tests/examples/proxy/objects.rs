//! The benchmark's services as objects of an API server.

use std::fmt::Debug;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use keelson_tests::peers;
use kube::api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::plan::{self, TARGET, TOGETHER};

/// Requests under way at once.
const AT_ONCE: usize = 32;
/// An event that does not come is no event.
const PATIENCE: Duration = Duration::from_secs(10);

/// Services and their slices.
#[derive(Clone)]
pub(crate) struct Objects(Client);

/// When the API told of a change.
pub(crate) struct Event(JoinHandle<anyhow::Result<Instant>>);

impl Objects {
    pub(crate) fn new(client: &Client) -> Self {
        Self(client.clone())
    }

    fn of<K>(&self, service: &peers::Service) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.0.clone(), &service.namespace)
    }

    /// Makes services and slices, and the namespaces that begin with them.
    pub(crate) async fn create(&self, which: Range<usize>) -> anyhow::Result<()> {
        for n in which.clone().filter(|n| n % TOGETHER == 0) {
            let namespace = json!({"metadata": {"name": plan::namespace(n)}});
            let all = Api::<Namespace>::all(self.0.clone());
            all.create(&PostParams::default(), &serde_json::from_value(namespace)?)
                .await?;
        }
        stream::iter(which)
            .map(|n| async move {
                let service = plan::service(n);
                let slices = self.of::<EndpointSlice>(&service);
                slices
                    .create(&PostParams::default(), &slice(&service)?)
                    .await?;
                self.add(n).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    /// Makes one service whose slice is there.
    pub(crate) async fn add(&self, n: usize) -> anyhow::Result<()> {
        let service = plan::service(n);
        let object = serde_json::from_value(json!({
            "metadata": {"name": service.name},
            "spec": {
                "clusterIP": service.address.ip(),
                "ports": [{"name": service.port_name, "port": service.address.port(), "targetPort": TARGET}],
            },
        }))?;
        let services = self.of::<Service>(&service);
        services.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// Deletes one; its slice stays.
    pub(crate) async fn remove(&self, n: usize) -> anyhow::Result<()> {
        let service = plan::service(n);
        let services = self.of::<Service>(&service);
        services
            .delete(&service.name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Writes a service's endpoints.
    pub(crate) async fn lead(&self, service: &peers::Service) -> anyhow::Result<()> {
        self.of::<EndpointSlice>(service)
            .replace(&service.name, &PostParams::default(), &slice(service)?)
            .await?;
        Ok(())
    }

    /// Begins to watch for the next event about a service's slice.
    pub(crate) async fn next_of_slice(&self, n: usize) -> anyhow::Result<Event> {
        let service = plan::service(n);
        next(&self.of::<EndpointSlice>(&service), &service.name).await
    }

    /// The same about the service.
    pub(crate) async fn next_of_service(&self, n: usize) -> anyhow::Result<Event> {
        let service = plan::service(n);
        next(&self.of::<Service>(&service), &service.name).await
    }
}

impl Event {
    /// When it came.
    pub(crate) async fn at(self) -> anyhow::Result<Instant> {
        let event = tokio::time::timeout(PATIENCE, self.0).await;
        event.context("the API told nobody")??
    }
}

async fn next<K>(api: &Api<K>, name: &str) -> anyhow::Result<Event>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    // One of them, for the version of now.
    let list = api.list(&ListParams::default().limit(1)).await?;
    let version = list.metadata.resource_version;
    let version = version.context("a list has a version")?;
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let events = api.watch(&params, &version).await?.boxed();
    let name = name.to_owned();
    Ok(Event(tokio::spawn(first(events, name))))
}

async fn first<K: ResourceExt>(
    mut events: futures::stream::BoxStream<'static, kube::Result<WatchEvent<K>>>,
    name: String,
) -> anyhow::Result<Instant> {
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Added(o) | WatchEvent::Modified(o) | WatchEvent::Deleted(o)
                if o.name_any() == name =>
            {
                return Ok(Instant::now());
            }
            WatchEvent::Error(status) => anyhow::bail!("watch {name}: {}", status.message),
            _ => {}
        }
    }
    anyhow::bail!("the watch of {name} ended")
}

fn slice(service: &peers::Service) -> anyhow::Result<EndpointSlice> {
    let endpoints = service.endpoints.iter().map(|e| {
        json!({"addresses": [e.ip()], "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": "other"})
    });
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": service.name,
            "labels": {
                "kubernetes.io/service-name": service.name,
                "endpointslice.kubernetes.io/managed-by": "bench.keelson",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": service.port_name, "port": TARGET, "protocol": "TCP"}],
    }))?)
}
