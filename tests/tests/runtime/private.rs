//! Registries that want to know who asks, mirrors, and images that are not for every pod. Debian's docker-registry on
//! the node's loopback.

use std::path::Path;

use keelson_tests::bed::json;
use keelson_tests::images::ECHO;
use keelson_tests::process::Process;
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use nix::sys::signal::Signal;

/// Of `user` and `secret`, by bcrypt.
const ACCOUNT: &str = "user:$2b$04$V6EjV4RFbycTuIBpt4PvzOl15vhPhIBvUJOrRPef5I8L3hFS3CgXy";
const IMAGE: &str = "127.0.0.1:5001/team/echo:1";

fn pod(bed: &Bed, name: &str, image: &str, policy: &str, secret: &str) {
    let secrets = match secret {
        "" => String::new(),
        secret => format!("imagePullSecrets: [{{name: {secret}}}], "),
    };
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{what: private}}}}\nspec: {{terminationGracePeriodSeconds: 0, {secrets}containers: [{{name: c, image: '{image}', imagePullPolicy: {policy}}}]}}\n"
    ));
}

fn runs(bed: &Bed, name: &str) -> String {
    bed.kubectl(&format!(
        "wait pod {name} --for=condition=Ready --timeout=60s"
    ));
    bed.kubectl(&format!("describe pod {name}"))
}

fn start_registry(bed: &Bed) -> Process {
    let folder = bed.folder();
    let (accounts, file) = (folder.join("htpasswd"), folder.join("private.yaml"));
    std::fs::write(&accounts, ACCOUNT).unwrap();
    let config = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}/private}}}}\nhttp: {{addr: '127.0.0.1:5001'}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        folder.display(),
        accounts.display()
    );
    std::fs::write(&file, config).unwrap();
    let args = ["serve".to_owned(), file.display().to_string()];
    let log = folder.join("private.log");
    let program = Path::new("docker-registry");
    Process::start(&bed.server().space, program, &args, &log)
        .expect("docker-registry (Debian: docker-registry)")
}

pub(crate) fn images(bed: &Bed) {
    let node = bed.server();
    let registry = start_registry(bed);
    let push = format!(
        "ctr -n k8s.io image tag --force {ECHO} {IMAGE} && ctr -n k8s.io image push --plain-http --user user:secret {IMAGE} && ctr -n k8s.io image rm {IMAGE}"
    );
    eventually("pushed", secs(30), || node.space.sh(&push));
    bed.kubectl("create secret docker-registry right --docker-server=127.0.0.1:5001 --docker-username=user --docker-password=secret");
    bed.kubectl("create secret docker-registry wrong --docker-server=127.0.0.1:5001 --docker-username=user --docker-password=other");
    bed.kubectl("create secret docker-registry elsewhere --docker-server=r.example --docker-username=user --docker-password=secret");
    secrets(bed);
    mirrors(bed);
    of_the_node(bed);
    bed.kubectl("delete pod -l what=private --now");
    bed.kubectl("delete secret right wrong elsewhere");
    node.sh("rm /etc/keelson/registries.yaml /var/lib/keelson/config.json");
    registry.end(Signal::SIGTERM);
}

/// Who has the right secret gets the image, also when it is there already.
fn secrets(bed: &Bed) {
    for (name, secret) in [("none", ""), ("wrong", "wrong"), ("elsewhere", "elsewhere")] {
        pod(bed, name, IMAGE, "IfNotPresent", secret);
        let text = bed.wait_contains(&format!("describe pod {name}"), "Failed to pull image");
        assert!(text.contains("Not authorized"), "{text}");
    }
    pod(bed, "right", IMAGE, "IfNotPresent", "right");
    let text = runs(bed, "right");
    assert!(
        text.contains(&format!("Successfully pulled image \"{IMAGE}\" in ")),
        "{text}"
    );
    pod(bed, "again", IMAGE, "IfNotPresent", "right");
    let text = runs(bed, "again");
    assert!(
        text.contains("already present on machine and can be accessed by the pod"),
        "{text}"
    );
    // It is here now, and still not for everybody; not even after a restart of the agent.
    bed.server().kill();
    bed.server().start_again();
    bed.wait_ready();
    pod(bed, "late", IMAGE, "IfNotPresent", "");
    bed.wait_contains("describe pod late", "Failed to pull image");
    pod(bed, "never", IMAGE, "Never", "");
    bed.wait_contains("describe pod never", "does not have the proper credentials");
    pod(bed, "never-right", IMAGE, "Never", "right");
    runs(bed, "never-right");
    // A service account's secrets are its pods'.
    bed.kubectl("create serviceaccount puller");
    bed.kubectl("patch serviceaccount puller -p '{\"imagePullSecrets\": [{\"name\": \"right\"}]}'");
    bed.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: by-account, labels: {{what: private}}}}\nspec: {{serviceAccountName: puller, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{IMAGE}', imagePullPolicy: Always}}]}}\n"
    ));
    runs(bed, "by-account");
    let figures = bed.kubectl("get --raw /api/v1/nodes/n1/proxy/metrics");
    assert!(
        figures
            .contains("kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"0-10MB\"}"),
        "{figures}"
    );
}

/// A mirror by the registries file, with a name and an account of its own.
fn mirrors(bed: &Bed) {
    let file = "mirrors:\n  private.example:\n    endpoint: ['http://127.0.0.1:9', 'http://127.0.0.1:5001']\n    rewrite: {'^app$': team/echo}\nconfigs:\n  127.0.0.1:5001:\n    auth: {username: user, password: secret}\n";
    bed.server().sh(&format!(
        "cat >/etc/keelson/registries.yaml <<'END'\n{file}END"
    ));
    pod(bed, "mirrored", "private.example/app:1", "IfNotPresent", "");
    let text = runs(bed, "mirrored");
    assert!(
        text.contains("Successfully pulled image \"private.example/app:1\""),
        "{text}"
    );
    let status = json(&bed.kubectl("get pod mirrored -o json"));
    let id = status["status"]["containerStatuses"][0]["imageID"].to_string();
    assert!(id.contains("sha256:"), "{id}");
}

/// What the node has for every pod opens an image for every pod.
fn of_the_node(bed: &Bed) {
    bed.server()
        .sh("rm /etc/keelson/registries.yaml; touch /etc/keelson/registries.yaml");
    let auth = r#"{"auths":{"127.0.0.1:5001":{"username":"user","password":"secret"}}}"#;
    bed.server()
        .sh(&format!("echo '{auth}' >/var/lib/keelson/config.json"));
    pod(bed, "by-node", IMAGE, "IfNotPresent", "");
    runs(bed, "by-node");
    bed.server()
        .sh("echo '{\"auths\":{}}' >/var/lib/keelson/config.json");
    pod(bed, "everybody", IMAGE, "IfNotPresent", "");
    let text = runs(bed, "everybody");
    assert!(text.contains("already present on machine"), "{text}");
}
