//! A thread that stays in a space and does one thing after another: where a thread made anew each time would be measured.

use std::fs::File;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::space::Space;

/// How often is looked.
const EVERY: Duration = Duration::from_millis(20);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in the network of a space. It ends when this is dropped and its last job is done.
pub struct Worker(mpsc::Sender<Job>);

/// What a job will have given.
pub struct Awaited<T>(oneshot::Receiver<T>);

impl Worker {
    /// Enters the network; stays on one processor where one is named.
    ///
    /// # Errors
    /// When the space has ended or there is no such processor.
    pub fn new(space: &Space, processor: Option<usize>) -> anyhow::Result<Self> {
        let net =
            File::open(format!("/proc/{}/ns/net", space.init())).context("a space that lives")?;
        let (sender, jobs) = mpsc::channel::<Job>();
        let worker = Self(sender);
        std::thread::spawn(move || jobs.iter().for_each(|job| job()));
        let entered = worker.begin(move || {
            setns(net, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
            let Some(processor) = processor else {
                return Ok(());
            };
            let mut set = CpuSet::new();
            set.set(processor)?;
            sched_setaffinity(Pid::from_raw(0), &set).context("stay on a processor")
        });
        entered.wait()??;
        Ok(worker)
    }

    /// Has something done after what it has to do already.
    pub fn begin<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Awaited<T> {
        let (sender, receiver) = oneshot::channel();
        let job = move || {
            // Nobody may want to know.
            let _ = sender.send(job());
        };
        // The thread has ended when a job panicked; then no value comes either.
        let _ = self.0.send(Box::new(job));
        Awaited(receiver)
    }
}

impl<T> Awaited<T> {
    /// Waits on this thread.
    ///
    /// # Errors
    /// When the job panicked.
    pub fn wait(self) -> anyhow::Result<T> {
        self.0.blocking_recv().context("a job in a space panicked")
    }

    /// Waits on this thread as long as `look` finds all well.
    ///
    /// # Errors
    /// That of `look`, or when the job panicked.
    pub fn wait_while(mut self, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<T> {
        loop {
            match self.0.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Closed) => anyhow::bail!("a job in a space panicked"),
                Err(TryRecvError::Empty) => look()?,
            }
            std::thread::sleep(EVERY);
        }
    }

    /// The same in asynchronous code.
    ///
    /// # Errors
    /// When the job panicked.
    pub async fn get(self) -> anyhow::Result<T> {
        self.0.await.context("a job in a space panicked")
    }
}
