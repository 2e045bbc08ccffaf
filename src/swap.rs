//! A client whose connections can be replaced: how a node shows its next certificate, and speaks from its next address,
//! without a restart.

use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use futures::stream::TakeUntil;
use http_body_util::{BodyStream, StreamBody};
use kube::Client;
use kube::client::Body;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The place of a client, and what ends all that is under way through it. Requests go through the one that is in it
/// when they are made.
#[derive(Clone)]
pub(crate) struct Swap(Arc<RwLock<(Client, CancellationToken)>>);

impl Swap {
    pub(crate) fn new(client: Client) -> Self {
        Self(Arc::new(RwLock::new((client, CancellationToken::new()))))
    }

    /// Puts another into its place. Watches that are under way stay on their connection until they end, which they do
    /// every few minutes.
    pub(crate) fn set(&self, client: Client) {
        self.put(client);
    }

    /// Puts another into its place and ends what is under way: its connections lead nowhere any more, which nobody would
    /// tell for a quarter of an hour.
    pub(crate) fn replace(&self, client: Client) {
        self.put(client).cancel();
    }

    fn put(&self, client: Client) -> CancellationToken {
        let mut place = self.0.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, (client, CancellationToken::new())).1
    }

    fn current(&self) -> (Client, CancellationToken) {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A client that is always the one in the place.
    pub(crate) fn client(&self) -> Client {
        let swap = self.clone();
        let send = move |request: http::Request<Body>| {
            let (client, ended) = swap.current();
            async move {
                let sent = ended.run_until_cancelled(client.send(request)).await;
                let replaced = || kube::Error::Service("the connection was replaced".into());
                let response = sent.ok_or_else(replaced)??;
                Ok::<_, kube::Error>(response.map(|body| until(body, ended)))
            }
        };
        Client::new(tower::service_fn(send), "default")
    }
}

/// The body, until it is ended: as if the server had ended it, which watches go on after.
fn until(body: Body, ended: CancellationToken) -> StreamBody<Frames> {
    StreamBody::new(BodyStream::new(body).take_until(ended.cancelled_owned()))
}

type Frames = TakeUntil<BodyStream<Body>, WaitForCancellationFutureOwned>;

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers with its number.
    fn server(number: u16) -> Client {
        let answer = move |_: http::Request<Body>| async move {
            let status = http::StatusCode::from_u16(number).expect("a status");
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = status;
            Ok::<_, std::convert::Infallible>(response)
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn requests_go_to_the_one_that_is_there() {
        let swap = Swap::new(server(201));
        let client = swap.client();
        let ask = || http::Request::get("/").body(Body::empty());
        let first = client.send(ask().expect("a request")).await;
        assert_eq!(first.expect("an answer").status(), 201);
        swap.set(server(202));
        let second = client.send(ask().expect("a request")).await;
        assert_eq!(second.expect("an answer").status(), 202);
    }

    /// A server whose answers never go on.
    fn silent() -> Client {
        let answer = |_: http::Request<Body>| async {
            let frames = BodyStream::new(Body::empty()).chain(futures::stream::pending());
            Ok::<_, std::convert::Infallible>(http::Response::new(StreamBody::new(frames)))
        };
        Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn what_is_under_way_ends_when_it_is_replaced() {
        let swap = Swap::new(silent());
        let begin = async |swap: &Swap| {
            let request = http::Request::get("/").body(Body::empty());
            let answer = swap.client().send(request.expect("a request")).await;
            BodyStream::new(answer.expect("an answer").into_body())
        };
        let mut watch = begin(&swap).await;
        swap.set(silent());
        assert!(futures::poll!(watch.next()).is_pending(), "it stays");
        let mut watch = begin(&swap).await;
        swap.replace(server(202));
        assert!(watch.next().await.is_none());
    }
}
