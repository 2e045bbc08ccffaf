//! Services to rules. For each service port: who is caught (`KUBE-SERVICES`, `KUBE-NODEPORTS`), which source is
//! masked (`KUBE-EXT-*`, first rules of `KUBE-SVC-*`), which endpoint is chosen (`KUBE-SVC-*`, `KUBE-SVL-*`) and
//! where it goes (`KUBE-SEP-*`). Who isn't caught and should not pass is met in the filter table: by
//! `KUBE-PROXY-FIREWALL` (not in a load balancer's source ranges), `KUBE-SERVICES` and `KUBE-EXTERNAL-SERVICES` (no
//! endpoint), `KUBE-CLUSTER-IPS` (a cluster address's port that no service has).

mod frame;
mod live;
mod part;
mod reach;

pub use live::Live;

use super::ruleset::Ruleset;
use crate::model::{Entry, Family};
use crate::options::Options;

/// The whole ruleset of a family.
pub fn ruleset<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    family: Family,
    options: &Options,
) -> Ruleset {
    let mut live = Live::new(family, options.clone());
    live.reset(entries);
    live.into_ruleset()
}

#[cfg(test)]
mod tests;
