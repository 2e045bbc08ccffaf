//! The embedded store against a model that keeps every state in memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use keelson_store::embedded::{Embedded, Options};
use keelson_store::{Error, Event, KeyValue, Range, Store, Swap, WatchMessage};
use proptest::prelude::*;

/// Two folders, one the beginning of the other's name.
const KEYS: [&str; 7] = [
    "/r/pod/a",
    "/r/pod/b",
    "/r/pod/ba",
    "/r/pods/a",
    "/r/pods/b/c",
    "/r/pods/é",
    "/r/x",
];
const PREFIXES: [&str; 6] = ["", "/r/", "/r/pod/", "/r/pods/", "/r/pod/b", "/none/"];

#[derive(Clone, Debug)]
enum Op {
    /// (key, value or delete, with the right revision)
    Swaps(Vec<(usize, Option<u8>, bool)>),
    Compact(u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let swap = (
        0..KEYS.len(),
        proptest::option::weighted(0.7, any::<u8>()),
        proptest::bool::weighted(0.9),
    );
    prop_oneof![
        20 => proptest::collection::vec(swap, 1..4).prop_map(Op::Swaps),
        1 => any::<u8>().prop_map(Op::Compact),
        1 => Just(Op::Reopen),
    ]
}

type State = BTreeMap<String, KeyValue>;

/// `states[r]` and `events[r]`: how things were at revision r, and what happened in it.
struct Model {
    states: Vec<State>,
    events: Vec<Vec<Event>>,
    compacted: u64,
}

impl Model {
    fn now(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// The same as `Store::swap_all`, and whether it is done.
    fn swap(&mut self, swaps: &[Swap]) -> bool {
        let mut state = self.states.last().unwrap().clone();
        let revision = self.now() + 1;
        let mut events = Vec::new();
        for swap in swaps {
            let previous = state.get(&swap.key).cloned();
            if previous.as_ref().map(|kv| kv.mod_revision) != swap.expected {
                return false;
            }
            let current = swap.value.clone().map(|value| KeyValue {
                key: swap.key.clone(),
                value,
                create_revision: previous.as_ref().map_or(revision, |kv| kv.create_revision),
                mod_revision: revision,
            });
            match &current {
                Some(kv) => state.insert(swap.key.clone(), kv.clone()),
                None => state.remove(&swap.key),
            };
            if previous.is_some() || current.is_some() {
                events.push(Event {
                    revision,
                    key: swap.key.clone(),
                    current,
                    previous,
                });
            }
        }
        if !events.is_empty() {
            self.states.push(state);
            self.events.push(events);
        }
        true
    }
}

fn options(recent_events: usize) -> Options {
    Options {
        recent_events,
        progress: Duration::from_millis(5),
        ..Options::default()
    }
}

async fn run(ops: Vec<Op>, recent_events: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut store = Embedded::open(&path, options(recent_events)).unwrap();
    let mut model = Model {
        states: vec![State::new()],
        events: vec![vec![]],
        compacted: 0,
    };
    for op in ops {
        match op {
            Op::Swaps(swaps) => swap(&store, &mut model, swaps).await,
            Op::Compact(part) => {
                let before = model.now() * u64::from(part) / 255;
                store.compact(before).await.unwrap();
                model.compacted = model.compacted.max(before);
            }
            Op::Reopen => {
                drop(store);
                store = Embedded::open(&path, options(recent_events)).unwrap();
            }
        }
        assert_eq!(store.revision().await.unwrap(), model.now());
    }
    lists_agree(&store, &model).await;
    watches_agree(&store, &model).await;
}

async fn swap(store: &Embedded, model: &mut Model, wanted: Vec<(usize, Option<u8>, bool)>) {
    let mut swaps: Vec<Swap> = Vec::new();
    for (key, value, is_right) in wanted {
        let is = model
            .states
            .last()
            .unwrap()
            .get(KEYS[key])
            .map(|kv| kv.mod_revision);
        let expected = if is_right {
            is
        } else {
            is.map_or(Some(1), |_| None)
        };
        if swaps.iter().all(|s| s.key != KEYS[key]) {
            let value = value.map(|b| Bytes::from(vec![b; usize::from(b) * 40]));
            swaps.push(Swap {
                key: KEYS[key].into(),
                expected,
                value,
            });
        }
    }
    let before = model.states.last().unwrap().clone();
    let is_done = model.swap(&swaps);
    match store.swap_all(swaps).await {
        Ok(revision) => {
            assert!(is_done);
            assert_eq!(revision, model.now());
        }
        Err(Error::Conflict { key, current }) => {
            assert!(!is_done);
            assert_eq!(current.as_ref(), before.get(&key));
        }
        Err(other) => panic!("{other}"),
    }
}

async fn lists_agree(store: &Embedded, model: &Model) {
    for (revision, state) in model.states.iter().enumerate() {
        let revision = revision as u64;
        for (prefix, limit, uncounted) in PREFIXES
            .iter()
            .flat_map(|p| [(p, 0, false), (p, 2, false), (p, 2, true)])
        {
            let wanted: Vec<&KeyValue> = state
                .values()
                .filter(|kv| kv.key.starts_with(prefix))
                .collect();
            let range = Range {
                prefix: prefix.to_string(),
                revision: Some(revision),
                limit,
                uncounted,
                after: None,
            };
            if revision < model.compacted {
                let compacted = Error::Compacted {
                    asked: revision,
                    oldest: model.compacted,
                };
                assert_eq!(store.list(range).await.unwrap_err(), compacted);
                continue;
            }
            let mut items = Vec::new();
            let mut range = range;
            loop {
                let page = store.list(range.clone()).await.unwrap();
                assert_eq!(page.revision, revision);
                items.extend(page.items);
                let left = wanted.len() - items.len();
                assert_eq!(
                    page.remaining as usize,
                    if uncounted { left.min(1) } else { left },
                    "prefix {prefix} limit {limit}"
                );
                if page.remaining == 0 {
                    break;
                }
                range.after = items.last().map(|kv| kv.key.clone());
            }
            assert_eq!(
                items.iter().collect::<Vec<_>>(),
                wanted,
                "prefix {prefix} at {revision}"
            );
        }
    }
    for key in KEYS {
        assert_eq!(
            store.get(key).await.unwrap().as_ref(),
            model.states.last().unwrap().get(key)
        );
    }
    let future = Error::Future {
        asked: model.now() + 1,
        now: model.now(),
    };
    let range = Range {
        revision: Some(model.now() + 1),
        ..Range::default()
    };
    assert_eq!(store.list(range).await.unwrap_err(), future);
}

async fn watches_agree(store: &Embedded, model: &Model) {
    for from in 0..=model.now() {
        for prefix in PREFIXES {
            let watch = store.watch(prefix, from).await;
            if from < model.compacted {
                let compacted = Error::Compacted {
                    asked: from,
                    oldest: model.compacted,
                };
                assert_eq!(watch.err(), Some(compacted));
                continue;
            }
            let wanted: Vec<&Event> = model.events[from as usize + 1..]
                .iter()
                .flatten()
                .filter(|e| e.key.starts_with(prefix))
                .collect();
            let got = until(watch.unwrap(), from, model.now()).await;
            assert_eq!(
                got.iter().collect::<Vec<_>>(),
                wanted,
                "prefix {prefix} from {from}"
            );
        }
    }
}

/// What a watch says until it has reached a revision.
async fn until(mut watch: keelson_store::Watch, from: u64, revision: u64) -> Vec<Event> {
    let (mut got, mut seen) = (Vec::<Event>::new(), from);
    while seen < revision {
        match watch.next().await.unwrap().unwrap() {
            WatchMessage::Events(events) => {
                assert!(
                    events.iter().all(|e| e.revision > seen),
                    "a revision is split or repeated"
                );
                seen = events.last().unwrap().revision;
                got.extend(events);
            }
            WatchMessage::Progress(at) => {
                assert!(at > seen);
                seen = at;
            }
        }
    }
    got
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_its_model(ops in proptest::collection::vec(op(), 1..50), recent_events in 0..40usize) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(ops, recent_events));
    }
}
