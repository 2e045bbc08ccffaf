//! What is reserved, who has CPUs of their own, and on which nodes they could be.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::json;

use super::super::*;
use super::world::*;

#[test]
fn reserved() {
    let named = |list: &str, milli| {
        let policy = Static::new(sockets(), &settings(Options::default(), list), milli);
        policy.map(|p| p.reserved().to_string())
    };
    let rows = [
        ("", 1000, Ok("0")),
        ("", 1001, Ok("0,4")),
        ("", 4000, Ok("0-1,4-5")),
        ("3,7", 1000, Ok("3,7")),
        (
            "",
            0,
            Err(
                "the static policy requires systemReserved.cpu + kubeReserved.cpu to be greater than zero, or reservedSystemCPUs",
            ),
        ),
        (
            "",
            9000,
            Err("unable to reserve the required amount of CPUs (size of 0-7 is less than 9)"),
        ),
        (
            "7-8",
            1000,
            Err("reservedSystemCPUs: cpuset \"7-8\": CPU 8 is not online, there are 0-7"),
        ),
    ];
    for (list, milli, want) in rows {
        let want = want.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(named(list, milli), want, "{list} {milli}");
    }
    let by_socket = Options {
        align_by_socket: true,
        ..Options::default()
    };
    let mut odd = sockets();
    odd.cpus.values_mut().for_each(|p| p.node = 0);
    let error = Static::new(odd, &settings(by_socket, "0"), 0).expect_err("sockets within a node");
    assert!(
        error.contains("number of sockets are more than number of NUMA"),
        "{error}"
    );
}

#[test]
fn started_anew() {
    let plain = Options::default();
    let strict = Options {
        strict: true,
        ..plain
    };
    let own = |cpus: &str| [("u".to_owned(), [("c".to_owned(), set(cpus))].into())].into();
    let state = |shared: &str, cpus: &str| State {
        shared: set(shared),
        exclusive: if cpus.is_empty() {
            BTreeMap::new()
        } else {
            own(cpus)
        },
    };
    let rows = [
        ("first", plain, state("", ""), Ok("0-7")),
        ("first, strict", strict, state("", ""), Ok("1-7")),
        ("goes on", plain, state("0-3,6-7", "4-5"), Ok("0-3,6-7")),
        (
            "goes on, strict",
            strict,
            state("1-3,6-7", "4-5"),
            Ok("1-3,6-7"),
        ),
        (
            "nothing shared",
            plain,
            state("", "0-7"),
            Err("default cpuset cannot be empty"),
        ),
        (
            "reserved since",
            plain,
            state("1-7", "0"),
            Err("not all reserved cpus: \"0\" are present in defaultCpuSet: \"1-7\""),
        ),
        (
            "strict since",
            strict,
            state("0-7", ""),
            Err("some of strictly reserved cpus: \"0\" are present in defaultCpuSet: \"0-7\""),
        ),
        (
            "twice",
            plain,
            state("0-7", "4-5"),
            Err("pod: u, container: c cpuset: \"4-5\" overlaps with default cpuset \"0-7\""),
        ),
        (
            "a CPU has gone",
            plain,
            state("0-7", "8"),
            Err("current set of available CPUs \"0-7\" doesn't match with CPUs in state \"0-8\""),
        ),
        (
            "a CPU has come",
            plain,
            state("0-6", ""),
            Err("current set of available CPUs \"0-7\" doesn't match with CPUs in state \"0-6\""),
        ),
    ];
    for (name, options, left, want) in rows {
        let got = policy(threads(), options, "0").start(Some(left));
        let got = got.map(|s| s.shared.to_string());
        assert_eq!(
            got,
            want.map(str::to_owned).map_err(str::to_owned),
            "{name}"
        );
    }
    let first = policy(threads(), plain, "0")
        .start(None)
        .expect("nothing was left");
    assert_eq!(first.shared, set("0-7"));
}

#[test]
fn who_has_own_ones() {
    let rows = [
        (
            "guaranteed",
            json!({"containers": [container("c", "2")]}),
            2,
            2,
        ),
        (
            "thousandths of it",
            json!({"containers": [container("c", "2000m")]}),
            2,
            2,
        ),
        (
            "no whole number",
            json!({"containers": [container("c", "1500m")]}),
            0,
            0,
        ),
        (
            "limits alone",
            json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "3", "memory": "1Mi"}}}]}),
            3,
            3,
        ),
        (
            "burstable",
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}),
            0,
            0,
        ),
        ("best effort", json!({"containers": [{"name": "c"}]}), 0, 0),
        (
            "a pod's as a whole",
            json!({"resources": {"requests": {"cpu": "2", "memory": "1Mi"}, "limits": {"cpu": "2", "memory": "1Mi"}},
                "containers": [container("c", "1")]}),
            0,
            0,
        ),
        (
            "several",
            json!({"containers": [container("c", "2"), container("d", "1"), container("e", "500m")]}),
            2,
            3,
        ),
        (
            "init containers go first",
            json!({"initContainers": [container("i", "4"), container("j", "2")], "containers": [container("c", "1")]}),
            1,
            4,
        ),
        (
            "sidecars stay",
            json!({"initContainers": [sidecar("s", "2"), container("i", "3"), sidecar("t", "1")], "containers": [container("c", "1")]}),
            1,
            5,
        ),
    ];
    for (name, value, first, all) in rows {
        let spec: PodSpec = serde_json::from_value(value).expect("a spec");
        assert_eq!(wanted(&spec, &spec.containers[0]), first, "{name}");
        assert_eq!(wanted_at_once(&spec), all, "{name}");
    }
}

fn marks(hints: &Hints, width: usize) -> String {
    let Some(Some(list)) = hints.get("cpu") else {
        return "any".into();
    };
    let mark = |h: &Hint| {
        format!(
            "{}{:0width$b}",
            if h.preferred { '+' } else { '-' },
            h.nodes
        )
    };
    list.iter().map(mark).collect::<Vec<_>>().join(" ")
}

#[test]
fn hints() {
    let plain = Options::default();
    let by_socket = Options {
        align_by_socket: true,
        ..plain
    };
    let rows = [
        ("none of its own", sockets(), plain, "500m", "any"),
        ("either node", sockets(), plain, "2", "+01 +10 -11"),
        (
            "the node that has so many",
            sockets(),
            plain,
            "4",
            "+10 -11",
        ),
        ("more than a node", sockets(), plain, "5", "+11"),
        ("more than there are", sockets(), plain, "8", ""),
        (
            "one of four nodes",
            nodes(),
            plain,
            "2",
            "+0010 +0100 +1000 -0011 -0101 -1001 -0110 -1010 -1100 -0111 -1011 -1101 -1110 -1111",
        ),
        (
            "or all of a socket",
            nodes(),
            by_socket,
            "2",
            "+0010 +0100 +1000 +0011 -0101 -1001 -0110 -1010 +1100 -0111 -1011 -1101 -1110 -1111",
        ),
    ];
    for (name, machine, options, cpu, want) in rows {
        let width = machine.nodes().count_ones() as usize;
        let policy = policy(machine, options, "0");
        let asking = Asking::new(&policy, &policy.start(None).expect("fresh"));
        let pod = pod("u", &[], &[container("c", cpu)]);
        let only = &pod.spec.as_ref().expect("a spec").containers[0];
        assert_eq!(
            marks(&asking.hints(&pod, Some(only)), width),
            want,
            "{name}"
        );
        assert_eq!(
            marks(&asking.hints(&pod, None), width),
            want,
            "{name}: the pod's"
        );
    }
    let policy = policy(sockets(), plain, "0");
    let state = State {
        shared: set("0-1,4-7"),
        exclusive: [("u".to_owned(), [("c".to_owned(), set("2-3"))].into())].into(),
    };
    let asking = Asking::new(&policy, &state);
    let pod = pod("u", &[], &[container("c", "2")]);
    assert!(asking.knows("u") && !asking.knows("v"));
    assert_eq!(
        marks(&asking.hints(&pod, None), 2),
        "+10 -11",
        "where it is"
    );
}
