//! As much of the Container Runtime Interface (`runtime.v1`) as it takes to have sandboxes.

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Metadata {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) uid: String,
    #[prost(string, tag = "3")]
    pub(crate) namespace: String,
}

/// `PortMapping`; protocol 0 is TCP.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PortMapping {
    #[prost(int32, tag = "1")]
    pub(crate) protocol: i32,
    #[prost(int32, tag = "2")]
    pub(crate) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(crate) host_port: i32,
}

/// `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Linux {
    #[prost(string, tag = "1")]
    pub(crate) cgroup_parent: String,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Config {
    #[prost(message, optional, tag = "1")]
    pub(crate) metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    pub(crate) hostname: String,
    #[prost(string, tag = "3")]
    pub(crate) log_directory: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) port_mappings: Vec<PortMapping>,
    #[prost(message, optional, tag = "8")]
    pub(crate) linux: Option<Linux>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Run {
    #[prost(message, optional, tag = "1")]
    config: Option<Config>,
}

/// The requests and answers that name a sandbox and no more.
#[derive(Clone, PartialEq, prost::Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    more: Vec<Id>,
}

/// A client.
pub(crate) struct Cri(Channel);

impl Cri {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(channel)
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut client = Grpc::new(self.0.clone());
        let ready = client.ready().await;
        ready.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path).expect("a path");
        let codec = tonic_prost::ProstCodec::default();
        let request = tonic::Request::new(request);
        Ok(client.unary(request, path, codec).await?.into_inner())
    }

    /// Starts a sandbox; its id.
    pub(crate) async fn run(&self, config: Config) -> Result<String, tonic::Status> {
        let config = Some(config);
        let answer: Id = self.call("RunPodSandbox", Run { config }).await?;
        Ok(answer.id)
    }

    /// The sandbox's addresses.
    pub(crate) async fn addresses(&self, id: &str) -> Result<Vec<String>, tonic::Status> {
        let id = id.to_owned();
        let answer: StatusAnswer = self.call("PodSandboxStatus", Id { id }).await?;
        let network = answer.status.and_then(|s| s.network).unwrap_or_default();
        let more = network.more.into_iter().map(|m| m.id);
        Ok([network.ip].into_iter().chain(more).collect())
    }

    /// Ends a sandbox and forgets it.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), tonic::Status> {
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let id = id.to_owned();
            let _: Nothing = self.call(method, Id { id }).await?;
        }
        Ok(())
    }
}
