//! Answering on a socket: a task that waits, and one more for each who has come.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tonic::{Response, Status};

use crate::listing::Lister;
use crate::proto::plugin::registration_server::{Registration, RegistrationServer};
use crate::proto::plugin::{Empty, RegisterRequest};
use crate::proto::resources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use crate::proto::resources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, GetPodResourcesRequest,
    GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
};

/// A plugin that wants to be taken.
pub type Request = RegisterRequest;

/// Who takes plugins.
#[tonic::async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Takes one, or says why not.
    async fn register(&self, plugin: Request) -> Result<(), String>;
}

struct Registrations<R>(R);

#[tonic::async_trait]
impl<R: Registrar> Registration for Registrations<R> {
    async fn register(
        &self,
        request: tonic::Request<RegisterRequest>,
    ) -> Result<Response<Empty>, Status> {
        let taken = self.0.register(request.into_inner()).await;
        taken.map_err(Status::unknown)?;
        Ok(Response::new(Empty {}))
    }
}

struct Lists<L>(L);

#[tonic::async_trait]
impl<L: Lister> PodResourcesLister for Lists<L> {
    async fn list(
        &self,
        _: tonic::Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pod_resources = self.0.pods();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: tonic::Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Ok(Response::new(AllocatableResourcesResponse {
            devices: self.0.allocatable(),
            cpu_ids: Vec::new(),
            memory: Vec::new(),
        }))
    }

    async fn get(
        &self,
        request: tonic::Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        let wanted = request.into_inner();
        let (name, namespace) = (wanted.pod_name, wanted.pod_namespace);
        let mut all = self.0.pods().into_iter();
        let found = all.find(|p| p.name == name && p.namespace == namespace);
        let missing = || Status::unknown(format!("pod {name} in namespace {namespace} not found"));
        let pod = found.ok_or_else(missing)?;
        Ok(Response::new(GetPodResourcesResponse {
            pod_resources: Some(pod),
        }))
    }
}

/// Takes plugins on this socket, as long as it is polled.
pub async fn registrations(listener: UnixListener, registrar: impl Registrar) {
    let registrations = Arc::new(Registrations(registrar));
    serve(listener, move || {
        RegistrationServer::from_arc(registrations.clone())
    })
    .await;
}

/// Answers who has what on this socket, as long as it is polled.
pub async fn lists(listener: UnixListener, lister: impl Lister) {
    let lists = Arc::new(Lists(lister));
    serve(listener, move || {
        PodResourcesListerServer::from_arc(lists.clone())
    })
    .await;
}

async fn serve<S>(listener: UnixListener, service: impl Fn() -> S)
where
    S: tower::Service<
            hyper::Request<Incoming>,
            Response = hyper::Response<tonic::body::Body>,
            Error = Infallible,
        > + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a device plugin's connection is not taken");
                // Too many files are open: it may be better in a moment.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(service());
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        // Who breaks off needs no answer.
        tokio::spawn(async move { _ = connection.await });
    }
}
