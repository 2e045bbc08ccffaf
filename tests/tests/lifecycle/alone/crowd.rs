//! Many clients that stay connected and say something again and again, and a stream of new ones beside them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use keelson_tests::endpoints::{ANSWER, raise_file_limit};
use keelson_tests::space::Space;
use keelson_tests::wait::secs;
use keelson_tests::{Worker, eventually};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::SOURCES;

/// Between two exchanges of one thread.
const PAUSE: Duration = Duration::from_millis(1);
/// Between two new connections of one thread: 200 a second in all.
const EVERY: Duration = Duration::from_millis(20);
/// What takes longer is a failure.
const PATIENCE: i64 = 10;

/// What went wrong.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// No connection came about.
    pub(crate) refused: bool,
    pub(crate) what: String,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    failures: Mutex<Vec<Failure>>,
    sweeps: [AtomicUsize; SOURCES.len()],
    held: AtomicUsize,
    streamed: AtomicUsize,
    moved: AtomicUsize,
}

/// The clients, on threads of their own: each address has one that holds connections and one that makes new ones.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    size: usize,
    _threads: Vec<Worker>,
}

impl Crowd {
    /// So many connections in all, by turns to each address. Returns when all are open and were answered twice.
    pub(crate) fn new(space: &Space, targets: &[SocketAddrV4], size: usize) -> Self {
        let files = raise_file_limit().expect("a limit");
        assert!(files > size as u64 + 1000, "{files} open files are too few");
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        let each = size / SOURCES.len();
        let mut begin = |job: Box<dyn FnOnce() + Send>| {
            let thread = Worker::new(space, None).expect("a thread");
            thread.begin(job);
            threads.push(thread);
        };
        for place in 0..SOURCES.len() {
            let (all, to) = (shared.clone(), targets.to_vec());
            begin(Box::new(move || hold(&all, place, &to, each)));
            let (all, to) = (shared.clone(), targets.to_vec());
            begin(Box::new(move || stream(&all, place, &to)));
        }
        let crowd = Self {
            shared,
            size: each * SOURCES.len(),
            _threads: threads,
        };
        crowd.sweep();
        crowd
    }

    /// Waits until every connection was used twice since now: once in full.
    pub(crate) fn sweep(&self) {
        let count = || {
            self.shared
                .sweeps
                .each_ref()
                .map(|s| s.load(Ordering::Relaxed))
        };
        let before = count();
        eventually("every connection is used", secs(120), || {
            let (now, failures) = (count(), self.failures());
            let all = before.iter().zip(now).all(|(b, n)| n >= b + 2);
            let (first, many) = (failures.first(), failures.len());
            anyhow::ensure!(all, "{before:?}, now {now:?}; {many} failures: {first:?}");
            Ok(())
        });
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<Failure>> {
        self.shared.failures.lock().expect("unpoisoned")
    }

    /// What went wrong since this was last asked.
    pub(crate) fn take_failures(&self) -> Vec<Failure> {
        std::mem::take(&mut self.failures())
    }

    /// Connections that are held.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.shared.held.load(Ordering::Relaxed), self.size)
    }

    /// New connections so far that were answered.
    pub(crate) fn streamed(&self) -> usize {
        self.shared.streamed.load(Ordering::Relaxed)
    }

    /// Connections so far that an endpoint asked to leave.
    pub(crate) fn moved(&self) -> usize {
        self.shared.moved.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn failed(&self, refused: bool, to: SocketAddrV4, error: &anyhow::Error) {
        let what = format!("{to}: {error:#}");
        let mut failures = self.failures.lock().expect("unpoisoned");
        failures.push(Failure { refused, what });
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A connection, and who answers it.
struct Held {
    tcp: TcpStream,
    to: SocketAddrV4,
    by: Option<Ipv4Addr>,
}

impl Held {
    fn new(from: Ipv4Addr, to: SocketAddrV4) -> anyhow::Result<Self> {
        let tcp = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        setsockopt(&tcp, sockopt::SendTimeout, &TimeVal::new(PATIENCE, 0))?;
        setsockopt(&tcp, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        setsockopt(&tcp, sockopt::TcpNoDelay, &true)?;
        let from = SockaddrIn::from(SocketAddrV4::new(from, 0));
        bind(tcp.as_raw_fd(), &from).context("bind")?;
        connect(tcp.as_raw_fd(), &SockaddrIn::from(to)).context("connect")?;
        Ok(Self {
            tcp: tcp.into(),
            to,
            by: None,
        })
    }

    /// A question and its answer, by whom the first was answered; whether the endpoint asks to leave.
    fn exchange(&mut self, number: u32) -> anyhow::Result<bool> {
        let question = number.to_be_bytes();
        self.tcp.write_all(&question).context("ask")?;
        let mut answer = [0; ANSWER];
        self.tcp.read_exact(&mut answer).context("hear")?;
        let [a, b, c, d, going @ .., e, f, g, h] = answer;
        let (by, said) = (Ipv4Addr::from([a, b, c, d]), [e, f, g, h]);
        anyhow::ensure!(said == question, "asked {question:?}, answered {said:?}");
        let first = *self.by.get_or_insert(by);
        anyhow::ensure!(first == by, "answered by {by} instead of {first}");
        Ok(going != [0; 4])
    }
}

fn hold(shared: &Shared, place: usize, targets: &[SocketAddrV4], size: usize) {
    let open = |to: SocketAddrV4| {
        let held = Held::new(SOURCES[place], to);
        match held {
            Ok(held) => {
                shared.held.fetch_add(1, Ordering::Relaxed);
                Some(held)
            }
            Err(error) => {
                shared.failed(true, to, &error);
                None
            }
        }
    };
    let mut all: Vec<Held> = (0..size)
        .filter_map(|n| open(targets[n % targets.len()]))
        .collect();
    let mut number = 0;
    while !shared.is_over() {
        for place in (0..all.len()).rev() {
            number += 1;
            let held = &mut all[place];
            let lost = match held.exchange(number) {
                Ok(going) => {
                    shared
                        .moved
                        .fetch_add(usize::from(going), Ordering::Relaxed);
                    going
                }
                Err(error) => {
                    shared.failed(false, held.to, &error);
                    true
                }
            };
            if lost {
                let to = all.swap_remove(place).to;
                shared.held.fetch_sub(1, Ordering::Relaxed);
                all.extend(open(to));
            }
            std::thread::sleep(PAUSE);
        }
        shared.sweeps[place].fetch_add(1, Ordering::Relaxed);
    }
}

fn stream(shared: &Shared, place: usize, targets: &[SocketAddrV4]) {
    let (mut number, mut next) = (0, Instant::now());
    while !shared.is_over() {
        let to = targets[number as usize % targets.len()];
        number += 1;
        match Held::new(SOURCES[place], to) {
            Err(error) => shared.failed(true, to, &error),
            Ok(mut held) => match held.exchange(number) {
                Err(error) => shared.failed(false, to, &error),
                Ok(_) => _ = shared.streamed.fetch_add(1, Ordering::Relaxed),
            },
        }
        next = (next + EVERY).max(Instant::now());
        std::thread::sleep(next - Instant::now());
    }
}
