//! The iptables backend: a Service's change is a restore of the chains that it changes; all rules are compared with
//! the kernel's only at the start, after an error, and when it is looked whether somebody else changed them.

use keelson_proxy_kernel::{Error, iptables, sysctl};
use keelson_proxy_plan::iptables::{Live, Ruleset};
use keelson_proxy_plan::model::{Change, Entry, Family};
use keelson_proxy_plan::options::Options;
use keelson_proxy_plan::state::State;

/// Rules of one family.
struct Side {
    live: Live,
    /// What is in the kernel is what we want, as far as we know.
    applied: bool,
    /// The kernel, or a missing program, refuses this family.
    absent: bool,
}

pub(crate) struct Iptables {
    options: Options,
    sides: Vec<Side>,
}

impl Iptables {
    pub(crate) fn new(options: &Options) -> Self {
        let side = |family| Side {
            live: Live::new(family, options.clone()),
            applied: false,
            absent: false,
        };
        Self {
            options: options.clone(),
            sides: [Family::V4, Family::V6].map(side).into(),
        }
    }

    /// The kernel is read back at the next sync.
    pub(crate) fn forget_applied(&mut self) {
        self.sides.iter_mut().for_each(|s| s.applied = false);
    }

    /// Writes what the changes mean, or, if the kernel's rules may not be ours any more, all that differs.
    pub(crate) async fn sync(&mut self, state: &State, changes: &[Change]) -> Result<(), Error> {
        if self.options.node_ports_on_loopback(Family::V4) && self.sides.iter().any(|s| !s.applied)
        {
            sysctl::enable(sysctl::ROUTE_LOCALNET)?;
        }
        // One family's error must not keep the other from hearing of its changes.
        let mut done = Ok(());
        for side in self.sides.iter_mut().filter(|s| !s.absent) {
            let synced = side.sync(state, changes).await;
            done = done.and(synced);
        }
        done
    }

    pub(crate) async fn cleanup(&mut self) -> Vec<Error> {
        let mut errors = Vec::new();
        for side in &mut self.sides {
            errors.extend(side.remove().await.err());
            if !side.absent {
                errors.extend(iptables::remove_leftovers(side.live.family()).await.err());
            }
        }
        errors
    }
}

impl Side {
    async fn sync(&mut self, state: &State, changes: &[Change]) -> Result<(), Error> {
        let transaction = if std::mem::take(&mut self.applied) {
            self.live.update(changes)
        } else {
            let entries: Vec<Entry> = state.all().flatten().collect();
            self.live.reset(entries.iter());
            let Some(have) = self.read().await? else {
                return Ok(());
            };
            self.live.ruleset().transaction(&have)
        };
        self.write(transaction).await?;
        self.applied = true;
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), Error> {
        let have = self.read().await?;
        self.write(have.and_then(|have| Ruleset::default().transaction(&have)))
            .await
    }

    /// What is in the kernel; `None`: this family isn't there.
    async fn read(&mut self) -> Result<Option<Ruleset>, Error> {
        let family = self.live.family();
        match iptables::read(family).await {
            Err(error) if family == Family::V6 => {
                tracing::info!(%error, "no IPv6 rules on this node");
                self.absent = true;
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    async fn write(&self, transaction: Option<String>) -> Result<(), Error> {
        let (family, Some(text)) = (self.live.family(), transaction) else {
            return Ok(());
        };
        iptables::apply(family, &text).await?;
        tracing::debug!(?family, bytes = text.len(), "service rules written");
        Ok(())
    }
}
