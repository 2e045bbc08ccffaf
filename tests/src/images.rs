//! Image archives of the tests, made once a process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::bins::program;

/// The HTTP echo server; with busybox, so that a shell can be had in it.
pub const ECHO: &str = "keelson.test/echo:1";
/// The same under another name.
pub const ECHO2: &str = "keelson.test/echo:2";

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "env", "id", "ls", "nc", "sleep", "stty", "tail", "test", "true",
];

/// Links or copies all archives into a folder.
pub fn copy_into(folder: &Path) {
    for archive in archives() {
        let to = folder.join(archive.file_name().expect("a file"));
        std::fs::copy(archive, to).expect("copy an archive");
    }
}

/// The archives.
pub fn archives() -> &'static [PathBuf] {
    static MADE: OnceLock<(tempfile::TempDir, Vec<PathBuf>)> = OnceLock::new();
    let (_, paths) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let paths = [ECHO, ECHO2]
            .iter()
            .map(|name| make(dir.path(), name))
            .collect();
        (dir, paths)
    });
    paths
}

fn make(dir: &Path, name: &str) -> PathBuf {
    let archive = dir.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    let echo = program("keelson-echo");
    let mut command = Command::new(program("keelson"));
    command
        .args(["image", "--name", name])
        .arg("--output")
        .arg(&archive);
    command
        .arg("--file")
        .arg(format!("{}=/echo", echo.display()));
    command.args(["--file", "/bin/busybox=/bin/busybox"]);
    for applet in APPLETS {
        command.args(["--link", &format!("/bin/{applet}=busybox")]);
    }
    for library in libraries(&echo) {
        command.arg("--file").arg(format!("{library}={library}"));
    }
    command.args(["--entrypoint", "/echo"]);
    let output = command.output().expect("keelson image");
    assert!(
        output.status.success(),
        "keelson image: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    archive
}

/// Shared libraries of a program: none where it was built statically.
fn libraries(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    words
        .filter(|word| Path::new(word) != program)
        .map(str::to_owned)
        .collect()
}
