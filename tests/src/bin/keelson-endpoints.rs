//! Endpoints of services for tests: thousands of connections, in a process of its own as each end of one is an open file.
//!
//! Each line of standard input is a command about an endpoint, and its answer a line of standard output:
//!
//! ```text
//! open 10.160.0.1:8080     answers there from now on
//! drain 10.160.0.1:8080    asks its clients to leave
//! close 10.160.0.1:8080    refuses who connects; connections that are there stay
//! count 10.160.0.1:8080    open connections, and those that there ever were
//! ```

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Context;
use keelson_tests::endpoints::{ANSWER, QUESTION};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, stdin};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Default)]
struct Endpoint {
    going: AtomicBool,
    open: AtomicUsize,
    accepted: AtomicUsize,
}

#[derive(Default)]
struct Endpoints {
    all: HashMap<SocketAddrV4, Arc<Endpoint>>,
    listening: HashMap<SocketAddrV4, JoinHandle<()>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    keelson_tests::endpoints::raise_file_limit()?;
    let (mut endpoints, mut lines) = (Endpoints::default(), BufReader::new(stdin()).lines());
    while let Some(line) = lines.next_line().await? {
        let (command, address) = line.split_once(' ').context("a command and an address")?;
        println!("{}", endpoints.tell(command, address.parse()?).await?);
    }
    Ok(())
}

impl Endpoints {
    async fn tell(&mut self, command: &str, at: SocketAddrV4) -> anyhow::Result<String> {
        let endpoint = self.all.entry(at).or_default().clone();
        match command {
            "open" => {
                let listener = TcpListener::bind(at).await?;
                let task = tokio::spawn(accept(listener, at, endpoint));
                self.listening.insert(at, task);
            }
            "drain" => endpoint.going.store(true, Ordering::Relaxed),
            "close" => {
                let task = self.listening.remove(&at).context("it is open")?;
                task.abort();
                let _ = task.await;
            }
            "count" => {
                let count = [&endpoint.open, &endpoint.accepted].map(|c| c.load(Ordering::Relaxed));
                return Ok(format!("{} {}", count[0], count[1]));
            }
            other => anyhow::bail!("{other} is no command"),
        }
        Ok("done".into())
    }
}

async fn accept(listener: TcpListener, at: SocketAddrV4, endpoint: Arc<Endpoint>) {
    loop {
        if let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(answer(tcp, at, endpoint.clone()));
        }
    }
}

/// Answers until the client hangs up.
async fn answer(mut tcp: TcpStream, at: SocketAddrV4, endpoint: Arc<Endpoint>) {
    endpoint.accepted.fetch_add(1, Ordering::Relaxed);
    endpoint.open.fetch_add(1, Ordering::Relaxed);
    let mut question = [0; QUESTION];
    while tcp.read_exact(&mut question).await.is_ok() {
        let going = u32::from(endpoint.going.load(Ordering::Relaxed));
        let parts = [at.ip().octets(), going.to_be_bytes(), question];
        let answer: [u8; ANSWER] = parts.concat().try_into().expect("three times four bytes");
        if tcp.write_all(&answer).await.is_err() {
            break;
        }
    }
    endpoint.open.fetch_sub(1, Ordering::Relaxed);
}
