//! Which variant of iptables is used, on machines that hold rules of none, of one, and of both.
#![allow(missing_docs)]

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use keelson_proxy_kernel::iptables::{Detected, Programs};
use keelson_proxy_plan::iptables::variant::Variant;
use keelson_proxy_plan::model::Family;
use nix::sched::{CloneFlags, setns};

/// A fresh network namespace: no variant holds anything in it.
struct Machine {
    name: String,
}

impl Machine {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let machine = Self {
            name: format!("kspv{}-{count}", std::process::id()),
        };
        machine.ip("add");
        machine
    }

    fn ip(&self, verb: &str) -> bool {
        let status = Command::new("ip")
            .args(["netns", verb, &self.name])
            .status();
        status.expect("ip (Debian: iproute2)").success()
    }

    fn run<T: Send + 'static>(&self, f: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).expect("namespace");
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("run as root");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("runtime").block_on(f())
        });
        thread.join().expect("inside")
    }

    fn restore(&self, variant: Variant, family: Family, text: &'static str) {
        self.run(async move || {
            let done = Programs::of(variant).apply(family, text).await;
            done.expect("restore");
        });
    }

    fn detect(&self) -> Detected {
        self.run(Programs::detect)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.ip("del");
    }
}

const OTHERS: &str = "*nat\n:DOCKER - [0:0]\n-A OUTPUT -j DOCKER\n-A DOCKER -j RETURN\nCOMMIT\n";
const SERVICES: &str = "*nat\n:KUBE-SERVICES - [0:0]\n-A OUTPUT -j KUBE-SERVICES\nCOMMIT\n";
const KUBELET: &str = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";

fn other(variant: Variant) -> Variant {
    match variant {
        Variant::Legacy => Variant::Nft,
        Variant::Nft => Variant::Legacy,
    }
}

#[test]
fn both_are_installed_and_an_empty_machine_uses_what_iptables_is() {
    let installed: Vec<_> = Programs::installed()
        .iter()
        .map(Programs::variant)
        .collect();
    assert_eq!(installed, Variant::ALL.map(Some), "Debian: iptables");
    let version = Command::new("iptables")
        .arg("--version")
        .output()
        .expect("iptables")
        .stdout;
    let default = Variant::of_version(&String::from_utf8_lossy(&version));
    let found = Machine::new().detect();
    assert_eq!((found.programs.variant(), found.warning), (default, None));
}

#[test]
fn the_variant_that_holds_rules_is_used_and_its_rules_are_read() {
    for variant in Variant::ALL {
        for (family, text) in [
            (Family::V4, OTHERS),
            (Family::V6, OTHERS),
            (Family::V4, KUBELET),
        ] {
            let machine = Machine::new();
            machine.restore(variant, family, text);
            let found = machine.detect();
            assert_eq!(
                (found.programs.variant(), found.warning),
                (Some(variant), None),
                "{family:?} {text}"
            );
        }
        let machine = Machine::new();
        machine.restore(variant, Family::V4, SERVICES);
        let sizes = machine.run(async move || {
            let mine = Programs::of(variant).read(Family::V4).await.expect("read");
            let not = Programs::of(other(variant))
                .read(Family::V4)
                .await
                .expect("read");
            (mine.size(), not.size())
        });
        assert_eq!(
            sizes,
            ((1, 1), (0, 0)),
            "{variant}: the other doesn't see them"
        );
    }
}

#[test]
fn a_machine_with_rules_of_both_is_named() {
    for variant in Variant::ALL {
        let machine = Machine::new();
        machine.restore(variant, Family::V4, SERVICES);
        machine.restore(other(variant), Family::V6, OTHERS);
        let found = machine.detect();
        assert_eq!(
            found.programs.variant(),
            Some(variant),
            "services' rules are there"
        );
        let warning = found.warning.expect("a warning");
        for words in [
            format!("{variant} holds 1 rules (1 of Kubernetes)"),
            format!("{} holds 2 rules (0 of Kubernetes)", other(variant)),
            format!("services go by {variant}"),
        ] {
            assert!(warning.contains(&words), "{warning}");
        }
        machine.restore(other(variant), Family::V4, KUBELET);
        let found = machine.detect();
        assert_eq!(
            found.programs.variant(),
            Some(other(variant)),
            "a kubelet says which"
        );
    }
}
