//! What is in a machine's kernel and on its disk, to compare before and after.

use std::collections::{BTreeMap, BTreeSet};

use crate::Machine;

/// Section, then its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, BTreeSet<String>>);

/// What is looked at. Process ids, counters and times are left out, and so is what the machine itself writes now
/// and then (logs, containerd's own files).
const SECTIONS: &[(&str, &str)] = &[
    ("links", "ip -o link | cut -d: -f2 | cut -d@ -f1"),
    ("addresses", "ip -o address | awk '{print $2, $4}'"),
    (
        "routes",
        "ip route show table all; ip -6 route show table all",
    ),
    ("policy", "ip rule; ip -6 rule"),
    (
        "netns",
        "find /run/netns /var/run/netns -mindepth 1 2>/dev/null",
    ),
    ("mounts", "awk '{print $2, $3}' /proc/self/mounts"),
    (
        "iptables",
        "for s in iptables-save ip6tables-save iptables-legacy-save; do $s | grep '^[*:-]' | sed 's/\\[.*//'; done",
    ),
    (
        "nftables",
        "nft list ruleset | sed 's/packets [0-9]* bytes [0-9]*//'",
    ),
    (
        "sysctls",
        "sysctl -a 2>/dev/null | grep -E '^net\\.(ipv[46]\\.(conf|ip_forward)|bridge)'",
    ),
    (
        "units",
        "find /etc/systemd; systemctl list-units --all --plain --no-legend '*keelson*'",
    ),
    (
        "cgroups",
        "cd /sys/fs/cgroup; find . -type d | grep -vE '^./(system|user|init)'; find . -type d | grep keelson",
    ),
    (
        "processes",
        "ps -eo args | grep -E 'keelson|containerd-shim|/echo|sleep' | grep -vE 'grep|/opt/keelson/'",
    ),
    (
        "containers",
        "for n in $(ctr namespaces ls -q); do for k in containers images snapshots leases; do echo $n $k; ctr -n $n $k ls; done; done",
    ),
    (
        "run",
        "find /run -xdev | grep -vE '^/run/(systemd|udev|log|containerd/s/|lock)'",
    ),
    (
        "files",
        "find /etc /opt /usr/local /var/lib/cni /var/log/pods /var/log/containers /root -xdev 2>/dev/null",
    ),
    (
        "state",
        "find /var/lib -xdev -maxdepth 1; find /var/lib/keelson 2>/dev/null; find /tmp /var/tmp | grep -v systemd-private",
    ),
];

impl Snapshot {
    /// Of a machine, now.
    pub fn of(machine: &mut Machine) -> Self {
        let script: String = SECTIONS
            .iter()
            .map(|(name, command)| format!("echo '== {name}'\n( {command} )\n"))
            .collect();
        // systemd mounts it at anybody's first look after a boot.
        machine.run("ls /proc/sys/fs/binfmt_misc");
        let text = machine.run(&script).text;
        let mut sections = BTreeMap::<String, BTreeSet<String>>::new();
        let mut name = String::new();
        for line in text.lines() {
            match line.strip_prefix("== ") {
                Some(section) => section.clone_into(&mut name),
                None => {
                    _ = sections
                        .entry(name.clone())
                        .or_default()
                        .insert(line.trim_end().to_owned())
                }
            }
        }
        assert!(
            sections.len() > SECTIONS.len() / 2,
            "most commands wrote nothing: {text}"
        );
        Self(sections)
    }

    /// What differs, as text; empty when nothing does.
    pub fn diff(&self, after: &Self) -> String {
        let none = BTreeSet::new();
        let mut text = String::new();
        for (name, _) in SECTIONS {
            let [before, after] = [self, after].map(|s| s.0.get(*name).unwrap_or(&none));
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
