//! Who reaches whom: every pod every pod and every service, asked within the pods' own networks.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::thread::scope;
use std::time::Duration;

use anyhow::{Context, ensure};
use keelson_tests::bed::json;
use keelson_tests::images::ECHO;
use keelson_tests::stream::{field, get};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, eventually};
use nix::sched::{CloneFlags, setns};

/// Where the service answers on every node.
const NODE_PORT: u16 = 30080;

/// When somebody is said not to be reached.
const PATIENCE: Duration = secs(60);

/// Two pods on every node, which stay there when a node is lost, and a service of all.
fn yaml() -> String {
    let set = |name: &str| {
        format!(
            r"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{set: {name}}}}}
  template:
    metadata: {{labels: {{app: web, set: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{{operator: Exists}}]
      containers:
      - name: echo
        image: {ECHO}
        env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---"
        )
    };
    let service = format!(
        r"
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{port: 80, targetPort: http, nodePort: {NODE_PORT}}}]}}
"
    );
    set("one") + &set("two") + &service
}

/// Deploys what is asked.
pub(crate) fn deploy(bed: &Bed) {
    bed.apply(&yaml());
    for set in ["one", "two"] {
        bed.kubectl(&format!("rollout status daemonset {set} --timeout=120s"));
    }
}

/// A pod, ready.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    name: String,
    uid: String,
    node: String,
    ip: IpAddr,
}

/// All that are ready on these nodes: two on each.
fn ready(bed: &Bed, nodes: &[&str]) -> anyhow::Result<Vec<Pod>> {
    let list = json(&bed.kubectl("get pods -l app=web -o json"));
    let items = list["items"].as_array().context("a list")?;
    let ready = items.iter().filter(|pod| {
        let conditions = pod["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
    });
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let pods = ready.map(|pod| {
        Ok(Pod {
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
            node: text(&pod["spec"]["nodeName"]),
            ip: text(&pod["status"]["podIP"]).parse()?,
        })
    });
    let mut pods: Vec<Pod> = pods.collect::<anyhow::Result<_>>()?;
    pods.retain(|pod| nodes.contains(&pod.node.as_str()));
    ensure!(pods.len() == 2 * nodes.len(), "ready are {pods:?}");
    Ok(pods)
}

/// Runs code in a pod's network.
fn within<T: Send>(bed: &Bed, pod: &Pod, code: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let init = bed.space(&pod.node)?.init();
    let path = format!("/proc/{init}/root/run/keelson/ns/{}/net", pod.uid);
    let net = File::open(&path).with_context(|| format!("the network of {}", pod.name))?;
    scope(|scope| {
        let thread = scope.spawn(|| {
            setns(net, CloneFlags::CLONE_NEWNET).context("enter a pod's network")?;
            Ok(code())
        });
        thread.join().expect("no panic")
    })
}

/// What is asked, and who must answer.
#[derive(Clone, Debug)]
struct Question {
    to: SocketAddr,
    answers: BTreeSet<String>,
    /// With the asking pod's own address as the source.
    untranslated: bool,
    until: Until,
}

/// When a question is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    /// By whom does not matter: where packets are lost, many questions would take minutes.
    One,
    /// All have answered.
    All,
}

impl Question {
    /// Asks as long as it takes; an error when it is answered by somebody else.
    fn ask(&self, own: IpAddr) -> anyhow::Result<()> {
        let mut missing = self.answers.clone();
        while !missing.is_empty() {
            let answer = get(self.to, "/")?;
            let pod = field(&answer, "pod");
            ensure!(
                self.answers.contains(&pod),
                "{pod} has answered, not one of {:?}",
                self.answers
            );
            let source = field(&answer, "client");
            ensure!(
                !self.untranslated || source == own.to_string(),
                "the source is {source}"
            );
            missing.remove(&pod);
            if self.until == Until::One {
                break;
            }
        }
        Ok(())
    }
}

/// All pods of these nodes reach each other, each with its own address.
pub(crate) fn pods(bed: &Bed, nodes: &[&str]) {
    matrix(bed, nodes, |_, pods| {
        let each = pods.iter().map(|pod| Question {
            to: SocketAddr::new(pod.ip, 8080),
            answers: [pod.name.clone()].into(),
            untranslated: true,
            until: Until::All,
        });
        each.collect()
    });
}

/// All pods of these nodes reach their service by its address, its name and each of the nodes' ports; no others answer.
pub(crate) fn services(bed: &Bed, nodes: &[&str], until: Until) {
    matrix(bed, nodes, |bed, pods| {
        let cluster = bed.kubectl("get service web -o jsonpath={.spec.clusterIP}");
        let there = bed
            .nodes
            .iter()
            .filter(|n| nodes.contains(&n.name.as_str()));
        let ports = there.map(|node| SocketAddr::new(node.ip.into(), NODE_PORT));
        let cluster = SocketAddr::new(cluster.parse().expect("an address"), 80);
        let answers: BTreeSet<String> = pods.iter().map(|pod| pod.name.clone()).collect();
        let each = ports.chain([cluster]).map(|to| Question {
            to,
            answers: answers.clone(),
            untranslated: false,
            until,
        });
        each.collect()
    });
    for node in nodes {
        let pod = ready(bed, &[node]).unwrap().remove(0).name;
        let cluster = bed.kubectl("get service web -o jsonpath={.spec.clusterIP}");
        let line =
            format!("exec {pod} -- /bin/busybox nslookup -type=a web.default.svc.cluster.local");
        bed.wait_contains(&line, &cluster);
    }
}

/// Every pod asks everything, all at a time.
fn matrix(bed: &Bed, nodes: &[&str], questions: impl Fn(&Bed, &[Pod]) -> Vec<Question>) {
    let pods = eventually("all pods are ready", secs(90), || ready(bed, nodes));
    let questions = questions(bed, &pods);
    let pairs = pods
        .iter()
        .flat_map(|pod| questions.iter().map(move |question| (pod, question)));
    scope(|scope| {
        for (pod, question) in pairs {
            scope.spawn(move || {
                let what = format!("{} on {} asks {}", pod.name, pod.node, question.to);
                eventually(&what, PATIENCE, || {
                    within(bed, pod, || question.ask(pod.ip))?
                });
            });
        }
    });
}

/// No pod of these nodes reaches any of those.
pub(crate) fn apart(bed: &Bed, nodes: &[&str], others: &[&str]) {
    let (pods, far) = (ready(bed, nodes).unwrap(), ready(bed, others).unwrap());
    scope(|scope| {
        for (pod, other) in pods
            .iter()
            .flat_map(|pod| far.iter().map(move |other| (pod, other)))
        {
            scope.spawn(move || {
                let answer =
                    within(bed, pod, || get(SocketAddr::new(other.ip, 8080), "/")).unwrap();
                assert!(answer.is_err(), "{pod:?} -> {other:?}: {answer:?}");
            });
        }
    });
}
