//! What a plugin is asked.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::proto::plugin::device_plugin_client::DevicePluginClient;
use crate::proto::plugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest, Empty,
    ListAndWatchResponse, PreStartContainerRequest, PreferredAllocationRequest,
};
use crate::{Answer, Error};

/// Upstream's time for connecting and the first question.
const CONNECT: Duration = Duration::from_secs(10);
/// Upstream's time for what is done before a container's start.
const PRE_START: Duration = Duration::from_secs(30);
/// While one pod gets devices others wait: a plugin that hangs does not stop the node for ever.
const ALLOCATE: Duration = Duration::from_secs(120);

/// A plugin that is connected.
#[derive(Clone, Debug)]
pub struct Plugin {
    client: DevicePluginClient<Channel>,
}

/// What a plugin can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// It is to be told before each start of a container.
    pub pre_start: bool,
    /// It has preferences.
    pub preferences: bool,
}

/// A device as its plugin tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Its id.
    pub id: String,
    /// It works.
    pub healthy: bool,
    /// Its NUMA nodes.
    pub nodes: Vec<u32>,
}

/// A plugin's devices, told anew whenever they change.
#[derive(Debug)]
pub struct List(Streaming<ListAndWatchResponse>);

impl Plugin {
    /// Connects to a plugin's socket.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let channel = connect(socket).await?;
        Ok(Self {
            client: DevicePluginClient::new(channel),
        })
    }

    /// What it can do.
    ///
    /// # Errors
    /// It refuses.
    pub async fn options(&self) -> Result<Options, Error> {
        let mut client = self.client.clone();
        let said = within(CONNECT, client.get_device_plugin_options(Empty {})).await?;
        Ok(Options {
            pre_start: said.pre_start_required,
            preferences: said.get_preferred_allocation_available,
        })
    }

    /// Its devices from now on.
    ///
    /// # Errors
    /// It refuses.
    pub async fn list(&self) -> Result<List, Error> {
        let mut client = self.client.clone();
        let stream = client.list_and_watch(Empty {}).await.map_err(call)?;
        Ok(List(stream.into_inner()))
    }

    /// Which of the available devices it would give.
    ///
    /// # Errors
    /// It refuses.
    pub async fn preferred(
        &self,
        available: Vec<String>,
        must: Vec<String>,
        size: usize,
    ) -> Result<Vec<String>, Error> {
        let request = PreferredAllocationRequest {
            container_requests: vec![ContainerPreferredAllocationRequest {
                available_device_i_ds: available,
                must_include_device_i_ds: must,
                allocation_size: i32::try_from(size).unwrap_or(i32::MAX),
            }],
        };
        let mut client = self.client.clone();
        let said = within(ALLOCATE, client.get_preferred_allocation(request)).await?;
        let first = said.container_responses.into_iter().next();
        Ok(first.map(|r| r.device_i_ds).unwrap_or_default())
    }

    /// Gives devices to a container. What is to be done for it, as text for [`Answer::read`].
    ///
    /// # Errors
    /// It refuses.
    pub async fn allocate(&self, ids: Vec<String>) -> Result<String, Error> {
        let request = AllocateRequest {
            container_requests: vec![ContainerAllocateRequest { devices_ids: ids }],
        };
        let mut client = self.client.clone();
        let said = within(ALLOCATE, client.allocate(request)).await?;
        let first = said.container_responses.first().ok_or(Error::Nothing)?;
        Ok(Answer::text(first))
    }

    /// Makes devices ready for the start of a container.
    ///
    /// # Errors
    /// It refuses.
    pub async fn pre_start(&self, ids: Vec<String>) -> Result<(), Error> {
        let request = PreStartContainerRequest { devices_ids: ids };
        let mut client = self.client.clone();
        within(PRE_START, client.pre_start_container(request)).await?;
        Ok(())
    }
}

impl List {
    /// All devices as they are now; `None` when the plugin has ended.
    ///
    /// # Errors
    /// It went away.
    pub async fn next(&mut self) -> Result<Option<Vec<Offered>>, Error> {
        let said = self.0.message().await.map_err(call)?;
        let offered = |d: crate::proto::plugin::Device| Offered {
            id: d.id,
            healthy: d.health == "Healthy",
            nodes: d
                .topology
                .unwrap_or_default()
                .nodes
                .iter()
                .filter_map(|n| u32::try_from(n.id).ok())
                .collect(),
        };
        Ok(said.map(|list| list.devices.into_iter().map(offered).collect()))
    }
}

/// A way to whoever answers on a socket.
///
/// # Errors
/// Nobody does.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path: PathBuf = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is never looked at: the connector knows the socket.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT);
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|e| Error::Connect(format!("{}: {}", socket.display(), cause(&e))))
}

async fn within<T>(
    time: Duration,
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    let late = |_| Status::deadline_exceeded("context deadline exceeded");
    let said = tokio::time::timeout(time, asked)
        .await
        .map_err(late)
        .flatten();
    said.map(Response::into_inner).map_err(call)
}

fn call(status: Status) -> Error {
    Error::Call {
        code: format!("{:?}", status.code()),
        why: status.message().to_owned(),
    }
}

/// The innermost reason: what the system said.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
