//! Huge pages: counted by the node, given to who asks, files in them.

use std::fs;

use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

use crate::life::pod;

const PAGES: &str = "/proc/sys/vm/nr_hugepages";
const MORE: u64 = 6;

/// Pages that the machine has for a while.
struct Lent(u64);

impl Lent {
    fn new() -> Self {
        let before: u64 = fs::read_to_string(PAGES).unwrap().trim().parse().unwrap();
        fs::write(PAGES, (before + MORE).to_string()).unwrap();
        Self(before)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        fs::write(PAGES, self.0.to_string()).unwrap();
    }
}

fn free() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("HugePages_Free:"));
    line.unwrap().trim().parse().unwrap()
}

pub(crate) fn pages(bed: &Bed) {
    let lent = Lent::new();
    let size = "2Mi";
    let path = format!("get node n1 -o jsonpath='{{.status.allocatable.hugepages-{size}}}'");
    bed.wait_for(&path, &format!("{}Mi", (lent.0 + MORE) * 2));
    let asks = |pages: u64| {
        format!(
            "resources: {{limits: {{memory: 16Mi, hugepages-{size}: {}Mi}}}}",
            pages * 2
        )
    };
    let spec = |asks: &str, medium: &str| {
        format!(
            "terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{ECHO}', {asks}, volumeMounts: [{{name: huge, mountPath: /huge}}]}}], volumes: [{{name: huge, emptyDir: {{medium: {medium}}}}}]"
        )
    };
    pod(bed, "huge", &spec(&asks(2), "HugePages"));
    bed.kubectl("wait pod huge --for=condition=Ready --timeout=60s");
    let mount = bed.kubectl("exec huge -- /bin/busybox grep /huge /proc/mounts");
    assert!(
        mount.contains("hugetlbfs") && mount.contains("pagesize=2M"),
        "{mount}"
    );
    let before = free();
    bed.kubectl("exec huge -- /bin/busybox fallocate -l 2097152 /huge/file");
    assert_eq!(free(), before - 1);
    bed.kubectl("delete pod huge");
    eventually("the volume's pages are given back", secs(30), || {
        anyhow::ensure!(free() == before, "{} of {before}", free());
        Ok(())
    });

    // More than there are: nowhere to go. A volume without a request, or of another size: said so.
    pod(bed, "much", &spec(&asks(lent.0 + MORE + 1), "HugePages"));
    bed.wait_contains(
        "get events --field-selector involvedObject.name=much",
        &format!("Insufficient hugepages-{size}"),
    );
    pod(bed, "other", &spec(&asks(1), "HugePages-1Gi"));
    bed.wait_contains(
        "get events --field-selector involvedObject.name=other",
        "needs a container with a limit of hugepages-1Gi",
    );
    bed.kubectl("delete pod much other");
}
