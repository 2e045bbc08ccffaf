//! Clusters of two nodes, the second joined by token, and of five in two segments.

#![allow(clippy::unwrap_used)]

mod certificates;
mod duplicates;
mod loss;
mod network;
mod policies;
mod reach;
mod rollout;
mod segments;
mod testbed;
mod volumes;

use keelson_tests::snapshot::Snapshot;
use keelson_tests::{Bed, Suite, eventually, wait::secs};

#[test]
fn renewed_certificates() {
    certificates::renewed();
}

#[test]
fn two_nodes() {
    let mut bed = Bed::cluster(2);
    let mut suite = Suite::new();
    // Bridges and rules that come with the first pod and stay are not what must go.
    network::warm_up(&bed);
    let before: Vec<Snapshot> = bed.nodes.iter().map(Snapshot::of).collect();
    network::deploy(&bed);
    suite.step("every pod reaches every pod", || network::pods(&bed));
    suite.step("ClusterIP from pod, node and client", || {
        network::cluster_ip(&bed)
    });
    suite.step("NodePort from pod, node and client", || {
        network::node_port(&bed)
    });
    suite.step("session affinity", || network::affinity(&bed));
    suite.step("UDP", || network::udp(&bed));
    suite.step("a service without endpoints refuses at once", || {
        network::no_endpoints(&bed)
    });
    suite.step("a pod reaches itself through its service", || {
        network::hairpin(&bed)
    });
    suite.step("proxies tell how they do", || {
        network::ports_of_proxies(&bed)
    });
    suite.step("hostPort", || network::host_port(&bed));
    suite.step("hostNetwork", || network::host_network(&bed));
    suite.step("pods reach the API", || network::api(&bed));
    suite.step("policies between pods of one node and of two", || {
        policies::between_pods(&bed)
    });
    suite.step("policies from a pod's first packet", || {
        policies::from_the_first_packet(&bed)
    });
    suite.step("logs and exec on both nodes", || network::logs(&bed));
    suite.step("scale", || rollout::scale(&bed));
    suite.step("rolling update loses no request", || rollout::update(&bed));
    suite.step("history and undo", || rollout::undo(&bed));
    suite.step("what is not ready gets no requests", || {
        rollout::readiness(&bed)
    });
    suite.step("volumes hold pods to their node", || volumes::follow(&bed));
    suite.step("volumes of a StatefulSet", || volumes::sets(&bed));
    suite.step("drain", || rollout::drain(&bed));
    suite.step("deleting everything leaves nothing", || {
        network::undeploy(&bed);
        eventually("both nodes are empty", secs(60), || {
            for (node, before) in bed.nodes.iter().zip(&before) {
                let diff = before.diff(&Snapshot::of(node), &[]);
                anyhow::ensure!(diff.is_empty(), "{}:\n{diff}", node.name);
            }
            Ok(())
        });
    });
    suite.step("a node's loss moves its pods", || loss::node(&mut bed));
    suite.done();
}
