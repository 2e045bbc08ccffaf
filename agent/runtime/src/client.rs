//! One connection to containerd: every call carries the namespace, has a time limit, and names its
//! action and object when it fails. The channel connects again by itself after it was lost.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::error::Error;

/// Metadata reads and writes.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// Calls that move a layer's bytes.
pub(crate) const BULK: Duration = Duration::from_secs(900);
/// Lists of containers carry every OCI spec, far beyond tonic's 4 MiB.
const LARGEST_MESSAGE: usize = 64 << 20;

pub(crate) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
}

impl Client {
    /// One attempt to connect.
    pub(crate) async fn connect(socket: &Path, namespace: &str) -> Result<Client, Error> {
        let namespace = namespace
            .parse()
            .map_err(|_| Error::invalid("containerd namespace", namespace, "not ASCII"))?;
        let channel = containerd_client::connect(socket)
            .await
            .map_err(|error| Error::Call {
                action: "connect to containerd at",
                object: socket.display().to_string(),
                status: Box::new(Status::unavailable(error.to_string())),
            })?;
        Ok(Client { channel, namespace })
    }

    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// A request whose results belong to `lease`, so that garbage collection leaves them alone.
    pub(crate) fn leased<T>(&self, message: T, lease: &Lease) -> Request<T> {
        let mut request = self.request(message);
        request
            .metadata_mut()
            .insert("containerd-lease", lease.0.clone());
        request
    }

    pub(crate) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn diff(&self) -> DiffClient<Channel> {
        DiffClient::new(self.channel.clone())
    }

    pub(crate) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    pub(crate) fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn introspection(&self) -> IntrospectionClient<Channel> {
        IntrospectionClient::new(self.channel.clone())
    }

    pub(crate) fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel.clone())
    }

    pub(crate) fn namespaces(&self) -> NamespacesClient<Channel> {
        NamespacesClient::new(self.channel.clone())
    }

    pub(crate) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    pub(crate) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn version(&self) -> VersionClient<Channel> {
        VersionClient::new(self.channel.clone())
    }
}

/// Name of a containerd lease as a header.
#[derive(Clone)]
pub(crate) struct Lease(pub(crate) MetadataValue<Ascii>);

/// Waits for `answer`, at most `after`, and dresses its error.
pub(crate) async fn call<T>(
    action: &'static str,
    object: &str,
    after: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(after, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::Call {
            action,
            object: object.to_owned(),
            status: Box::new(status),
        }),
        Err(_) => Err(Error::Timeout {
            action,
            object: object.to_owned(),
            after,
        }),
    }
}

/// `ask!(client, service.method(message), limit, "action", object)`: one call with namespace header,
/// time limit and a dressed error. With `lease =>` before the client, the results belong to the lease.
macro_rules! ask {
    ($client:expr, $service:ident.$method:ident($message:expr), $after:expr, $action:literal, $object:expr) => {{
        let client = $client;
        let request = client.request($message);
        let mut service = client.$service();
        $crate::client::call($action, $object, $after, service.$method(request)).await
    }};
    ($lease:expr => $client:expr, $service:ident.$method:ident($message:expr), $after:expr, $action:literal, $object:expr) => {{
        let client = $client;
        let request = client.leased($message, $lease);
        let mut service = client.$service();
        $crate::client::call($action, $object, $after, service.$method(request)).await
    }};
}
pub(crate) use ask;

/// `AlreadyExists` is success: the object's name says what it is.
pub(crate) fn or_exists<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_already_exists() => Ok(None),
        Err(error) => Err(error),
    }
}

/// `NotFound` is an answer.
pub(crate) fn or_absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// containerd answers `FailedPrecondition` or `NotFound` for a process that ended already.
pub(crate) fn ended(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::FailedPrecondition)
}
