//! Endpoints of services, in a process of their own (`keelson-endpoints`): each answers on an address of its own, and can
//! be drained and closed like a pod that goes.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::space::Space;

/// Bytes of a question.
pub const QUESTION: usize = 4;
/// Bytes of an answer: the endpoint's address, whether it asks its clients to leave, the question.
pub const ANSWER: usize = 12;

/// The process.
pub struct Endpoints {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Connections of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// That are open.
    pub open: usize,
    /// That there ever were.
    pub accepted: usize,
}

impl Endpoints {
    /// Starts `program`, which is this crate's `keelson-endpoints`, in a space.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn new(space: &Space, program: &Path) -> anyhow::Result<Self> {
        let mut child = space
            .command(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            input: child.stdin.take().context("its input is a pipe")?,
            output: BufReader::new(child.stdout.take().context("its output is a pipe")?),
            child,
        })
    }

    /// An endpoint answers from now on.
    pub fn open(&mut self, at: SocketAddrV4) {
        self.done("open", at);
    }

    /// It asks its clients to leave.
    pub fn drain(&mut self, at: SocketAddrV4) {
        self.done("drain", at);
    }

    /// Who connects to it is refused from now on.
    pub fn close(&mut self, at: SocketAddrV4) {
        self.done("close", at);
    }

    /// Its connections.
    pub fn count(&mut self, at: SocketAddrV4) -> Count {
        let answer = self.tell("count", at).expect("it lives");
        let numbers = answer.split_once(' ').expect("two numbers");
        Count {
            open: numbers.0.parse().expect("a number"),
            accepted: numbers.1.parse().expect("a number"),
        }
    }

    #[track_caller]
    fn done(&mut self, command: &str, at: SocketAddrV4) {
        let answer = self.tell(command, at).expect("it lives");
        assert_eq!(answer, "done", "{command} {at}");
    }

    fn tell(&mut self, command: &str, at: SocketAddrV4) -> anyhow::Result<String> {
        writeln!(self.input, "{command} {at}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets this process have as many open files as it may; how many that is.
///
/// # Errors
/// When the kernel does not let it.
pub fn raise_file_limit() -> anyhow::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}
