//! Services and endpoints come and go for a long time: what the proxy holds levels off, and what it wrote is what it would
//! write had it just begun.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keelson_tests::figures::Usage;
use keelson_tests::wait::{is_long, secs};
use keelson_tests::{bins, eventually};
use serde_json::Value;

use super::alone::Alone;
use super::alone::objects::{Objects, spread};

/// Endpoints of a service.
const ENDPOINTS: u32 = 10;
/// Every so many services one is UDP: its changes are looked for among connections too.
const UDP: usize = 10;
/// Writes a second, as far as the server takes them.
const RATE: u32 = 50;
/// How much more than in the time before the proxy may hold: a part of it, and KiB that the allocator has at hand.
const GROWTH: f64 = 0.04;
const SLACK_KIB: f64 = 512.0;

/// Services, and for how long there are changes: the whole by `scripts/test --long`.
fn size() -> (usize, Duration) {
    if is_long() {
        (10_000, secs(600))
    } else {
        (1_000, secs(36))
    }
}

#[test]
fn churn() {
    let (size, lasts) = size();
    let mut alone = Alone::new();
    alone.bed.kube(async |client| {
        let objects = Objects::new(client, ENDPOINTS, UDP);
        objects.create(0..size).await.expect("services");
    });
    alone.start("nftables");
    let pid = alone.pid();
    let files = resting_files(&alone);
    let over = Arc::new(AtomicBool::default());
    let sampler = std::thread::spawn({
        let over = over.clone();
        move || samples(pid, &over)
    });
    let (writes, lasted) = alone
        .bed
        .kube(async |client| change(&Objects::new(client, ENDPOINTS, UDP), size, lasts).await);
    over.store(true, Ordering::Relaxed);
    let samples = sampler.join().expect("samples");
    let third = samples.len() / 3;
    let [begin, middle, end] =
        [0, third, 2 * third].map(|from| median(&samples[from..from + third]));
    let pss = Usage::of(pid).expect("it runs").pss_mb();
    eprintln!(
        "{size} services of {ENDPOINTS} endpoints, {writes} writes in {:.0} s: own memory {begin:.0}, {middle:.0}, {end:.0} KiB by thirds; PSS {pss:.1} MB, {files} files",
        lasted.as_secs_f64()
    );
    let most = middle * (1.0 + GROWTH) + SLACK_KIB;
    assert!(
        end <= most,
        "{middle:.0} KiB, then {end:.0} KiB: {samples:?}"
    );
    eventually("as many files are open as before", secs(60), || {
        let now = alone.files();
        anyhow::ensure!(now <= files, "{files}, now {now}");
        Ok(())
    });
    let changed = settled(&alone, size);
    alone.stop();
    let keelson = bins::program("keelson");
    let cleanup = format!("{} proxy --cleanup", keelson.display());
    alone.node.sh(&cleanup).expect("nothing of ours is left");
    alone.start("nftables");
    let anew = settled(&alone, size);
    for (set, elements) in &anew {
        let has = changed.get(set).map_or(0, Vec::len);
        assert_eq!(has, elements.len(), "elements of {set}");
    }
    assert!(changed == anew, "the same number of elements, but others");
}

/// Number of open files once it does nothing.
fn resting_files(alone: &Alone) -> usize {
    let mut last = (0, 0);
    eventually("the number of open files stays", secs(60), || {
        let (before, times) = last;
        let now = alone.files();
        last = (now, if now == before { times + 1 } else { 0 });
        anyhow::ensure!(last.1 >= 40, "{before}, then {now}");
        Ok(now)
    })
}

/// KiB of the process's own memory, each second. What it shares with others (its file) is theirs as well.
fn samples(pid: u32, over: &AtomicBool) -> Vec<f64> {
    let mut all = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
        let own = rollup.lines().find_map(|l| l.strip_prefix("Pss_Anon:"));
        let kib = own.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok());
        all.push(kib.expect("a size"));
        std::thread::sleep(secs(1));
    }
    all
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Endpoints are replaced, some and all, and put back; services go and come back. At the end all is as at first.
async fn change(objects: &Objects, size: usize, lasts: Duration) -> (usize, Duration) {
    let mut tick = tokio::time::interval(secs(1) / RATE);
    let (begin, mut k) = (Instant::now(), 0);
    while begin.elapsed() < lasts {
        let n = spread(k, size);
        for step in 0..5 {
            tick.tick().await;
            let done = match step {
                0 => objects.replace(n, 1).await,
                1 => objects.replace(n, ENDPOINTS).await,
                2 => objects.remove(n).await,
                3 => objects.replace(n, 0).await,
                _ => objects.add(n).await,
            };
            done.expect("a change");
        }
        k += 1;
    }
    (5 * k, begin.elapsed())
}

type Elements = BTreeMap<String, Vec<String>>;

/// Elements of each set and map, once all services are there.
fn settled(alone: &Alone, size: usize) -> Elements {
    let mut last = None;
    eventually("the table stays", secs(120), || {
        let now = elements(alone)?;
        let stays = last.as_ref() == Some(&now);
        let services = now.get("services").map_or(0, Vec::len);
        last = Some(now.clone());
        anyhow::ensure!(services > size, "{services} services");
        anyhow::ensure!(stays, "it changed");
        Ok(now)
    })
}

fn elements(alone: &Alone) -> anyhow::Result<Elements> {
    let list = alone.node.sh("nft -j list table ip keelson-proxy")?;
    let list: Value = serde_json::from_str(&list)?;
    let objects = list["nftables"].as_array().into_iter().flatten();
    let sets = objects.flat_map(|o| [&o["map"], &o["set"]]);
    let sets = sets.filter_map(|set| {
        let name = set["name"].as_str()?.to_owned();
        let elements = set["elem"].as_array().into_iter().flatten();
        let mut elements: Vec<String> = elements.map(Value::to_string).collect();
        elements.sort();
        Some((name, elements))
    });
    Ok(sets.collect())
}
