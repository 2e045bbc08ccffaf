//! Deployments under requests.

use std::net::SocketAddr;

use keelson_tests::images::{ECHO, ECHO2};
use keelson_tests::stream::{during, field, get};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

fn node_port(bed: &Bed) -> SocketAddr {
    SocketAddr::new(bed.nodes[1].ip.into(), 30080)
}

fn rolled_out(bed: &Bed) {
    for node in &bed.nodes {
        bed.kubectl(&format!(
            "rollout status deploy/web-{} --timeout=120s",
            node.name
        ));
    }
}

pub(crate) fn scale(bed: &Bed) {
    let seen = during(&bed.client, 2, node_port(bed), || {
        bed.kubectl("scale deploy web-n1 web-n2 --replicas=3");
        rolled_out(bed);
        bed.kubectl("scale deploy web-n1 web-n2 --replicas=1");
        bed.wait_for("get pods -l app=web --no-headers | wc -l", "2");
        bed.kubectl("scale deploy web-n1 web-n2 --replicas=2");
        rolled_out(bed);
    });
    assert!(
        seen.failures.is_empty(),
        "{} of {:?}: {:?}",
        seen.failures.len(),
        seen.pods,
        seen.failures.first()
    );
}

pub(crate) fn update(bed: &Bed) {
    let seen = during(&bed.client, 4, node_port(bed), || {
        bed.kubectl(&format!(
            "set image deploy/web-n1 deploy/web-n2 echo={ECHO2}"
        ));
        rolled_out(bed);
        bed.kubectl(&format!(
            "set image deploy/web-n1 deploy/web-n2 echo={ECHO}"
        ));
        rolled_out(bed);
    });
    eprintln!(
        "{} requests during two rolling updates",
        seen.pods.values().sum::<usize>()
    );
    assert!(
        seen.failures.is_empty(),
        "{} of {:?}: {:?}",
        seen.failures.len(),
        seen.pods,
        seen.failures.first()
    );
    assert!(
        seen.pods.len() >= 8,
        "both old and new pods answered: {:?}",
        seen.pods
    );
}

pub(crate) fn undo(bed: &Bed) {
    bed.kubectl(&format!("set image deploy/web-n2 echo={ECHO2}"));
    rolled_out(bed);
    let history = bed.kubectl("rollout history deploy/web-n2");
    assert!(history.lines().count() >= 4, "{history}");
    bed.kubectl("rollout undo deploy/web-n2");
    rolled_out(bed);
    assert_eq!(
        bed.kubectl("get deploy web-n2 -o jsonpath='{.spec.template.spec.containers[0].image}'"),
        ECHO
    );
    // One that can't come up does not take the old one down.
    bed.kubectl("set image deploy/web-n2 echo=keelson.test/none:1");
    bed.wait_contains("get pods -l at=n2", "Image");
    let status = bed.refused("rollout status deploy/web-n2 --timeout=1s", "");
    assert!(status.contains("timed out"), "{status}");
    assert_eq!(
        bed.kubectl("get deploy web-n2 -o jsonpath={.status.availableReplicas}"),
        "2"
    );
    bed.kubectl("rollout undo deploy/web-n2");
    rolled_out(bed);
}

pub(crate) fn readiness(bed: &Bed) {
    let name = bed.kubectl("get pods -l at=n2 -o jsonpath='{.items[0].metadata.name}'");
    let ip = bed.kubectl(&format!("get pod {name} -o jsonpath={{.status.podIP}}"));
    let ready = "get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}'";
    assert!(bed.kubectl(ready).contains(&ip));
    // Whose label is taken away serves on, but not through the service; the ReplicaSet makes another.
    bed.kubectl(&format!("label pod {name} app-"));
    eventually("it left the endpoints", secs(30), || {
        let now = bed.kubectl(ready);
        anyhow::ensure!(!now.split(' ').any(|a| a == ip), "{now}");
        Ok(())
    });
    eventually("it gets no requests", secs(30), || {
        for _ in 0..20 {
            let answer = bed.client.enter(|| get(node_port(bed), "/"))?;
            anyhow::ensure!(field(&answer, "pod") != name, "{answer}");
        }
        Ok(())
    });
    bed.kubectl(&format!("delete pod {name} --timeout=60s"));
    rolled_out(bed);
}

pub(crate) fn drain(bed: &Bed) {
    bed.kubectl("patch deploy web-n2 --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/template/spec/nodeSelector\"}]'");
    rolled_out(bed);
    let seen = during(&bed.client, 2, node_port(bed), || {
        bed.kubectl("drain n2 --force --ignore-daemonsets --delete-emptydir-data --timeout=90s");
        bed.wait_for(
            "get pods --field-selector spec.nodeName=n2 --no-headers 2>/dev/null | wc -l",
            "0",
        );
        bed.kubectl("rollout status deploy/web-n1 --timeout=60s");
    });
    assert!(bed.kubectl("get node n2").contains("SchedulingDisabled"));
    bed.kubectl("uncordon n2");
    assert!(
        seen.failures.is_empty(),
        "{} of {:?}: {:?}",
        seen.failures.len(),
        seen.pods,
        seen.failures.first()
    );
    let spread = bed.kubectl("get pods -l app=web -o jsonpath='{.items[*].spec.nodeName}'");
    assert!(!spread.contains("n2"), "{spread}");
}
