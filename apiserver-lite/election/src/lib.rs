//! Leader election on a `coordination.k8s.io/v1` Lease, compatible with client-go's: of several processes with the
//! same lease one works, and another takes over when it leaves or falls silent.

mod lease;

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rand::Rng;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

pub use self::lease::{Step, decide, released};

/// Whose lease, and how patiently. The durations are kube-controller-manager's defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the Lease, such as `kube-system`.
    pub namespace: String,
    /// Name of the Lease, such as `kube-scheduler`.
    pub name: String,
    /// Who we are. A process that starts again under the same identity goes on at once instead of waiting for its
    /// former lease to run out; two processes must never share one.
    pub identity: String,
    /// Others wait so long after the last renewal before they take over; whole seconds, at least one.
    pub lease_duration: Duration,
    /// A leader that could not renew for so long stops working; shorter than `lease_duration`.
    pub renew_deadline: Duration,
    /// Time between two tries.
    pub retry_period: Duration,
}

impl Options {
    /// The defaults: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Why leading ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else leads, or the lease could not be renewed in time. The work was stopped.
    #[error("lease {namespace}/{name} was lost")]
    Lost {
        /// Namespace of the Lease.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The work ended by itself.
    #[error("the work under lease {namespace}/{name} ended by itself")]
    WorkEnded {
        /// Namespace of the Lease.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Waits until we lead, then runs `work` for as long as we do. Its token is cancelled when the lease is lost or at
/// `shutdown`, and the lease is given back only after the work has ended. `Ok` after a shutdown.
pub async fn run_leading<W, F>(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
    work: W,
) -> Result<(), Error>
where
    W: FnOnce(CancellationToken) -> F,
    F: Future<Output = ()>,
{
    let mut candidate = Candidate::new(client, options);
    if shutdown
        .run_until_cancelled(candidate.acquire())
        .await
        .is_none()
    {
        // Cut off in the middle of a request, we may hold it without having seen so.
        candidate.release().await;
        return Ok(());
    }
    tracing::info!(
        lease = candidate.options.name,
        identity = candidate.options.identity,
        "leading"
    );
    let stop = shutdown.child_token();
    let working = work(stop.clone());
    tokio::pin!(working);
    let (namespace, name) = (
        candidate.options.namespace.clone(),
        candidate.options.name.clone(),
    );
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = &mut working => {
            candidate.release().await;
            return if shutdown.is_cancelled() { Ok(()) } else { Err(Error::WorkEnded { namespace, name }) };
        }
        () = candidate.keep() => Err(Error::Lost { namespace, name }),
    };
    stop.cancel();
    match ended {
        // The lease stays ours while the work winds up.
        Ok(()) => {
            tokio::select! {
                () = &mut working => {}
                () = candidate.keep() => working.await,
            }
            candidate.release().await;
        }
        Err(_) => working.await,
    }
    ended
}

struct Candidate {
    leases: Api<Lease>,
    options: Options,
    /// The lease as last seen, and since when it has been so: by our clock, as the others' may be wrong.
    seen: Option<(Lease, Instant)>,
}

/// What a try came to.
enum Tried {
    Held,
    Theirs,
}

impl Candidate {
    fn new(client: Client, options: Options) -> Self {
        Self {
            leases: Api::namespaced(client, &options.namespace),
            options,
            seen: None,
        }
    }

    async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(Tried::Held) => return,
                Ok(Tried::Theirs) => {}
                Err(error) => {
                    tracing::debug!(lease = self.options.name, %error, "try for the lease")
                }
            }
            // Candidates that wait for the same lease do not all ask at once (client-go's jitter).
            let jitter = rand::rng().random_range(1.0..1.2);
            sleep(self.options.retry_period.mul_f64(jitter)).await;
        }
    }

    /// Renews until that fails for too long or the lease is somebody else's.
    async fn keep(&mut self) {
        let mut deadline = Instant::now() + self.options.renew_deadline;
        loop {
            sleep(self.options.retry_period).await;
            match timeout_at(deadline, self.attempt()).await {
                Ok(Ok(Tried::Held)) => deadline = Instant::now() + self.options.renew_deadline,
                Ok(Ok(Tried::Theirs)) => break,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.options.name, %error, "renew the lease")
                }
                Err(_) => break,
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        tracing::error!(
            lease = self.options.name,
            identity = self.options.identity,
            "lost the lease"
        );
    }

    /// Looks at the lease and takes or renews it if that is ours to do.
    async fn attempt(&mut self) -> Result<Tried, kube::Error> {
        let lease = self.leases.get_opt(&self.options.name).await?;
        let unchanged = self.observe(lease.as_ref());
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let (Step::Take(spec) | Step::Renew(spec)) =
            decide(spec, unchanged, jiff::Timestamp::now(), &self.options)
        else {
            return Ok(Tried::Theirs);
        };
        self.write(lease, spec).await?;
        Ok(Tried::Held)
    }

    /// For how long the lease has been as it is.
    fn observe(&mut self, lease: Option<&Lease>) -> Duration {
        let Some(lease) = lease else {
            self.seen = None;
            return Duration::ZERO;
        };
        match &self.seen {
            Some((seen, since))
                if seen.metadata.resource_version == lease.metadata.resource_version =>
            {
                since.elapsed()
            }
            _ => {
                self.seen = Some((lease.clone(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// Writes over exactly what was read: whoever was quicker makes this a conflict.
    async fn write(&mut self, lease: Option<Lease>, spec: LeaseSpec) -> Result<(), kube::Error> {
        let written = match lease {
            Some(lease) => {
                let lease = Lease {
                    spec: Some(spec),
                    ..lease
                };
                self.leases
                    .replace(&self.options.name, &PostParams::default(), &lease)
                    .await?
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.options.name.clone()),
                    ..ObjectMeta::default()
                };
                self.leases
                    .create(
                        &PostParams::default(),
                        &Lease {
                            metadata,
                            spec: Some(spec),
                        },
                    )
                    .await?
            }
        };
        self.seen = Some((written, Instant::now()));
        Ok(())
    }

    /// Lets the next one take over at once. Failing that, it waits for the lease to run out.
    async fn release(&mut self) {
        let give_back = async {
            let Some(lease) = self.leases.get_opt(&self.options.name).await? else {
                return Ok(());
            };
            match lease
                .spec
                .as_ref()
                .and_then(|spec| released(spec, jiff::Timestamp::now(), &self.options.identity))
            {
                Some(spec) => self.write(Some(lease), spec).await,
                None => Ok(()),
            }
        };
        match tokio::time::timeout(Duration::from_secs(2), give_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "release the lease"),
            Err(_) => tracing::warn!("release the lease: no answer"),
        }
    }
}
