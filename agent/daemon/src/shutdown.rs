//! Graceful node shutdown: logind is held back until this node's pods have ended, by the groups of the plan.
//!
//! ```text
//! thread: logind's lock and its signals -> News -> task: not ready, no new pods -> steps (plan) -> the lock goes
//! ```
//!
//! Nothing of this runs unless it is configured.

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keelson_agent_plan::shutdown::{self, Candidate, Step};
use keelson_agent_plan::static_pod;
use keelson_dbus::{Error, Logind};
use tokio::sync::{mpsc, oneshot};

use crate::outcome::Message;
use crate::shared::{Entry, Shared, chain};

/// Before logind is tried again, the first time and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What logind's own patience is raised with, until the machine starts again. Read after others' files.
const DROP_IN: &str = "/run/systemd/logind.conf.d/99-keelson.conf";
/// How long logind may take to read it.
const RELOAD: (Duration, u32) = (Duration::from_millis(100), 50);
/// How long the API may take to hear that the node is not ready, where no pod had to be waited for.
const TOLD: Duration = Duration::from_secs(2);
/// As `systemd-inhibit --list` shows it, where the kubelet's is looked for.
const WHO: (&str, &str) = ("kubelet", "Kubelet needs time to handle node shutdown");

/// What logind says.
enum News {
    /// Shutdowns wait for this lock; the socket ends the thread.
    Held(OwnedFd, Option<UnixStream>),
    /// A shutdown begins, or the one that had begun is called off.
    Shutdown(bool),
    /// No more news.
    Ended(Error),
}

/// Runs until the agent ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let total = shutdown::total(&shared.config.shutdown);
    let Some(total) = u64::try_from(total).ok().filter(|s| *s > 0) else {
        return;
    };
    let mut wait = RETRY.0;
    loop {
        let mut watch = Watch::start(&shared, Duration::from_secs(total));
        let ended = tokio::select! {
            () = shared.shutdown.cancelled() => return,
            ended = watch.run() => ended,
        };
        if watch.held {
            wait = RETRY.0;
        }
        tracing::warn!(error = %chain(&ended), "shutdowns of the machine are not waited for; trying again");
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY.1),
        }
    }
}

/// Removes what a run has left.
pub(crate) fn cleanup() -> std::io::Result<()> {
    fs::remove_file(DROP_IN)
}

/// One connection to logind.
struct Watch {
    shared: Arc<Shared>,
    news: mpsc::UnboundedReceiver<News>,
    lock: Option<OwnedFd>,
    socket: Option<UnixStream>,
    /// There was a lock.
    held: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread's wait ends with its socket.
        let _ = self.socket.as_ref().map(|s| s.shutdown(Shutdown::Both));
    }
}

impl Watch {
    fn start(shared: &Arc<Shared>, total: Duration) -> Self {
        let (tx, news) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            if let Err(error) = listen(total, &tx) {
                // Whoever listened may have gone.
                let _ = tx.send(News::Ended(error));
            }
        });
        Self {
            shared: shared.clone(),
            news,
            lock: None,
            socket: None,
            held: false,
        }
    }

    /// Follows the news until there are no more.
    async fn run(&mut self) -> Error {
        let mut next = self.news.recv().await;
        loop {
            let Some(news) = next else {
                return Error::Closed;
            };
            next = match news {
                News::Ended(error) => return error,
                News::Held(lock, socket) => {
                    self.held = true;
                    self.lock = Some(lock);
                    self.socket = socket.or(self.socket.take());
                    self.news.recv().await
                }
                News::Shutdown(false) => {
                    self.called_off();
                    self.news.recv().await
                }
                News::Shutdown(true) => {
                    let shared = self.shared.clone();
                    // A shutdown that is called off leaves those that have not ended alone.
                    let meanwhile = tokio::select! {
                        news = self.news.recv() => Some(news),
                        () = begins(&shared) => None,
                    };
                    match meanwhile {
                        Some(news) => news,
                        None => {
                            tracing::info!("pods have ended, the machine may shut down");
                            self.lock = None;
                            self.news.recv().await
                        }
                    }
                }
            };
        }
    }

    /// Static pods that were ended come again: nobody else brings them back.
    fn called_off(&self) {
        if !self.shared.stopping.send_replace(false) {
            return;
        }
        tell(&self.shared, false);
        let ended = |e: &&Entry| {
            let reason = e.status.reason.as_deref();
            static_pod::is_static(&e.pod) && reason == Some(shutdown::REASON)
        };
        for entry in self.shared.entries().values().filter(ended) {
            // A worker that has just ended needs no message.
            let _ = entry.tx.send(Message::Gone(None));
        }
    }
}

fn tell(shared: &Shared, begins: bool) {
    tracing::info!(begins, "the machine shuts down");
    let node = &shared.config.node_name;
    shared.events.node(node, shutdown::event(begins));
}

/// Ends the node's pods.
async fn begins(shared: &Arc<Shared>) {
    shared.stopping.send_replace(true);
    tell(shared, true);
    let candidate = |(uid, e): (&String, &Entry)| Candidate {
        uid: uid.clone(),
        priority: e.pod.spec.as_ref().and_then(|s| s.priority),
        grace: e
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds),
    };
    let pods: Vec<Candidate> = {
        let entries = shared.entries();
        let active = entries.iter().filter(|(_, e)| e.is_active());
        active.map(candidate).collect()
    };
    for step in shutdown::steps(&shared.config.shutdown, &pods) {
        end(shared, step).await;
    }
    let mut told = shared.told_stopping.subscribe();
    if tokio::time::timeout(TOLD, told.wait_for(|t| *t))
        .await
        .is_err()
    {
        tracing::warn!("the API does not know that the node shuts down");
    }
}

/// Ends the pods of one step, all at once.
async fn end(shared: &Shared, step: Step) {
    tracing::info!(
        pods = step.pods.len(),
        seconds = step.seconds,
        "pods end before the shutdown"
    );
    let mut ends = Vec::new();
    for (uid, grace) in step.pods {
        let (done, end) = oneshot::channel();
        shared.tell(&uid, Message::Evict(shutdown::eviction(grace), done));
        // The sender goes with the pod, or at once when it has gone already.
        ends.push(end);
    }
    let all = futures::future::join_all(ends);
    let limit = Duration::from_secs(u64::try_from(step.seconds).unwrap_or(0));
    if tokio::time::timeout(limit, all).await.is_err() {
        tracing::warn!(seconds = step.seconds, "not all pods have ended in time");
    }
}

/// The thread: takes the lock, then waits for signals.
fn listen(total: Duration, tx: &mpsc::UnboundedSender<News>) -> Result<(), Error> {
    let mut logind = Logind::connect()?;
    be_patient(&mut logind, total)?;
    let lock = logind.delay_shutdown(WHO.0, WHO.1)?;
    let send = |news| tx.send(news).map_err(|_| Error::Closed);
    send(News::Held(lock, Some(logind.socket()?)))?;
    tracing::info!(
        seconds = total.as_secs(),
        "shutdowns of the machine wait for pods"
    );
    if logind.is_shutting_down()? {
        send(News::Shutdown(true))?;
    }
    loop {
        let begins = logind.shutdown_begins()?;
        send(News::Shutdown(begins))?;
        if !begins {
            let lock = logind.delay_shutdown(WHO.0, WHO.1)?;
            send(News::Held(lock, None))?;
        }
    }
}

/// Raises logind's own patience (`InhibitDelayMaxSec`, 5 s by default) to what is needed.
fn be_patient(logind: &mut Logind, total: Duration) -> Result<(), Error> {
    if logind.longest_delay()? >= total {
        return Ok(());
    }
    write_drop_in(Path::new(DROP_IN), total)?;
    logind.reload()?;
    for _ in 0..RELOAD.1 {
        if logind.longest_delay()? >= total {
            return Ok(());
        }
        std::thread::sleep(RELOAD.0);
    }
    let have = logind.longest_delay()?.as_secs();
    Err(Error::Refused(format!(
        "node shutdown manager was unable to update logind InhibitDelayMaxSec to {}s (ShutdownGracePeriod), current value of InhibitDelayMaxSec ({have}s) is less than requested ShutdownGracePeriod",
        total.as_secs()
    )))
}

fn write_drop_in(path: &Path, total: Duration) -> std::io::Result<()> {
    let text = format!(
        "# Kubelet logind override of keelson, until the next start\n[Login]\nInhibitDelayMaxSec={}\n",
        total.as_secs()
    );
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let new = path.with_extension("new");
    fs::File::create(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}
