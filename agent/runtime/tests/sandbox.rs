//! Pinned namespaces.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use keelson_runtime::{Namespace, SandboxOptions};
use support::{Node, mounts, uid};

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_pinned_found_again_and_removed() {
    let node = Node::start().await;
    let pod = uid();
    let options = SandboxOptions {
        hostname: "web".into(),
        sysctls: BTreeMap::from([("net.ipv4.ip_forward".into(), "1".into())]),
        ..SandboxOptions::default()
    };
    let sandbox = node.runtime.sandbox_create(&pod, &options).await.unwrap();
    let netns = sandbox.netns.clone().unwrap();
    let inode = std::fs::metadata(&netns).unwrap().ino();
    assert_ne!(inode, std::fs::metadata("/proc/self/ns/net").unwrap().ino());
    assert_eq!(mounts(&node.dir).len(), 4, "net, ipc, uts, shm");

    let again = node.runtime.sandbox_create(&pod, &options).await.unwrap();
    assert_eq!(again, sandbox);
    assert_eq!(std::fs::metadata(&netns).unwrap().ino(), inode);
    assert_eq!(
        inside(&netns, || std::fs::read_to_string(
            "/proc/sys/net/ipv4/ip_forward"
        )),
        "1\n"
    );
    let lo = inside(&netns, || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(socket.local_addr()?)?;
        socket.send(b"up").map(|sent| sent.to_string())
    });
    assert_eq!(lo, "2", "loopback is up");

    // One pin is lost: the sandbox is made anew, as a whole.
    nix::mount::umount(&node.dir.join("run/ns").join(&pod).join("uts")).unwrap();
    node.runtime.sandbox_create(&pod, &options).await.unwrap();
    assert_eq!(mounts(&node.dir).len(), 4);

    assert_eq!(
        node.runtime.sandboxes().unwrap(),
        std::slice::from_ref(&pod)
    );
    node.runtime.sandbox_remove(&pod).await.unwrap();
    node.runtime
        .sandbox_remove(&pod)
        .await
        .expect("again: nothing to do");
    assert!(node.runtime.sandboxes().unwrap().is_empty());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_namespaces_are_left_out_and_bad_input_is_refused() {
    let node = Node::start().await;
    let pod = uid();
    let host = SandboxOptions {
        host_network: true,
        host_ipc: true,
        host_pid: true,
        ..SandboxOptions::default()
    };
    let sandbox = node.runtime.sandbox_create(&pod, &host).await.unwrap();
    assert_eq!(
        (sandbox.netns, &sandbox.namespaces.net),
        (None, &Namespace::Host)
    );
    assert_eq!(sandbox.namespaces.pid, Namespace::Host);
    assert!(mounts(&node.dir).is_empty());
    assert_eq!(node.runtime.sandboxes().unwrap(), [pod]);

    let options = SandboxOptions::default();
    for bad in ["", "..", "a/b", "../../etc"] {
        assert!(
            node.runtime.sandbox_create(bad, &options).await.is_err(),
            "{bad:?}"
        );
        assert!(node.runtime.sandbox_remove(bad).await.is_err(), "{bad:?}");
    }
    node.finish().await;
}

/// Runs on a thread of its own in the network namespace at `path`.
fn inside(path: &std::path::Path, work: impl FnOnce() -> std::io::Result<String> + Send) -> String {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = std::fs::File::open(path).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work().unwrap()
        });
        thread.join().unwrap()
    })
}
