//! A cluster whose services go by IPVS, on a machine whose kernel has it: answers from everywhere, endpoints that
//! change, modes that change and a proxy that is killed while connections are open and new ones are made, and nothing
//! left in the end. The steps build on each other.

use keelson_tests_vm::{Machine, Snapshot};

/// A client beside the machine, who is no pod: a network namespace behind a link of its own.
const CLIENT: &str = "
ip netns add client
ip link add to-client type veth peer name eth0 netns client
ip addr add 10.77.0.1/24 dev to-client
ip link set to-client up
ip -n client addr add 10.77.0.2/24 dev eth0
ip -n client link set eth0 up
ip -n client link set lo up
ip -n client route add default via 10.77.0.1";
const NO_CLIENT: &str = "ip netns del client; umount /run/netns; rmdir /run/netns";

/// Programs of clients, by bash itself, which connects faster than it starts others.
///
/// `stream NAME ADDRESS PORT` asks on a new connection, again and again, until there is a file `stop`; who failed, and
/// how many there were, is in files. `hold NAME ADDRESS PORT` asks again and again on one, and writes down who answered.
const PROGRAMS: &str = r#"
mkdir -p /root/traffic
cat >/root/traffic/stream <<'BASH'
#!/bin/bash
cd /root/traffic; n=0
exec 9<> <(:)
until [ -e stop ]; do
  line=; n=$((n + 1))
  { printf 'GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' >&3 && read -r -t 20 line <&3; } 3<>/dev/tcp/$2/$3
  [[ $line == *' 200 '* ]] || echo "$EPOCHREALTIME: $line" >>$1.failed
  read -r -t 0.02 -u 9
done 2>$1.errors
echo $n >$1.count
BASH
cat >/root/traffic/hold <<'BASH'
#!/bin/bash
cd /root/traffic
exec 3<>/dev/tcp/$2/$3 || exit
until [ -e stop ]; do
  printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\n' >&3
  until [[ $line == pod=* ]]; do read -r -t 20 line <&3 || { echo broken >>$1.held; exit; }; done
  echo "$line" >>$1.held
  line=
  sleep 1
done
echo done >>$1.held
BASH
chmod +x /root/traffic/stream /root/traffic/hold"#;

const PLACES: &str = "
ip=$(kubectl get service echo -o jsonpath='{.spec.clusterIP}')
port=$(kubectl get service echo-nodeport -o jsonpath='{.spec.ports[0].nodePort}')
pod=$(kubectl get pods -l app=echo -o jsonpath='{.items[0].metadata.name}')
";

/// Who asks where: a name, and what a command begins with and the address it asks.
const WAYS: [(&str, &str, &str); 4] = [
    ("client-node", "ip netns exec client", "10.77.0.1 $port"),
    ("client-cluster", "ip netns exec client", "$ip 80"),
    ("node-cluster", "", "$ip 80"),
    ("node-node", "", "10.77.0.1 $port"),
];

#[test]
fn services_go_by_ipvs() {
    let mut machine = Machine::boot();
    let m = &mut machine;
    m.until(120, "systemctl is-active containerd");
    // containerd's own, from anybody's first container on, and bash's.
    m.sh("mkdir -p /run/containerd/runc /run/containerd/s");
    let before = Snapshot::of(m);
    m.sh("KEELSON_BIN=/opt/keelson/bin /opt/keelson/scripts/up");
    m.sh(&format!("{CLIENT}\n{PROGRAMS}"));
    println!("up");
    type Step = (&'static str, fn(&mut Machine));
    let steps: [Step; 9] = [
        ("to IPVS under traffic", |m| under_traffic(m, "ipvs")),
        ("answers from everywhere", answers),
        (
            "is explained, and differs where somebody meddles",
            explained,
        ),
        ("policies are for what IPVS hands on", policies),
        ("endpoints change", endpoints),
        ("killed under traffic", killed),
        ("to nftables under traffic", |m| {
            under_traffic(m, "nftables")
        }),
        ("virtual servers go when nobody needs them", drained),
        ("back to IPVS under traffic", |m| under_traffic(m, "ipvs")),
    ];
    for (name, step) in steps {
        step(m);
        println!("{name}");
    }
    m.sh(&format!("{NO_CLIENT}; rm -r /root/traffic"));
    m.sh("/opt/keelson/scripts/down");
    let diff = before.diff(&Snapshot::of(m));
    assert!(diff.is_empty(), "scripts/down leaves a difference:\n{diff}");
}

/// Connections are held open and new ones made while something is done.
fn during(m: &mut Machine, what: impl FnOnce(&mut Machine)) {
    let mut begin =
        format!("{PLACES}cd /root/traffic; rm -f stop *.held *.failed *.errors *.count\n");
    for (name, who, place) in WAYS {
        for program in ["hold", "stream"] {
            begin += &format!(
                "systemd-run -q --collect --nice=19 --unit={program}-{name} {who} /root/traffic/{program} {name} {place}\n"
            );
        }
    }
    m.sh(&begin);
    let each = |test: &str| {
        let all = WAYS.map(|(name, ..)| test.replace("{}", &format!("/root/traffic/{name}")));
        all.join(" && ")
    };
    m.until(60, &each("grep -q pod=echo- {}.held"));
    what(m);
    m.sh("sleep 2; touch /root/traffic/stop");
    m.until(
        60,
        &each("[ -s {}.count ] && tail -n 1 {}.held | grep -E 'done|broken'"),
    );
    let failed =
        m.sh("cd /root/traffic; wc -l *.failed 2>/dev/null; cat *.errors | sort | uniq -c");
    assert!(failed.is_empty(), "new connections: {failed}");
    for (name, ..) in WAYS {
        let held = m.sh(&format!("sort -u /root/traffic/{name}.held"));
        let lines: Vec<&str> = held.lines().collect();
        assert!(
            lines.len() == 2 && lines[0] == "done",
            "{name}, held open: {held}"
        );
    }
    let counts = m.sh("cat /root/traffic/*.count").replace('\n', ", ");
    println!("  {counts} connections");
}

/// That the rules and virtual servers of a mode, and no other's, are there.
fn is_in_place(mode: &str) -> String {
    let map = |name: &str| format!("nft list map ip keelson-proxy {name} >/dev/null 2>&1");
    let servers = "grep -q ' rr ' /proc/net/ip_vs && ip link show keelson-ipvs0 >/dev/null";
    match mode {
        "ipvs" => format!("{} && ! {} && {servers}", map("sources"), map("node-ports")),
        _ => format!("{} && ! {}", map("node-ports"), map("sources")),
    }
}

fn under_traffic(m: &mut Machine, mode: &str) {
    during(m, |m| {
        m.sh(&format!(
            "echo 'proxyMode: {mode}' >/etc/keelson/config.yaml; systemctl restart keelson"
        ));
        m.until(200, &is_in_place(mode));
    });
}

/// Asks twelve times, and counts who answers.
fn who(ask: &str) -> String {
    format!("for i in $(seq 12); do {ask}; done | awk '{{print $1}}' | sort -u | grep -c pod=echo")
}

fn answers(m: &mut Machine) {
    let curl = "curl -sf -m 20";
    let client = format!("ip netns exec client {curl}");
    let mut script = PLACES.to_owned();
    for from in [curl, &client] {
        for address in ["http://$ip/", "http://10.77.0.1:$port/"] {
            script += &format!("{}\n", who(&format!("{from} {address}")));
        }
    }
    // By the name too, and the API server, which is an endpoint on the node itself.
    let wget = "/bin/busybox wget -qO-";
    let in_pod = [
        "http://$ip/",
        "http://10.77.0.1:$port/",
        "http://echo.default/",
    ]
    .map(|address| format!("for i in $(/bin/busybox seq 12); do {wget} {address}; done; echo"))
    .join("; ");
    let count = "awk '/^pod=echo/ {seen[$1]} !NF {print length(seen); delete seen}'";
    script += &format!(
        "api=$(kubectl get service kubernetes -o jsonpath='{{.spec.clusterIP}}')
kubectl exec $pod -- /bin/sh -c \"{}\" | {count}
curl -sfk -m 20 https://$api/readyz && echo
kubectl exec $pod -- /bin/busybox nc -w 20 $api 443 </dev/null && echo reached\n",
        in_pod.replace("$(", "\\$(")
    );
    // Who is no pod is masked; and there is no other port.
    script +=
        &format!("{client} http://$ip/ | grep -o 'client=[0-9.]*'; {curl} http://$ip:81/; echo $?");
    let told = m.sh(&script);
    let gateway = m.sh("ip -4 -o addr show keelson0 | awk '{print $4}' | cut -d/ -f1");
    let want = format!("3\n3\n3\n3\n3\n3\n3\nok\nreached\nclient={gateway}\n7");
    assert_eq!(told, want);
}

/// A pod that is none of the service's.
const ASKER: &str = "
kubectl run asker --image=keelson.local/echo:1 --image-pull-policy=Never
kubectl wait pod asker --for=condition=Ready --timeout=120s";

fn explained(m: &mut Machine) {
    m.sh(ASKER);
    let told = m.sh("keelson explain connection default/asker default/echo");
    let words = [
        "services go by IPVS (and table keelson-proxy)",
        "service default/echo:http, cluster address, 3 endpoints",
        "virtual server ",
        "allowed, no policy is for it",
    ];
    for word in words {
        assert!(told.contains(word), "{word} in {told}");
    }
    let pods = m.sh("kubectl get pods -l app=echo -o jsonpath='{.items[*].status.podIP}'");
    for pod in pods.split_whitespace() {
        let chance = format!("33.3 % (rr, weight 1): to {pod}:8080 (pod default/echo-");
        assert!(told.contains(&chance), "{chance} in {told}");
    }
    assert_eq!(m.sh("keelson proxy diff 2>/dev/null && echo same"), "same");
    // It is mended within seconds, perhaps before it is looked at: so again, until it is seen. Somebody's server is
    // deleted, or an address that is ours.
    for (delete, word) in [
        ("ipvsadm -D -t $ip:80", "add virtual server tcp $ip:80"),
        ("ip addr del $ip/32 dev keelson-ipvs0", "add address $ip"),
    ] {
        m.until(
            60,
            &format!("{PLACES}{delete}; told=$(keelson proxy diff); [ $? = 1 ] && grep -q \"{word}\" <<<$told"),
        );
    }
    m.until(60, "keelson proxy diff");
}

/// Who may is judged by who asked, not by the address that IPVS or a mask put in its place.
fn policies(m: &mut Machine) {
    let wget = "/bin/busybox timeout 5 /bin/busybox wget -qO-";
    let asks = [
        format!("kubectl exec asker -- {wget} http://$ip/ | grep -q pod=echo"),
        format!("kubectl exec asker -- {wget} http://10.77.0.1:$port/ | grep -q pod=echo"),
        "ip netns exec client curl -sf -m 5 http://10.77.0.1:$port/ | grep -q pod=echo".into(),
        "curl -sf -m 5 http://$ip/ | grep -q pod=echo".into(),
    ];
    let expect = |m: &mut Machine, when: &str, want: &str| {
        let each = asks
            .iter()
            .map(|a| format!("{a} && r=${{r}}y || r=${{r}}n\n"));
        let all = format!(
            "{PLACES}r=\n{}echo $r; [ $r = {want} ]",
            each.collect::<String>()
        );
        println!("  {when}: {want}");
        m.until(90, &all);
    };
    expect(m, "nobody is refused", "yyyy");
    let policy = |from: &str| {
        format!(
            "kubectl apply -f - <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: echo}}
spec: {{podSelector: {{matchLabels: {{app: echo}}}}, ingress: [{{from: [{from}]}}]}}
YAML"
        )
    };
    m.sh(&policy("{podSelector: {matchLabels: {role: friend}}}"));
    expect(m, "the node alone may", "nnny");
    let told = m.sh("keelson explain connection default/asker default/echo");
    assert!(told.contains("refused by policy default/echo"), "{told}");
    m.sh("kubectl label pod asker role=friend");
    expect(m, "and the friend", "yyny");
    m.sh(&policy("{ipBlock: {cidr: 10.77.0.0/24}}"));
    expect(m, "and the client", "nnyy");
    m.sh("kubectl delete networkpolicy echo; kubectl delete pod asker --now");
    m.until(60, "keelson proxy diff");
}

fn endpoints(m: &mut Machine) {
    let who = format!(
        "{PLACES}for i in $(seq 12); do curl -sf -m 20 http://$ip/; done | awk '{{print $1}}' | sort -u | grep -c pod=echo"
    );
    for count in ["1", "3"] {
        m.sh(&format!(
            "kubectl scale deployment echo --replicas={count}; kubectl rollout status deployment echo --timeout=120s"
        ));
        m.until(30, &format!("n=$({who}); echo $n; [ $n = {count} ]"));
    }
    m.sh("kubectl scale deployment echo --replicas=0");
    let refused = format!(
        "{PLACES}curl -s -m 20 http://$ip/; [ $? = 7 ] && ! ip netns exec client curl -s http://10.77.0.1:$port/"
    );
    m.until(60, &refused);
    m.sh("kubectl scale deployment echo --replicas=3; kubectl rollout status deployment echo --timeout=120s");
    m.until(30, &format!("[ $({who}) = 3 ]"));
}

/// What is there is read, and found right.
fn killed(m: &mut Machine) {
    // Without destinations that drain, which go by themselves.
    let servers = "awk '$4 != \"0\" {print $1, $2, $3, $4}' /proc/net/ip_vs | sort";
    during(m, |m| {
        let before = m.sh(servers);
        m.sh(
            "systemd-run -q --collect --unit=see-rules bash -c 'nft monitor >/root/traffic/rules'
systemd-run -q --collect --unit=see-links bash -c 'ip monitor link address >/root/traffic/links'
sleep 1
systemctl kill -s KILL keelson",
        );
        m.until(200, "journalctl -u keelson -o cat | grep -c 'proxy starts' | grep -qx 3 && kubectl get --raw /readyz");
        m.sh("sleep 5; systemctl stop see-rules see-links");
        let written = m.sh("grep -h keelson-proxy /root/traffic/rules || true; grep -h keelson-ipvs0 /root/traffic/links || true");
        assert_eq!(written, "", "nothing is written");
        assert_eq!(m.sh(servers), before);
    });
}

/// The last connections' memory takes IPVS two minutes.
fn drained(m: &mut Machine) {
    let gone = "! ip link show keelson-ipvs0 2>/dev/null && ! grep -q rr /proc/net/ip_vs";
    m.until(200, gone);
}
