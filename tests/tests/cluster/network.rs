//! Packets: pods, services, host ports, on two nodes and from outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use keelson_tests::images::ECHO;
use keelson_tests::stream::{field, get};
use keelson_tests::wait::secs;
use keelson_tests::{Bed, Node, eventually};

/// Three replicas on each node; a pod with a shell beside them on each.
fn yaml() -> String {
    let web = |node: &str| {
        format!(
            r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{node}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web, at: {node}}}}}
  template:
    metadata: {{labels: {{app: web, at: {node}}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: {node}}}
      terminationGracePeriodSeconds: 5
      containers:
      - name: echo
        image: {ECHO}
        env:
        - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
        - {{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {{name: shell-{node}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers: [{{name: shell, image: {ECHO}, command: [/bin/sleep, infinity]}}]
---"
        )
    };
    let services = r"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-np}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-sticky}
spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-udp}
spec: {selector: {app: web}, ports: [{port: 53, targetPort: 8080, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
";
    web("n1") + &web("n2") + services
}

/// One pod on each node, and gone again.
pub(crate) fn warm_up(bed: &Bed) {
    for node in &bed.nodes {
        let name = &node.name;
        // With a host port: the port mapper's own chains stay once they are made.
        bed.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: warm-{name}}}\nspec: {{nodeName: {name}, terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{ECHO}', ports: [{{containerPort: 8080, hostPort: 9999}}]}}]}}\n"));
    }
    bed.kubectl("wait pod --all --for=condition=Ready --timeout=90s");
    for node in &bed.nodes {
        bed.kubectl(&format!("exec warm-{} -- true", node.name));
    }
    bed.kubectl("delete pod --all --timeout=60s");
}

pub(crate) fn deploy(bed: &Bed) {
    bed.apply(&yaml());
    for node in &bed.nodes {
        bed.kubectl(&format!(
            "rollout status deploy/web-{} --timeout=120s",
            node.name
        ));
        bed.kubectl(&format!(
            "wait pod shell-{} --for=condition=Ready --timeout=60s",
            node.name
        ));
    }
}

pub(crate) fn undeploy(bed: &Bed) {
    bed.kubectl("delete deploy,svc,pod,cm,secret -l '!component' --timeout=90s --field-selector metadata.name!=kubernetes,metadata.name!=kube-root-ca.crt");
    bed.wait_for("get pods -A --no-headers 2>/dev/null | wc -l", "0");
}

pub(crate) fn all_pods(bed: &Bed) -> Vec<(String, IpAddr)> {
    let list = bed.kubectl("get pods -l app=web -o jsonpath='{range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}'");
    list.lines()
        .filter_map(|l| l.split_once(' '))
        .map(|(name, ip)| (name.to_owned(), ip.parse().unwrap()))
        .collect()
}

pub(crate) fn address(bed: &Bed, service: &str, port: u16) -> SocketAddr {
    let ip = bed.kubectl(&format!(
        "get svc {service} -o jsonpath={{.spec.clusterIP}}"
    ));
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A request by what a pod has. (busybox's wget looks a service's name up, for which a static program needs
/// more of glibc than is there.)
fn request(to: SocketAddr) -> String {
    let (ip, port) = (to.ip(), to.port());
    format!(r#"printf "GET / HTTP/1.0\r\n\r\n" | nc -w 5 {ip} {port} | tail -n 1; "#)
}

/// Asks from a pod.
fn from_pod(bed: &Bed, pod: &str, to: SocketAddr) -> anyhow::Result<String> {
    let output = bed.try_kubectl(&format!("exec {pod} -- sh -c '{}'", request(to)));
    anyhow::ensure!(output.out.contains("pod="), "{pod} -> {to}: {output:?}");
    Ok(output.out.trim().to_owned())
}

/// Asks until all of `wanted` have answered.
fn answered_by(
    what: &str,
    wanted: &BTreeSet<String>,
    mut ask: impl FnMut() -> anyhow::Result<String>,
) {
    let mut seen = BTreeSet::new();
    eventually(what, secs(60), || {
        seen.insert(field(&ask()?, "pod"));
        anyhow::ensure!(seen == *wanted, "answered have {seen:?}");
        Ok(())
    });
}

fn names(bed: &Bed) -> BTreeSet<String> {
    all_pods(bed).into_iter().map(|(name, _)| name).collect()
}

pub(crate) fn pods(bed: &Bed) {
    let pods = all_pods(bed);
    assert_eq!(pods.len(), 4);
    for from in ["shell-n1", "shell-n2"] {
        let own = bed.kubectl(&format!("get pod {from} -o jsonpath={{.status.podIP}}"));
        let script: String = pods
            .iter()
            .map(|(_, ip)| request(SocketAddr::new(*ip, 8080)))
            .collect();
        let answers = bed.kubectl(&format!("exec {from} -- sh -c '{script}'"));
        for ((name, ip), answer) in pods.iter().zip(answers.lines()) {
            assert_eq!(field(answer, "pod"), *name);
            assert_eq!(field(answer, "ip"), ip.to_string());
            // No address translation between pods.
            assert_eq!(field(answer, "client"), own, "{answer}");
        }
    }
    for node in &bed.nodes {
        for (name, ip) in &pods {
            let answer = node
                .space
                .enter(|| get(SocketAddr::new(*ip, 8080), "/"))
                .unwrap();
            assert_eq!(field(&answer, "pod"), *name);
        }
    }
}

pub(crate) fn cluster_ip(bed: &Bed) {
    let (to, all) = (address(bed, "web", 80), names(bed));
    for pod in ["shell-n1", "shell-n2"] {
        answered_by(pod, &all, || from_pod(bed, pod, to));
    }
    for node in &bed.nodes {
        answered_by(&node.name, &all, || node.space.enter(|| get(to, "/")));
    }
    // From outside by a route to a node, as some networks have it.
    bed.client
        .sh("ip route replace 10.43.0.0/16 via 10.99.0.1")
        .unwrap();
    bed.route("10.43.0.0/16", &bed.nodes[1]);
    answered_by("the client", &all, || bed.client.enter(|| get(to, "/")));
}

fn at(node: &Node, port: u16) -> SocketAddr {
    SocketAddr::new(node.ip.into(), port)
}

pub(crate) fn node_port(bed: &Bed) {
    let all = names(bed);
    for node in &bed.nodes {
        let to = at(node, 30080);
        answered_by(&format!("client -> {to}"), &all, || {
            bed.client.enter(|| get(to, "/"))
        });
        for pod in ["shell-n1", "shell-n2"] {
            answered_by(&format!("{pod} -> {to}"), &all, || from_pod(bed, pod, to));
        }
        for from in &bed.nodes {
            answered_by(&format!("{} -> {to}", from.name), &all, || {
                from.space.enter(|| get(to, "/"))
            });
        }
        let loopback = "127.0.0.1:30080".parse().unwrap();
        answered_by("loopback", &all, || node.space.enter(|| get(loopback, "/")));
    }
}

pub(crate) fn affinity(bed: &Bed) {
    let to = address(bed, "web-sticky", 80);
    for node in &bed.nodes {
        let ask = |_| node.space.enter(|| field(&get(to, "/").unwrap(), "pod"));
        let pods: BTreeSet<String> = (0..12).map(ask).collect();
        assert_eq!(pods.len(), 1, "{pods:?}");
    }
}

pub(crate) fn udp(bed: &Bed) {
    let to = address(bed, "web-udp", 53);
    answered_by("UDP", &names(bed), || {
        bed.nodes[0].space.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send_to(b"hello", to)?;
            let mut buffer = [0; 1024];
            let (n, from) = socket.recv_from(&mut buffer)?;
            anyhow::ensure!(from == to, "answered from {from}");
            Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
        })
    });
}

pub(crate) fn no_endpoints(bed: &Bed) {
    let to = address(bed, "nobody", 80);
    for node in &bed.nodes {
        let error = node.space.enter(|| get(to, "/")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("refused"), "{}: {text}", node.name);
    }
    let error = from_pod(bed, "shell-n2", to).unwrap_err();
    assert!(format!("{error:#}").contains("refused"), "{error:#}");
}

pub(crate) fn hairpin(bed: &Bed) {
    let (name, _) = all_pods(bed).remove(0);
    let to = address(bed, "web", 80);
    answered_by("hairpin", &names(bed), || from_pod(bed, &name, to));
}

pub(crate) fn host_port(bed: &Bed) {
    let port = r#"{"spec":{"nodeName":"n2","terminationGracePeriodSeconds":0,"containers":[{"name":"hp","image":"IMAGE","ports":[{"containerPort":8080,"hostPort":8888}]}]}}"#;
    bed.kubectl(&format!(
        "run hp --image={ECHO} --overrides='{}'",
        port.replace("IMAGE", ECHO)
    ));
    bed.kubectl("wait pod hp --for=condition=Ready --timeout=60s");
    let to = at(&bed.nodes[1], 8888);
    let asked = [
        ("client", bed.client.enter(|| get(to, "/"))),
        ("n1", bed.nodes[0].space.enter(|| get(to, "/"))),
        ("shell-n1", from_pod(bed, "shell-n1", to)),
    ];
    for (from, answer) in asked {
        assert_eq!(
            field(&answer.unwrap_or_else(|e| panic!("{from}: {e:#}")), "pod"),
            "hp"
        );
    }
    bed.kubectl("delete pod hp --timeout=60s");
    // With a grace period of 0 the object goes first.
    eventually("the host port is closed", secs(30), || {
        anyhow::ensure!(bed.client.enter(|| get(to, "/")).is_err(), "it answers");
        Ok(())
    });
}

pub(crate) fn host_network(bed: &Bed) {
    let spec = r#"{"spec":{"nodeName":"n2","hostNetwork":true,"terminationGracePeriodSeconds":0,"containers":[{"name":"hn","image":"IMAGE","args":["-listen",":7777"]}]}}"#;
    bed.kubectl(&format!(
        "run hn --image={ECHO} --overrides='{}'",
        spec.replace("IMAGE", ECHO)
    ));
    bed.kubectl("wait pod hn --for=condition=Ready --timeout=60s");
    assert_eq!(
        bed.kubectl("get pod hn -o jsonpath={.status.podIP}"),
        bed.nodes[1].ip.to_string()
    );
    let answer = bed
        .client
        .enter(|| get(at(&bed.nodes[1], 7777), "/"))
        .unwrap();
    assert_eq!(field(&answer, "ip"), bed.nodes[1].ip.to_string());
    bed.kubectl("delete pod hn --timeout=60s");
}

/// As client libraries find it: environment and the account's token.
pub(crate) fn api(bed: &Bed) {
    for pod in ["shell-n1", "shell-n2"] {
        let env = bed.kubectl(&format!("exec {pod} -- env"));
        assert!(
            env.contains("KUBERNETES_SERVICE_HOST=10.43.0.1")
                && env.contains("KUBERNETES_SERVICE_PORT=443"),
            "{env}"
        );
        let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
        assert_eq!(
            bed.kubectl(&format!("exec {pod} -- cat {dir}/namespace")),
            "default"
        );
        let token = bed.kubectl(&format!("exec {pod} -- cat {dir}/token"));
        let ip = bed.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"));
        let node = bed.nodes.iter().find(|n| pod.ends_with(&n.name)).unwrap();
        // busybox has no TLS: curl in the pod's network.
        let netns = node.sh(&format!("for n in $(find /run/keelson -name net -type f); do nsenter --net=$n ip -o address | grep -w {ip} >/dev/null && echo $n; done; true"));
        let curl = format!(
            "nsenter --net={} curl -sk -m 5 -H 'Authorization: Bearer {token}' https://10.43.0.1/api/v1/namespaces/default/pods",
            netns.trim()
        );
        let answer = node.sh(&curl);
        assert!(
            answer.contains("system:serviceaccount:default:default")
                && answer.contains("forbidden"),
            "{answer}"
        );
    }
}

pub(crate) fn logs(bed: &Bed) {
    for (name, _) in all_pods(bed) {
        assert!(
            bed.kubectl(&format!("logs {name}")).contains("listens on"),
            "{name}"
        );
        let env = bed.kubectl(&format!("exec {name} -c echo -- env"));
        assert!(env.contains(&format!("POD_NAME={name}")), "{env}");
        assert!(
            bed.kubectl(&format!("describe pod {name}"))
                .contains("Started"),
            "{name}"
        );
    }
    let output = bed.bash("echo hello | kubectl exec -i shell-n2 -- cat", "");
    assert_eq!(output.out, "hello\n", "{output:?}");
    let output = bed.try_kubectl("exec shell-n2 -- sh -c 'echo bad >&2; exit 7'");
    assert!(
        !output.ok && output.err.contains("bad") && output.err.contains("exit code 7"),
        "{output:?}"
    );
    // By way of the server to the other node: nothing is lost at the end.
    for n in 0..3 {
        let run = "kubectl exec -it shell-n2 -- sh -c \"until [ -n \\\"\\$s\\\" ]; do s=\\$(stty size 2>/dev/null); done; echo \\$s; echo last\"";
        let line = format!(
            "script -qec 'stty rows 33 cols 1{n}; {run}' /dev/null < <(sleep 2 2>/dev/null)"
        );
        let output = bed.bash(&line, "");
        let wanted = format!("33 1{n}\r\nlast\r\n");
        assert!(output.out.contains(&wanted), "{output:?}");
    }
}

/// Load balancers ask each node; scrapers that run on it read figures, and others don't.
pub(crate) fn ports_of_proxies(bed: &Bed) {
    for node in &bed.nodes {
        let at = |ip: std::net::Ipv4Addr, port: u16| SocketAddr::from((ip, port));
        let own = |path: &'static str| {
            node.space
                .enter(move || get(at([127, 0, 0, 1].into(), 10249), path))
        };
        assert_eq!(own("/proxyMode").unwrap(), "nftables");
        let configz = own("/configz").unwrap();
        assert!(
            configz.contains(&format!(r#""hostnameOverride":"{}""#, node.name)),
            "{configz}"
        );
        let figures = own("/metrics").unwrap();
        let name = "kubeproxy_sync_proxy_rules_duration_seconds_count";
        assert!(figures.contains(name), "{figures}");
        let (health, figures) = (at(node.ip, 10256), at(node.ip, 10249));
        let healthy = bed.client.enter(move || get(health, "/healthz"));
        assert!(healthy.unwrap().contains("lastUpdated"));
        assert!(bed.client.enter(move || get(figures, "/metrics")).is_err());
    }
}
