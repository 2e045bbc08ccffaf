//! Which of iptables' programs are used, and the removal of what is ours from any of them.

use keelson_proxy_kernel::Error;
use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_plan::iptables::Ruleset;
use keelson_proxy_plan::model::Family;

/// The programs that a mode uses: looked for once, for the rules that are there later are partly our own.
#[derive(Clone, Default)]
pub(crate) struct Used(Option<Programs>);

impl Used {
    /// Those of the variant that is in use in this network namespace.
    pub(crate) async fn get(&mut self) -> Programs {
        if let Some(programs) = self.0 {
            return programs;
        }
        let found = Programs::detect().await;
        let variant = found.programs.variant();
        let variant = variant.map_or_else(|| "the only one".into(), |v| v.to_string());
        match found.warning {
            Some(warning) => tracing::warn!(variant, "{warning}"),
            None => tracing::info!(variant, "services go by iptables"),
        }
        *self.0.insert(found.programs)
    }

    /// Those of the variant that is not used: it may have rules of a run when it was.
    pub(crate) fn others(&self) -> impl Iterator<Item = Programs> {
        let used = self.0;
        let all = Programs::installed().into_iter();
        all.filter(move |p| Some(*p) != used)
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
