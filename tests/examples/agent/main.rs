//! `scripts/bench agent`: pods of a node agent beside the same containers started by containerd's own client calls
//! (the floor), in one run; `scripts/bench probes`: what probing many pods costs. Ends with a line an aim.

mod figures;
mod floor;
mod pods;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use keelson_tests::wait::{eventually_async, secs};
use keelson_tests::{Bed, Node};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use figures::{Aim, Samples, Usage, machine_ms};
use floor::Floor;
use pods::Pods;

/// Pods one after another.
const SINGLE: usize = 20;
/// Pods at once.
const BURSTS: [usize; 2] = [30, MOST];
/// How often so many are made, floor and pods by turns: the machine's moods are longer than a burst.
const ROUNDS: usize = 3;
/// What a node is made for.
const MOST: usize = 110;
/// Pods to a shim, when they share.
const SHARING: usize = 10;
/// Pods that are probed each second.
const PROBED: usize = 200;
/// What they are probed with.
const PROBES: [(&str, Option<&str>); 3] = [
    ("not probed", None),
    (
        "probed by HTTP each second",
        Some(r#"{"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1}"#),
    ),
    (
        "probed by TCP each second",
        Some(r#"{"tcpSocket": {"port": 8080}, "periodSeconds": 1}"#),
    ),
];
/// From the last start, of the agent or of a pod, to the first look.
const SETTLE: Duration = Duration::from_secs(5);
/// How long idle CPU time is measured.
const IDLE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        None => {
            let mut aims = whole()?;
            aims.push(shared()?);
            print(&aims);
            Ok(())
        }
        Some("probes") => {
            print(&probed()?);
            Ok(())
        }
        Some("shared") => {
            print(&[shared()?]);
            Ok(())
        }
        Some(other) => anyhow::bail!("{other}: known are probes and shared, or nothing"),
    }
}

fn print(aims: &[Aim]) {
    println!();
    aims.iter().for_each(|aim| println!("{aim}"));
}

/// What all that runs for pods takes when groups of them share a shim.
fn shared() -> anyhow::Result<Aim> {
    let group = SHARING.to_string();
    let bed = Bed::split(&["--max-pods", "120", "--shim-sharing", &group]);
    let node = &bed.nodes[1];
    bed.kube(async |client| {
        let pods = Pods::new(client, node);
        pods.create("shared", MOST).await?;
        tokio::time::sleep(SETTLE).await;
        let own = figures::beside(node.containerd_pid())?;
        println!(
            "{MOST} pods, {SHARING} to a shim: {} processes beside containerd and the pods' own: {:.1} MB",
            own.processes, own.pss_mb
        );
        let each = own.pss_mb / MOST as f64;
        anyhow::Ok(Aim::most("pod-with-shared-shim", each, 3.0, "MB"))
    })
}

/// Pods that are probed each second, beside as many that are not.
fn probed() -> anyhow::Result<Vec<Aim>> {
    let most = (PROBED + 5).to_string();
    let bed = Bed::split(&["--max-pods", &most]);
    let node = &bed.nodes[1];
    bed.kube(async |client| {
        let pods = Pods::new(client, node);
        let mut aims = Vec::new();
        for (what, probe) in PROBES {
            pods.create_probed("probed", PROBED, probe).await?;
            // Their start is not what is measured.
            tokio::time::sleep(SETTLE).await;
            let begin = Usage::of(node.pid())?;
            tokio::time::sleep(IDLE).await;
            let cpu = Usage::of(node.pid())?.cpu_since(&begin, IDLE);
            println!("{PROBED} pods, {what}: {cpu:.2} % of a core");
            if probe.is_some() {
                aims.push(Aim::most(what, cpu, 5.0, "% of a core"));
            }
            pods.delete_all().await?;
        }
        anyhow::Ok(aims)
    })
}

fn whole() -> anyhow::Result<Vec<Aim>> {
    let bed = Bed::split(&["--max-pods", "120"]);
    let node = &bed.nodes[1];
    let socket = PathBuf::from(format!(
        "/proc/{}/root/run/containerd/containerd.sock",
        node.space.init()
    ));
    bed.kube(async |client| {
        // The node is ready before its images are in.
        let floor = eventually_async("the image", secs(60), async || {
            Floor::connect(&socket).await
        });
        let floor = floor.await;
        let pods = Pods::new(client, node);
        let agent = || Usage::of(node.pid());
        let mut aims = Vec::new();
        tokio::time::sleep(SETTLE).await;
        let none = agent()?;
        aims.push(Aim::most("agent-0-pods", none.pss_mb(), 25.0, "MB"));

        let (bare, whole) = singles(&floor, &pods).await?;
        println!("{:<34} {bare}", "floor, one container");
        println!("{:<34} {whole}", "POST of one pod to Running");
        let ratio = whole.p50() / bare.p50();
        aims.push(Aim::most("one-pod-to-floor", ratio, 1.3, "times"));
        aims.push(Aim::most("one-pod", whole.p50(), 200.0, "ms"));

        for n in BURSTS {
            let (mut bare, mut whole) = (Samples::default(), Samples::default());
            for round in 1..=ROUNDS {
                bare.push(burst_of_containers(&bed, &floor, n).await?);
                whole.push(burst_of_pods(&bed, &pods, n).await?);
                // Before others have come and gone.
                if round == 1 {
                    println!("agent with {n} pods: {:.1} MB", agent()?.pss_mb());
                }
                if (round, n) == (1, MOST) {
                    aims.extend(idle(&agent, &none).await?);
                }
                if round < ROUNDS {
                    pods.delete_all().await?;
                }
            }
            let rate = |took: &Samples| n as f64 / took.p50() * 1e3;
            println!(
                "{n} at once, a second, median of {ROUNDS}: floor {:.1}, pods {:.1}",
                rate(&bare),
                rate(&whole)
            );
            if n == MOST {
                aims.push(Aim::least(
                    "110-pods-to-floor",
                    rate(&whole) / rate(&bare),
                    0.9,
                    "times",
                ));
            }
            println!(
                "agent with {n} pods, when as many have gone {} times: {:.1} MB",
                ROUNDS - 1,
                agent()?.pss_mb()
            );
            if n == MOST {
                let exits = exits(&pods).await?;
                println!("{:<34} {exits}", "exit of a process to status");
                aims.push(Aim::most("exit-to-status-p99", exits.p99(), 20.0, "ms"));
                let back = restart(node, &pods).await?;
                println!(
                    "agent killed to in sync with {n} pods: {:.0} ms",
                    back.as_secs_f64() * 1e3
                );
            }
            pods.delete_all().await?;
        }
        anyhow::Ok(aims)
    })
}

/// Who works while pods are made.
struct Work<'a> {
    bed: &'a Bed,
    machine: f64,
    parts: Vec<Usage>,
}

impl<'a> Work<'a> {
    fn pids(bed: &Bed) -> [(&'static str, u32); 3] {
        let node = &bed.nodes[1];
        [
            ("server", bed.server().pid()),
            ("agent", node.pid()),
            ("containerd", node.containerd_pid()),
        ]
    }

    fn begin(bed: &'a Bed) -> anyhow::Result<Self> {
        let parts = Self::pids(bed).map(|(_, pid)| Usage::of(pid));
        Ok(Self {
            bed,
            machine: machine_ms()?,
            parts: parts.into_iter().collect::<anyhow::Result<_>>()?,
        })
    }

    /// Milliseconds on the processors for each of `n`: a part's own and of its children, and all others'.
    fn print(self, what: &str, n: usize) -> anyhow::Result<()> {
        let each = |ms: f64| ms / n as f64;
        let whole = machine_ms()? - self.machine;
        let mut rest = whole;
        print!("{n} {what}: CPU {:.1} ms each", each(whole));
        for ((name, pid), before) in Self::pids(self.bed).into_iter().zip(&self.parts) {
            let [own, children] = Usage::of(pid)?.ms_since(before);
            rest -= own + children;
            print!(", {name} {:.1} + children {:.1}", each(own), each(children));
        }
        println!(", all others {:.1}", each(rest));
        Ok(())
    }
}

/// What the agent costs with all its pods, when nothing happens.
async fn idle(
    agent: &impl Fn() -> anyhow::Result<Usage>,
    none: &Usage,
) -> anyhow::Result<[Aim; 2]> {
    let begin = agent()?;
    tokio::time::sleep(IDLE).await;
    let end = agent()?;
    let more = (end.pss_mb() - none.pss_mb()) * 1024.0 / MOST as f64;
    let cpu = end.cpu_since(&begin, IDLE);
    Ok([
        Aim::most("agent-per-pod", more, 60.0, "KB"),
        Aim::most("idle-cpu", cpu, 0.5, "% of a core"),
    ])
}

/// Alternately, so that the machine's moods meet both.
async fn singles(floor: &Floor, pods: &Pods) -> anyhow::Result<(Samples, Samples)> {
    let (mut bare, mut whole) = (Samples::default(), Samples::default());
    for i in 0..SINGLE {
        let id = format!("floor-{i}");
        bare.push(floor.start(&id).await?);
        floor.remove(&id).await?;
        let begin = Instant::now();
        pods.create(&format!("single-{i}"), 1).await?;
        whole.push(begin.elapsed());
        pods.delete_all().await?;
    }
    Ok((bare, whole))
}

async fn burst_of_containers(bed: &Bed, floor: &Floor, n: usize) -> anyhow::Result<Duration> {
    let ids: Vec<String> = (0..n).map(|i| format!("floor-{i}")).collect();
    let (work, begin) = (Work::begin(bed)?, Instant::now());
    futures::future::try_join_all(ids.iter().map(|id| floor.start(id))).await?;
    let took = begin.elapsed();
    work.print("floor", n)?;
    futures::future::try_join_all(ids.iter().map(|id| floor.remove(id))).await?;
    Ok(took)
}

async fn burst_of_pods(bed: &Bed, pods: &Pods, n: usize) -> anyhow::Result<Duration> {
    let (work, begin) = (Work::begin(bed)?, Instant::now());
    pods.create("burst", n).await?;
    let took = begin.elapsed();
    work.print("pods", n)?;
    Ok(took)
}

/// From the end of a pod's process to the status that says so.
async fn exits(pods: &Pods) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    for (name, pid) in pods.processes().await?.into_iter().take(100) {
        let begin = Instant::now();
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        pods.ended(&name).await?;
        samples.push(begin.elapsed());
    }
    Ok(samples)
}

/// A process ends while no agent runs; from the agent's start to the status that says so.
async fn restart(node: &Node, pods: &Pods) -> anyhow::Result<Duration> {
    let (name, pid) = pods.processes().await?.pop().expect("a pod runs");
    node.kill();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let begin = Instant::now();
    node.start_again();
    pods.ended(&name).await?;
    Ok(begin.elapsed())
}
