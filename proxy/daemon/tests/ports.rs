//! The ports that load balancers and Prometheus ask, over real sockets on loopback.
#![allow(missing_docs)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use keelson_proxy::config::{Flags, Loaded, Mode};
use keelson_proxy::health::{Health, ServiceHealth};
use keelson_proxy::metrics::Metrics;
use keelson_proxy_plan::model::Family;
use keelson_proxy_plan::state::HealthCheck;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// An address on loopback that nobody else has.
fn own() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 64, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Asks until somebody listens; status, head in lower case, and body.
async fn ask(to: impl Into<SocketAddr>, request: &str) -> (u16, String, String) {
    let to = to.into();
    let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let ask = move || {
        for _ in 0..500 {
            if let Ok(mut stream) = TcpStream::connect(to) {
                stream.write_all(request.as_bytes()).expect("write");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("read");
                let (head, body) = answer.split_once("\r\n\r\n").expect("head");
                let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
                return (
                    status.expect("status"),
                    head.to_lowercase(),
                    body.to_owned(),
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nobody listens on {to}");
    };
    tokio::task::spawn_blocking(ask).await.expect("asked")
}

fn json_of(answer: &(u16, String, String)) -> Value {
    assert!(
        answer.1.contains("content-type: application/json"),
        "{}",
        answer.1
    );
    assert!(
        answer.1.contains("x-content-type-options: nosniff"),
        "{}",
        answer.1
    );
    serde_json::from_str(&answer.2).expect("JSON")
}

#[tokio::test]
async fn health_follows_the_proxy_and_the_node() {
    let address = SocketAddr::from((own(), 10_256));
    let metrics = Metrics::new(Mode::Iptables);
    // What waits at all is late.
    let health = Health::new(Duration::ZERO);
    let shutdown = CancellationToken::new();
    let serving = health
        .clone()
        .serve(metrics.clone(), address, true, shutdown.clone());
    let serving = tokio::spawn(serving);
    let node = |v: Value| serde_json::from_value(v).expect("node");
    let plain = node(json!({"metadata": {"name": "n"}}));
    let tainted = node(
        json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
    );
    type Step<'a> = (&'a str, Box<dyn Fn() + 'a>, u16, u16);
    let steps: [Step<'_>; 8] = [
        ("starting", Box::new(|| ()), 200, 200),
        (
            "first changes wait",
            Box::new(|| health.queued(Family::V4)),
            200,
            200,
        ),
        ("written", Box::new(|| health.updated(Family::V4)), 200, 200),
        ("late", Box::new(|| health.queued(Family::V4)), 503, 503),
        (
            "written again",
            Box::new(|| health.updated(Family::V4)),
            200,
            200,
        ),
        (
            "about to be deleted",
            Box::new(|| health.set_node(Some(&tainted))),
            503,
            200,
        ),
        (
            "not any more",
            Box::new(|| health.set_node(Some(&plain))),
            200,
            200,
        ),
        ("deleted", Box::new(|| health.set_node(None)), 503, 200),
    ];
    for (name, step, healthz, livez) in &steps {
        step();
        let (ready, live) = (
            ask(address, "GET /healthz").await,
            ask(address, "GET /livez").await,
        );
        assert_eq!((ready.0, live.0), (*healthz, *livez), "{name}");
        let (ready, live) = (json_of(&ready), json_of(&live));
        assert_eq!(
            ready["nodeEligible"],
            json!(*healthz == 200 || *livez == 503),
            "{name}"
        );
        assert!(live.get("nodeEligible").is_none(), "{name}: {live}");
        assert_eq!(live["healthy"], json!(*livez == 200), "{name}");
        for field in ["lastUpdated", "currentTime"] {
            let time = ready[field]
                .as_str()
                .and_then(|t| t.parse::<jiff::Timestamp>().ok());
            assert!(time.is_some(), "{name}: {field} of {ready}");
        }
        let same = ready["lastUpdated"] == ready["currentTime"];
        assert_eq!(
            same,
            *healthz == 200,
            "{name}: up to date as long as healthy"
        );
    }
    let status = json_of(&ask(address, "GET /livez").await)["status"]["IPv4"].clone();
    assert_eq!(status["healthy"], json!(true), "{status}");
    assert_eq!(ask(address, "POST /healthz").await.0, 405);
    assert_eq!(ask(address, "GET /metrics").await.0, 404);
    let text = metrics.render();
    for line in [
        "proxy_healthz_total{code=\"200\"} 5",
        "proxy_healthz_total{code=\"503\"} 3",
        "proxy_livez_total{code=\"503\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    shutdown.cancel();
    serving.await.expect("ends").expect("well");
    assert!(TcpStream::connect(address).is_err(), "closed");
}

#[tokio::test]
async fn metrics_mode_and_configuration() {
    let address = SocketAddr::from((own(), 10_249));
    let metrics = Metrics::new(Mode::Auto);
    metrics.set_mode(Mode::Nftables);
    let loaded = Loaded::new(None, &Flags::default()).expect("defaults");
    let shutdown = CancellationToken::new();
    let serving = metrics
        .clone()
        .serve(loaded.configz(), address, true, shutdown.clone());
    let serving = tokio::spawn(serving);
    metrics.service_change();
    let (status, head, body) = ask(address, "GET /metrics").await;
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        body.contains("\nkubeproxy_sync_proxy_rules_service_changes_total 1\n"),
        "{body}"
    );
    assert_eq!(ask(address, "GET /proxyMode").await.2, "nftables");
    assert_eq!(ask(address, "GET /healthz").await.2, "ok");
    let config: Value = serde_json::from_str(&ask(address, "GET /configz").await.2).expect("JSON");
    let config = &config["kubeproxy.config.k8s.io"];
    assert_eq!(config["healthzBindAddress"], "0.0.0.0:10256");
    for wrong in ["POST /metrics", "DELETE /configz", "PUT /proxyMode"] {
        assert_eq!(ask(address, wrong).await.0, 405, "{wrong}");
    }
    shutdown.cancel();
    serving.await.expect("ends").expect("well");
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_or_is_waited_for() {
    let address = SocketAddr::from((own(), 10_249));
    let taken = std::net::TcpListener::bind(address).expect("bind");
    let metrics = Metrics::new(Mode::Ipvs);
    let shutdown = CancellationToken::new();
    let hard = metrics
        .clone()
        .serve(Value::Null, address, true, shutdown.clone())
        .await;
    let hard = format!("{:#}", hard.expect_err("hard"));
    assert!(
        hard.contains(&address.to_string()) && hard.contains("in use"),
        "{hard}"
    );
    let soft = tokio::spawn(metrics.serve(Value::Null, address, false, shutdown.clone()));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!soft.is_finished(), "it waits");
    shutdown.cancel();
    soft.await.expect("ends").expect("well");
    drop(taken);
}

#[tokio::test]
async fn services_tell_whether_endpoints_are_here() {
    let (first, second) = (own(), own());
    let health = Health::new(Duration::ZERO);
    let mut services = ServiceHealth::new(health.clone(), vec![first.into(), second.into()]);
    let sync = async |services: &mut ServiceHealth, wanted: &[(&str, u16, usize)]| {
        let wanted = wanted
            .iter()
            .map(|(namespace, port, local_endpoints)| HealthCheck {
                port: *port,
                namespace: (*namespace).into(),
                service: "web".into(),
                local_endpoints: *local_endpoints,
            });
        let wanted: Vec<HealthCheck> = wanted.collect();
        let failed = services.sync(&wanted).await;
        failed
            .into_iter()
            .map(|(name, _)| name.0.to_string())
            .collect::<Vec<_>>()
    };
    let tell = async |port: u16| {
        let mut all = Vec::new();
        for ip in [first, second] {
            let answer = ask((ip, port), "GET /any/path").await;
            let weight = answer
                .1
                .lines()
                .find_map(|l| l.strip_prefix("x-load-balancing-endpoint-weight: "));
            let weight = weight.expect("weight").to_owned();
            all.push((answer.0, weight, json_of(&answer)));
        }
        assert_eq!(all[0], all[1], "the same on all addresses");
        all.remove(0)
    };
    let body = |namespace: &str, endpoints: usize, healthy: bool| json!({"service": {"namespace": namespace, "name": "web"}, "localEndpoints": endpoints, "serviceProxyHealthy": healthy});
    assert_eq!(
        sync(&mut services, &[("a", 31_000, 2), ("b", 31_001, 0)]).await,
        [""; 0]
    );
    assert_eq!(tell(31_000).await, (200, "2".into(), body("a", 2, true)));
    assert_eq!(tell(31_001).await, (503, "0".into(), body("b", 0, true)));
    // Counts change, a port passes from one to the other, a service goes.
    sync(&mut services, &[("a", 31_001, 1), ("c", 31_000, 3)]).await;
    assert_eq!(tell(31_001).await, (200, "1".into(), body("a", 1, true)));
    assert_eq!(tell(31_000).await, (200, "3".into(), body("c", 3, true)));
    health.updated(Family::V4);
    health.queued(Family::V4);
    assert_eq!(
        tell(31_000).await,
        (503, "3".into(), body("c", 3, false)),
        "the proxy hangs"
    );
    assert_eq!(ask((first, 31_000), "POST /").await.0, 405);
    // On one of the addresses somebody else has the port: on none then, and all is tried again.
    let taken = std::net::TcpListener::bind((second, 31_002)).expect("bind");
    let wanted = &[("a", 31_001, 1), ("d", 31_002, 1)];
    assert_eq!(sync(&mut services, wanted).await, ["d"]);
    assert!(
        TcpStream::connect((first, 31_002)).is_err(),
        "not half of it"
    );
    assert!(TcpStream::connect((first, 31_000)).is_err(), "gone");
    drop(taken);
    assert_eq!(sync(&mut services, wanted).await, [""; 0]);
    assert_eq!(tell(31_002).await.2["localEndpoints"], 1);
}
