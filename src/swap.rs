//! A client whose connections can be replaced: how a node shows its next certificate without a restart.

use std::sync::{Arc, PoisonError, RwLock};

use kube::Client;
use kube::client::Body;

/// The place of a client. Requests go through the one that is in it when they are made; watches that are under way stay
/// on their connection until they end, which they do every few minutes.
#[derive(Clone)]
pub(crate) struct Swap(Arc<RwLock<Client>>);

impl Swap {
    pub(crate) fn new(client: Client) -> Self {
        Self(Arc::new(RwLock::new(client)))
    }

    /// Puts another into its place.
    pub(crate) fn set(&self, client: Client) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn current(&self) -> Client {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A client that is always the one in the place.
    pub(crate) fn client(&self) -> Client {
        let swap = self.clone();
        let send = move |request: http::Request<Body>| {
            let client = swap.current();
            async move { client.send(request).await }
        };
        Client::new(tower::service_fn(send), "default")
    }
}

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
}
