//! What is in a node's kernel and on its disk, to compare before and after.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::Node;

/// Section, then its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, BTreeSet<String>>);

/// What is looked at. Counters and times are left out, and what comes and goes with a bridge's first port: its
/// carrier and IPv6's link-local addresses.
const SECTIONS: &[(&str, &str)] = &[
    ("links", "ip -o link | cut -d: -f2 | cut -d@ -f1"),
    (
        "addresses",
        "ip -o address | awk '{print $2, $4}' | grep -v ' fe80:' || true",
    ),
    (
        "routes",
        "(ip route show table all; ip -6 route show table all) | grep -v '^fe80:\\|^local fe80:\\|^anycast\\|^ff00:\\|^multicast' | sed 's/ linkdown//'",
    ),
    ("policy", "ip rule"),
    ("netns", "find /run/netns -mindepth 1 2>/dev/null || true"),
    (
        "mounts",
        "awk '{print $2}' /proc/self/mounts | grep -vxFf \"$DIR/mounts\" || true",
    ),
    (
        "iptables",
        "iptables-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//' | grep '^:\\|^-A' | grep -v ':\\(PREROUTING\\|INPUT\\|FORWARD\\|OUTPUT\\|POSTROUTING\\) ACCEPT' || true",
    ),
    (
        "ip6tables",
        "ip6tables-save 2>/dev/null | grep '^-A\\|KUBE' | sed 's/\\[[0-9:]*\\]//' || true",
    ),
    ("nftables", "nft list tables | grep keelson || true"),
    (
        "shims",
        "ps -eo args | grep -E '^[^ ]*(containerd-shim|keelson-logger)' | awk '{print $1, $5}' || true",
    ),
    (
        "processes",
        "ps -eo args --no-headers | grep -vE '^(bash|ps|awk|grep|sleep|sort|sed|containerd|nsenter)|^\\[|containerd-shim|keelson-logger|/keelson ' || true",
    ),
    (
        "containers",
        "ctr -n k8s.io containers ls -q 2>/dev/null || true",
    ),
    (
        "cgroups",
        "find /sys/fs/cgroup -type d -path '*'\"$CGROUP\"'*' | sort",
    ),
    (
        "run",
        "find /run -xdev | grep -v '^/run/\\(containerd\\|lock\\|xtables.lock\\)' || true",
    ),
    (
        "keelson",
        "find /var/lib/keelson /etc/keelson /var/log/pods -mindepth 1 2>/dev/null | grep -v '^/var/lib/keelson/\\(images\\|server\\)' | sed 's/[.][.]20[0-9_.]*/..TIME/' || true",
    ),
    ("kubelet", "find /var/lib/kubelet 2>/dev/null || true"),
    (
        "cni",
        "find /etc/cni /opt/cni /var/lib/cni 2>/dev/null || true",
    ),
];

impl Snapshot {
    /// Of a node, now. It runs the same commands at any time, so that what they make themselves (empty tables)
    /// is in both.
    pub fn of(node: &Node) -> Self {
        let script: String = SECTIONS
            .iter()
            .map(|(name, command)| format!("echo '== {name}'\n{command}\n"))
            .collect();
        let text = node.sh(&format!(
            "CGROUP={} DIR={}\n{script}",
            node.cgroup,
            node.dir.display()
        ));
        let mut sections = BTreeMap::<String, BTreeSet<String>>::new();
        let mut lines = &mut BTreeSet::new();
        for line in text.lines() {
            match line.strip_prefix("== ") {
                Some(name) => lines = sections.entry(name.to_owned()).or_default(),
                None => _ = lines.insert(line.trim_end().to_owned()),
            }
        }
        Self(sections)
    }

    /// The lines of a section.
    pub fn section(&self, name: &str) -> &BTreeSet<String> {
        &self.0[name]
    }

    /// What differs, as text; empty when nothing does. Sections in `but` are not compared.
    pub fn diff(&self, after: &Self, but: &[&str]) -> String {
        let mut text = String::new();
        for (name, before) in self
            .0
            .iter()
            .filter(|(name, _)| !but.contains(&name.as_str()))
        {
            let after = &after.0[name];
            before
                .difference(after)
                .for_each(|line| text += &format!("{name} - {line}\n"));
            after
                .difference(before)
                .for_each(|line| text += &format!("{name} + {line}\n"));
        }
        text
    }
}
