//! Masquerade, and a way through others' rules: kept while the node runs, also when others change theirs after us
//! (`nft flush ruleset`, Docker's `iptables -P FORWARD DROP`).

mod chains;
mod iptables;
mod table;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::time::Duration;

use ipnet::IpNet;
use nftnl::ProtoFamily;
use tokio::sync::watch;

use self::chains::{Chains, Dropping, Room};
use crate::Error;
use crate::plan::{Mode, Options};

/// Others change rules by many messages: they are taken together.
const SETTLE: Duration = Duration::from_millis(200);
/// The legacy iptables tells nobody of changes.
const LOOK: Duration = Duration::from_secs(30);

/// Keeps rules for the pods that are told; until the sender is gone.
pub(crate) async fn run(options: Options, mut own: watch::Receiver<Vec<IpNet>>) {
    if options.mode == Mode::None {
        // What was there for another mode.
        for error in remove().await {
            tracing::warn!(%error, "rules for pods");
        }
        return;
    }
    let mut rules = Rules {
        chains: None,
        masqueraded: Vec::new(),
        socket: 0,
        troubles: Vec::new(),
        options,
    };
    loop {
        let now = own.borrow_and_update().clone();
        if !now.is_empty() {
            rules.turn(&now).await;
        }
        tokio::select! {
            changed = own.changed() => if changed.is_err() { return },
            () = rules.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

struct Rules {
    options: Options,
    /// None: the kernel has no nftables, or they are not to be used.
    chains: Option<Chains>,
    /// For which pods our table is there; none: for nobody.
    masqueraded: Vec<IpNet>,
    /// The socket that set it.
    socket: u32,
    /// What went wrong, told once.
    troubles: Vec<String>,
}

impl Rules {
    async fn turn(&mut self, own: &[IpNet]) {
        let mut troubles = Vec::new();
        if self.chains.is_none() && !self.options.iptables {
            // One that is open hears of what happens while rules are set.
            self.chains = Chains::open().ok();
        }
        if self.masqueraded != own || self.chains.is_none() {
            match self.masquerade(own) {
                Ok(()) => self.masqueraded = own.to_vec(),
                Err(error) => troubles.push(error.to_string()),
            }
        }
        troubles.extend(self.let_through(own).await.err().map(|e| e.to_string()));
        for trouble in troubles.iter().filter(|t| !self.troubles.contains(t)) {
            tracing::warn!(trouble, "rules for pods");
        }
        self.troubles = troubles;
    }

    fn masquerade(&mut self, own: &[IpNet]) -> Result<(), Error> {
        let cluster = &self.options.cluster_cidrs;
        if self.chains.is_some() {
            match table::apply(own, cluster) {
                Err(error) if lacks_nftables(&error) => {
                    tracing::info!("this kernel has no nftables: masquerade by iptables");
                    self.chains = None;
                    self.options.iptables = true;
                }
                done => {
                    self.socket = done.map_err(Error::Masquerade)?;
                    return Ok(());
                }
            }
        }
        iptables::masquerade(own, cluster)
    }

    /// All pods' addresses, since a node forwards to those of other nodes too.
    async fn let_through(&mut self, own: &[IpNet]) -> Result<(), Error> {
        let cidrs = match self.options.cluster_cidrs.as_slice() {
            [] => own.to_vec(),
            cluster => cluster.to_vec(),
        };
        if iptables::let_through(&cidrs)? {
            told("filter", "FORWARD");
        }
        let Some(chains) = &mut self.chains else {
            return Ok(());
        };
        let mut closed = Vec::new();
        for found in chains.dropping().await.map_err(Error::Kernel)? {
            let missing = missing(&found, &cidrs);
            if missing.is_empty() {
                continue;
            }
            if matches!(found.room, Room::None) {
                closed.push(found.place.to_string());
                continue;
            }
            table::let_through(&found, &missing).map_err(Error::Kernel)?;
            told(
                &found.place.table.to_string_lossy(),
                &found.place.chain.to_string_lossy(),
            );
        }
        match closed.is_empty() {
            true => Ok(()),
            false => Err(Error::Closed(closed.join(", "))),
        }
    }

    /// Waits until somebody else has changed rules.
    async fn changed(&mut self) {
        let Some(chains) = &mut self.chains else {
            return std::future::pending().await;
        };
        let ours = chains.changed(self.socket).await;
        tokio::time::sleep(SETTLE).await;
        let more = chains.settled(self.socket);
        if ours || more {
            self.masqueraded.clear();
        }
    }
}

fn told(table: &str, chain: &str) {
    let why = "it drops forwarded packets that no rule is for: pods' packets are accepted";
    tracing::info!(table, chain, why, "rules added to a chain of others");
}

/// What a kernel says that does not know nftables.
fn lacks_nftables(error: &std::io::Error) -> bool {
    use nix::libc::{EAFNOSUPPORT, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT};
    let says = [EAFNOSUPPORT, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT];
    error
        .raw_os_error()
        .is_some_and(|code| says.contains(&code))
}

/// Rules of ours that a chain lacks: network, whether it is the source, and the rule's mark.
fn missing(found: &Dropping, cidrs: &[IpNet]) -> Vec<(IpNet, bool, CString)> {
    let there: BTreeSet<&str> = found.marks.iter().map(String::as_str).collect();
    let fits = |cidr: &&IpNet| match found.place.family {
        ProtoFamily::Ipv4 => cidr.addr().is_ipv4(),
        ProtoFamily::Ipv6 => cidr.addr().is_ipv6(),
        _ => true,
    };
    let sides = |cidr: &IpNet| [(*cidr, true), (*cidr, false)];
    let wanted = cidrs.iter().filter(fits).flat_map(sides);
    let marked = wanted.map(|(cidr, from)| {
        let side = if from { "from" } else { "to" };
        (cidr, from, format!("keelson-pods {side} {cidr}"))
    });
    let lacking = marked.filter(|(.., mark)| !there.contains(mark.as_str()));
    lacking
        .filter_map(|(c, from, mark)| Some((c, from, CString::new(mark).ok()?)))
        .collect()
}

/// Removes all that is ours. Goes on after errors and gives them all.
pub(crate) async fn remove() -> Vec<Error> {
    let mut errors = Vec::new();
    // Where there are no nftables, there is nothing of ours in them.
    if let Ok(mut chains) = Chains::open() {
        match chains.marks().await {
            Ok(marks) => {
                for mark in marks {
                    let gone = table::forget(&mark.place, &[mark.handle]);
                    errors.extend(gone.map_err(Error::Kernel).err());
                }
            }
            Err(error) if lacks_nftables(&error) => {}
            Err(error) => errors.push(Error::Kernel(error)),
        }
        let failed = table::remove().into_iter().filter(|e| !lacks_nftables(e));
        errors.extend(failed.map(Error::Masquerade));
    }
    errors.extend(iptables::remove());
    errors
}
