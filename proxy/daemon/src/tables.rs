//! What writers of tables have in common: the kernel's socket, writes beside the async threads, and knowing whether
//! somebody else changed rules.

use std::sync::{Arc, Mutex, PoisonError};

use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::nft::Nftables as Kernel;
use keelson_proxy_kernel::node::has_ipv6;
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::nft::table::Table;
use keelson_proxy_plan::nft::transaction::Transaction;

/// The families whose tables this kernel has.
pub(crate) fn families() -> impl Iterator<Item = Family> {
    let here = |f: &Family| *f == Family::V4 || has_ipv6();
    [Family::V4, Family::V6].into_iter().filter(here)
}

/// The ruleset's generations, as far as this process follows them: every change that anybody makes is one. Whoever
/// writes tables shares it, so that changes of one are not taken for somebody else's by the other.
#[derive(Clone, Debug, Default)]
pub struct Ruleset(Arc<Mutex<Generations>>);

#[derive(Debug, Default)]
struct Generations {
    last: Option<u32>,
    /// How often others changed rules.
    others: u64,
}

impl Generations {
    /// Generations up to this one came about, at most `own` of them by us.
    fn follow(&mut self, now: u32, own: u32) {
        let is_ours = |last: u32| now.wrapping_sub(last) <= own;
        if !self.last.is_none_or(is_ours) {
            self.others += 1;
        }
        self.last = Some(now);
    }
}

/// Our tables in the kernel, and how much of what others did was looked at.
pub(crate) struct Tables {
    kernel: Arc<Kernel>,
    ruleset: Ruleset,
    seen: Option<u64>,
}

impl Tables {
    /// Connects to the kernel.
    pub(crate) fn new(ruleset: &Ruleset) -> Result<Self, Error> {
        Ok(Self {
            kernel: Arc::new(Kernel::open()?),
            ruleset: ruleset.clone(),
            seen: None,
        })
    }

    fn others(&self) -> Result<u64, Error> {
        let mut all = self
            .ruleset
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.follow(self.kernel.generation()?, 0);
        Ok(all.others)
    }

    /// What is read from now on is known: what others change after this is drift.
    pub(crate) fn look(&mut self) -> Result<(), Error> {
        self.seen = Some(self.others()?);
        Ok(())
    }

    /// Whether somebody else changed rules since [`Self::look`].
    pub(crate) fn drifted(&self) -> bool {
        let now = self.others().ok();
        self.seen.is_some() && self.seen != now
    }

    /// Reads from the kernel's tables.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Kernel) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let kernel = self.kernel.clone();
        blocking(move || f(&kernel)).await
    }

    /// Carries out a transaction, if it changes anything; `forms` has the forms of sets whose elements change.
    pub(crate) async fn write(
        &self,
        transaction: Transaction,
        forms: impl AsRef<Table> + Send + 'static,
    ) -> Result<(), Error> {
        if transaction.is_empty() {
            return Ok(());
        }
        // Forgetting clients is up to two more.
        let own = if transaction.forget.is_empty() { 1 } else { 3 };
        let (table, family) = (transaction.name, transaction.family);
        let (added, deleted, chains) = transaction.size();
        let apply = move |kernel: &Kernel| kernel.apply(&transaction, forms.as_ref());
        self.change(own, apply).await?;
        tracing::debug!(table, ?family, added, deleted, chains, "rules written");
        Ok(())
    }

    /// Removes a table.
    pub(crate) async fn remove(&self, name: &'static str, family: Family) -> Result<(), Error> {
        self.change(1, move |kernel| kernel.remove(name, family))
            .await
    }

    async fn change(
        &self,
        own: u32,
        f: impl FnOnce(&Kernel) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (kernel, ruleset) = (self.kernel.clone(), self.ruleset.clone());
        blocking(move || {
            let mut all = ruleset.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody else's change must not hide behind ours.
            all.follow(kernel.generation()?, 0);
            f(&kernel)?;
            all.follow(kernel.generation()?, own);
            Ok(())
        })
        .await
    }
}

/// Removes a table of all families, whether it is there or not.
pub(crate) fn remove(name: &str) -> Vec<Error> {
    match Kernel::open() {
        Ok(kernel) => families()
            .filter_map(|family| kernel.remove(name, family).err())
            .collect(),
        Err(error) => vec![error],
    }
}

/// Where the kernel may take its time: a table of ten thousands of elements, clients to be looked through.
pub(crate) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(f).await;
    done.map_err(|e| Error::Netlink {
        action: "write nftables",
        source: e.into(),
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_our_own_are_not_others() {
        let mut all = Generations::default();
        let steps = [
            (7, 0, 0),
            (7, 0, 0),
            (8, 1, 0),
            (9, 0, 1),
            (11, 1, 2),
            (11, 1, 2),
            (14, 3, 2),
        ];
        for (now, own, others) in steps {
            all.follow(now, own);
            assert_eq!(all.others, others, "{now}");
        }
        // It begins anew when it is full, without 0.
        all.follow(u32::MAX, 0);
        all.follow(1, 2);
        assert_eq!(all.others, 3);
    }
}
