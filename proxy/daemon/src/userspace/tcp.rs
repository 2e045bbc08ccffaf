//! TCP: accepts, connects to the next endpoint that answers, and joins the two.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::Port;
use super::relay::{abort, relay};

/// How long one endpoint after the other has to answer: upstream's `EndpointDialTimeouts`, in ms.
const DIAL: [u64; 4] = [250, 500, 1000, 2000];

/// Time to wait when no connection could be accepted, as when there are no more open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until it is dropped. Connections live on.
pub(super) struct Accepting(AbortOnDropHandle<()>);

impl Accepting {
    pub(super) fn start(listener: TcpListener, port: Arc<Port>) -> Self {
        Self(AbortOnDropHandle::new(tokio::spawn(accept(listener, port))))
    }

    /// Stops accepting; the port is free afterwards.
    pub(super) async fn end(self) {
        self.0.abort();
        // Only says that it was ended.
        _ = self.0.await;
    }
}

async fn accept(listener: TcpListener, port: Arc<Port>) {
    loop {
        match listener.accept().await {
            Ok((client, peer)) => {
                // Beyond the limit clients wait in the kernel's queue. The semaphore is never closed.
                let permit = port.shared.limit.clone().acquire_owned().await;
                let port = port.clone();
                tokio::spawn(async move {
                    serve(client, peer, &port).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(service = %port.name, %error, "not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(client: TcpStream, peer: SocketAddr, port: &Port) {
    match connect(peer.ip(), port).await {
        Some(endpoint) => relay(client, endpoint).await,
        // The client was accepted before anybody could be asked: it learns now that there is none.
        None => abort(&client),
    }
}

/// Tries endpoints by turns, each with more time than the one before.
async fn connect(client: IpAddr, port: &Port) -> Option<TcpStream> {
    let mut failed = false;
    for within in DIAL {
        let endpoint = port.next(client, failed)?;
        match timeout(Duration::from_millis(within), TcpStream::connect(endpoint)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(service = %port.name, %endpoint, %error, "endpoint not reached")
            }
            Err(_) => tracing::debug!(service = %port.name, %endpoint, "endpoint does not answer"),
        }
        failed = true;
    }
    tracing::debug!(service = %port.name, "no endpoint could be reached");
    None
}
