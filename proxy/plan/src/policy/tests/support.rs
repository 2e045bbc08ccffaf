//! A small cluster to try policies in.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::model::Protocol;
use crate::policy::decide::decide;
use crate::policy::model::{Host, Packet, Transport, Verdict};
use crate::policy::state::State;
use crate::policy::walk::walk;

/// Namespaces `x`, `y`, `z` and pods written as `x/a`, all on one node, of both families. Pod `x/a` has the label
/// `pod=a` and serves ports 80 and 81 as `serve-80-tcp` and so on.
pub(super) struct Cluster {
    pub(super) state: State,
    pods: Vec<String>,
}

/// Both addresses of a pod.
fn addresses(pod: &str) -> [IpAddr; 2] {
    let mut bytes = pod.bytes();
    let (namespace, _, name) = (bytes.next(), bytes.next(), bytes.next());
    let (n, p) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    [
        [10, 0, n, p].into(),
        [0xfd00, 0, 0, 0, 0, 0, n.into(), p.into()].into(),
    ]
}

impl Cluster {
    pub(super) fn new(pods: &str) -> Self {
        let mut this = Self {
            state: State::new("me"),
            pods: pods.split_whitespace().map(str::to_owned).collect(),
        };
        for namespace in ["x", "y", "z"] {
            this.label_namespace(namespace, json!({}));
        }
        for pod in this.pods.clone() {
            this.label_pod(&pod, json!({}));
        }
        this
    }

    /// Gives a pod labels beside `pod`.
    pub(super) fn label_pod(&mut self, pod: &str, labels: Value) {
        let [v4, v6] = addresses(pod);
        let (namespace, name) = pod.split_once('/').expect("pod");
        let port = |port: u16, protocol: &str| {
            let name = format!("serve-{port}-{}", protocol.to_lowercase());
            json!({"name": name, "containerPort": port, "protocol": protocol})
        };
        let mut object = json!({"metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"nodeName": "me", "containers": [{"name": "c", "ports": [port(80, "TCP"), port(81, "TCP"),
                port(80, "UDP"), port(81, "UDP"), port(80, "SCTP"), port(81, "SCTP")]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": v4}, {"ip": v6}]}});
        object["metadata"]["labels"]["pod"] = json!(name);
        self.state
            .set_pod(&serde_json::from_value(object).expect("pod"));
    }

    /// Gives a namespace labels beside the one that the API server gives.
    pub(super) fn label_namespace(&mut self, name: &str, labels: Value) {
        let mut object = json!({"metadata": {"name": name, "labels": labels}});
        object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
        self.state
            .set_namespace(&serde_json::from_value(object).expect("namespace"));
    }

    /// Creates or updates a policy, written as `x/name`.
    pub(super) fn policy(&mut self, name: &str, spec: &Value) {
        let (namespace, name) = name.split_once('/').expect("policy");
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        self.state
            .set_policy(&serde_json::from_value(object).expect("policy"));
    }

    /// What happens to a packet, by the specification and by the compiled rules alike. Ends are pods, addresses, or
    /// `node`.
    pub(super) fn verdict(&mut self, from: &str, to: &str, transport: &str, v6: bool) -> Verdict {
        self.state.sync();
        let address = |end: &str| match end {
            "node" if v6 => "fd99::1".parse().expect("address"),
            "node" => "192.168.9.1".parse().expect("address"),
            _ => end
                .parse()
                .unwrap_or_else(|_| addresses(end)[usize::from(v6)]),
        };
        let packet = Packet {
            source: address(from),
            destination: address(to),
            transport: parse(transport),
            host: match (from, to) {
                ("node", _) => Host::Source,
                (_, "node") => Host::Destination,
                _ => Host::Neither,
            },
        };
        let verdict = decide(&self.state, &packet);
        assert_eq!(
            walk(self.state.compiled(), &packet),
            verdict,
            "compiled rules differ: {packet:?}"
        );
        verdict
    }

    /// Compares who reaches whom, over both families, with what is expected: everybody everybody, then, in order,
    /// `-x/*>y/a` for a connection that is refused and `+x/b>y/a` for one that is not.
    pub(super) fn expect(&mut self, name: &str, transport: &str, rules: &str) {
        for from in self.pods.clone() {
            for to in self.pods.clone().iter().filter(|to| **to != from) {
                let fits = |rule: &&str| {
                    let (a, b) = rule.get(1..).and_then(|r| r.split_once('>')).expect("rule");
                    matches(a, &from) && matches(b, to)
                };
                let last = rules.split_whitespace().rfind(fits);
                let want = last.is_none_or(|rule| rule.starts_with('+'));
                for v6 in [false, true] {
                    let got = self.verdict(&from, to, transport, v6) == Verdict::Allow;
                    assert_eq!(got, want, "{name}: {from} to {to} by {transport}, v6 {v6}");
                }
            }
        }
    }
}

fn matches(pattern: &str, pod: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => pod.starts_with(start),
        None => pod == pattern,
    }
}

/// `tcp:80`, or `icmp`.
fn parse(transport: &str) -> Transport {
    let Some((protocol, port)) = transport.split_once(':') else {
        return Transport::Other;
    };
    let protocol = Protocol::parse(Some(&protocol.to_uppercase())).expect("protocol");
    Transport::Port(protocol, port.parse().expect("port"))
}
