//! keelson's proxy in a lane, fed by a real API server.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use keelson_tests::figures::{Samples, Usage};
use keelson_tests::process::{self, Process};
use keelson_tests::{Worker, bins, stream};
use kube::Client;
use nix::sys::signal::Signal;

use crate::knock::{Watch, watch};
use crate::lanes::Lane;
use crate::objects::Objects;
use crate::plan::{PODS, replaced, service, spread};
use crate::report::{Changes, Cold, Held, KINDS, enough};

/// Services that are looked at to see that all are in place.
const LOOKED_AT: usize = 16;
/// Where metrics are by default.
const METRICS: &str = "127.0.0.1:10249";
const DURATION: &str = "kubeproxy_sync_proxy_rules_duration_seconds";
/// From the load to the first look at memory, and how long nothing happens then.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(5);
/// Between two knocks: who measures leaves processors to what is measured.
const BREATH: Duration = Duration::from_micros(100);
/// Two endpoints of which one is wrong are right so often in a row once in sixteen million times.
const SURE: usize = 24;

/// A proxy that runs.
pub(crate) struct Own<'a> {
    lane: &'a Lane,
    knocker: &'a Worker,
    process: Process,
    limit: Duration,
}

/// What to change how often, for how long.
#[derive(Clone, Copy)]
pub(crate) struct Churn {
    pub(crate) rate: u32,
    pub(crate) lasts: Duration,
}

impl<'a> Own<'a> {
    /// Starts it, and waits until all services answer.
    pub(crate) fn cold(
        mode: &str,
        lane: &'a Lane,
        knocker: &'a Worker,
        kubeconfig: &Path,
        limit: Duration,
    ) -> anyhow::Result<(Self, Cold)> {
        let last = lane.services - 1;
        let looked_at = (0..=LOOKED_AT).map(|k| service(last * k / LOOKED_AT).address);
        let all = Watch {
            device: lane.device.clone(),
            to: looked_at.collect(),
            open: true,
            times: 1,
            pause: Duration::from_millis(1),
            within: limit,
        };
        let config = kubeconfig.display().to_string();
        let args = [
            "proxy",
            "--kubeconfig",
            &config,
            "--mode",
            mode,
            "--hostname-override",
            &lane.device,
            // There are no nodes: none has a first address.
            "--nodeport-addresses",
            "0.0.0.0/0",
        ];
        let args = args
            .into_iter()
            .chain(["--cluster-cidr", PODS])
            .map(str::to_owned);
        let log = kubeconfig.with_file_name(format!("{}.log", lane.device));
        let begin = Instant::now();
        let seen = knocker.begin(move || watch(&all));
        let args: Vec<String> = args.collect();
        let mut process = Process::start(&lane.node, &bins::program("keelson"), &args, &log)?;
        let seen = seen.wait_while(|| process.alive())?;
        let own = Self {
            lane,
            knocker,
            process,
            limit,
        };
        let whole = seen.with_context(|| format!("its log: {}", process::tail(&log, 20)))? - begin;
        let cold = Cold::Took {
            load: own.load(),
            whole: Some(whole),
        };
        Ok((own, cold))
    }

    /// How long its load took, if it tells.
    fn load(&self) -> Option<Duration> {
        // What was seen in the kernel may not be in the figures yet.
        std::thread::sleep(Duration::from_millis(500));
        let text = self
            .metrics()
            .inspect_err(|e| eprintln!("no metrics: {e:#}"))
            .ok()?;
        let of = |name: &str| -> f64 {
            let lines = text.lines().filter(|l| l.starts_with(name));
            lines
                .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
                .sum()
        };
        let (sum, count) = (
            of(&format!("{DURATION}_sum")),
            of(&format!("{DURATION}_count")),
        );
        println!(
            "  {}: {count} syncs of {sum:.3} s together, by its metrics",
            self.lane.name
        );
        (count > 0.0).then(|| Duration::from_secs_f64(sum))
    }

    fn metrics(&self) -> anyhow::Result<String> {
        let to: SocketAddr = METRICS.parse()?;
        self.lane.node.enter(|| stream::get(to, "/metrics"))
    }

    fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.process.pid())
    }

    /// Ends it, whatever it is at; its rules stay.
    pub(crate) fn end(self) {
        self.process.end(Signal::SIGKILL);
    }

    /// Changes of each kind, one by one.
    pub(crate) async fn changes(&self, client: &Client, most: usize) -> anyhow::Result<Changes> {
        let objects = Objects::new(client);
        let mut took = KINDS.map(|_| (Vec::new(), Vec::new()));
        for k in 0..most {
            let n = spread(k, self.lane.services);
            let event = objects.next_of_slice(n).await?;
            self.one(n, false, objects.lead(&replaced(n)), event, &mut took[0])
                .await?;
            objects.lead(&service(n)).await?;
            self.seen(n, true, SURE).await?;
            let event = objects.next_of_service(n).await?;
            self.one(n, false, objects.remove(n), event, &mut took[2])
                .await?;
            let event = objects.next_of_service(n).await?;
            self.one(n, true, objects.add(n), event, &mut took[1])
                .await?;
            let spent = took.iter().flat_map(|(write, _)| write).sum();
            if enough(k + 1, spent) {
                break;
            }
        }
        Ok(took.map(|(write, event)| {
            (
                write.into_iter().collect(),
                event.into_iter().collect::<Samples>(),
            )
        }))
    }

    /// One change: from its write, and from its event, to the first connection that meets it.
    async fn one(
        &self,
        n: usize,
        open: bool,
        write: impl Future<Output = anyhow::Result<()>>,
        event: crate::objects::Event,
        took: &mut (Vec<Duration>, Vec<Duration>),
    ) -> anyhow::Result<()> {
        self.seen(n, !open, 1).await?;
        let met = self.watched(n, open, 1);
        // The knocker is at it when the change comes.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let begin = Instant::now();
        write.await?;
        let met = met.get().await??;
        took.0.push(met.saturating_duration_since(begin));
        took.1
            .push(met.saturating_duration_since(event.at().await?));
        Ok(())
    }

    async fn seen(&self, n: usize, open: bool, times: usize) -> anyhow::Result<()> {
        self.watched(n, open, times).get().await??;
        Ok(())
    }

    fn watched(
        &self,
        n: usize,
        open: bool,
        times: usize,
    ) -> keelson_tests::worker::Awaited<anyhow::Result<Instant>> {
        let what = Watch {
            device: self.lane.device.clone(),
            to: vec![service(n).address],
            open,
            times,
            pause: BREATH,
            within: self.limit,
        };
        self.knocker.begin(move || watch(&what))
    }

    /// What the process holds and uses: after its load, while nothing happens, while endpoints change.
    pub(crate) async fn held(
        &self,
        client: &Client,
        churn: Churn,
        changed: impl AsyncFnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Held> {
        tokio::time::sleep(SETTLE).await;
        let quiet = self.usage()?;
        tokio::time::sleep(IDLE).await;
        let loaded = self.usage()?;
        let idle = loaded.cpu_since(&quiet, IDLE);
        changed().await?;
        let (before, begin) = (self.usage()?, Instant::now());
        let writes = self.churn(client, churn).await?;
        let (after, lasted) = (self.usage()?, begin.elapsed());
        Ok(Held {
            loaded: loaded.pss_mb(),
            after: after.pss_mb(),
            idle,
            churn: after.cpu_since(&before, lasted),
            rate: writes as f64 / lasted.as_secs_f64(),
        })
    }

    /// Endpoints are replaced and put back, on and on. What was last is put back.
    async fn churn(&self, client: &Client, churn: Churn) -> anyhow::Result<usize> {
        let objects = Objects::new(client);
        let mut tick = tokio::time::interval(Duration::from_secs(1) / churn.rate);
        let (end, mut k) = (Instant::now() + churn.lasts, 0);
        while Instant::now() < end {
            tick.tick().await;
            let n = spread(k / 2, self.lane.services);
            let service = if k % 2 == 0 { replaced(n) } else { service(n) };
            objects.lead(&service).await?;
            k += 1;
        }
        let last = spread((k - 1) / 2, self.lane.services);
        objects.lead(&service(last)).await?;
        self.seen(last, true, SURE).await?;
        Ok(k)
    }
}
