//! Import and pull, against a real containerd and Debian's docker-registry on loopback.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keelson_runtime::{Auth, Error, PullKind};
use support::{IMAGE, Node, write_busybox};

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_imported_in_every_shape() {
    let node = Node::start().await;
    let oci = node.dir.join("oci.tar");
    write_busybox(&oci, IMAGE);
    let name = "docker.io/library/busybox:test";
    assert_eq!(node.runtime.import(&oci).await.unwrap(), [name]);
    assert_eq!(
        node.runtime.import(&oci).await.unwrap(),
        [name],
        "again: nothing changes"
    );
    let image = node.runtime.image(IMAGE).await.unwrap().unwrap();
    assert_eq!(
        (image.config.working_dir.as_str(), image.reference()),
        ("/tmp", image.id.as_str())
    );
    assert_eq!(
        node.runtime.image(&image.id).await.unwrap().as_ref(),
        Some(&image)
    );
    assert_eq!(
        node.runtime.image(&image.digest).await.unwrap().as_ref(),
        Some(&image)
    );
    assert_eq!(
        node.runtime.images().await.unwrap(),
        std::slice::from_ref(&image)
    );
    assert!(node.runtime.image("other:1").await.unwrap().is_none());

    let packed = node.dir.join("oci.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(
        fs::File::create(&packed).unwrap(),
        flate2::Compression::fast(),
    );
    gzip.write_all(&fs::read(&oci).unwrap()).unwrap();
    gzip.finish().unwrap();
    assert_eq!(node.runtime.import(&packed).await.unwrap(), [name]);

    let docker = node.dir.join("docker.tar");
    skopeo(
        &oci,
        &format!("docker-archive:{}:example.org/a/b:2", docker.display()),
    );
    assert_eq!(
        node.runtime.import(&docker).await.unwrap(),
        ["example.org/a/b:2"]
    );
    let second = node
        .runtime
        .image("example.org/a/b:2")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        second.top_snapshot, image.top_snapshot,
        "the same layer is not unpacked twice"
    );

    node.runtime.image_remove(IMAGE).await.unwrap();
    node.runtime
        .image_remove(IMAGE)
        .await
        .expect("again: nothing to do");
    assert!(node.runtime.image(IMAGE).await.unwrap().is_none());
    let text = node.dir.join("text.tar");
    fs::write(&text, "no archive").unwrap();
    assert!(node.runtime.import(&text).await.is_err());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_loopback_is_pulled_from() {
    let node = Node::start().await;
    let registry = Registry::start(&node.dir, "");
    let oci = node.dir.join("oci.tar");
    write_busybox(&oci, IMAGE);
    let name = format!("127.0.0.1:{}/team/app:1", registry.port);
    skopeo(&oci, &format!("docker://{name}"));
    let (first, second) =
        tokio::join!(node.runtime.pull(&name, &[]), node.runtime.pull(&name, &[]));
    let image = first.unwrap().image;
    assert_eq!(
        second.unwrap().image.digest,
        image.digest,
        "two pulls at once are one image"
    );
    let by_digest = format!("127.0.0.1:{}/team/app@{}", registry.port, image.digest);
    assert_eq!(image.reference(), by_digest);
    assert_eq!(
        node.runtime.pull(&by_digest, &[]).await.unwrap().image.id,
        image.id
    );

    let index = push_indexes(&registry, "team/app", &image.digest);
    let many = node.runtime.pull(&index, &[]).await.unwrap().image;
    assert_eq!(
        many.id, image.id,
        "the manifest for this machine was chosen"
    );

    let port = registry.port;
    for (name, kind) in [
        (format!("127.0.0.1:{port}/team/app:2"), PullKind::NotFound),
        (format!("127.0.0.1:{port}/absent:1"), PullKind::NotFound),
        (
            format!("127.0.0.1:{port}/team/app:foreign"),
            PullKind::NoPlatform,
        ),
        (
            format!("127.0.0.1:{}/team/app:1", unused_port()),
            PullKind::Unreachable,
        ),
        ("UPPER".into(), PullKind::InvalidName),
    ] {
        assert_eq!(kind_of(node.runtime.pull(&name, &[]).await), kind, "{name}");
    }
    drop(registry);
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_open_a_private_registry() {
    let node = Node::start().await;
    // bcrypt of "secret".
    let account = "user:$2b$04$V6EjV4RFbycTuIBpt4PvzOl15vhPhIBvUJOrRPef5I8L3hFS3CgXy";
    let registry = Registry::with_account(&node.dir, account);
    let oci = node.dir.join("oci.tar");
    write_busybox(&oci, IMAGE);
    let name = format!("127.0.0.1:{}/app:1", registry.port);
    skopeo_as("user:secret", &oci, &format!("docker://{name}"));
    let auth = |password: &str| Auth {
        registry: format!("127.0.0.1:{}", registry.port),
        username: "user".into(),
        password: password.into(),
    };
    assert_eq!(
        kind_of(node.runtime.pull(&name, &[]).await),
        PullKind::Unauthorized
    );
    assert_eq!(
        kind_of(node.runtime.pull(&name, &[auth("wrong")]).await),
        PullKind::Unauthorized
    );
    let pulled = node
        .runtime
        .pull(&name, &[auth("wrong"), auth("secret")])
        .await
        .unwrap();
    assert_eq!(pulled.by, Some(auth("secret")));
    assert_eq!(pulled.image.config.working_dir, "/tmp");
    drop(registry);
    node.finish().await;
}

fn kind_of<T: std::fmt::Debug>(result: Result<T, Error>) -> PullKind {
    match result.unwrap_err() {
        Error::Pull { kind, .. } => kind,
        other => unreachable!("{other}"),
    }
}

/// docker-registry with its files in the test's directory.
struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(dir: &Path, auth: &str) -> Registry {
        let port = unused_port();
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n{auth}",
            dir.join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Registry { child, port }
    }

    fn with_account(dir: &Path, account: &str) -> Registry {
        let file = dir.join("htpasswd");
        fs::write(&file, account).unwrap();
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        );
        Registry::start(dir, &auth)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts image indexes, which skopeo cannot make: `many` (this platform and another) and `foreign`
/// (only another). Returns the first one's name.
fn push_indexes(registry: &Registry, repository: &str, manifest: &str) -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let path = format!("/v2/{repository}/manifests/{manifest}");
    let size = request(registry.port, "GET", &path, "").1.len();
    let entry = |architecture: &str| {
        format!(
            "{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"{manifest}\",\
             \"size\":{size},\"platform\":{{\"os\":\"linux\",\"architecture\":\"{architecture}\"}}}}"
        )
    };
    let both = [entry("s390x"), entry(arch)].join(",");
    for (tag, entries) in [("many", both), ("foreign", entry("s390x"))] {
        let body = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\
             \"manifests\":[{entries}]}}"
        );
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, answer) = request(registry.port, "PUT", &path, &body);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
    }
    format!("127.0.0.1:{}/{repository}:many", registry.port)
}

fn request(port: u16, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
    use std::io::Read;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let kind = if method == "PUT" { "index" } else { "manifest" };
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\n\
         Accept: application/vnd.oci.image.manifest.v1+json\r\n\
         Content-Type: application/vnd.oci.image.{kind}.v1+json\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

fn skopeo(archive: &Path, to: &str) {
    skopeo_as("", archive, to);
}

fn skopeo_as(credentials: &str, archive: &Path, to: &str) {
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet"]);
    if to.starts_with("docker://") {
        copy.arg("--dest-tls-verify=false");
    }
    if !credentials.is_empty() {
        copy.arg(format!("--dest-creds={credentials}"));
    }
    let copy = copy
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(to);
    assert!(copy.status().expect("skopeo is installed").success());
}

fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
