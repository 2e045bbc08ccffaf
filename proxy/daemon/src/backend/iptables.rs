//! The iptables backend: a Service's change is a restore of the chains that it changes; all rules are compared with
//! the kernel's only at the start, after an error, and when it is looked whether somebody else changed them.

use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::{Error, sysctl};
use keelson_proxy_plan::iptables::{Live, Ruleset};
use keelson_proxy_plan::model::{Change, Entry, Family};
use keelson_proxy_plan::options::Options;
use keelson_proxy_plan::state::State;

use crate::programs::Used;

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
    programs: Used,
    sides: Vec<Side>,
}

impl Iptables {
    pub(crate) fn new(options: &Options) -> Self {
        Self::with(options, Used::default())
    }

    /// With programs that were found already.
    pub(crate) fn with(options: &Options, programs: Used) -> Self {
        let side = |family| Side {
            live: Live::new(family, options.clone()),
            applied: false,
            absent: false,
        };
        Self {
            options: options.clone(),
            programs,
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
        let programs = self.programs.get().await;
        // One family's error must not keep the other from hearing of its changes.
        let mut done = Ok(());
        for side in self.sides.iter_mut().filter(|s| !s.absent) {
            let synced = side.sync(&programs, state, changes).await;
            done = done.and(synced);
        }
        done
    }

    /// The programs that are used.
    pub(crate) fn programs(&self) -> &Used {
        &self.programs
    }
}

impl Side {
    async fn sync(
        &mut self,
        programs: &Programs,
        state: &State,
        changes: &[Change],
    ) -> Result<(), Error> {
        let transaction = if std::mem::take(&mut self.applied) {
            self.live.update(changes)
        } else {
            let entries: Vec<Entry> = state.all().flatten().collect();
            self.live.reset(entries.iter());
            let Some(have) = self.read(programs).await? else {
                return Ok(());
            };
            self.live.ruleset().transaction(&have)
        };
        self.write(programs, transaction).await?;
        self.applied = true;
        Ok(())
    }

    /// What is in the kernel; `None`: this family isn't there.
    async fn read(&mut self, programs: &Programs) -> Result<Option<Ruleset>, Error> {
        let family = self.live.family();
        match programs.read(family).await {
            Err(error) if family == Family::V6 => {
                tracing::info!(%error, "no IPv6 rules on this node");
                self.absent = true;
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    async fn write(&self, programs: &Programs, transaction: Option<String>) -> Result<(), Error> {
        let (family, Some(text)) = (self.live.family(), transaction) else {
            return Ok(());
        };
        programs.apply(family, &text).await?;
        tracing::debug!(?family, bytes = text.len(), "service rules written");
        Ok(())
    }
}
