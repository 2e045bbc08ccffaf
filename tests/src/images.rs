//! Image archives of the tests, made once a process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::bins::{folder, program};

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

/// The archives. They are kept beside the programs, since a folder for this process alone would never be removed: what
/// is static is not dropped.
pub fn archives() -> &'static [PathBuf] {
    static MADE: OnceLock<[PathBuf; 2]> = OnceLock::new();
    MADE.get_or_init(|| {
        let kept = folder().join("images");
        std::fs::create_dir_all(&kept).expect("a folder");
        let dir = tempfile::tempdir_in(&kept).expect("a folder");
        [ECHO, ECHO2].map(|name| {
            let new = make(dir.path(), name, &program("keelson-echo"), "/echo", &[]);
            // Other processes may read the one before.
            let path = kept.join(new.file_name().expect("a file"));
            std::fs::rename(new, &path).expect("rename an archive");
            path
        })
    })
}

/// An archive with a program of this machine as its entry point, with its libraries, busybox and these files.
pub fn make(dir: &Path, name: &str, of: &Path, at: &str, files: &[(&Path, &str)]) -> PathBuf {
    let archive = dir.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    let mut command = Command::new(program("keelson"));
    command
        .args(["image", "--name", name])
        .arg("--output")
        .arg(&archive);
    for (from, to) in [(of, at), (Path::new("/bin/busybox"), "/bin/busybox")]
        .iter()
        .chain(files)
    {
        command
            .arg("--file")
            .arg(format!("{}={to}", from.display()));
    }
    for applet in APPLETS {
        command.args(["--link", &format!("/bin/{applet}=busybox")]);
    }
    for library in libraries(of) {
        command.arg("--file").arg(format!("{library}={library}"));
    }
    command.args(["--entrypoint", at]);
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
