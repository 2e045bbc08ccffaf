//! Packets between pods of one bridge.

use keelson_proxy_kernel::sysctl;

/// Sees to it that they meet rules. An answer that doesn't has the endpoint's address where the service's is waited
/// for; and no network policy is asked about them.
#[derive(Default)]
pub(crate) struct Bridges {
    asked: bool,
    told: bool,
}

impl Bridges {
    /// Loads `br_netfilter`, the first time it is missing. A node whose pods are on no bridge does without, so it is
    /// no error.
    pub(crate) fn filter(&mut self) {
        let may_load = !std::mem::replace(&mut self.asked, true);
        let done = sysctl::filter_bridges(may_load);
        if let Err(error) = &done
            && !self.told
        {
            tracing::warn!(%error, "services and network policies do not hold between pods of one bridge: the kernel \
                module br_netfilter is needed (modprobe br_netfilter)");
        }
        self.told = done.is_err();
    }
}
