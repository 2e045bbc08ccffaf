//! Rules of a mode, written into a namespace by the appliers.

use std::fs::File;

use keelson_proxy_kernel::iptables::Programs;
use keelson_proxy_kernel::nft;
use keelson_proxy_plan::iptables::ruleset;
use keelson_proxy_plan::iptables::variant::Variant;
use keelson_proxy_plan::model::{Entry, Family};
use keelson_proxy_plan::nft::services::{TABLE, stale, table};
use keelson_proxy_plan::nft::transaction::Transaction;
use keelson_proxy_plan::options::Options;
use nix::sched::{CloneFlags, setns};

/// By which rules packets are sent on: each property holds with every one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Backend {
    Iptables(Variant),
    Nftables,
}

pub(crate) const BACKENDS: [Backend; 3] = [
    Backend::Iptables(Variant::Legacy),
    Backend::Iptables(Variant::Nft),
    Backend::Nftables,
];

/// Runs in a network namespace, on a thread of its own: the namespace is the thread's.
pub(crate) fn inside<T: Send>(ns: &str, f: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{ns}")).expect("namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
            f()
        });
        thread.join().expect("inside")
    })
}

/// Runs what waits in a network namespace.
pub(crate) fn wait_inside<T: Send>(ns: &str, f: impl AsyncFnOnce() -> T + Send) -> T {
    inside(ns, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("runtime").block_on(f())
    })
}

impl Backend {
    /// Makes the rules so, from what is there; how much was written to the kernel.
    pub(crate) fn write(
        self,
        ns: &str,
        entries: &[Entry],
        family: Family,
        options: &Options,
    ) -> usize {
        match self {
            Self::Nftables => write_nftables(ns, entries, family, options),
            Self::Iptables(variant) => {
                write_iptables(Programs::of(variant), ns, entries, family, options)
            }
        }
    }
}

fn write_nftables(ns: &str, entries: &[Entry], family: Family, options: &Options) -> usize {
    let want = table(entries.iter(), family, options);
    inside(ns, || {
        let kernel = nft::Nftables::open().expect("socket");
        let have = kernel.read(TABLE, family).expect("read");
        let mut transaction = Transaction::between(have.as_ref(), &want);
        if have.is_some() && !transaction.anew {
            let clients = kernel.clients(family).expect("clients");
            transaction.forget = stale(clients, entries, family, options);
        }
        kernel
            .apply(&transaction, have.as_ref().unwrap_or(&want))
            .expect("apply");
        let now = kernel.read(TABLE, family).expect("read").expect("table");
        let left = Transaction::between(Some(&now), &want);
        assert!(
            left.is_empty(),
            "reads back as it was written: {}",
            left.render(&want)
        );
        let (added, deleted, chains) = transaction.size();
        added + deleted + chains
    })
}

fn write_iptables(
    programs: Programs,
    ns: &str,
    entries: &[Entry],
    family: Family,
    options: &Options,
) -> usize {
    let want = ruleset(entries.iter(), family, options);
    wait_inside(ns, async || {
        let have = programs.read(family).await.expect("read");
        let Some(text) = want.transaction(&have) else {
            return 0;
        };
        programs.apply(family, &text).await.expect("apply");
        let now = programs.read(family).await.expect("read");
        assert_eq!(want.transaction(&now), None, "reads back as it was written");
        text.len()
    })
}
