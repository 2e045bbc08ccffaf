//! The rules of one family, in the kernel as they are wanted; and the flows that they had made.

use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_plan::iptables::Ruleset;
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::userspace::Options;

/// Rules of one family.
pub(super) struct Side {
    pub(super) options: Options,
    /// What is in the kernel; `None`: it must be read.
    pub(super) applied: Option<Ruleset>,
    /// The kernel, or a missing program, refuses this family.
    pub(super) absent: bool,
}

impl Side {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            applied: None,
            absent: false,
        }
    }

    pub(super) async fn read(&mut self, programs: &Programs) -> Result<(), Error> {
        if self.absent || self.applied.is_some() {
            return Ok(());
        }
        let family = self.options.family;
        match programs.read(family).await {
            Ok(have) => self.applied = Some(have),
            Err(error) if family == Family::V6 => {
                tracing::info!(%error, "no IPv6 rules on this node");
                self.absent = true;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(super) async fn write(&mut self, programs: &Programs, want: Ruleset) -> Result<(), Error> {
        let have = self.applied.take().unwrap_or_default();
        if let Some(transaction) = want.transaction(&have) {
            programs.apply(self.options.family, &transaction).await?;
            let (chains, rules) = want.size();
            let family = self.options.family;
            tracing::debug!(?family, chains, rules, "redirect rules written");
        }
        self.applied = Some(want);
        Ok(())
    }
}
