#![allow(clippy::unwrap_used)]

use serde_json::Value;

use super::*;
use crate::model::{Mount, Namespaces, Propagation, Resources, Security};

fn image() -> ImageConfig {
    ImageConfig {
        env: vec!["PATH=/bin".into(), "A=image".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["cmd".into()],
        working_dir: "/work".into(),
        ..ImageConfig::default()
    }
}

fn pod_container() -> ContainerSpec {
    let pinned = |name: &str| Namespace::Path(PathBuf::from("/run/ns/uid").join(name));
    ContainerSpec {
        name: "app".into(),
        hostname: "web".into(),
        namespaces: Namespaces {
            net: pinned("net"),
            ipc: pinned("ipc"),
            uts: pinned("uts"),
            pid: Namespace::Private,
            shm: Some("/run/ns/uid/shm".into()),
        },
        cgroup_parent: "/kubepods/burstable/poduid".into(),
        ..ContainerSpec::default()
    }
}

fn facts() -> Facts {
    Facts {
        capabilities: (1 << 41) - 1,
        oom_floor: -1000,
        ..Facts::default()
    }
}

fn built(spec: &ContainerSpec, facts: &Facts) -> Value {
    serde_json::to_value(build("id", spec, &image(), facts).unwrap()).unwrap()
}

#[test]
fn nothing_comes_from_the_builders_defaults() {
    let json = built(&pod_container(), &facts());
    assert_eq!(
        json.get("hostname"),
        None,
        "a joined UTS namespace keeps its name"
    );
    assert_eq!(json.pointer("/process/rlimits"), None);
    assert_eq!(
        json["linux"]["cgroupsPath"],
        "/kubepods/burstable/poduid/id"
    );
    assert_eq!(json["root"]["path"], "rootfs");
    assert_eq!(json["process"]["noNewPrivileges"], false);
    for empty in ["inheritable", "ambient"] {
        assert_eq!(
            json["process"]["capabilities"][empty],
            serde_json::json!([])
        );
    }
    let kinds: Vec<_> = json["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    assert!(
        kinds
            .iter()
            .any(|ns| ns["type"] == "network" && ns["path"] == "/run/ns/uid/net")
    );

    let own = ContainerSpec {
        namespaces: Namespaces::default(),
        ..pod_container()
    };
    assert_eq!(built(&own, &facts())["hostname"], "web");
}

#[test]
fn entrypoint_and_cmd_combine_as_documented() {
    let table: [(&[&str], &[&str], &[&str]); 4] = [
        (&[], &[], &["/entry", "cmd"]),
        (&[], &["x"], &["/entry", "x"]),
        (&["/c"], &[], &["/c"]),
        (&["/c"], &["x"], &["/c", "x"]),
    ];
    for (command, args, expected) in table {
        let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let spec = ContainerSpec {
            command: strings(command),
            args: strings(args),
            ..pod_container()
        };
        assert_eq!(
            built(&spec, &facts())["process"]["args"],
            serde_json::json!(expected)
        );
    }
    let nothing = build("id", &pod_container(), &ImageConfig::default(), &facts());
    assert!(
        nothing
            .unwrap_err()
            .to_string()
            .contains("no command specified")
    );
}

#[test]
fn environment_and_directory_override_the_images() {
    let spec = ContainerSpec {
        env: vec![("A".into(), "pod".into()), ("B".into(), "x=y".into())],
        working_dir: Some("rel".into()),
        tty: true,
        ..pod_container()
    };
    let json = built(&spec, &facts());
    let expected = ["PATH=/bin", "A=pod", "HOSTNAME=web", "TERM=xterm", "B=x=y"];
    assert_eq!(json["process"]["env"], serde_json::json!(expected));
    assert_eq!(json["process"]["cwd"], "/rel");
    assert_eq!(built(&pod_container(), &facts())["process"]["cwd"], "/work");
}

#[test]
fn mounts_come_parents_first_and_replace_defaults() {
    let mount = |to: &str, propagation| Mount {
        host_path: "/host".into(),
        container_path: to.into(),
        read_only: true,
        recursive_read_only: to == "/data/deep/er",
        propagation,
    };
    let spec = ContainerSpec {
        mounts: vec![
            mount("/data/deep/er", Propagation::Private),
            mount("/data", Propagation::HostToContainer),
            mount("/dev/shm", Propagation::Private),
        ],
        ..pod_container()
    };
    let json = built(&spec, &facts());
    let mounts = json["mounts"].as_array().unwrap();
    let paths: Vec<_> = mounts
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/data",
            "/dev/shm",
            "/data/deep/er"
        ]
    );
    assert_eq!(
        mounts[6]["options"],
        serde_json::json!(["rbind", "rslave", "ro"])
    );
    assert_eq!(
        mounts[8]["options"],
        serde_json::json!(["rbind", "rprivate", "rro"])
    );
    assert_eq!(json["linux"]["rootfsPropagation"], "rslave");
    let shared = built(&pod_container(), &facts());
    let shm = shared["mounts"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(shm["source"], "/run/ns/uid/shm");
}

#[test]
fn privilege_opens_everything_and_only_privilege() {
    let plain = built(&pod_container(), &facts());
    let privileged = ContainerSpec {
        security: Security {
            privileged: true,
            ..Security::default()
        },
        ..pod_container()
    };
    let open = built(&privileged, &facts());
    let sys = |json: &Value| {
        let mounts = json["mounts"].as_array().unwrap();
        let sys = mounts.iter().find(|m| m["destination"] == "/sys").unwrap();
        sys["options"].as_array().unwrap().iter().any(|o| o == "ro")
    };
    let table = [
        (sys(&plain), sys(&open)),
        (
            plain["linux"]["seccomp"].is_object(),
            open["linux"]["seccomp"].is_object(),
        ),
        (
            !plain["linux"]["maskedPaths"].as_array().unwrap().is_empty(),
            !open["linux"]["maskedPaths"].as_array().unwrap().is_empty(),
        ),
        (
            plain["linux"]["resources"]["devices"][0]["allow"] == false,
            open["linux"]["resources"]["devices"][0]["allow"] == false,
        ),
    ];
    assert_eq!(table, [(true, false); 4]);
    assert_eq!(
        open["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        41
    );
}

#[test]
fn limits_are_written_and_scores_clamped() {
    let spec = ContainerSpec {
        resources: Resources {
            cpu_shares: Some(256),
            memory_limit: Some(1 << 20),
            pids_limit: Some(10),
            unified: [("memory.low".to_owned(), "4096".to_owned())].into(),
            hugepages: vec![crate::model::HugepageLimit {
                page_size: "2MB".into(),
                limit: 4 << 20,
            }],
            ..Resources::default()
        },
        oom_score_adj: -997,
        ..pod_container()
    };
    let limited = Facts {
        oom_floor: 0,
        unified: true,
        counts_hugepages: true,
        ..facts()
    };
    let json = built(&spec, &limited);
    let resources = &json["linux"]["resources"];
    assert_eq!(resources["cpu"], serde_json::json!({"shares": 256}));
    assert_eq!(resources["memory"], serde_json::json!({"limit": 1 << 20}));
    assert_eq!(resources["pids"]["limit"], 10);
    assert_eq!(resources["hugepageLimits"][0]["pageSize"], "2MB");
    assert_eq!(resources["unified"]["memory.low"], "4096");
    let elsewhere = &built(&spec, &facts())["linux"]["resources"];
    for lacking in ["hugepageLimits", "unified"] {
        assert!(elsewhere[lacking].is_null(), "{elsewhere}");
    }
    assert_eq!(json["process"]["oomScoreAdj"], 0);
    assert_eq!(built(&spec, &facts())["process"]["oomScoreAdj"], -997);
    let kinds = json["linux"]["namespaces"].as_array().unwrap();
    assert!(
        kinds.iter().any(|ns| ns["type"] == "cgroup"),
        "v2: an own cgroup namespace"
    );
}

#[test]
fn the_seccomp_profile_follows_the_capabilities() {
    let allowed = |add: &[&str], name: &str| {
        let spec = ContainerSpec {
            security: Security {
                cap_add: add.iter().map(ToString::to_string).collect(),
                ..Security::default()
            },
            ..pod_container()
        };
        let json = built(&spec, &facts());
        let rules = json["linux"]["seccomp"]["syscalls"]
            .as_array()
            .unwrap()
            .clone();
        rules.iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule.get("args").is_none()
                && rule["names"].as_array().unwrap().iter().any(|n| n == name)
        })
    };
    for (add, name, expected) in [
        (&[][..], "openat", true),
        (&[], "mount", false),
        (&["SYS_ADMIN"], "mount", true),
        (&[], "clone", false),
        (&[], "keyctl", false),
        (&["SYS_TIME"], "clock_settime", true),
        (&[], "clock_settime", false),
    ] {
        assert_eq!(allowed(add, name), expected, "{name} with {add:?}");
    }
}
