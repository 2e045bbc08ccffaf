//! The embedded store under concurrency, compaction, a full disk and with files that are not its own.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use keelson_store::embedded::{Embedded, Options};
use keelson_store::{Error, Range, Store, Swap, Watch, WatchMessage};
use tempfile::TempDir;

fn fresh(options: Options) -> (TempDir, PathBuf, Arc<Embedded>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Embedded::open(&path, options).unwrap();
    (dir, path, Arc::new(store))
}

async fn put(store: &Embedded, key: &str, value: &'static str) -> Result<u64, Error> {
    let expected = store.get(key).await?.map(|kv| kv.mod_revision);
    store
        .swap(key, expected, Some(Bytes::from_static(value.as_bytes())))
        .await
}

/// Revisions of the events until one of `last`.
async fn revisions(watch: &mut Watch, last: u64) -> Vec<u64> {
    let mut got: Vec<u64> = Vec::new();
    while got.last() != Some(&last) {
        if let WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
            got.extend(events.iter().map(|e| e.revision));
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_exactly_one_wins_each_revision() {
    let (_dir, _, store) = fresh(Options::default());
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut won = Vec::new();
                while won.len() < 20 {
                    let now = store.get("/k").await.unwrap();
                    let count = now
                        .as_ref()
                        .map_or(0, |kv| u64::from_le_bytes(kv.value[..].try_into().unwrap()));
                    let value = Bytes::copy_from_slice(&(count + 1).to_le_bytes());
                    match store
                        .swap("/k", now.map(|kv| kv.mod_revision), Some(value))
                        .await
                    {
                        Ok(revision) => won.push(revision),
                        Err(Error::Conflict { current, .. }) => assert!(current.is_some()),
                        Err(other) => panic!("{other}"),
                    }
                }
                won
            })
        })
        .collect();
    let mut won = Vec::new();
    for writer in writers {
        won.extend(writer.await.unwrap());
    }
    won.sort_unstable();
    assert_eq!(won, (1..=320).collect::<Vec<u64>>());
    let count = store.get("/k").await.unwrap().unwrap().value;
    assert_eq!(count[..], 320_u64.to_le_bytes());
}

/// Watches start at every moment and from every revision while writes go on; small memory, so that many of them
/// cross from the log to what is live.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_has_no_gap_and_no_duplicate_at_the_seam() {
    const WRITES: u64 = 1200;
    let (_dir, _, store) = fresh(Options {
        recent_events: 16,
        ..Options::default()
    });
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..WRITES / 6 {
                    put(&store, &format!("/r/{writer}"), "v").await.unwrap();
                }
            })
        })
        .collect();
    let mut watchers = Vec::new();
    loop {
        let now = store.revision().await.unwrap();
        // From the last revision on there is nothing to wait for.
        if now >= WRITES {
            break;
        }
        for from in [0, now / 2, now] {
            let store = store.clone();
            watchers.push(tokio::spawn(async move {
                let got = revisions(&mut store.watch("/r/", from).await.unwrap(), WRITES).await;
                assert_eq!(got, (from + 1..=WRITES).collect::<Vec<_>>());
            }));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for task in writers.into_iter().chain(watchers) {
        task.await.unwrap();
    }
}

/// A reader may see a commit before its writer has told the watchers of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revision_that_was_read_can_be_watched_from() {
    let (_dir, _, store) = fresh(Options::default());
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..500 {
                let (one, other) = (store.clone(), store.clone());
                let _ = tokio::join!(put(&one, "/a", "x"), put(&other, "/b", "x"));
            }
        })
    };
    while !writer.is_finished() {
        let read = store.list(Range::default()).await.unwrap().revision;
        assert!(store.revision().await.unwrap() >= read);
        if let Some(kv) = store.get("/a").await.unwrap() {
            let mut watch = store.watch("/", kv.mod_revision).await.unwrap();
            if let Some(next) = watch.next().now_or_never() {
                let events = match next.unwrap().unwrap() {
                    WatchMessage::Events(events) => events,
                    WatchMessage::Progress(_) => continue,
                };
                assert!(events.iter().all(|e| e.revision > kv.mod_revision));
            }
        }
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn several_swaps_are_one_revision_or_nothing() {
    let (_dir, _, store) = fresh(Options::default());
    let swap = |key: &str, expected, value: Option<&'static str>| Swap {
        key: key.into(),
        expected,
        value: value.map(|v| Bytes::from_static(v.as_bytes())),
    };
    assert_eq!(
        store
            .swap_all(vec![
                swap("/a", None, Some("1")),
                swap("/b", None, Some("1"))
            ])
            .await,
        Ok(1)
    );
    let conflict = store
        .swap_all(vec![swap("/a", Some(1), None), swap("/b", None, Some("2"))])
        .await;
    assert!(matches!(conflict, Err(Error::Conflict { key, .. }) if key == "/b"));
    assert!(store.get("/a").await.unwrap().is_some());
    let twice = store
        .swap_all(vec![swap("/a", Some(1), None), swap("/a", Some(1), None)])
        .await;
    assert!(matches!(twice, Err(Error::Io(text)) if text.contains("/a is written twice")));
    // Nothing to do is no revision.
    assert_eq!(store.swap_all(vec![swap("/none", None, None)]).await, Ok(1));
    assert_eq!(store.swap_all(vec![]).await, Ok(1));
    let mut watch = store.watch("/", 0).await.unwrap();
    assert_eq!(revisions(&mut watch, 1).await, [1, 1]);
}

#[tokio::test]
async fn a_slow_watcher_does_not_hold_up_the_writer() {
    let (_dir, _, store) = fresh(Options {
        watch_buffer: 4,
        ..Options::default()
    });
    let mut watch = store.watch("/", 0).await.unwrap();
    for _ in 0..10 {
        put(&store, "/k", "v").await.unwrap();
    }
    let mut got = Vec::new();
    while let Some(message) = watch.next().await {
        got.push(message.map(|message| match message {
            WatchMessage::Events(events) => events.len(),
            WatchMessage::Progress(_) => 0,
        }));
    }
    assert_eq!(got, [Ok(1), Ok(1), Ok(1), Ok(1), Err(Error::Slow)]);
}

#[tokio::test]
async fn idle_watchers_hear_how_far_they_have_seen() {
    let (_dir, _, store) = fresh(Options {
        progress: Duration::from_millis(5),
        ..Options::default()
    });
    let mut watch = store.watch("/quiet/", 0).await.unwrap();
    let revision = put(&store, "/loud/k", "v").await.unwrap();
    assert_eq!(
        watch.next().await,
        Some(Ok(WatchMessage::Progress(revision)))
    );
}

#[tokio::test]
async fn history_is_forgotten_by_age_and_by_number_but_revisions_go_on() {
    for options in [
        Options {
            keep: Duration::from_millis(30),
            ..Options::default()
        },
        Options {
            keep: Duration::from_secs(1),
            keep_revisions: 3,
            ..Options::default()
        },
    ] {
        let (_dir, path, store) = fresh(options.clone());
        for _ in 0..10 {
            put(&store, "/k", "v").await.unwrap();
        }
        let deleted = store.swap("/k", Some(10), None).await.unwrap();
        assert_eq!(deleted, 11);
        let oldest = loop {
            match store.watch("/", 0).await.err() {
                Some(Error::Compacted { oldest, .. }) => break oldest,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert!((1..=deleted).contains(&oldest), "{oldest}");
        assert!(store.watch("/", deleted).await.is_ok());
        let asked = Range {
            revision: Some(0),
            ..Range::default()
        };
        assert!(matches!(
            store.list(asked).await,
            Err(Error::Compacted { asked: 0, .. })
        ));
        store.compact(deleted).await.unwrap();
        drop(store);
        // Nothing is left in the file but the revision.
        let store = Embedded::open(&path, options).unwrap();
        assert_eq!(store.revision().await, Ok(deleted));
        assert_eq!(put(&store, "/k", "v").await, Ok(deleted + 1));
    }
}

#[tokio::test]
async fn compacting_the_future_is_refused() {
    let (_dir, _, store) = fresh(Options::default());
    assert_eq!(
        store.compact(1).await,
        Err(Error::Future { asked: 1, now: 0 })
    );
    assert_eq!(
        store.watch("/", 1).await.err(),
        Some(Error::Future { asked: 1, now: 0 })
    );
}

#[tokio::test]
async fn the_file_is_private_and_belongs_to_one() {
    let (_dir, path, store) = fresh(Options::default());
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let refused = Embedded::open(&path, Options::default())
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("another process has it open"), "{refused}");
    // A watch that is still held ends, and holds nothing back.
    let mut watch = store.watch("/", 0).await.unwrap();
    drop(store);
    assert_eq!(watch.next().await, None);
    Embedded::open(&path, Options::default()).unwrap();
}

#[test]
fn a_file_that_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        Embedded::open(path, Options::default())
            .err()
            .unwrap()
            .to_string()
    };

    let text = dir.path().join("text");
    std::fs::write(&text, "not a database\n".repeat(1000)).unwrap();
    assert!(refused(&text).contains(text.to_str().unwrap()));

    let other = dir.path().join("other");
    let database = redb::Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(redb::TableDefinition::<u64, u64>::new("theirs"))
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(refused(&other).contains("not a keelson store"));

    let cut = dir.path().join("cut");
    drop(Embedded::open(&cut, Options::default()).unwrap());
    std::fs::OpenOptions::new()
        .write(true)
        .open(&cut)
        .unwrap()
        .set_len(1000)
        .unwrap();
    assert!(refused(&cut).contains(cut.to_str().unwrap()));

    assert!(refused(&dir.path().join("no/such/folder")).contains("No such file"));
}

/// A file system of its own, so that it can be filled.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(mount.unwrap().success());
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmount.unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_writes_until_there_is_room_again() {
    let disk = SmallDisk::mount();
    let path = disk.0.path().join("store");
    let store = Embedded::open(&path, Options::default()).unwrap();
    let mut watch = store.watch("/", 0).await.unwrap();
    put(&store, "/first", "v").await.unwrap();
    // What is left of the disk goes to another file.
    let ballast = disk.0.path().join("ballast");
    let mut left = 8 << 20;
    while left > 0 {
        let more = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&ballast)
            .unwrap();
        if std::io::Write::write_all(&mut &more, &vec![1; left]).is_err() {
            left /= 2;
        }
    }
    let big = Bytes::from(vec![b'x'; 64 << 10]);
    let mut written = 1;
    let failed = loop {
        match store
            .swap(&format!("/{written}"), None, Some(big.clone()))
            .await
        {
            Ok(revision) => written = revision,
            Err(error) => break error,
        }
        assert!(written < 1000);
    };
    assert!(matches!(failed, Error::Io(_)), "{failed}");
    // Reading still works, and so does writing as soon as there is room.
    assert!(store.get("/first").await.unwrap().is_some());
    std::fs::remove_file(&ballast).unwrap();
    let revision = store.swap("/last", None, Some(big)).await.unwrap();
    assert!(revision > written);
    assert_eq!(
        revisions(&mut watch, revision).await,
        (1..=revision).collect::<Vec<_>>()
    );
    drop(store);
    let store = Embedded::open(&path, Options::default()).unwrap();
    assert_eq!(store.revision().await, Ok(revision));
}
