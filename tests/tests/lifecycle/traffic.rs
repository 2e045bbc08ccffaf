//! What a proxy's end, its start, its next version, another mode and other endpoints mean for connections: nothing.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use keelson_tests::endpoints::Endpoints;
use keelson_tests::wait::{is_long, secs};
use keelson_tests::{Suite, bins, eventually};
use nix::sys::signal::Signal;

use super::alone::crowd::{Crowd, Failure};
use super::alone::{Alone, NODE, TARGET, endpoint};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 1);
const NODE_PORT: u16 = 30_080;
const ENDPOINTS: u32 = 4;
/// For a packet that is under way.
const MOMENT: Duration = Duration::from_millis(300);

/// Connections that stay: all of them by `scripts/test --long`.
fn size() -> usize {
    if is_long() { 10_000 } else { 2_000 }
}

#[test]
fn traffic() {
    let mut suite = Suite::new();
    let mut alone = Alone::new();
    let program = Path::new(env!("CARGO_BIN_EXE_keelson-endpoints"));
    let mut server = Endpoints::new(&alone.server, program).expect("endpoints");
    let mut endpoints: Vec<_> = (1..=ENDPOINTS).map(endpoint).collect();
    endpoints.iter().for_each(|at| server.open(*at));
    service(&alone);
    lead(&alone, &endpoints, None);
    alone.start("nftables");
    let addresses = [(CLUSTER_IP, 80), (NODE, NODE_PORT)];
    let addresses = addresses.map(|(ip, port)| SocketAddrV4::new(ip, port));
    let crowd = Crowd::new(&alone.client, &addresses, size());
    let quiet = |crowd: &Crowd, what: &str| unharmed(crowd, what, |_| true);
    quiet(&crowd, "the beginning");
    suite.step("killed and started", || {
        alone.end(Signal::SIGKILL);
        crowd.sweep();
        alone.start("nftables");
        quiet(&crowd, "a kill and a start");
    });
    suite.step("stopped and started", || {
        alone.stop();
        crowd.sweep();
        alone.start("nftables");
        quiet(&crowd, "a stop and a start");
    });
    suite.step("the next version in the place of this", || {
        let next = alone.bed.folder().join("keelson-next");
        std::fs::copy(bins::program("keelson"), &next).expect("a copy");
        alone.stop();
        alone.start_program(&next, "nftables");
        quiet(&crowd, "an upgrade");
    });
    for mode in ["iptables", "nftables", "userspace"] {
        suite.step(&format!("the mode changes to {mode}"), || {
            switch(&mut alone, mode);
            quiet(&crowd, mode);
        });
    }
    suite.step("from userspace to nftables", || {
        switch(&mut alone, "nftables");
        // What went through the process ended with it.
        unharmed(&crowd, "the end of userspace", |f| f.refused);
    });
    suite.step("endpoints are replaced one by one", || {
        for place in 0..ENDPOINTS {
            replace(&alone, &mut server, &crowd, &mut endpoints, place);
        }
        quiet(&crowd, "the replacement of all endpoints");
    });
    let (streamed, moved) = (crowd.streamed(), crowd.moved());
    eprintln!(
        "{} connections held, {streamed} new ones, {moved} moved",
        size()
    );
    assert!(streamed > 0, "new connections were made");
    suite.done();
}

/// Every connection is used once more; then nothing of what counts has gone wrong.
#[track_caller]
fn unharmed(crowd: &Crowd, by: &str, counts: impl Fn(&Failure) -> bool) {
    let before = crowd.streamed();
    crowd.sweep();
    let failures = crowd.take_failures();
    let harmed: Vec<_> = failures.iter().filter(|f| counts(f)).collect();
    let some: Vec<&str> = harmed.iter().take(5).map(|f| f.what.as_str()).collect();
    assert!(
        harmed.is_empty(),
        "{by}: {} failures: {some:?}",
        harmed.len()
    );
    let (held, wanted) = crowd.held();
    assert_eq!(held, wanted, "{by}: connections that are held");
    assert!(crowd.streamed() > before, "{by}: new connections are made");
}

fn service(alone: &Alone) {
    alone.bed.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: NodePort, clusterIP: {CLUSTER_IP}, ports: [{{port: 80, nodePort: {NODE_PORT}}}]}}\n"
    ));
}

/// Tells the API which endpoints there are; one of them may be on its way out.
fn lead(alone: &Alone, endpoints: &[SocketAddrV4], going: Option<SocketAddrV4>) {
    let of = |e: &SocketAddrV4, is: &str| {
        format!("- {{addresses: ['{}'], conditions: {{{is}}}}}\n", e.ip())
    };
    let ready = endpoints
        .iter()
        .map(|e| of(e, "ready: true, serving: true"));
    let going = going.map(|e| of(&e, "ready: false, serving: true, terminating: true"));
    let list: String = ready.chain(going).collect();
    alone.bed.apply(&format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4\nports: [{{port: {TARGET}}}]\nendpoints:\n{list}"
    ));
}

/// Another proxy in the place of this one; then only its rules are there.
fn switch(alone: &mut Alone, mode: &str) {
    alone.stop();
    alone.start(mode);
    eventually("only this mode's rules are there", secs(30), || {
        let chains = alone
            .node
            .sh("iptables-save -t nat | grep -c KUBE || true")?;
        let tables = alone.node.sh("nft list tables ip")?;
        let there = (chains.trim() != "0", tables.contains("keelson-proxy"));
        anyhow::ensure!(
            there == (mode != "nftables", mode == "nftables"),
            "{there:?}"
        );
        Ok(())
    });
}

/// As a Deployment does it: a new endpoint is ready, an old one is on its way out, still serves who is connected, asks
/// them to leave, and is gone.
fn replace(
    alone: &Alone,
    server: &mut Endpoints,
    crowd: &Crowd,
    endpoints: &mut [SocketAddrV4],
    place: u32,
) {
    let new = endpoint(ENDPOINTS + 1 + place);
    server.open(new);
    let old = std::mem::replace(&mut endpoints[place as usize], new);
    lead(alone, endpoints, Some(old));
    eventually("the new endpoint has connections", secs(30), || {
        anyhow::ensure!(server.count(new).accepted > 0, "none");
        Ok(())
    });
    std::thread::sleep(MOMENT);
    let (before, moved) = (server.count(old), crowd.moved());
    crowd.sweep();
    assert!(before.open > 0, "it has connections");
    assert_eq!(server.count(old), before, "they live, and nobody new came");
    assert_eq!(crowd.moved(), moved, "nobody was asked to leave");
    server.drain(old);
    eventually("all have left", secs(60), || {
        let left = server.count(old).open;
        anyhow::ensure!(left == 0, "{left} are there");
        Ok(())
    });
    assert_eq!(
        server.count(old).accepted,
        before.accepted,
        "nobody new came"
    );
    assert!(crowd.moved() > moved, "they were asked to leave");
    server.close(old);
    std::thread::sleep(MOMENT);
    lead(alone, endpoints, None);
}
