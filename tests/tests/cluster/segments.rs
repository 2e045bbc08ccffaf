//! Five nodes in two segments with a router between them; and what befalls networks.

use std::path::Path;

use keelson_tests::testbed::Description;
use keelson_tests::testbed::quality::{Percent, Quality};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Suite, eventually};

use crate::duplicates::Watch;
use crate::reach::{self, Until};

const LEFT: [&str; 3] = ["n1", "n2", "n3"];
const RIGHT: [&str; 2] = ["n4", "n5"];
const ALL: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
/// Links that lose packets for a while.
const LOSSY: [&str; 2] = ["n2/left", "n4/right"];
/// An address that n4 gets later.
const MOVED: [u8; 4] = [10, 88, 2, 77];

#[test]
fn five_nodes_in_two_segments() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/testbed.d");
    let description = Description::read(&folder.join("two-segments.yaml")).unwrap();
    let mut bed = Bed::described(&description).unwrap();
    // TEMPORARY
    if std::env::var_os("BEDS_ROUTES").is_some() {
        for node in &bed.nodes {
            let range = bed.kubectl(&format!(
                "get node {} -o jsonpath={{.spec.podCIDR}}",
                node.name
            ));
            bed.route(&range, node);
        }
    }
    let watch = Watch::new(&bed);
    let mut suite = Suite::new();
    reach::deploy(&bed);
    suite.step("all pods reach all pods and services", || all_is_well(&bed));
    suite.step("the segments are apart", || apart(&mut bed));
    suite.step("a node's link is cut", || cut(&mut bed));
    suite.step("a tenth of the packets is lost", || loss(&mut bed));
    mended(&mut bed);
    suite.step("a node is rebooted", || {
        let place = bed.place("n5").unwrap();
        bed.reboot(place);
        watch.follow(&bed);
        restarted(&bed, "n5");
        all_is_well(&bed);
    });
    suite.step("a node's address is another", || moved(&mut bed));
    suite.step("no two pods ever had the same address", || watch.done());
    suite.done();
}

fn all_is_well(bed: &Bed) {
    reach::pods(bed, &ALL);
    reach::services(bed, &ALL, Until::All);
}

/// Each side goes on alone.
fn apart(bed: &mut Bed) {
    bed.cut("router/right").unwrap();
    reach::apart(bed, &LEFT, &RIGHT);
    reach::pods(bed, &LEFT);
    reach::pods(bed, &RIGHT);
    bed.mend("router/right").unwrap();
    all_is_well(bed);
}

/// The others go on, and their services without it once it is known to be lost.
fn cut(bed: &mut Bed) {
    let rest = ["n1", "n2", "n4", "n5"];
    bed.cut("n3").unwrap();
    reach::pods(bed, &rest);
    let ready = "get node n3 -o \"jsonpath={.status.conditions[?(@.type=='Ready')].status}\"";
    bed.wait_for(ready, "Unknown");
    reach::services(bed, &rest, Until::All);
    bed.mend("n3").unwrap();
    bed.wait_node_ready(&bed.nodes[bed.place("n3").unwrap()]);
    all_is_well(bed);
}

/// Everybody is reached, if later; no node counts as lost.
fn loss(bed: &mut Bed) {
    let since = "get nodes -o \"jsonpath={.items[*].status.conditions[?(@.type=='Ready')].lastTransitionTime}\"";
    let before = bed.kubectl(since);
    let tenth = Quality {
        loss: Percent::try_from(10.0).unwrap(),
        ..Quality::default()
    };
    for link in LOSSY {
        bed.degrade(link, tenth).unwrap();
    }
    reach::pods(bed, &ALL);
    reach::services(bed, &ALL, Until::One);
    for link in LOSSY {
        let lost = bed.wiring().lost(link).unwrap();
        assert!(lost > 10, "{link}: {lost} packets were lost");
    }
    assert_eq!(bed.kubectl(since), before);
}

fn mended(bed: &mut Bed) {
    for link in LOSSY {
        bed.degrade(link, Quality::default()).unwrap();
    }
}

/// A node's containers are others than before.
fn restarted(bed: &Bed, node: &str) {
    let counts = format!(
        "get pods -l app=web --field-selector spec.nodeName={node} -o jsonpath='{{.items[*].status.containerStatuses[0].restartCount}}'"
    );
    bed.wait_for(&counts, "1 1");
}

/// The old address is gone at once; all find the node at the new one.
fn moved(bed: &mut Bed) {
    let place = bed.place("n4").unwrap();
    bed.move_node("n4", MOVED.into()).unwrap();
    let moved = bed.nodes[place].ip.to_string();
    let address =
        "get node n4 -o \"jsonpath={.status.addresses[?(@.type=='InternalIP')].address}\"";
    bed.wait_for(address, &moved);
    all_is_well(bed);
    // The server finds the agent.
    let pods = bed.kubectl("get pods -l app=web --field-selector spec.nodeName=n4 -o name");
    for pod in pods.lines() {
        eventually("exec on the moved node", secs(60), || {
            let output = bed.try_kubectl(&format!("exec {pod} -- /bin/echo said"));
            anyhow::ensure!(output.out == "said\n", "{output:?}");
            Ok(())
        });
    }
}
