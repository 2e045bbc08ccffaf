//! Work inside another network namespace: on a thread of its own that is thrown away, never on a worker
//! of the runtime.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::node::{Interface, own_interfaces};

/// Runs `work` in the namespace pinned at `path`; sockets it makes stay bound to it.
pub(crate) async fn inside<T, F>(path: &Path, work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    let namespace = File::open(path)?;
    let (send, receive) = tokio::sync::oneshot::channel();
    let enter = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || send.send(enter()))?;
    receive.await.map_err(io::Error::other)?
}

/// The interfaces of each namespace, all visited by one thread; none of one that is gone.
pub async fn interfaces(paths: Vec<PathBuf>) -> io::Result<Vec<Vec<Interface>>> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let visit = |path: &PathBuf| {
        let namespace = File::open(path)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok::<_, io::Error>(own_interfaces())
    };
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(move || {
            let all = paths.iter().map(|p| visit(p).unwrap_or_default());
            // Whoever asked may have gone.
            let _ = send.send(all.collect());
        })?;
    receive.await.map_err(io::Error::other)
}
