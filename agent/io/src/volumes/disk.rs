//! File systems on devices: the one that is there is mounted, one is made on a device that has nothing on it. As
//! upstream's `SafeFormatAndMount` does it, with the same programs.

use std::path::Path;
use std::process::{Command, Output};

use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::Error;
use super::persistent::data;

/// The file system of a device that names none.
const FS_TYPE: &str = "ext4";
/// What blkid ends with when it finds nothing.
const NOTHING: i32 = 2;

/// What is on a device.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    Nothing,
    /// A file system, by its type.
    Files(String),
    /// Partitions.
    Parts,
}

/// Mounts a device at `target`, with a new file system if it has none.
pub(super) fn mount(
    device: &Path,
    fs_type: Option<&str>,
    options: &[String],
    target: &Path,
) -> Result<(), Error> {
    let fs_type = fs_type.filter(|f| !f.is_empty()).unwrap_or(FS_TYPE);
    let fail = |why: String| Error::Mount {
        what: format!("{} as {fs_type}", device.display()),
        why,
    };
    let found = content(device).map_err(fail)?;
    match &found {
        Content::Nothing if options.iter().any(|o| o == "ro") => {
            return Err(fail(
                "it has no file system, and is not to be written".into(),
            ));
        }
        Content::Nothing => format(device, fs_type).map_err(fail)?,
        Content::Parts => return Err(fail("it has unknown data, probably partitions".into())),
        Content::Files(_) => {}
    }
    let data = data(options)?;
    let done = rustix::mount::mount(
        device,
        target,
        fs_type,
        MountFlags::empty(),
        data.as_c_str(),
    );
    done.map_err(|e: Errno| {
        let why = std::io::Error::from(e);
        fail(match found {
            Content::Files(has) if has != fs_type => format!("it already contains {has}: {why}"),
            _ => why.to_string(),
        })
    })
}

/// Runs a program of the distribution.
fn run(program: &str, package: &str, args: &[&str], device: &Path) -> Result<Output, String> {
    let done = Command::new(program).args(args).arg(device).output();
    done.map_err(|e| format!("run {program} (Debian: {package}): {e}"))
}

fn content(device: &Path) -> Result<Content, String> {
    let args = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"];
    let said = run("blkid", "util-linux", &args, device)?;
    let text = String::from_utf8_lossy(&said.stdout);
    match said.status.code() {
        Some(0) => Ok(read(&text)),
        Some(NOTHING) => Ok(Content::Nothing),
        _ => Err(format!(
            "blkid: {}",
            String::from_utf8_lossy(&said.stderr).trim()
        )),
    }
}

/// What blkid says.
fn read(text: &str) -> Content {
    let of = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
    };
    match (of("TYPE"), of("PTTYPE")) {
        (Some(fs_type), _) => Content::Files(fs_type.to_owned()),
        (None, Some(_)) => Content::Parts,
        (None, None) => Content::Nothing,
    }
}

fn format(device: &Path, fs_type: &str) -> Result<(), String> {
    if !fs_type.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err("it is no file system's name".into());
    }
    let (package, args): (&str, &[&str]) = match fs_type {
        // Nothing is kept for root.
        "ext3" | "ext4" => ("e2fsprogs", &["-F", "-m0"]),
        "xfs" => ("xfsprogs", &["-f"]),
        "btrfs" => ("btrfs-progs", &[]),
        _ => ("the package that has it", &[]),
    };
    let done = run(&format!("mkfs.{fs_type}"), package, args, device)?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!(
            "mkfs.{fs_type}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkid_is_understood() {
        let rows = [
            ("", Content::Nothing),
            ("DEVNAME=/dev/x\nTYPE=xfs\n", Content::Files("xfs".into())),
            ("PTTYPE=dos\n", Content::Parts),
            // A boot sector before a file system looks like a partition table.
            ("PTTYPE=dos\nTYPE=vfat\n", Content::Files("vfat".into())),
        ];
        for (text, want) in rows {
            assert_eq!(read(text), want, "{text}");
        }
    }
}
