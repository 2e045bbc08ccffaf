//! The machine and the line to it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tempfile::TempDir;

use crate::Dist;

/// An emulated machine boots in 20 s on an idle host; one that others share may need many times that.
const BOOT: Duration = Duration::from_secs(600);
/// More than the machine gives a script (`scripts/vm.d/channel`).
const ANSWER: Duration = Duration::from_secs(300);
/// What scripts in the machine begin with.
const PRELUDE: &str =
    "export PATH=/opt/keelson/bin:$PATH KUBECONFIG=/etc/keelson/admin.kubeconfig\n";

/// A running machine. It ends, and its files go, with this value.
pub struct Machine {
    qemu: Child,
    line: BufReader<UnixStream>,
    boot: String,
    folder: TempDir,
}

/// What a script did.
#[derive(Debug)]
pub struct Output {
    /// Exit code; 124 when it took longer than the machine allows.
    pub code: i32,
    /// Standard output and error.
    pub text: String,
}

impl Machine {
    /// Boots one. The root file system is made first if no earlier run has left one.
    ///
    /// # Panics
    /// When it does not boot, with the end of its console.
    pub fn boot() -> Self {
        Self::image();
        let mut machine = Self::begin(Command::new("env"), &[]);
        machine.await_boot();
        machine
    }

    /// Boots one that has no systemd, no network and none of our programs, but one, in `/opt/keelson/bin`: for what
    /// needs a kernel only. It doesn't reboot.
    ///
    /// # Panics
    /// When it does not boot, with the end of its console.
    pub fn bare(program: &Path) -> Self {
        Self::image();
        let mut machine = Self::start(|folder| {
            let mut vm = Command::new(harness());
            vm.arg("bare").arg(folder).arg(program);
            vm
        });
        machine.await_boot();
        machine
    }

    /// Makes the root file system if no earlier run has left one.
    pub(crate) fn image() {
        let made = Command::new(harness()).arg("image").status();
        assert!(
            made.expect("run scripts/vm").success(),
            "scripts/vm image failed"
        );
    }

    /// Makes the disk from which any number of machines read what is to be installed: `KEELSON_VM_DISK` of `scripts/vm`.
    pub(crate) fn disk(file: &Path, dist: &Dist) {
        let made = Command::new(harness())
            .arg("disk")
            .arg(file)
            .env("KEELSON_DIST", dist.path())
            .env("KEELSON_BIN", programs())
            .status();
        assert!(
            made.expect("run scripts/vm").success(),
            "scripts/vm disk failed"
        );
    }

    /// Begins to boot one; `within` is a command that runs others, such as `nsenter`.
    pub(crate) fn begin(mut within: Command, wanted: &[(&str, &OsStr)]) -> Self {
        Self::start(|folder| {
            within.arg(harness()).arg("start").arg(folder);
            within.env("KEELSON_BIN", programs());
            within.envs(wanted.iter().copied());
            within
        })
    }

    fn start(command: impl FnOnce(&Path) -> Command) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let mut vm = command(folder.path());
        let mut qemu = vm.stdin(Stdio::null()).spawn().expect("run scripts/vm");
        let line = connect(&mut qemu, &folder.path().join("channel"));
        Self {
            qemu,
            line,
            boot: String::new(),
            folder,
        }
    }

    /// Runs a bash script as root.
    ///
    /// # Panics
    /// When the machine does not answer.
    pub fn run(&mut self, script: &str) -> Output {
        self.ask(script);
        let answer = self
            .read(ANSWER)
            .unwrap_or_else(|error| panic!("no answer: {error}\nscript: {script}"));
        let (code, text) = answer.split_once(' ').unwrap_or((&answer, ""));
        let text = BASE64_STANDARD.decode(text).expect("the text is base64");
        Output {
            code: code.parse().expect("a number"),
            text: String::from_utf8_lossy(&text).trim_end().to_owned(),
        }
    }

    fn ask(&mut self, script: &str) {
        let mut request = BASE64_STANDARD.encode(format!("{PRELUDE}{script}"));
        request.push('\n');
        self.line
            .get_mut()
            .write_all(request.as_bytes())
            .expect("write to the machine");
    }

    /// Runs a script that has to succeed, and gives what it wrote.
    ///
    /// # Panics
    /// When it fails, with its output.
    #[track_caller]
    pub fn sh(&mut self, script: &str) -> String {
        let Output { code, text } = self.run(script);
        assert!(code == 0, "exit code {code} of: {script}\n{text}");
        text
    }

    /// Runs a script every half second until it succeeds, and gives what it wrote.
    ///
    /// # Panics
    /// When it does not within so many seconds, with its last output.
    #[track_caller]
    pub fn until(&mut self, seconds: u32, script: &str) -> String {
        let end = Instant::now() + Duration::from_secs(seconds.into());
        loop {
            let Output { code, text } = self.run(script);
            if code == 0 {
                return text;
            }
            assert!(
                Instant::now() < end,
                "not within {seconds} s (exit code {code}): {script}\n{text}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Shuts down in order and starts again: memory and `/run` are lost, the disk stays.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn reboot(&mut self) {
        self.ask("systemctl reboot --no-block");
        self.await_boot();
    }

    /// Waits for the first line of a boot other than the last.
    pub(crate) fn await_boot(&mut self) {
        let mut next = || {
            self.read(BOOT)
                .unwrap_or_else(|error| panic!("the machine does not boot: {error}"))
        };
        let mut line = next();
        // Of a machine that is told to boot again; it may as well be down before it answers.
        if line.split(' ').next() == Some("0") {
            line = next();
        }
        assert!(
            line != self.boot && line.len() == 36,
            "not the name of a new boot: {line:?}"
        );
        self.boot = line;
    }

    fn read(&mut self, within: Duration) -> std::io::Result<String> {
        self.line.get_ref().set_read_timeout(Some(within))?;
        let mut line = String::new();
        if self.line.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("QEMU has ended"));
        }
        Ok(line.trim_end().to_owned())
    }

    fn tell(&mut self) {
        let console = fs::read(self.folder.path().join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        let lines: Vec<_> = console.lines().collect();
        eprintln!(
            "the end of the console:\n{}",
            lines[lines.len().saturating_sub(40)..].join("\n")
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        // Fails only when it has ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU makes the socket when it starts, and waits for nobody.
fn connect(qemu: &mut Child, path: &Path) -> BufReader<UnixStream> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(stream) = UnixStream::connect(path) {
            return BufReader::new(stream);
        }
        let ended = qemu.try_wait().expect("look after scripts/vm");
        assert!(ended.is_none(), "QEMU did not start: {ended:?}");
        assert!(
            Instant::now() < end,
            "QEMU makes no socket at {}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn harness() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/vm")
}

/// `KEELSON_BIN`, else the profile's folder that this test was built into.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("KEELSON_BIN") {
        return folder.into();
    }
    let own = std::env::current_exe().expect("own path");
    own.ancestors()
        .nth(2)
        .expect("a test is in PROFILE/deps")
        .to_owned()
}
