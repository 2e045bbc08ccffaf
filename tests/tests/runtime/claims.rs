//! Claims and their volumes.

use keelson_tests::images::ECHO;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};

const STORAGE: &str = "/var/lib/keelson/storage";

fn claim(bed: &Bed, name: &str, more: &str) {
    bed.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}{more}}}\n"
    ));
}

/// A pod that sleeps, with `more` in its spec; its container mounts volume `v` at `/v`.
fn user(bed: &Bed, name: &str, volume: &str, more: &str) {
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sleep, infinity], volumeMounts: [{{name: v, mountPath: /v}}]}}]\n  volumes: [{{name: v, {volume}}}]\n{more}"
    ));
}

fn ready(bed: &Bed, pod: &str) {
    let output = bed.try_kubectl(&format!(
        "wait pod {pod} --for=condition=Ready --timeout=60s"
    ));
    assert!(
        output.ok,
        "{}\n{}",
        output.err,
        bed.kubectl(&format!("describe pod {pod}"))
    );
}

fn of(claim: &str) -> String {
    format!("persistentVolumeClaim: {{claimName: {claim}}}")
}

pub(crate) fn directories(bed: &Bed) {
    let class = bed.kubectl("get storageclass");
    assert!(class.contains("local-path (default)"), "{class}");
    claim(bed, "data", "");
    bed.wait_contains(
        "describe pvc data",
        "waiting for first consumer to be created before binding",
    );
    let group = "  securityContext: {fsGroup: 4242, fsGroupChangePolicy: OnRootMismatch}\n";
    user(bed, "first", &of("data"), group);
    ready(bed, "first");
    bed.wait_for("get pvc data -o jsonpath={.status.phase}", "Bound");
    bed.kubectl("exec first -- sh -c 'echo kept >/v/file'");
    let listed = bed.kubectl("exec first -- ls -lnd /v");
    assert!(listed.contains("4242"), "{listed}");
    let volume = bed.kubectl("get pvc data -o jsonpath={.spec.volumeName}");
    let dir = format!("{STORAGE}/{volume}_default_data");
    assert_eq!(bed.server().sh(&format!("cat {dir}/file")).trim(), "kept");
    let said = bed.kubectl(&format!("get pv {volume}"));
    for part in [
        "1Gi",
        "RWO",
        "Delete",
        "Bound",
        "default/data",
        "local-path",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    // In use: it stays until the pod has gone.
    bed.kubectl("delete pvc data --wait=false");
    bed.wait_contains("get pvc data", "Terminating");
    bed.kubectl("exec first -- cat /v/file");
    user(bed, "late", &of("data"), "");
    bed.wait_contains(
        "describe pod late",
        "persistentvolumeclaim \"data\" is being deleted",
    );
    bed.kubectl("delete pod late first");
    eventually("claim, volume and directory are gone", secs(30), || {
        let left = bed.kubectl("get pvc,pv -o name");
        anyhow::ensure!(left.trim().is_empty(), "{left}");
        let left = bed
            .server()
            .sh(&format!("ls {STORAGE} 2>/dev/null || true"));
        anyhow::ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
}

fn volume(bed: &Bed, name: &str, more: &str) {
    bed.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec: {{accessModes: [ReadWriteOnce], capacity: {{storage: 2Gi}}, storageClassName: manual, {more}}}\n"
    ));
}

const HERE: &str = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1]}]}]}}";

pub(crate) fn by_hand(bed: &Bed) {
    bed.server()
        .sh("mkdir -p /var/byhand; echo host >/var/byhand/file");
    claim(bed, "manual", ", storageClassName: manual");
    bed.wait_contains(
        "describe pvc manual",
        "storageclass.storage.k8s.io \"manual\" not found",
    );
    user(
        bed,
        "reads",
        "persistentVolumeClaim: {claimName: manual, readOnly: true}",
        "",
    );
    bed.wait_contains(
        "describe pod reads",
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
    );
    volume(bed, "byhand", "hostPath: {path: /var/byhand}");
    bed.wait_for("get pvc manual -o jsonpath={.status.phase}", "Bound");
    ready(bed, "reads");
    assert_eq!(bed.kubectl("exec reads -- cat /v/file").trim(), "host");
    let refused = bed.try_kubectl("exec reads -- sh -c 'echo x >/v/file'");
    assert!(
        !refused.ok && refused.err.contains("Read-only"),
        "{refused:?}"
    );
    // An agent that starts again finds it, also for a container that is made then.
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    let _ = bed.try_kubectl("exec reads -- kill -9 1");
    bed.kubectl("delete pod reads");
    bed.kubectl("delete pvc manual");
    bed.wait_for("get pv byhand -o jsonpath={.status.phase}", "Released");
    bed.kubectl("patch pv byhand --type=merge -p '{\"spec\":{\"claimRef\":null}}'");
    bed.wait_for("get pv byhand -o jsonpath={.status.phase}", "Available");
    bed.kubectl("delete pv byhand");
    assert_eq!(bed.server().sh("cat /var/byhand/file").trim(), "host");
    user(bed, "lost", &of("nothing"), "");
    bed.wait_contains(
        "describe pod lost",
        "persistentvolumeclaim \"nothing\" not found",
    );
    bed.kubectl("delete pod lost");
}

pub(crate) fn local(bed: &Bed) {
    bed.server()
        .sh("mkdir -p /var/disk; rm -f /var/device; mknod /var/device b 7 99");
    bed.apply("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: manual}\nprovisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: WaitForFirstConsumer\n");
    volume(bed, "disk", &format!("local: {{path: /var/disk}}, {HERE}"));
    let away = HERE.replace("n1", "elsewhere");
    volume(
        bed,
        "away",
        &format!("local: {{path: /var/disk}}, volumeMode: Block, {away}"),
    );
    claim(bed, "disk", ", storageClassName: manual");
    claim(
        bed,
        "block",
        ", storageClassName: manual, volumeMode: Block",
    );
    user(bed, "disk", &of("disk"), "");
    let raw = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: block}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: {ECHO}, command: [/bin/sleep, infinity], volumeDevices: [{{name: v, devicePath: /dev/xvda}}]}}]\n  volumes: [{{name: v, {}}}]\n",
        of("block")
    );
    bed.apply(&raw);
    ready(bed, "disk");
    bed.wait_contains(
        "describe pod block",
        "node(s) didn't find available persistent volumes to bind",
    );
    volume(
        bed,
        "block",
        &format!("local: {{path: /var/device}}, volumeMode: Block, {HERE}"),
    );
    ready(bed, "block");
    let listed = bed.kubectl("exec block -- ls -ln /dev/xvda");
    assert!(listed.starts_with('b') && listed.contains("7,"), "{listed}");
    bed.kubectl("delete pod block disk");
    bed.kubectl("delete pvc block disk");
    bed.kubectl("delete pv block disk away");
    bed.kubectl("delete storageclass manual");
}

pub(crate) fn ephemeral(bed: &Bed) {
    let own = "ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}";
    user(bed, "own", own, "");
    ready(bed, "own");
    bed.kubectl("exec own -- sh -c 'echo x >/v/x'");
    bed.wait_for(
        "get pvc -l a=b -o jsonpath={.items[*].status.phase}",
        "Bound",
    );
    bed.kubectl("delete pod own");
    eventually("its claim goes with it", secs(30), || {
        let left = bed.kubectl("get pvc,pv -o name");
        anyhow::ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
}

pub(crate) fn mounts(bed: &Bed) {
    bed.server()
        .sh("mkdir -p /var/tree; mount -t tmpfs tree /var/tree; mount --make-shared /var/tree; mkdir -p /var/tree/below; mount -t tmpfs below /var/tree/below");
    let tree = "hostPath: {path: /var/tree}";
    bed.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: mounts}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {ECHO}
    command: [/bin/sleep, infinity]
    securityContext: {{privileged: true}}
    volumeMounts:
    - {{name: v, mountPath: /ro, readOnly: true}}
    - {{name: v, mountPath: /rro, readOnly: true, recursiveReadOnly: Enabled}}
    - {{name: v, mountPath: /slave, mountPropagation: HostToContainer}}
    - {{name: v, mountPath: /shared, mountPropagation: Bidirectional}}
    - {{name: v, mountPath: /private}}
  volumes: [{{name: v, {tree}}}]
"#
    ));
    ready(bed, "mounts");
    bed.kubectl("exec mounts -- sh -c 'echo x >/ro/below/x'");
    let refused = bed.try_kubectl("exec mounts -- sh -c 'echo x >/rro/below/y'");
    assert!(
        !refused.ok && refused.err.contains("Read-only"),
        "{refused:?}"
    );
    let told =
        bed.kubectl("get pod mounts -o jsonpath={.status.containerStatuses[0].volumeMounts}");
    assert!(
        told.contains(
            r#""mountPath":"/rro","name":"v","readOnly":true,"recursiveReadOnly":"Enabled""#
        ),
        "{told}"
    );
    bed.server()
        .sh("mkdir /var/tree/host; mount -t tmpfs host /var/tree/host; touch /var/tree/host/seen");
    assert_eq!(bed.kubectl("exec mounts -- ls /slave/host").trim(), "seen");
    assert_eq!(bed.kubectl("exec mounts -- ls /private/host").trim(), "");
    bed.kubectl("exec mounts -- sh -c 'mkdir /shared/pod; mount -t tmpfs pod /shared/pod; touch /shared/pod/mine'");
    assert_eq!(bed.server().sh("ls /var/tree/pod").trim(), "mine");
    bed.kubectl("delete pod mounts");
    bed.server().sh("umount -R /var/tree");
}

pub(crate) fn nfs(bed: &Bed) {
    user(bed, "nfs", "nfs: {server: 127.0.0.1, path: /none}", "");
    // There is no server: what counts is that it is said, and that nothing is left.
    bed.wait_contains("describe pod nfs", "mount 127.0.0.1:/none over nfs:");
    bed.kubectl("delete pod nfs --timeout=60s");
}

pub(crate) fn image(bed: &Bed) {
    user(bed, "image", &format!("image: {{reference: '{ECHO}'}}"), "");
    ready(bed, "image");
    let inside = bed.kubectl("exec image -- ls /v/bin");
    assert!(inside.lines().any(|l| l == "sh"), "{inside}");
    let refused = bed.try_kubectl("exec image -- sh -c 'echo x >/v/x'");
    assert!(
        !refused.ok && refused.err.contains("Read-only"),
        "{refused:?}"
    );
    bed.kubectl("delete pod image");
    eventually("the view is gone", secs(30), || {
        let left = bed
            .server()
            .sh("ctr -n k8s.io snapshots ls | grep -- -volume- || true");
        anyhow::ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    });
    user(
        bed,
        "none",
        "image: {reference: 'nowhere.test/none:1', pullPolicy: Never}",
        "",
    );
    bed.wait_contains(
        "describe pod none",
        "Container image \"nowhere.test/none:1\" is not present with pull policy of Never",
    );
    bed.kubectl("delete pod none");
}
