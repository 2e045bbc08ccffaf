//! The handle everything else hangs on.

use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::{CreateNamespaceRequest, DeleteNamespaceRequest, Namespace};

use crate::client::{Client, QUICK, ask, ended, or_absent, or_exists};
use crate::config::Config;
use crate::container::Kills;
use crate::error::Error;
use crate::events::{Events, Feed};
use crate::image::Known;
use crate::lease::RunLease;
use crate::shims::Shims;
use crate::{container, exec, failpoint, sys};

/// A connection to containerd with everything that is needed to run pods. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) feed: Feed,
    pub(crate) lease: RunLease,
    pub(crate) shims: Shims,
    pub(crate) kills: Kills,
    /// The machine's life that this is, see [`crate::container`].
    pub(crate) life: String,
    pub(crate) known: Known,
    /// Lowest OOM score adjustment this process may give.
    pub(crate) oom_floor: i32,
    /// Capabilities there are to give, as a mask.
    pub(crate) capabilities: u64,
}

impl Runtime {
    /// Removes our namespace from containerd, unless something of somebody else is in it.
    pub async fn namespace_remove(&self) -> Result<(), Error> {
        let name = self.inner.config.namespace.clone();
        let message = DeleteNamespaceRequest { name: name.clone() };
        let answer = ask!(
            self.client(),
            namespaces.delete(message),
            QUICK,
            "delete namespace",
            &name
        );
        match or_absent(answer) {
            Err(Error::Call { status, .. }) if ended(&status) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Connects to containerd, waiting for its socket with back-off (50 ms to 2 s) for as long as
    /// the caller does, creates the namespace and follows its events.
    pub async fn connect(config: Config) -> Result<Runtime, Error> {
        failpoint::arm(&config.run_dir);
        exec::sweep(&config.run_dir);
        let runtime = Self::open(config).await?;
        if runtime.inner.oom_floor > -1000 {
            tracing::info!(
                floor = runtime.inner.oom_floor,
                "oom score adjustments are clamped: no CAP_SYS_RESOURCE"
            );
        }
        Feed::follow(&runtime.inner).await;
        Ok(runtime)
    }

    /// The same without following events, for one who looks in beside the agent.
    pub async fn open(config: Config) -> Result<Runtime, Error> {
        let client = wait_for(&config).await?;
        let life = container::life(&config.run_dir)?;
        let message = CreateNamespaceRequest {
            namespace: Some(Namespace {
                name: config.namespace.clone(),
                labels: Default::default(),
            }),
        };
        // containerd 1.6 wants the namespace header here too.
        or_exists(ask!(
            &client,
            namespaces.create(message),
            QUICK,
            "create namespace",
            &config.namespace
        ))?;
        // reqwest needs a TLS provider even where only HTTP is spoken; the binary may have set one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let capabilities = sys::capabilities();
        let oom_floor = sys::oom_score_floor(capabilities);
        Ok(Runtime {
            inner: Arc::new(Inner {
                shims: Shims::new(config.shims),
                config,
                client,
                feed: Feed::default(),
                lease: RunLease::default(),
                kills: Kills::default(),
                life,
                known: Known::default(),
                oom_floor,
                capabilities,
            }),
        })
    }

    /// containerd's version.
    pub async fn version(&self) -> Result<String, Error> {
        let answer = ask!(
            self.client(),
            version.version(()),
            QUICK,
            "read version of",
            "containerd"
        )?;
        Ok(answer.version)
    }

    /// Exits and starts of containers from now on.
    pub fn events(&self) -> Events {
        self.inner.feed.subscribe()
    }

    /// The configuration the runtime was made with.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Of calls that start a process: shim, runc.
    pub(crate) fn patience(&self) -> Duration {
        self.inner.config.request_timeout
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }
}

async fn wait_for(config: &Config) -> Result<Client, Error> {
    let mut pause = Duration::from_millis(50);
    loop {
        match Client::connect(&config.socket, &config.namespace).await {
            Err(error) if error.is_unavailable() => {
                tracing::debug!(%error, "containerd is not there yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            settled => return settled,
        }
    }
}
