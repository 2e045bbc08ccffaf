//! Volumes on real file systems, in a private mount namespace each.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::Volume;
use keelson_agent_io::volumes::{
    Bundles, Data, Error, File, HostPathType, Keys, Medium, Owner, Part, Plugin, Record, Source,
    Storage, Volumes, Want, wants,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tempfile::TempDir;

/// Mounts made by this thread are seen by nobody else and vanish with it.
fn private() -> (TempDir, Volumes) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(dir.path());
    (dir, volumes)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn on_tmpfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).unwrap().filesystem_type() == nix::sys::statfs::TMPFS_MAGIC
}

fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec()))
        .collect()
}

fn keys(plugin: Plugin, pairs: &[(&str, &str)]) -> Source {
    let keys = Keys {
        kind: "configmap",
        name: "c".into(),
        data: Some(data(pairs)),
        items: None,
        optional: false,
    };
    Source::Files {
        plugin,
        default_mode: 0o644,
        parts: vec![Part::Keys(keys)],
    }
}

fn nobody() -> Owner {
    Owner::default()
}

#[test]
fn an_empty_dir_in_memory_has_a_limit_and_keeps_its_contents() {
    let (_dir, volumes) = private();
    let source = Source::EmptyDir {
        medium: Medium::Memory,
        size_limit: Some(1 << 20),
    };
    let path = volumes.materialize("u", "v", &source, &nobody()).unwrap();
    assert!(on_tmpfs(&path));
    assert_eq!(mode(&path), 0o777);
    fs::write(path.join("kept"), "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let full = fs::write(path.join("big"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(
        volumes.materialize("u", "v", &source, &nobody()).unwrap(),
        path
    );
    assert_eq!(fs::read(path.join("kept")).unwrap(), b"x");
    assert_eq!(mode(&path), 0o700, "the pod's own change stays");
    assert_eq!(volumes.list().unwrap(), ["u"]);
    volumes.teardown("u").unwrap();
    volumes.teardown("u").unwrap();
    assert!(!path.exists() && volumes.list().unwrap().is_empty());
}

#[test]
fn names_stay_in_their_directory() {
    let (_dir, volumes) = private();
    let source = Source::EmptyDir {
        medium: Medium::Disk,
        size_limit: None,
    };
    for name in ["..", ".", "", "a/b", "../x", "a\0b"] {
        assert!(
            matches!(
                volumes.materialize("u", name, &source, &nobody()),
                Err(Error::Name { .. })
            ),
            "{name:?}"
        );
        assert!(
            matches!(
                volumes.materialize(name, "v", &source, &nobody()),
                Err(Error::Name { .. })
            ),
            "{name:?}"
        );
        assert!(volumes.teardown(name).is_err(), "{name:?}");
    }
    for path in ["../x", "/x", "a/../../x", "..data", "a//b", ""] {
        let file = File {
            path: path.into(),
            mode: None,
            data: Vec::new(),
        };
        let source = Source::Files {
            plugin: Plugin::DownwardApi,
            default_mode: 0o644,
            parts: vec![Part::Values(vec![file])],
        };
        assert!(
            matches!(
                volumes.materialize("u", "v", &source, &nobody()),
                Err(Error::Path(_))
            ),
            "{path:?}"
        );
    }
}

#[test]
fn secrets_live_in_memory_with_their_modes() {
    let (_dir, volumes) = private();
    let volume: Volume = serde_json::from_value(json!({
        "name": "v", "secret": {"secretName": "s", "defaultMode": 0o400,
            "items": [{"key": "a", "path": "deep/er/a"}, {"key": "b", "path": "b", "mode": 0o440}]},
    }))
    .unwrap();
    assert_eq!(
        wants(&volume),
        [Want::Secret {
            name: "s".into(),
            optional: false
        }]
    );
    let secret =
        serde_json::from_value(json!({"data": {"a": "QQ==", "b": "Qg==", "c": "Qw=="}})).unwrap();
    let given = Data {
        secrets: [("s".into(), secret)].into(),
        ..Data::default()
    };
    let source = Source::from_volume(&volume, &given, &|_| Err("none".into())).unwrap();
    let path = volumes.materialize("u", "v", &source, &nobody()).unwrap();
    assert!(on_tmpfs(&path));
    assert_eq!(fs::read(path.join("deep/er/a")).unwrap(), b"A");
    assert_eq!(
        (mode(&path.join("deep/er/a")), mode(&path.join("b"))),
        (0o400, 0o440)
    );
    assert!(!path.join("c").exists());
    assert_eq!(mode(&volumes.pod_dir("u").unwrap()), 0o750);

    let missing = Source::from_volume(&volume, &Data::default(), &|_| Err("none".into())).unwrap();
    let e = volumes
        .materialize("u", "w", &missing, &nobody())
        .unwrap_err();
    assert_eq!(e.to_string(), "secret \"s\" not found");
    let empty = serde_json::from_value(json!({"data": {}})).unwrap();
    let given = Data {
        secrets: [("s".into(), empty)].into(),
        ..Data::default()
    };
    let source = Source::from_volume(&volume, &given, &|_| Err("none".into())).unwrap();
    let e = volumes
        .materialize("u", "w", &source, &nobody())
        .unwrap_err();
    assert_eq!(e.to_string(), "references non-existent secret key: a");
    volumes.teardown("u").unwrap();
}

#[test]
fn a_projected_volume_joins_its_sources_and_belongs_to_the_group() {
    let (_dir, volumes) = private();
    let volume: Volume = serde_json::from_value(json!({"name": "v", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"secret": {"name": "gone", "optional": true}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}}))
    .unwrap();
    let ca = serde_json::from_value(json!({"data": {"ca.crt": "PEM"}})).unwrap();
    let given = Data {
        config_maps: [("kube-root-ca.crt".into(), ca)].into(),
        tokens: [((String::new(), 3607), "jwt".into())].into(),
        ..Data::default()
    };
    let source = Source::from_volume(&volume, &given, &|f| {
        Ok(f.field_ref.clone().unwrap().field_path)
    })
    .unwrap();
    let owner = Owner {
        fs_group: Some(2000),
        ..Owner::default()
    };
    let path = volumes.materialize("u", "v", &source, &owner).unwrap();
    let read = |f: &str| fs::read_to_string(path.join(f)).unwrap();
    assert_eq!(
        [read("token"), read("ca.crt"), read("namespace")],
        ["jwt", "PEM", "metadata.namespace"]
    );
    assert_eq!(
        (mode(&path.join("token")), mode(&path.join("ca.crt"))),
        (0o640, 0o644)
    );
    assert_eq!(fs::metadata(path.join("token")).unwrap().gid(), 2000);
    assert_eq!(mode(&path) & 0o2000, 0o2000);
    assert!(on_tmpfs(&path));
    assert!(!volumes.refresh("u", "v", &source, &owner).unwrap());
    volumes.teardown("u").unwrap();

    let certificate: Volume = serde_json::from_value(
        json!({"name": "v", "projected": {"sources": [{"podCertificate": {"keyType": "ED25519", "signerName": "a/b"}}]}}),
    )
    .unwrap();
    let e = Source::from_volume(&certificate, &given, &|_| Err("none".into())).unwrap_err();
    assert_eq!(
        e.to_string(),
        "volume \"v\": projected source podCertificate is not supported by this node agent: use clusterTrustBundle, \
         configMap, downwardAPI, secret or serviceAccountToken"
    );
}

#[test]
fn trust_anchors_are_one_file() {
    let volume = |optional: bool| -> Volume {
        let projection = json!({"name": "a", "path": "ca.pem", "optional": optional});
        let sources = json!([{"clusterTrustBundle": projection}]);
        serde_json::from_value(json!({"name": "v", "projected": {"sources": sources}})).unwrap()
    };
    let asked = Bundles::Named("a".into());
    assert_eq!(wants(&volume(false)), [Want::Trust(asked.clone())]);
    let none = Data::default();
    let source = |optional, data: &Data| {
        Source::from_volume(&volume(optional), data, &|_| Err("none".into()))
    };
    let missing = source(false, &none).unwrap_err();
    assert!(
        missing
            .to_string()
            .contains("clustertrustbundle \"a\" not found"),
        "{missing}"
    );
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::new(["x".to_owned()]).unwrap();
    let pem = pem.self_signed(&key).unwrap().pem();
    let some = Data {
        trust: [(asked, vec![pem.clone()])].into(),
        ..Data::default()
    };
    let (_dir, volumes) = private();
    for (data, text) in [(&none, String::new()), (&some, pem.replace('\r', ""))] {
        let source = source(true, data).unwrap();
        let path = volumes.materialize("u", "v", &source, &nobody()).unwrap();
        volumes.refresh("u", "v", &source, &nobody()).unwrap();
        assert_eq!(fs::read_to_string(path.join("ca.pem")).unwrap(), text);
    }
    volumes.teardown("u").unwrap();
}

#[test]
fn a_refresh_replaces_adds_and_removes() {
    let (_dir, volumes) = private();
    let path = volumes
        .materialize(
            "u",
            "v",
            &keys(Plugin::ConfigMap, &[("a", "1"), ("b", "1")]),
            &nobody(),
        )
        .unwrap();
    let next = keys(Plugin::ConfigMap, &[("a", "2"), ("c", "2")]);
    assert!(volumes.refresh("u", "v", &next, &nobody()).unwrap());
    assert!(!volumes.refresh("u", "v", &next, &nobody()).unwrap());
    let mut names: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let versions = names.iter().filter(|n| n.starts_with("..2")).count();
    names.retain(|n| !n.starts_with("..2"));
    assert_eq!(
        (names, versions),
        (vec!["..data".to_owned(), "a".into(), "c".into()], 1)
    );
    assert_eq!(fs::read(path.join("a")).unwrap(), b"2");
    assert_eq!(
        fs::read_link(path.join("a")).unwrap(),
        Path::new("..data/a")
    );
    volumes.teardown("u").unwrap();
}

#[test]
fn a_reader_sees_all_of_one_version() {
    let (_dir, volumes) = private();
    let version = |n: usize| {
        let text = n.to_string().repeat(1000);
        keys(Plugin::Secret, &[("a", &text), ("b", &text)])
    };
    let path = volumes
        .materialize("u", "v", &version(0), &nobody())
        .unwrap();
    let stop = AtomicBool::new(false);
    let read = || -> io::Result<(Vec<u8>, Vec<u8>)> {
        // The directory is held open, as a reader that wants one version does.
        let dir = path.join(fs::read_link(path.join("..data"))?);
        Ok((fs::read(dir.join("a"))?, fs::read(dir.join("b"))?))
    };
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                // The names that containers open are there at every moment.
                assert!(!fs::read(path.join("a")).is_ok_and(|a| a.is_empty()));
                if let Ok((a, b)) = read() {
                    assert!(a == b && !a.is_empty());
                    seen += 1;
                }
            }
            seen
        });
        for n in 1..300 {
            assert!(volumes.refresh("u", "v", &version(n), &nobody()).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    volumes.teardown("u").unwrap();
}

#[test]
fn host_paths_are_checked_and_made() {
    let (dir, volumes) = private();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("file"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let table = [
        ("dir", "Directory", Ok(())),
        ("file", "Directory", Err("is not a directory")),
        ("gone", "Directory", Err("is not a directory")),
        ("file", "File", Ok(())),
        ("dir", "File", Err("is not a file")),
        ("socket", "Socket", Ok(())),
        ("file", "Socket", Err("is not a socket file")),
        ("file", "CharDevice", Err("is not a character device")),
        ("file", "BlockDevice", Err("is not a block device")),
        ("new/deep", "DirectoryOrCreate", Ok(())),
        ("newfile", "FileOrCreate", Ok(())),
        ("nodir/file", "FileOrCreate", Err("create file")),
        ("unset", "", Ok(())),
        ("dir/../dir", "", Err("must not contain '..'")),
    ];
    for (name, kind, want) in table {
        let kind = HostPathType::parse(kind).unwrap();
        let got = volumes.materialize(
            "u",
            "v",
            &Source::HostPath {
                path: at(name),
                kind,
            },
            &nobody(),
        );
        match (got, want) {
            (Ok(path), Ok(())) => assert!(path.exists()),
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{name}: {e}"),
            (got, _) => panic!("{name} {kind:?}: {got:?}"),
        }
    }
    assert!(at("new/deep").is_dir() && at("newfile").is_file() && at("unset").is_dir());
    let null = Source::HostPath {
        path: "/dev/null".into(),
        kind: HostPathType::CharDevice,
    };
    volumes.materialize("u", "v", &null, &nobody()).unwrap();
}

#[test]
fn a_sub_path_is_bound_and_never_leaves_its_volume() {
    let (dir, volumes) = private();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "host").unwrap();
    let source = Source::EmptyDir {
        medium: Medium::Disk,
        size_limit: None,
    };
    let volume = volumes.materialize("u", "v", &source, &nobody()).unwrap();
    fs::create_dir(volume.join("real")).unwrap();
    fs::write(volume.join("real/file"), "in").unwrap();
    symlink("real", volume.join("inner")).unwrap();
    symlink(&outside, volume.join("absolute")).unwrap();
    symlink("../../../../../outside", volume.join("relative")).unwrap();

    let bind = |sub: &str| volumes.sub_path("u", "v", "c", 0, &volume, sub);
    assert_eq!(
        fs::read(bind("inner").unwrap().join("file")).unwrap(),
        b"in"
    );
    assert_eq!(fs::read(bind("real/file").unwrap()).unwrap(), b"in");
    assert!(bind("made/here").unwrap().is_dir() && volume.join("made/here").is_dir());
    for sub in [
        "absolute",
        "relative",
        "absolute/secret",
        "..",
        "real/../../x",
        "/etc",
    ] {
        assert!(matches!(bind(sub), Err(Error::Escape { .. })), "{sub}");
    }
    // A key of a ConfigMap is a link through ..data.
    let files = volumes
        .materialize(
            "u",
            "m",
            &keys(Plugin::ConfigMap, &[("k", "value")]),
            &nobody(),
        )
        .unwrap();
    let bound = volumes.sub_path("u", "m", "c", 1, &files, "k").unwrap();
    assert_eq!(fs::read(&bound).unwrap(), b"value");

    // What is bound from the host survives the pod.
    let host = volumes
        .sub_path("u", "h", "c", 2, dir.path(), "outside")
        .unwrap();
    assert!(host.join("secret").exists());
    volumes.teardown("u").unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"host");
    assert!(!volumes.pod_dir("u").unwrap().exists());
}

#[test]
fn a_sub_path_that_is_swapped_all_the_time_does_not_escape() {
    let (dir, volumes) = private();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("mark"), "host").unwrap();
    let source = Source::EmptyDir {
        medium: Medium::Disk,
        size_limit: None,
    };
    let volume = volumes.materialize("u", "v", &source, &nobody()).unwrap();
    let (good, link, target) = (
        volume.join("good"),
        volume.join("link"),
        volume.join("target"),
    );
    fs::create_dir(&good).unwrap();
    symlink(&outside, &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                _ = fs::rename(&good, &target);
                _ = fs::rename(&target, &good);
                _ = fs::rename(&link, &target);
                _ = fs::rename(&target, &link);
            }
        });
        let (mut bound, mut refused) = (0, 0);
        for _ in 0..2000 {
            match volumes.sub_path("u", "v", "c", 0, &volume, "target") {
                Ok(path) => {
                    assert!(!path.join("mark").exists(), "the host was bound");
                    bound += 1;
                }
                Err(_) => refused += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(
            bound > 0 && refused > 0,
            "bound {bound}, refused {refused}: no race took place"
        );
    });
    volumes.teardown("u").unwrap();
}

#[test]
fn directories_of_the_node_are_made_and_removed() {
    let (dir, _) = private();
    let storage = Storage::new(dir.path().join("storage"));
    let path = storage.ensure("pvc-1_ns_data").unwrap();
    assert_eq!(mode(&path), 0o777);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(path.join("a")).unwrap();
    fs::write(path.join("a/b"), "x").unwrap();
    // What is there stays as it is.
    storage.ensure("pvc-1_ns_data").unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(storage.name(&path), Some("pvc-1_ns_data"));
    assert_eq!(storage.name(Path::new("/etc/passwd")), None);
    assert_eq!(storage.name(&path.join("a")), None);
    // A link that its user made is removed, not followed.
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, path.join("link")).unwrap();
    // Nor while something is mounted in it.
    let point = path.join("a");
    mount(
        Some(&outside),
        &point,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    let refused = storage.remove("pvc-1_ns_data").unwrap_err().to_string();
    assert!(refused.contains("still mounted"), "{refused}");
    nix::mount::umount(&point).unwrap();
    storage.remove("pvc-1_ns_data").unwrap();
    storage.remove("pvc-1_ns_data").unwrap();
    assert!(!path.parent().unwrap().exists() && outside.join("kept").exists());
    fs::create_dir(path.parent().unwrap()).unwrap();
    // A link in the place of a directory leads nowhere.
    symlink(&outside, &path).unwrap();
    assert!(storage.ensure("pvc-1_ns_data").is_err());
    storage.remove("pvc-1_ns_data").unwrap();
    assert!(outside.join("kept").exists());
    for name in ["", ".", "..", "a/b", "../outside"] {
        assert!(
            matches!(storage.ensure(name), Err(Error::Name { .. })),
            "{name}"
        );
        assert!(
            matches!(storage.remove(name), Err(Error::Name { .. })),
            "{name}"
        );
    }
}

#[test]
fn local_volumes_are_given_to_the_group() {
    let (dir, volumes) = private();
    let disk = dir.path().join("disk");
    fs::create_dir_all(disk.join("a")).unwrap();
    fs::write(disk.join("a/file"), "x").unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "").unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&outside, disk.join("link")).unwrap();
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(disk.join("a/file"), fs::Permissions::from_mode(0o600)).unwrap();
    let source = |path: &Path| Source::Local {
        path: path.to_owned(),
        fs_type: None,
        options: Vec::new(),
    };
    let owner = |on_root_mismatch| Owner {
        fs_group: Some(4242),
        on_root_mismatch,
        ..Owner::default()
    };
    let used = volumes
        .materialize("u", "v", &source(&disk), &owner(false))
        .unwrap();
    assert_eq!(used, disk);
    let gid = |path: &Path| fs::symlink_metadata(path).unwrap().gid();
    for path in [
        &disk,
        &disk.join("a"),
        &disk.join("a/file"),
        &disk.join("link"),
    ] {
        assert_eq!(gid(path), 4242, "{}", path.display());
    }
    assert_eq!(mode(&disk), 0o2775);
    assert_eq!(mode(&disk.join("a/file")), 0o660);
    // The link's target is not in the volume.
    assert_eq!((gid(&outside), mode(&outside)), (0, 0o600));
    // With a right root nothing below is looked at, unless always is asked for.
    let file = disk.join("a/file");
    std::os::unix::fs::chown(&file, None, Some(0)).unwrap();
    volumes
        .materialize("u", "v", &source(&disk), &owner(true))
        .unwrap();
    assert_eq!(gid(&file), 0);
    volumes
        .materialize("u", "v", &source(&disk), &owner(false))
        .unwrap();
    assert_eq!(gid(&file), 4242);
    // The pod goes, the volume stays.
    volumes.teardown("u").unwrap();
    assert!(file.exists());
    let missing = volumes.materialize("u", "v", &source(&dir.path().join("none")), &nobody());
    let missing = missing.unwrap_err().to_string();
    assert!(missing.ends_with("does not exist"), "{missing}");
}

#[test]
fn where_a_claim_was_put_is_remembered() {
    let (dir, volumes) = private();
    let record = Record {
        path: dir.path().to_owned(),
        is_block: false,
        read_only: true,
        ..Record::default()
    };
    assert!(volumes.recorded("u", "v").is_err());
    volumes.record("u", "v", &record).unwrap();
    assert_eq!(volumes.recorded("u", "v").unwrap(), record);
    assert_eq!(volumes.records("u").unwrap(), [("v".to_owned(), record)]);
    assert_eq!(volumes.records("other").unwrap(), []);
    volumes.teardown("u").unwrap();
    assert!(volumes.recorded("u", "v").is_err());
}

#[test]
fn what_lies_where_others_were_mounted_is_never_removed() {
    let (dir, volumes) = private();
    let point = dir.path().join("pods/u/volumes/kubernetes.io~nfs/v");
    fs::create_dir_all(&point).unwrap();
    let others = dir.path().join("others");
    fs::create_dir(&others).unwrap();
    fs::write(others.join("file"), "x").unwrap();
    mount(
        Some(&others),
        &point,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    volumes.teardown("u").unwrap();
    assert!(others.join("file").exists());
    // A mount that is not seen any more, but whose content is: it is told, not removed.
    fs::create_dir_all(&point).unwrap();
    fs::write(point.join("file"), "x").unwrap();
    let told = volumes.teardown("u").unwrap_err().to_string();
    assert!(told.contains("remove mount point"), "{told}");
    assert!(point.join("file").exists());
}

#[test]
fn what_cannot_be_mounted_says_why() {
    let (dir, volumes) = private();
    let nfs = Source::Nfs {
        server: "127.0.0.1".into(),
        path: "/none".into(),
        options: vec![
            "vers=4.2".into(),
            "soft".into(),
            "timeo=1".into(),
            "retry=0".into(),
        ],
        read_only: true,
    };
    let why = volumes
        .materialize("u", "v", &nfs, &nobody())
        .unwrap_err()
        .to_string();
    assert!(why.starts_with("mount 127.0.0.1:/none over nfs: "), "{why}");
    volumes.teardown("u").unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let why = volumes.materialize("u", "v", &Source::Device { path: file }, &nobody());
    let why = why.unwrap_err().to_string();
    assert!(why.ends_with("is not a block device"), "{why}");
}

#[test]
fn persistent_volumes_as_values() {
    let rows = [
        (
            json!({"local": {"path": "/d"}, "mountOptions": ["noatime"]}),
            "local /d noatime",
        ),
        (
            json!({"local": {"path": "/d"}, "volumeMode": "Block"}),
            "device /d",
        ),
        (
            json!({"hostPath": {"path": "/h", "type": "Directory"}}),
            "host /h",
        ),
        (
            json!({"nfs": {"server": "s", "path": "/p", "readOnly": true}}),
            "nfs s:/p true",
        ),
        (
            json!({"nfs": {"server": "s", "path": "/p"}}),
            "nfs s:/p false",
        ),
        (
            json!({"iscsi": {"targetPortal": "x", "iqn": "y", "lun": 0}}),
            "volume \"pv\": source iscsi is not supported by this node agent: use csi, hostPath, local or nfs",
        ),
        (
            json!({}),
            "volume \"pv\": an empty source is not supported by this node agent: use csi, hostPath, local or nfs",
        ),
    ];
    for (spec, want) in rows {
        let volume =
            serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap();
        let got = match keelson_agent_io::volumes::of_volume(&volume, false) {
            Ok(Source::Local { path, options, .. }) => {
                format!("local {} {}", path.display(), options.join(","))
            }
            Ok(Source::Device { path }) => format!("device {}", path.display()),
            Ok(Source::HostPath { path, .. }) => format!("host {}", path.display()),
            Ok(Source::Nfs {
                server,
                path,
                read_only,
                ..
            }) => format!("nfs {server}:{path} {read_only}"),
            Ok(other) => format!("{other:?}"),
            Err(e) => e.to_string(),
        };
        assert_eq!(got, want);
    }
}
