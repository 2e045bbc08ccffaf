//! What all requests share.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use keelson_admission::{Chain, Lookup};
use keelson_api::{Resource, Status, Table};
use keelson_auth::pki::Pki;
use keelson_auth::{Attributes, Decision, User};
use keelson_serving::Certs;
use keelson_store::{Error as StoreError, Store};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Config;
use crate::authn::TokenCache;
use crate::authz::Authority;
use crate::connect::Dialer;
use crate::discovery::Documents;
use crate::figures::Samples;
use crate::handler::watch::Lines;
use crate::handler::{get, list};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::turns::Turns;

/// The server's state.
pub(crate) struct Server {
    /// How it was started.
    pub(crate) config: Config,
    /// Where objects are.
    pub(crate) store: Arc<dyn Store>,
    /// Certificates and token keys.
    pub(crate) pki: Arc<Pki>,
    /// Who may do what.
    pub(crate) authority: Arc<Authority>,
    /// How many requests may be in flight.
    pub(crate) limits: Limits,
    /// Who writes next where quotas count.
    pub(crate) turns: Turns,
    /// Encoded events of watches.
    pub(crate) lines: Lines,
    /// Admission plugins.
    pub(crate) chain: Chain,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Verified tokens.
    pub(crate) tokens: TokenCache,
    /// Figures of nodes and pods that were asked for lately.
    pub(crate) figures: Samples,
    /// What the server serves with.
    pub(crate) certs: Arc<Certs>,
    /// Connections to agents.
    pub(crate) dialer: Dialer,
    /// Discovery and OpenAPI documents.
    pub(crate) documents: Documents,
    /// Cancelled when the server stops: watches end.
    pub(crate) stopping: CancellationToken,
    /// What runs in the background.
    pub(crate) tasks: TaskTracker,
    table: RwLock<Arc<Table>>,
}

impl Server {
    /// A server with empty caches.
    pub(crate) fn new(
        config: Config,
        store: Arc<dyn Store>,
        pki: Arc<Pki>,
        certs: Arc<Certs>,
        dialer: Dialer,
    ) -> Server {
        let authority = Arc::new(Authority::default());
        let asked = authority.clone();
        Server {
            config,
            store,
            pki,
            authority,
            limits: Limits::default(),
            turns: Turns::default(),
            lines: Lines::default(),
            chain: Chain::standard_with(Arc::new(move |user, attributes| {
                asked.authorize(user, attributes)
            })),
            metrics: Metrics::new(),
            tokens: TokenCache::default(),
            figures: Samples::default(),
            certs,
            dialer,
            documents: Documents::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            table: RwLock::new(Arc::new(keelson_api::builtin())),
        }
    }

    /// The resource table as it is now.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A row, or a 404.
    pub(crate) fn row(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Arc<Resource>, Status> {
        self.table()
            .get(group, version, plural)
            .cloned()
            .ok_or_else(no_such_resource)
    }

    /// Asks the authorizers.
    pub(crate) fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        self.authority.authorize(user, attributes)
    }
}

#[async_trait]
impl Lookup for Server {
    async fn get(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let row = self.row(group, version, plural)?;
        Ok(get::find(self, &row, namespace, name)
            .await?
            .map(|(_, object)| object))
    }

    async fn list(
        &self,
        group: &str,
        version: &str,
        plural: &str,
        namespace: &str,
    ) -> Result<Vec<Value>, Status> {
        let row = self.row(group, version, plural)?;
        Ok(list::all(self, &row, namespace).await?.items)
    }
}

/// 404 for a URL that names nothing.
pub(crate) fn no_such_resource() -> Status {
    Status::new(
        404,
        "NotFound",
        "the server could not find the requested resource",
    )
}

/// What a client hears of a store's refusal.
pub(crate) fn store_error(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { asked, oldest } => {
            Status::expired(format!("too old resource version: {asked} ({oldest})"))
        }
        StoreError::Future { asked, now } => list::too_large(asked, now),
        other => Status::internal(other),
    }
}
