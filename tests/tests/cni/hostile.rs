//! Configurations and environments that mean harm, or are broken: a CNI error each, and nothing is left.

use serde_json::{Value, json};

use crate::bed::{Bed, environment, outcome};
use crate::load::{assert_same, state};

const TYPES: [&str; 3] = ["bridge", "portmap", "bandwidth"];

/// Configurations, as bytes: what they are, and those.
fn configurations(bed: &Bed) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = [
        ("nothing", &b""[..]),
        ("no JSON", b"hello"),
        ("half", br#"{"cniVersion": "1.0.0", "name": "po"#),
        ("a list", b"[]"),
        ("a number", b"1e999999"),
        ("NUL bytes", b"\0\0\0\0"),
        ("no UTF-8", b"{\"name\": \"\xff\xfe\"}"),
        (
            "NUL in a name",
            br#"{"cniVersion": "1.0.0", "name": "a\u0000b"}"#,
        ),
        ("two values", b"{} {}"),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
    .into();
    all.push((
        "deep".into(),
        [vec![b'['; 200_000], vec![b']'; 200_000]].concat(),
    ));
    let deep = format!(
        "{{\"name\":\"pods\",\"args\":{}1{}}}",
        "{\"a\":".repeat(50_000),
        "}".repeat(50_000)
    );
    all.push(("deep objects".into(), deep.into_bytes()));
    let mut large = bed.bridge();
    large["args"] = json!({"padding": "x".repeat(10 << 20)});
    all.push(("10 MB".into(), large.to_string().into_bytes()));
    all.push(("10 MB of spaces".into(), vec![b' '; 10 << 20]));
    for (name, path, value) in changes() {
        let mut conf = bed.bridge();
        *conf.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        all.push((name.to_owned(), conf.to_string().into_bytes()));
    }
    all
}

/// A good configuration of the bridge with one thing wrong.
fn changes() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("name of a path", "/name", json!("../../etc")),
        ("absolute name", "/name", json!("/etc/passwd")),
        ("empty name", "/name", json!("")),
        ("long name", "/name", json!("n".repeat(5000))),
        ("name of a wrong type", "/name", json!({"a": 1})),
        ("version from the future", "/cniVersion", json!("99.0.0")),
        ("version of a wrong type", "/cniVersion", json!(1)),
        ("bridge of a path", "/bridge", json!("../x")),
        ("long bridge", "/bridge", json!("b".repeat(64))),
        ("bridge with a space", "/bridge", json!("a b")),
        (
            "overlapping ranges",
            "/ipam/ranges",
            json!([[{"subnet": "10.0.0.0/8"}], [{"subnet": "10.1.0.0/16"}]]),
        ),
        (
            "overlap in a set",
            "/ipam/ranges",
            json!([[{"subnet": "10.99.0.0/24"}, {"subnet": "10.99.0.0/25"}]]),
        ),
        (
            "no network",
            "/ipam/ranges",
            json!([[{"subnet": "10.0.0.0/99"}]]),
        ),
        (
            "a network without room",
            "/ipam/ranges",
            json!([[{"subnet": "10.0.0.0/32"}]]),
        ),
        (
            "backward range",
            "/ipam/ranges",
            json!([[{"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.9", "rangeEnd": "10.99.0.3"}]]),
        ),
        (
            "gateway elsewhere",
            "/ipam/ranges",
            json!([[{"subnet": "10.99.0.0/24", "gateway": "10.98.0.1"}]]),
        ),
        ("no ranges", "/ipam/ranges", json!([])),
        (
            "ranges of a wrong type",
            "/ipam/ranges",
            json!("10.0.0.0/8"),
        ),
        (
            "route to nowhere",
            "/ipam/routes",
            json!([{"dst": "10.0.0.0/64"}]),
        ),
        ("plugin by a path", "/ipam/type", json!("../../bin/sh")),
        (
            "plugin that is not there",
            "/ipam/type",
            json!("no-such-plugin"),
        ),
        ("no addresses at all", "/ipam", json!(7)),
    ]
}

/// What is there after an ADD and a DEL: a bridge without ports.
fn settled(bed: &Bed, pod: &str) -> Vec<String> {
    bed.on_bridge(pod);
    bed.call("bridge", "DEL", pod, &bed.bridge()).expect("del");
    state(bed)
}

#[test]
fn every_type_refuses_what_is_broken() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    let before = settled(&bed, &pod);
    for plugin in TYPES {
        for (name, conf) in configurations(&bed) {
            for command in ["ADD", "CHECK", "GC", "STATUS"] {
                // What is only the bridge's concern is none of the others'.
                let own = plugin == "bridge" || !changes().iter().any(|(n, ..)| *n == name);
                let env = environment(command, &pod, "eth0");
                let answer = outcome(&bed.run(plugin, &env, &conf));
                if let Ok(value) = &answer {
                    assert!(
                        !own || command != "ADD",
                        "{plugin} {command} {name}: {value}"
                    );
                    continue;
                }
                refused(&format!("{plugin} {command} {name}"), &answer);
            }
            assert_same(&before, &state(&bed), &format!("{plugin} {name}"));
        }
    }
}

/// An error as the specification has it: not a panic's words, not a signal.
fn refused(what: &str, answer: &Result<Value, Value>) {
    let error = answer.as_ref().expect_err(what);
    let code = error["code"].as_u64();
    assert!(code.is_some_and(|c| c > 0), "{what}: {error}");
    let said = error["msg"].as_str().unwrap_or_default();
    assert!(!said.is_empty(), "{what}: {error}");
    let text = error.to_string();
    assert!(
        text.len() < 4096 && !text.contains("panicked"),
        "{what}: {text}"
    );
}

#[test]
fn environments_that_mean_harm_are_refused() {
    let bed = Bed::new();
    let pod = bed.pod("a");
    let before = settled(&bed, &pod);
    let cases: &[(&str, &str)] = &[
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", ""),
        ("CNI_COMMAND", "ADD\nDEL"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../../etc/passwd"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_CONTAINERID", "-a"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "an-interface-with-a-long-name"),
        ("CNI_NETNS", "/proc/1/nothing"),
        ("CNI_NETNS", "/etc/passwd"),
        ("CNI_NETNS", "/"),
    ];
    let conf = bed.bridge().to_string();
    for plugin in ["bridge", "portmap"] {
        for (name, value) in cases {
            if plugin == "portmap" && *name == "CNI_NETNS" {
                // Nothing is done there.
                continue;
            }
            let mut env = environment("ADD", &pod, "eth0");
            for entry in env.iter_mut().filter(|(n, _)| n == name) {
                entry.1 = (*value).to_owned();
            }
            let output = bed.run(plugin, &env, conf.as_bytes());
            let what = format!("{plugin} {name}={value:?}");
            refused(&what, &outcome(&output));
            assert_same(&before, &state(&bed), &what);
        }
    }
}
