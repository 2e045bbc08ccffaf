//! A steady stream of HTTP requests, each on a connection of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::space::Space;

/// What a stream saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Requests that were answered, by the pod that answered.
    pub pods: BTreeMap<String, usize>,
    /// What went wrong with the others.
    pub failures: Vec<String>,
}

/// GET in the network that the calling thread is in: the body, or why not.
pub fn get(to: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut tcp = TcpStream::connect_timeout(&to, Duration::from_secs(5)).context("connect")?;
    tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        tcp,
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
    )
    .context("send")?;
    let mut text = String::new();
    tcp.read_to_string(&mut text).context("read")?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .with_context(|| format!("half an answer: {text:?}"))?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.trim().to_owned())
}

/// Asks without a pause from several threads while `code` runs.
pub fn during(space: &Space, threads: usize, to: SocketAddr, code: impl FnOnce()) -> Seen {
    let over = AtomicBool::new(false);
    let ask = || {
        let mut seen = Seen::default();
        while !over.load(Ordering::Relaxed) {
            match get(to, "/") {
                Ok(body) => *seen.pods.entry(field(&body, "pod")).or_default() += 1,
                Err(error) => seen.failures.push(format!("{error:#}")),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        seen
    };
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| space.enter(ask)))
            .collect();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(code));
        over.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for asker in askers {
            let seen = asker.join().expect("an asker");
            seen.pods
                .into_iter()
                .for_each(|(pod, n)| *all.pods.entry(pod).or_default() += n);
            all.failures.extend(seen.failures);
        }
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        all
    })
}

/// A field of the echo server's line: `pod=a node=b ip=c client=d`.
pub fn field(line: &str, name: &str) -> String {
    let mut pairs = line
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
        .unwrap_or_default()
}
