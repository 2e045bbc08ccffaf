//! `kill -9` under write load, again and again on the same data.
//!
//! Every writer keeps a diary of what it asked for and what it was told. One watch per kind goes on through all
//! the restarts from the last revision it saw. At the end the diaries must explain the watches' events exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams, WatchEvent, WatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, Client, Error};
use serde_json::{Value, json};

const ROUNDS: u64 = 50;
const WRITERS: u64 = 4;
const ALLOCATORS: u64 = 2;
/// Services that each allocator holds at most.
const HELD: usize = 4;
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30_000..=30_015;

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    /// Done; with the object, where the answer has it.
    Done(Option<Value>),
    /// Refused with a Status: it must not have happened.
    Refused(String),
    /// No answer: it may have happened.
    Nothing,
}

/// One request for an object; `step` is written into it, so that every event can be told apart.
#[derive(Clone, Debug)]
struct Asked {
    name: String,
    /// `None`: delete.
    step: Option<u64>,
    told: Told,
}

/// An event of a watch.
#[derive(Clone, Debug)]
struct Seen {
    revision: u64,
    name: String,
    /// `None`: deleted.
    step: Option<u64>,
}

/// All that was asked for and seen of one kind.
#[derive(Default)]
struct Record {
    asked: Mutex<Vec<Asked>>,
    seen: Mutex<Vec<Seen>>,
}

impl Record {
    /// How many requests were carried out.
    fn answers(&self) -> u64 {
        let asked = self.asked.lock().unwrap();
        let done = asked.iter().filter(|a| matches!(a.told, Told::Done(_)));
        done.count() as u64
    }
}

#[test]
fn killed_under_load_fifty_times() {
    let range = format!("{}-{}", NODE_PORTS.start(), NODE_PORTS.end());
    let bed = Bed::api(&[
        "--service-cidr",
        "10.43.0.0/27",
        "--service-node-port-range",
        &range,
    ]);
    let (maps, services) = (Record::default(), Record::default());
    let over = AtomicBool::new(false);
    let begin = bed.kube(async |client| list::<ConfigMap>(&client).await.unwrap().0);
    let watch = |kind: &'static str, record: &Record| {
        bed.kube(async |client| follow(client, kind, begin, record, &over).await);
    };
    std::thread::scope(|scope| {
        let watchers = [
            scope.spawn(|| watch("ConfigMap", &maps)),
            scope.spawn(|| watch("Service", &services)),
        ];
        let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..ROUNDS {
                one_round(&bed, round, &maps, &services);
            }
            last_words(&bed, &maps, &services);
        }));
        over.store(true, Ordering::Relaxed);
        watchers.into_iter().for_each(|w| w.join().unwrap());
        rounds.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    for record in [maps, services] {
        explain(
            &record.asked.into_inner().unwrap(),
            &record.seen.into_inner().unwrap(),
        );
    }
    nothing_leaked(&bed);
}

/// Load, `kill -9` in the midst of it, start again, compare.
fn one_round(bed: &Bed, round: u64, maps: &Record, services: &Record) {
    // By what was answered, not by the clock: a machine that is busy elsewhere answers late.
    let goals = [
        (maps, maps.answers() + 2 + round * 7 % 61),
        (services, services.answers() + 3),
    ];
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            bed.kube(async |client| {
                let writers =
                    (0..WRITERS).map(|w| write_maps(client.clone(), format!("w{w}-{round}"), maps));
                let allocators = (0..ALLOCATORS)
                    .map(|w| allocate(client.clone(), format!("s{w}-{round}"), services));
                futures::future::join(
                    futures::future::join_all(writers),
                    futures::future::join_all(allocators),
                )
                .await;
            });
        });
        // Another moment in each round: early ones hit the first writes, late ones the stream of them.
        for (record, goal) in goals {
            eventually("the load", secs(60), || {
                let answers = record.answers();
                anyhow::ensure!(answers >= goal, "{answers} answers of {goal}");
                Ok(())
            });
        }
        bed.server().kill();
        load.join().unwrap();
    });
    bed.server().start_again();
    bed.wait_ready();
    bed.kube(async |client| {
        compare::<ConfigMap>(&client, maps).await;
        let all = compare::<Service>(&client, services).await;
        let addresses: Vec<_> = all
            .iter()
            .filter_map(|s| s["spec"]["clusterIP"].as_str())
            .collect();
        let ports: Vec<_> = all
            .iter()
            .filter_map(|s| s["spec"]["ports"][0]["nodePort"].as_i64())
            .collect();
        assert_eq!(
            addresses.iter().collect::<BTreeSet<_>>().len(),
            addresses.len(),
            "a cluster IP twice: {addresses:?}"
        );
        assert_eq!(
            ports.iter().collect::<BTreeSet<_>>().len(),
            ports.len(),
            "a node port twice: {ports:?}"
        );
    });
}

async fn list<K>(client: &Client) -> kube::Result<(u64, Vec<Value>)>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let list = Api::<K>::default_namespaced(client.clone())
        .list(&ListParams::default())
        .await?;
    let revision = list.metadata.resource_version.unwrap().parse().unwrap();
    Ok((
        revision,
        list.items
            .iter()
            .map(|item| serde_json::to_value(item).unwrap())
            .collect(),
    ))
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn step(object: &Value) -> u64 {
    object["metadata"]["annotations"]["step"]
        .as_str()
        .unwrap_or("0")
        .parse()
        .unwrap()
}

/// What an answer means. Errors that say that the server is going count as no answer.
fn told(result: kube::Result<Value>) -> Told {
    match result {
        Ok(object) => {
            Told::Done((object["kind"] != "Status" && !object.is_null()).then_some(object))
        }
        Err(Error::Api(status)) if status.code < 500 => Told::Refused(status.message),
        Err(Error::Api(status))
            if status.message.contains("full") || status.message.contains("allocate") =>
        {
            Told::Refused(status.message)
        }
        Err(_) => Told::Nothing,
    }
}

/// Asks once and writes it into the diary; false when there was no answer.
async fn ask(
    record: &Record,
    name: &str,
    step: Option<u64>,
    request: impl Future<Output = kube::Result<Value>>,
) -> Told {
    let told = told(request.await);
    record.asked.lock().unwrap().push(Asked {
        name: name.into(),
        step,
        told: told.clone(),
    });
    told
}

fn object(name: &str, step: u64, rest: Value) -> Value {
    let mut object = json!({"metadata": {"name": name, "annotations": {"step": step.to_string()}}});
    object
        .as_object_mut()
        .unwrap()
        .extend(rest.as_object().unwrap().clone());
    object
}

/// Creates, updates twice and deletes every other object, until there is no answer.
async fn write_maps(client: Client, prefix: String, record: &Record) {
    let api = Api::<ConfigMap>::default_namespaced(client);
    let value = |map: ConfigMap| serde_json::to_value(map).unwrap();
    for n in 0.. {
        let name = format!("{prefix}-{n}");
        let map = |step| {
            serde_json::from_value(object(
                &name,
                step,
                json!({"data": {"filler": "x".repeat(200)}}),
            ))
            .unwrap()
        };
        let create = async { api.create(&PostParams::default(), &map(1)).await.map(value) };
        let mut done = ask(record, &name, Some(1), create).await;
        for step in 2..4 {
            if done == Told::Nothing {
                return;
            }
            let update = async {
                api.replace(&name, &PostParams::default(), &map(step))
                    .await
                    .map(value)
            };
            done = ask(record, &name, Some(step), update).await;
        }
        if n % 2 == 0 && done != Told::Nothing {
            let delete = async {
                api.delete(&name, &DeleteParams::default())
                    .await
                    .map(|_| Value::Null)
            };
            done = ask(record, &name, None, delete).await;
        }
        assert!(!matches!(done, Told::Refused(_)), "{name}: {done:?}");
        if done == Told::Nothing {
            return;
        }
    }
}

/// Creates NodePort services and deletes the oldest of its own, until there is no answer.
async fn allocate(client: Client, prefix: String, record: &Record) {
    let api = Api::<Service>::default_namespaced(client);
    let mut held: Vec<String> = Vec::new();
    for n in 0.. {
        let name = format!("{prefix}-{n}");
        let spec =
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}});
        let service = serde_json::from_value(object(&name, 1, spec)).unwrap();
        let create = async {
            api.create(&PostParams::default(), &service)
                .await
                .map(|s| serde_json::to_value(s).unwrap())
        };
        match ask(record, &name, Some(1), create).await {
            Told::Done(_) => held.push(name),
            Told::Refused(_) => {}
            Told::Nothing => return,
        }
        // What earlier rounds left is taken over, so that the ranges do not fill up.
        if n == 0 {
            let Ok(all) = api.list(&ListParams::default()).await else {
                return;
            };
            let names = all.items.into_iter().filter_map(|s| s.metadata.name);
            let writer = prefix.split('-').next().unwrap_or_default().to_owned();
            held = names
                .filter(|n| n.starts_with(&format!("{writer}-")))
                .collect();
        }
        while held.len() > HELD {
            let name = held.remove(0);
            let delete = async {
                api.delete(&name, &DeleteParams::default())
                    .await
                    .map(|_| Value::Null)
            };
            if ask(record, &name, None, delete).await == Told::Nothing {
                return;
            }
        }
    }
}

/// The list must be what the diaries say; where there was no answer, either way is right.
async fn compare<K>(client: &Client, record: &Record) -> Vec<Value>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let (now, all) = list::<K>(client).await.unwrap();
    let have: BTreeMap<String, &Value> = all
        .iter()
        .map(|o| (o["metadata"]["name"].as_str().unwrap().to_owned(), o))
        .collect();
    let mut allowed = BTreeMap::<String, Vec<Option<u64>>>::new();
    let mut last = 0;
    for asked in record.asked.lock().unwrap().iter() {
        let states = allowed
            .entry(asked.name.clone())
            .or_insert_with(|| vec![None]);
        match &asked.told {
            Told::Done(object) => {
                *states = vec![asked.step];
                last = object.as_ref().map_or(last, |o| last.max(revision(o)));
            }
            Told::Refused(_) => {}
            Told::Nothing => states.push(asked.step),
        }
    }
    assert!(
        now >= last,
        "the list is of revision {now}, a write before was told {last}"
    );
    for (name, states) in &allowed {
        let state = have.get(name).map(|o| step(o));
        assert!(
            states.contains(&state),
            "{name} is at step {state:?}, allowed are {states:?}"
        );
    }
    for name in have
        .keys()
        .filter(|n| *n != "kubernetes" && *n != "kube-root-ca.crt")
    {
        assert!(allowed.contains_key(name), "{name} was never asked for");
    }
    all
}

/// Watches from a revision on, again and again from the last one seen.
async fn follow(client: Client, kind: &str, mut from: u64, record: &Record, over: &AtomicBool) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
    let api = Api::<DynamicObject>::default_namespaced_with(client, &resource);
    while !over.load(Ordering::Relaxed) {
        // Bookmarks come each minute: what is seen here are the events.
        let params = WatchParams::default().timeout(60);
        let Ok(stream) = api.watch(&params, &from.to_string()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut stream = stream.boxed();
        loop {
            let next = tokio::time::timeout(Duration::from_millis(200), stream.next()).await;
            let (object, deleted) = match next {
                Err(_) if over.load(Ordering::Relaxed) => return,
                Err(_) => continue,
                Ok(Some(Ok(WatchEvent::Added(o) | WatchEvent::Modified(o)))) => (o, false),
                Ok(Some(Ok(WatchEvent::Deleted(o)))) => (o, true),
                Ok(Some(Ok(WatchEvent::Bookmark(_)))) => continue,
                Ok(Some(Ok(WatchEvent::Error(status)))) => {
                    panic!("watch {kind} from {from}: {status:?}")
                }
                Ok(Some(Err(_)) | None) => break,
            };
            let object = serde_json::to_value(object).unwrap();
            let revision = revision(&object);
            assert!(
                revision > from,
                "watch {kind} from {from} tells {revision}: {object}"
            );
            from = revision;
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let step = (!deleted).then(|| step(&object));
            record.seen.lock().unwrap().push(Seen {
                revision,
                name,
                step,
            });
        }
    }
}

/// One more write of each kind, and waits until the watches have seen it: then they have seen all.
fn last_words(bed: &Bed, maps: &Record, services: &Record) {
    bed.kubectl("create cm the-end");
    bed.kubectl("create service clusterip the-end --tcp=80");
    for record in [maps, services] {
        eventually("the watches have caught up", secs(30), || {
            anyhow::ensure!(
                record
                    .seen
                    .lock()
                    .unwrap()
                    .iter()
                    .any(|s| s.name == "the-end"),
                "not yet"
            );
            Ok(())
        });
    }
}

/// Each request that was answered is one event, with the revision that was told; one without an answer is one or
/// none; there are no others.
fn explain(asked: &[Asked], seen: &[Seen]) {
    let mut events = BTreeMap::<&str, Vec<&Seen>>::new();
    seen.iter()
        .for_each(|s| events.entry(&s.name).or_default().push(s));
    let mut told = BTreeSet::new();
    let mut done = 0;
    for (n, request) in asked.iter().enumerate() {
        // Asked for once more, after a list had shown that it had not happened.
        let again = |later: &Asked| later.name == request.name && later.step == request.step;
        if request.told == Told::Nothing && asked[n + 1..].iter().any(again) {
            continue;
        }
        let of_name = events.entry(&request.name).or_default();
        let next = of_name.first().filter(|s| s.step == request.step).copied();
        match (&request.told, next) {
            (Told::Done(object), Some(event)) => {
                if let Some(object) = object {
                    assert_eq!(revision(object), event.revision, "{request:?}");
                    assert!(
                        told.insert(event.revision),
                        "revision {} was told twice",
                        event.revision
                    );
                }
                of_name.remove(0);
                done += 1;
            }
            (Told::Done(_), None) => panic!("the watch lacks {request:?}; it has {of_name:?}"),
            (Told::Nothing, Some(_)) => _ = of_name.remove(0),
            (Told::Refused(_), _) | (Told::Nothing, None) => {}
        }
    }
    let strange = |name: &&str| !["the-end", "kubernetes", "kube-root-ca.crt"].contains(name);
    let more: Vec<_> = events
        .iter()
        .filter(|(name, rest)| strange(name) && !rest.is_empty())
        .collect();
    assert!(more.is_empty(), "events that nobody asked for: {more:?}");
    assert!(
        done > ROUNDS * 2,
        "only {done} writes were answered: this was no load"
    );
    eprintln!("{done} answered writes, {} events", seen.len());
}

/// With all services gone, all of both ranges can be had again.
fn nothing_leaked(bed: &Bed) {
    bed.kubectl("get svc -o name | grep -v service/kubernetes | xargs kubectl delete");
    bed.kube(async |client| {
        let api = Api::<Service>::default_namespaced(client);
        let (mut ports, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for n in 0..=100 {
            let kind = if n <= NODE_PORTS.count() {
                "NodePort"
            } else {
                "ClusterIP"
            };
            let spec = json!({"spec": {"type": kind, "ports": [{"port": 80}]}});
            let service = serde_json::from_value(object(&format!("all-{n}"), 1, spec)).unwrap();
            match api.create(&PostParams::default(), &service).await {
                Ok(made) => {
                    let spec = made.spec.unwrap();
                    assert!(
                        addresses.insert(spec.cluster_ip.clone().unwrap()),
                        "{:?} twice",
                        spec.cluster_ip
                    );
                    ports.extend(spec.ports.unwrap()[0].node_port);
                }
                Err(Error::Api(_)) if kind == "NodePort" => {}
                Err(Error::Api(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(
            ports.len(),
            NODE_PORTS.count(),
            "node ports leaked: had {ports:?}"
        );
        // 32 less the network, the broadcast, the API's own and that of the cluster's DNS.
        assert_eq!(addresses.len(), 28, "cluster IPs leaked: had {addresses:?}");
    });
}
