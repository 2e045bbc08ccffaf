//! A node's side of the Container Storage Interface: how drivers make themselves known, and what they are asked to do.
//!
//! ```text
//! <registry>/<socket> --GetInfo--> name, endpoint --NodeGetInfo--> node id, limits, topology --NotifyRegistrationStatus
//! endpoint: NodeStageVolume -> NodePublishVolume ... NodeUnpublishVolume -> NodeUnstageVolume
//! ```

mod driver;
mod register;

pub use driver::{Abilities, Access, Driver, NodeInfo, Target, Usage, Volume};
pub use register::{Plugin, info, notify};

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// The interface as it goes over the wire.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod proto {
    /// `csi.v1`.
    pub mod csi {
        tonic::include_proto!("csi.v1");
    }
    /// `pluginregistration`.
    pub mod registration {
        tonic::include_proto!("pluginregistration");
    }
}

/// What went wrong with a driver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its socket does not answer.
    #[error("connect to {path}: {why}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It refused.
    #[error("{call}: rpc error: code = {code} desc = {why}")]
    Call {
        /// Such as `NodePublishVolume`.
        call: &'static str,
        /// The code's name.
        code: String,
        /// What it said.
        why: String,
    },
    /// It offers nothing that we know.
    #[error("plugin {name}: {why}")]
    Unknown {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Upstream's timeout of calls to drivers.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A local socket answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(5);

async fn connect(path: &std::path::Path) -> Result<Channel, Error> {
    let socket = path.to_owned();
    let fail = |why: String| Error::Connect {
        path: path.to_owned(),
        why,
    };
    // The address is never looked at: the connector knows the socket.
    let endpoint = Endpoint::from_static("http://localhost")
        .timeout(TIMEOUT)
        .connect_timeout(CONNECT);
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|e| fail(cause(&e)))
}

/// The innermost reason: what the system said.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn refused(call: &'static str) -> impl FnOnce(tonic::Status) -> Error {
    move |status| Error::Call {
        call,
        code: format!("{:?}", status.code()),
        why: status.message().to_owned(),
    }
}
