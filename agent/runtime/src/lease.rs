//! The lease that holds what is not referred to yet: one for as long as a [`crate::Runtime`] lives, so that a container
//! costs containerd's database no writes for it.

use std::collections::HashMap;

use containerd_client::services::v1::{CreateRequest, DeleteRequest, ListRequest};
use tokio::sync::Mutex;

use crate::client::{Client, Lease, QUICK, ask, or_absent};
use crate::error::Error;

/// Marks it: there is one node agent on a containerd, so all others with this label were left by earlier ones.
const LABEL: &str = "keelson.io/run";

#[derive(Default)]
pub(crate) struct RunLease(Mutex<Option<Lease>>);

impl RunLease {
    /// The lease, made when it is asked for first.
    pub(crate) async fn held(&self, client: &Client) -> Result<Lease, Error> {
        let mut held = self.0.lock().await;
        match held.as_ref() {
            Some(lease) => Ok(lease.clone()),
            None => Ok(held.insert(make(client).await?).clone()),
        }
    }

    /// Another one if this one is gone. One that is there stays: others may rely on it just now.
    pub(crate) async fn anew(&self, client: &Client) -> Result<Lease, Error> {
        let mut held = self.0.lock().await;
        let there = list(client).await?;
        let is_there = |lease: &&Lease| there.iter().any(|id| lease.0 == id.as_str());
        match held.as_ref().filter(is_there) {
            Some(lease) => Ok(lease.clone()),
            None => Ok(held.insert(make(client).await?).clone()),
        }
    }

    /// The lease, if it was ever asked for: what is removed under it is forgotten by it.
    pub(crate) async fn peek(&self) -> Option<Lease> {
        self.0.lock().await.clone()
    }
}

/// A new lease; those of earlier runs go, and with them what they alone held.
async fn make(client: &Client) -> Result<Lease, Error> {
    let id = format!("keelson-run-{:016x}", rand::random::<u64>());
    let header = id
        .parse()
        .map_err(|_| Error::invalid("lease", &id, "not ASCII"))?;
    let earlier = list(client).await?;
    let message = CreateRequest {
        id: id.clone(),
        labels: HashMap::from([(LABEL.to_owned(), "true".to_owned())]),
    };
    ask!(client, leases.create(message), QUICK, "create lease", &id)?;
    delete(client, earlier).await?;
    Ok(Lease(header))
}

async fn list(client: &Client) -> Result<Vec<String>, Error> {
    let message = ListRequest {
        filters: vec![format!("labels.{LABEL:?}")],
    };
    let answer = ask!(client, leases.list(message), QUICK, "list", "leases")?;
    Ok(answer.leases.into_iter().map(|lease| lease.id).collect())
}

async fn delete(client: &Client, leases: Vec<String>) -> Result<(), Error> {
    for id in leases {
        let message = DeleteRequest {
            id: id.clone(),
            sync: false,
        };
        let deleted = ask!(client, leases.delete(message), QUICK, "delete lease", &id);
        or_absent(deleted)?;
    }
    Ok(())
}

impl crate::Runtime {
    /// The leases of this and earlier agents in containerd.
    pub async fn leases(&self) -> Result<Vec<String>, Error> {
        list(self.client()).await
    }

    /// Gives back what this and earlier agents hold in containerd beside containers and images.
    pub async fn leases_remove(&self) -> Result<(), Error> {
        delete(self.client(), self.leases().await?).await
    }
}
