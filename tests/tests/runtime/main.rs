//! One node: what becomes of a pod's specification, seen through kubectl.

#![allow(clippy::unwrap_used)]

mod beside;
mod claims;
mod conform;
mod csi;
mod devices;
mod figures;
mod huge;
mod images;
mod life;
mod pinning;
mod pressure;
mod private;
mod resize;
mod rules;
mod shutdown;
mod volumes;
mod workloads;

use keelson_tests::{Bed, Suite};

/// What becomes of containers.
#[test]
fn pods() {
    let bed = Bed::cluster(1);
    let mut suite = Suite::new();
    suite.step("command, arguments and environment", || {
        volumes::environment(&bed)
    });
    suite.step("termination messages", || conform::messages(&bed));
    suite.step("last words", || conform::last_words(&bed));
    suite.step("hosts, names and services", || conform::hosts(&bed));
    suite.step("deadline and image can change", || conform::updates(&bed));
    suite.step("sidecars and readiness gates", || beside::sidecars(&bed));
    suite.step("ephemeral containers", || beside::debug(&bed));
    suite.step("shared processes", || beside::shared_processes(&bed));
    suite.step("restart rules", || rules::restart_rules(&bed));
    suite.step("restart rules: all containers", || rules::all_again(&bed));
    suite.step("resize in place", || resize::in_place(&bed));
    suite.step("resize by a restart", || resize::restarted(&bed));
    suite.step("resources of pods", || resize::of_pods(&bed));
    suite.step("sockets of logs and exec", || beside::sockets(&bed));
    suite.step("attach: input and terminal", || beside::attach(&bed));
    suite.step("init containers go first, in order", || life::init(&bed));
    suite.step("restart policies and CrashLoopBackOff", || {
        life::crash(&bed)
    });
    suite.step("logs: -c, --previous, -f, --tail, --timestamps", || {
        life::logs(&bed)
    });
    suite.step("exec: input, codes, terminal", || life::exec(&bed));
    suite.step("probes", || life::probes(&bed));
    suite.step("grace period and hooks", || life::grace(&bed));
    suite.step("OOMKilled", || life::oom(&bed));
    suite.step("limits and QoS are cgroups", || life::cgroups(&bed));
    suite.step("why a pod waits for a node", || life::pending(&bed));
    suite.done();
}

/// Volumes and images.
#[test]
fn storage() {
    let bed = Bed::cluster(1);
    let mut suite = Suite::new();
    suite.step("volumes and who may read them", || volumes::volumes(&bed));
    suite.step("files of the API's objects follow", || {
        conform::follow(&bed)
    });
    suite.step("emptyDir modes", || conform::empty_dirs(&bed));
    suite.step("subPath", || conform::sub_paths(&bed));
    suite.step("a missing Secret is waited for", || volumes::missing(&bed));
    suite.step("bound tokens are projected and follow the pod", || {
        volumes::tokens(&bed)
    });
    suite.step("trust anchors of bundles", || volumes::trust(&bed));
    suite.step("claims: directories of the node", || {
        claims::directories(&bed)
    });
    suite.step("claims: volumes by hand", || claims::by_hand(&bed));
    suite.step("claims: local volumes and devices", || claims::local(&bed));
    suite.step("claims: a pod's own", || claims::ephemeral(&bed));
    suite.step("claims: how mounts travel", || claims::mounts(&bed));
    suite.step("claims: NFS without a server", || claims::nfs(&bed));
    suite.step("claims: an image's files", || claims::image(&bed));
    suite.step("claims: a CSI driver", || csi::driver(&bed));
    suite.step("security context", || volumes::security(&bed));
    suite.step("image errors say why", || images::errors(&bed));
    suite.step("pulled from a registry, by each policy", || {
        images::registry(&bed)
    });
    suite.step("private images, mirrors, the node's credentials", || {
        private::images(&bed)
    });
    suite.done();
}

/// What controllers make of pods.
#[test]
fn workloads() {
    let bed = Bed::cluster(1);
    let mut suite = Suite::new();
    suite.step("workloads: Jobs", || workloads::jobs(&bed));
    suite.step("workloads: CronJobs", || workloads::cron_jobs(&bed));
    suite.step("workloads: ReplicationControllers", || {
        workloads::replication_controllers(&bed)
    });
    suite.step("workloads: StatefulSets and disruption budgets", || {
        workloads::stateful_sets(&bed)
    });
    suite.step("workloads: DaemonSets", || workloads::daemon_sets(&bed));
    suite.step("workloads: a stuck rollout shrinks", || {
        workloads::stuck(&bed)
    });
    suite.step("workloads: refused pods are made anew", || {
        workloads::refused_pods(&bed)
    });
    suite.step("workloads: a Job counts right over kill -9", || {
        workloads::killed(&bed)
    });
    suite.done();
}

/// What the node as a whole gives, keeps and says.
#[test]
fn machine() {
    let bed = Bed::cluster(1);
    let mut suite = Suite::new();
    suite.step("what the node refuses", || conform::refused(&bed));
    suite.step("huge pages", || huge::pages(&bed));
    suite.step("runtime handlers", || rules::handlers(&bed));
    suite.step("static pods", || beside::statics(&bed));
    suite.step("device plugins", || devices::plugin(&bed));
    suite.step("figures: top, pages, summary", || figures::top(&bed));
    suite.step("a log is rotated and followed", || figures::rotation(&bed));
    suite.step("the node says what it has", || images::node(&bed));
    suite.step("CPUs and memory of their own", pinning::all);
    suite.step("pressure: limits, memory, disk and images", pressure::all);
    suite.step(
        "shutdown: the machine waits for its pods",
        shutdown::graceful,
    );
    suite.done();
}
