//! A process that writes under load is killed at random moments, again and again on one file.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use keelson_store::embedded::{Embedded, Options};
use keelson_store::{Error, Event, Range, Store, WatchMessage};
use rand::Rng;

const CHILD: &str = "KEELSON_STORE_CRASH_CHILD";
const ROUNDS: usize = 50;
const WRITERS: usize = 8;

/// A write that the child was told is durable.
struct Ack {
    key: String,
    revision: u64,
    value: Option<String>,
}

#[test]
fn every_acknowledged_write_survives_a_kill() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if let Ok(path) = std::env::var(CHILD) {
        return runtime.block_on(write_until_killed(Path::new(&path)));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut state = BTreeMap::new();
    let (mut start, mut acknowledged) = (0, 0);
    for round in 0..ROUNDS {
        let acks = run_and_kill(&path);
        acknowledged += acks.len();
        start = runtime.block_on(check(&path, start, &acks, &mut state, round));
    }
    assert!(
        acknowledged > 10 * ROUNDS,
        "the child hardly wrote: {acknowledged}"
    );
    println!("{acknowledged} acknowledged writes");
}

fn open(path: &Path) -> Embedded {
    Embedded::open(
        path,
        Options {
            recent_events: 64,
            progress: Duration::from_millis(20),
            ..Options::default()
        },
    )
    .unwrap()
}

/// The child: prints a line for each write that was acknowledged.
async fn write_until_killed(path: &Path) {
    let store = Arc::new(open(path));
    let start = store.revision().await.unwrap();
    for writer in 0..WRITERS {
        tokio::spawn(write(store.clone(), writer, start));
    }
    // Compaction is interrupted as well.
    loop {
        store.compact(start).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn write(store: Arc<Embedded>, writer: usize, start: u64) {
    for number in 0.. {
        // Every fifth write goes to a key that all writers want.
        let key = if number % 5 == 0 {
            "/r/shared".into()
        } else {
            format!("/r/{writer}/{}", number % 13)
        };
        let expected = store.get(&key).await.unwrap().map(|kv| kv.mod_revision);
        let is_delete = number % 7 == 0 && expected.is_some();
        let value = (!is_delete)
            .then(|| format!("{start}-{writer}-{number}-{}", "x".repeat(number % 3000)));
        match store
            .swap(&key, expected, value.clone().map(Bytes::from))
            .await
        {
            Ok(revision) => {
                let line = format!("ack {key} {revision} {}\n", value.as_deref().unwrap_or("-"));
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
            Err(Error::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// Starts a child, kills it some time after its first write, and gives what it said.
fn run_and_kill(path: &Path) -> Vec<Ack> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "every_acknowledged_write_survives_a_kill",
            "--nocapture",
        ])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let acks = read_acks(child.stdout.take().unwrap());
    let mut got: Vec<Ack> = acks.recv().into_iter().collect();
    std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..200_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    got.extend(acks);
    got
}

fn read_acks(pipe: impl std::io::Read + Send + 'static) -> Receiver<Ack> {
    let (sender, acks) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8(line).unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            // Lines are shorter than PIPE_BUF: each is here whole or not at all.
            if let ["ack", key, revision, value] = words[..] {
                let value = (value != "-").then(|| value.to_owned());
                let ack = Ack {
                    key: key.into(),
                    revision: revision.parse().unwrap(),
                    value,
                };
                sender.send(ack).unwrap();
            }
        }
    });
    acks
}

/// Everything that was acknowledged is in the history once; the history leads to the state. Gives its end.
async fn check(
    path: &Path,
    start: u64,
    acks: &[Ack],
    state: &mut BTreeMap<String, Bytes>,
    round: usize,
) -> u64 {
    let store = open(path);
    let now = store.revision().await.unwrap();
    assert!(
        now >= start,
        "round {round}: the revision went back from {start} to {now}"
    );
    let events = replay(&store, start, now).await;
    let revisions: Vec<u64> = events.iter().map(|e| e.revision).collect();
    assert_eq!(
        revisions,
        (start + 1..=now).collect::<Vec<_>>(),
        "round {round}: a gap or a duplicate"
    );
    let by_revision: HashMap<u64, &Event> = events.iter().map(|e| (e.revision, e)).collect();
    for ack in acks {
        let event = by_revision
            .get(&ack.revision)
            .unwrap_or_else(|| panic!("round {round}: {} is lost", ack.revision));
        let value = event.current.as_ref().map(|kv| kv.value.as_ref());
        assert_eq!(
            event.key, ack.key,
            "round {round}: revision {}",
            ack.revision
        );
        assert_eq!(
            value,
            ack.value.as_deref().map(str::as_bytes),
            "round {round}: revision {}",
            ack.revision
        );
    }
    for event in events {
        match event.current {
            Some(kv) => state.insert(event.key, kv.value),
            None => state.remove(&event.key),
        };
    }
    let page = store.list(Range::default()).await.unwrap();
    let listed: BTreeMap<String, Bytes> = page
        .items
        .into_iter()
        .map(|kv| (kv.key, kv.value))
        .collect();
    assert_eq!(&listed, state, "round {round}: history and state differ");
    now
}

async fn replay(store: &Embedded, start: u64, now: u64) -> Vec<Event> {
    let mut watch = store.watch("", start).await.unwrap();
    let (mut events, mut seen) = (Vec::new(), start);
    while seen < now {
        match watch.next().await.unwrap().unwrap() {
            WatchMessage::Events(more) => {
                seen = more.last().unwrap().revision;
                events.extend(more);
            }
            WatchMessage::Progress(at) => seen = at,
        }
    }
    events
}
