//! What a call is: configuration, parameters, errors (sections 1 and 2).

use serde_json::json;

use super::Walk;
use crate::bed::{environment, ip, outcome, said};

pub(crate) fn no_version(w: &Walk<'_>) {
    let mut conf = w.conf();
    conf.as_object_mut().expect("object").remove("cniVersion");
    let result = w.call("ADD", &w.bed.pod("a"), &conf).expect("add");
    assert_eq!(result["cniVersion"], "0.1.0");
    assert!(result["ip4"]["ip"].is_string(), "{result}");
}

pub(crate) fn names(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    for name in ["", "../x", "a/b", ".a", "a b", "-a"] {
        assert_eq!(
            w.code("ADD", &pod, &w.with(json!({"name": name}))),
            7,
            "{name}"
        );
    }
    w.call("ADD", &pod, &w.with(json!({"name": "A1_b.c-d"})))
        .expect("name");
}

pub(crate) fn other_fields(w: &Walk<'_>) {
    let conf = w.with(json!({"cniVersions": ["9.9.9"], "disableCheck": true, "x": {"y": [1]},
        "capabilities": {"mac": true}, "runtimeConfig": {"infinibandGUID": "x", "unknown": 1}, "args": {"labels": []}}));
    let result = w.call("ADD", &w.bed.pod("a"), &conf).expect("add");
    assert_eq!(result["cniVersion"], w.version);
}

pub(crate) fn missing_variables(w: &Walk<'_>) {
    let rows: [(&str, &[&str]); 3] = [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]),
    ];
    for (command, needed) in rows {
        for name in needed.iter().copied() {
            let name: &'static str = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]
                .into_iter()
                .find(|n| *n == name)
                .expect("name");
            let output = w.with_env(command, "a", &[(name, None)]);
            assert!(!output.status.success());
            let error = said(&output);
            assert_eq!(error["code"], 4, "{error}");
            assert!(error["details"].to_string().contains(name), "{error}");
        }
    }
    let unnamed = said(&w.with_env("GC", "a", &[("CNI_PATH", None)]));
    assert_eq!(unnamed["code"], 4);
    // The path is no ip for what needs no other plugin.
    let pod = w.bed.pod("a");
    assert!(
        w.with_env("ADD", &pod, &[("CNI_PATH", None)])
            .status
            .success()
    );
}

pub(crate) fn hostile_names(w: &Walk<'_>) {
    let rows = [
        ("CNI_CONTAINERID", "../a"),
        ("CNI_CONTAINERID", ".a"),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "sixteen-letters-"),
    ];
    for (name, value) in rows {
        let error = said(&w.with_env("ADD", "a", &[(name, Some(value))]));
        assert_eq!(error["code"], 4, "{name}={value}: {error}");
    }
}

pub(crate) fn extra_arguments(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    for bad in [
        "IP",
        "IP=1=2",
        "IP=10.99.0.9;",
        "IP=x",
        "FOO=BAR",
        "IgnoreUnknown=x",
    ] {
        let error = said(&w.with_env("ADD", &pod, &[("CNI_ARGS", Some(bad))]));
        assert_eq!(error["code"], 4, "{bad}: {error}");
    }
    let good = "IgnoreUnknown=1;FOO=BAR;K8S_POD_NAME=x;IP=10.99.0.9;MAC=0a:00:00:00:00:09";
    let output = w.with_env("ADD", &pod, &[("CNI_ARGS", Some(good))]);
    assert!(output.status.success(), "{}", said(&output));
    let link = ip(&format!("-n {pod} addr show eth0"));
    assert!(
        link.contains("10.99.0.9/24") && link.contains("0a:00:00:00:00:09"),
        "{link}"
    );
}

pub(crate) fn other_commands(w: &Walk<'_>) {
    for command in ["add", "FROB", "UPDATE"] {
        assert_eq!(said(&w.with_env(command, "a", &[]))["code"], 4, "{command}");
    }
}

pub(crate) fn error_form(w: &Walk<'_>) {
    let output = w.with_env("ADD", "no-such-namespace", &[]);
    let error = said(&output);
    assert!(!output.status.success());
    assert_eq!(error["cniVersion"], w.version);
    assert!(error["code"].as_u64().is_some_and(|c| c > 0), "{error}");
    assert!(
        error["msg"].as_str().is_some_and(|m| !m.is_empty()),
        "{error}"
    );
}

pub(crate) fn unknown_version(w: &Walk<'_>) {
    for version in ["9.9.9", "1.2", "x"] {
        let error = w.call("ADD", "a", &w.with(json!({"cniVersion": version})));
        assert_eq!(error.expect_err("unknown")["code"], 1, "{version}");
    }
}

pub(crate) fn unknown_container(w: &Walk<'_>) {
    assert_eq!(w.code("ADD", "no-such-namespace", &w.conf()), 3);
    w.assert_empty();
}

pub(crate) fn undecodable(w: &Walk<'_>) {
    for bytes in ["", "text", "[]", "{", "{\"name\": 1}"] {
        let env = environment("ADD", "a", "eth0");
        let error = outcome(&w.bed.run("bridge", &env, bytes.as_bytes()));
        assert_eq!(error.expect_err(bytes)["code"], 6, "{bytes}");
    }
    assert_eq!(w.code("ADD", "a", &w.with(json!({"mtu": "x"}))), 6);
}

pub(crate) fn impossible(w: &Walk<'_>) {
    let pod = w.bed.pod("a");
    let rows = [
        json!({"mtu": 100_000}),
        json!({"bridge": "a/b"}),
        json!({"vlan": 5000}),
        json!({"hairpinMode": true, "promiscMode": true}),
        json!({"ipam": {"type": "host-local"}}),
        json!({"ipam": {"type": "host-local", "subnet": "10.99.0.0/31"}}),
    ];
    for fields in rows {
        assert_eq!(w.code("ADD", &pod, &w.with(fields.clone())), 7, "{fields}");
    }
    w.assert_empty();
}
