//! Imports go downwards only: daemon -> plan -> parsed types. Read from the manifests, so that a wrong one shows.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each package and all packages of ours that it may import. A new package must be given its place here.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("keelson-schema", &[]),
    ("keelson-api", &["schema"]),
    ("keelson-store", &[]),
    ("keelson-serving", &[]),
    ("keelson-election", &[]),
    ("keelson-auth", &["api"]),
    ("keelson-admission", &["api", "auth"]),
    (
        "keelson-apiserver",
        &["admission", "api", "auth", "schema", "serving", "store"],
    ),
    // Those that meet the rest through the API alone.
    ("keelson-scheduler", &["api", "election"]),
    (
        "keelson-controllers",
        &["admission", "api", "auth", "election"],
    ),
    ("keelson-agent-plan", &[]),
    ("keelson-runtime", &["dbus"]),
    ("keelson-agent-io", &["agent-plan", "serving"]),
    (
        "keelson-agent",
        &[
            "agent-io",
            "agent-plan",
            "csi",
            "devices",
            "dbus",
            "overlay",
            "runtime",
            "serving",
        ],
    ),
    ("keelson-csi", &[]),
    ("keelson-devices", &[]),
    ("keelson-dbus", &[]),
    ("keelson-logger", &[]),
    ("keelson-cni-plan", &[]),
    ("keelson-cni", &["cni-plan"]),
    ("keelson-overlay", &[]),
    ("keelson-dns", &[]),
    ("keelson-proxy-plan", &[]),
    ("keelson-proxy-kernel", &["proxy-plan"]),
    ("keelson-proxy", &["dns", "proxy-kernel", "proxy-plan"]),
    ("keelson-echo", &[]),
];

/// The binary joins all, tests may use all.
const ANYTHING: &[&str] = &[
    "keelson",
    "keelson-tests",
    "keelson-tests-packets",
    "keelson-tests-vm",
];

/// Those that only decide: nothing in them can wait, open or ask the clock of the system's I/O.
const PURE: &[&str] = &[
    "keelson-schema",
    "keelson-api",
    "keelson-agent-plan",
    "keelson-cni-plan",
    "keelson-proxy-plan",
];
const IMPURE: &[&str] = &[
    "tokio",
    "axum",
    "hyper",
    "rtnetlink",
    "kube",
    "nix",
    "rustix",
    "libc",
    "futures",
];

fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let args = [
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
        "--manifest-path",
        manifest,
    ];
    let out = Command::new("cargo").args(args).output().expect("cargo");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("metadata");
    let name = |v: &Value| v["name"].as_str().expect("name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let normal = |p: &Value| {
        let all = p["dependencies"].as_array().expect("dependencies").iter();
        all.filter(|d| d["kind"].is_null()).map(name).collect()
    };
    packages.map(|p| (name(p), normal(p))).collect()
}

#[test]
fn imports_go_downwards_only() {
    for (package, all) in imports() {
        if ANYTHING.contains(&package.as_str()) {
            continue;
        }
        let place = MAY_IMPORT.iter().find(|(p, _)| *p == package);
        let (_, allowed) = place.unwrap_or_else(|| panic!("{package} has no place in this table"));
        for import in all.iter().filter_map(|i| i.strip_prefix("keelson-")) {
            assert!(
                allowed.contains(&import),
                "{package} imports keelson-{import}"
            );
        }
    }
}

#[test]
fn plans_can_reach_no_input_or_output() {
    let imports = imports();
    for package in PURE {
        for impure in IMPURE {
            assert!(
                !imports[*package].contains(*impure),
                "{package} is pure and imports {impure}"
            );
        }
    }
}
