//! Local volumes on real devices (loop), in a private mount namespace each.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use keelson_agent_io::volumes::{Owner, Source, Volumes};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// A device of 16 MiB; it goes with its owner.
struct Device(PathBuf);

impl Device {
    fn new(dir: &Path, name: &str) -> Self {
        let file = dir.join(name);
        fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let found = Command::new("losetup")
            .args(["-f", "--show"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(found.status.success(), "{found:?}");
        Self(String::from_utf8(found.stdout).unwrap().trim().into())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let done = Command::new("losetup").arg("-d").arg(&self.0).status();
        assert!(done.unwrap().success());
    }
}

/// Mounts made by this thread are seen by nobody else and vanish with it.
fn private() -> (TempDir, Volumes) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    (dir, volumes)
}

fn source(device: &Device, fs_type: Option<&str>, options: &[&str]) -> Source {
    Source::Local {
        path: device.0.clone(),
        fs_type: fs_type.map(str::to_owned),
        options: options.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_blank_device_gets_a_file_system_once() {
    let (dir, volumes) = private();
    let device = Device::new(dir.path(), "blank");
    let owner = Owner::default();
    let blank = source(&device, None, &["ro"]);
    let refused = volumes.materialize("uid", "v", &blank, &owner);
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(
        refused.contains("no file system, and is not to be written"),
        "{refused}"
    );

    let wanted = source(&device, None, &[]);
    for round in 0..2 {
        let path = volumes.materialize("uid", "v", &wanted, &owner).unwrap();
        assert_eq!(path.join("file").exists(), round == 1);
        fs::write(path.join("file"), "kept").unwrap();
        volumes.teardown("uid").unwrap();
    }

    let other = source(&device, Some("xfs"), &[]);
    let refused = volumes.materialize("uid", "v", &other, &owner);
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("it already contains ext4"), "{refused}");
    volumes.teardown("uid").unwrap();
}

#[test]
fn partitions_are_left_alone() {
    let (dir, volumes) = private();
    let device = Device::new(dir.path(), "parts");
    // One partition of 2048 sectors behind the first.
    let mut sector = [0u8; 512];
    sector[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&device.0, sector).unwrap();
    let refused = volumes.materialize("uid", "v", &source(&device, None, &[]), &Owner::default());
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(refused.contains("probably partitions"), "{refused}");
    assert_eq!(fs::read(&device.0).unwrap()[..512], sector);
}
