//! The iptables backend: a Service's change is a restore of the chains that it changes; all rules are compared with
//! the kernel's only at the start, after an error, and when it is looked whether somebody else changed them.

use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::{Error, sysctl};
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
    /// Those of the variant that is in use, once it was looked for.
    programs: Option<Programs>,
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
            programs: None,
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
        let programs = self.programs().await;
        // One family's error must not keep the other from hearing of its changes.
        let mut done = Ok(());
        for side in self.sides.iter_mut().filter(|s| !s.absent) {
            let synced = side.sync(&programs, state, changes).await;
            done = done.and(synced);
        }
        done
    }

    /// The programs to use: looked for once, for the rules that are there then are partly our own.
    async fn programs(&mut self) -> Programs {
        if let Some(programs) = self.programs {
            return programs;
        }
        let found = Programs::detect().await;
        let variant = found.programs.variant();
        let variant = variant.map_or_else(|| "the only one".into(), |v| v.to_string());
        match found.warning {
            Some(warning) => tracing::warn!(variant, "{warning}"),
            None => tracing::info!(variant, "services go by iptables"),
        }
        *self.programs.insert(found.programs)
    }

    /// Removes services' rules from the variant that is not used: those of a run when it was.
    pub(crate) async fn cleanup_other_variant(&mut self) -> Vec<Error> {
        let used = self.programs;
        let others = Programs::installed().into_iter();
        cleanup(others.filter(|p| Some(*p) != used)).await
    }
}

/// Removes all rules of ours, and what is nobody's.
pub(crate) async fn cleanup(all: impl Iterator<Item = Programs>) -> Vec<Error> {
    let mut errors = Vec::new();
    for programs in all {
        for family in [Family::V4, Family::V6] {
            errors.extend(remove(&programs, family).await.err());
        }
    }
    errors
}

async fn remove(programs: &Programs, family: Family) -> Result<(), Error> {
    let have = match programs.read(family).await {
        Ok(have) => have,
        // A kernel without IPv6 holds no rules.
        Err(error) if family == Family::V6 => {
            tracing::debug!(?programs, %error, "no IPv6 rules to remove");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if let Some(text) = Ruleset::default().transaction(&have) {
        programs.apply(family, &text).await?;
    }
    programs.remove_leftovers(family).await
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
