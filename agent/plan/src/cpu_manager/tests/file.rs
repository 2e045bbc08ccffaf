//! The checkpoint.

use super::super::{read, write};

#[test]
fn the_file_is_upstreams() {
    // As kubelets wrote them.
    let rows = [
        (
            "none",
            r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#,
        ),
        (
            "static",
            r#"{"policyName":"static","defaultCpuSet":"0-63","checksum":1058907510}"#,
        ),
        (
            "static",
            r#"{"policyName":"static","defaultCpuSet":"0,10-15,25-31","entries":{"777870b5-c64f-42f5-9296-688b9dc212ba":{"container-1":"16-24"},"fb15e10a-b6a5-4aaa-8fcd-76c1aa64e6fd":{"container-1":"1-9"}},"checksum":318470969}"#,
        ),
    ];
    for (policy, text) in rows {
        let state = read(policy, text).expect("valid");
        assert_eq!(write(policy, &state), text);
    }
    let rows = [
        (
            "static",
            rows[0].1,
            "configured policy \"static\" differs from state checkpoint policy \"none\"",
        ),
        (
            "static",
            r#"{"policyName":"static","defaultCpuSet":"0-3","checksum":7}"#,
            "checkpoint is corrupted",
        ),
        (
            "static",
            r#"{"policyName":"static","defaultCpuSet":"x","checksum":0}"#,
            "could not parse default cpu set \"x\"",
        ),
        (
            "static",
            r#"{"policyName":"static","defaultCpuSet":"0","entries":{"u":{"c":"3-1"}}}"#,
            "could not parse cpuset \"3-1\" for container \"c\" in pod \"u\"",
        ),
        ("static", "{", "EOF while parsing"),
    ];
    for (policy, text, want) in rows {
        let error = read(policy, text).expect_err(want);
        assert!(error.contains(want), "{error}");
    }
}
