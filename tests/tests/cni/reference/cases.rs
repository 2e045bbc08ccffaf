//! Chains of configurations, and what may differ of what comes of them.

use serde_json::{Value, json};

use crate::bed::with;

/// A chain of plugins with one input.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// From the bed's folder for the ledger to the configurations, in order.
    pub(crate) chain: fn(&Value) -> Vec<Value>,
    /// Which outcomes differ, and why.
    pub(crate) differs: &'static [(&'static str, &'static str)],
}

fn bridge(ipam: &Value, more: Value) -> Value {
    with(
        json!({"type": "bridge", "bridge": "br0", "ipam": ipam}),
        more,
    )
}

fn ranged(ipam: &Value, ranges: Value) -> Value {
    with(ipam.clone(), json!({"ranges": ranges}))
}

/// With two host ports.
fn portmap() -> Value {
    json!({"type": "portmap", "snat": true, "runtimeConfig": {"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "udp"}]}})
}

const CHECK_OF_PORTS: (&str, &str) = (
    "check",
    "Debian's portmap 1.1.1 can't CHECK a mapping of a container without IPv6",
);

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "bridge",
        chain: |ipam| vec![bridge(ipam, json!({}))],
        differs: &[],
    },
    Case {
        name: "bridge as the gateway",
        chain: |ipam| vec![bridge(ipam, json!({"isGateway": true}))],
        differs: &[],
    },
    Case {
        name: "bridge as the default gateway",
        chain: |ipam| vec![bridge(ipam, json!({"isDefaultGateway": true}))],
        differs: &[],
    },
    Case {
        name: "bridge with masquerade",
        chain: |ipam| vec![bridge(ipam, json!({"isGateway": true, "ipMasq": true}))],
        differs: &[],
    },
    Case {
        name: "bridge with an MTU",
        chain: |ipam| vec![bridge(ipam, json!({"mtu": 1400}))],
        differs: &[],
    },
    Case {
        name: "bridge with hairpin mode",
        chain: |ipam| vec![bridge(ipam, json!({"hairpinMode": true}))],
        differs: &[],
    },
    Case {
        name: "promiscuous bridge",
        chain: |ipam| vec![bridge(ipam, json!({"promiscMode": true}))],
        differs: &[],
    },
    Case {
        name: "promiscuous bridge with hairpin mode",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"promiscMode": true, "hairpinMode": true}),
            )]
        },
        differs: &[
            (
                "del",
                "ADD refuses it, so there is nothing to delete: ours refuses it always",
            ),
            ("del again", "the same"),
        ],
    },
    Case {
        name: "bridge with a VLAN",
        chain: |ipam| vec![bridge(ipam, json!({"vlan": 100}))],
        differs: &[],
    },
    Case {
        name: "bridge with a VLAN that can't be",
        chain: |ipam| vec![bridge(ipam, json!({"vlan": 5000}))],
        differs: &[],
    },
    Case {
        name: "bridge without addresses",
        chain: |_| vec![bridge(&json!({}), json!({}))],
        differs: &[(
            "check",
            "the reference's CHECK wants addresses where ADD gave none",
        )],
    },
    Case {
        name: "bridge with two families",
        chain: |ipam| {
            let ranges = json!([[{"subnet": "10.98.0.0/24"}], [{"subnet": "fd98::/64"}]]);
            vec![bridge(&ranged(ipam, ranges), json!({"isGateway": true}))]
        },
        differs: &[],
    },
    Case {
        name: "host-local with a part of a range and routes",
        chain: |ipam| {
            let ranges = json!([[{"subnet": "10.98.0.0/24", "rangeStart": "10.98.0.20",
                "rangeEnd": "10.98.0.30", "gateway": "10.98.0.254"}]]);
            let mut ipam = ranged(ipam, ranges);
            ipam["routes"] =
                json!([{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.98.0.9"}]);
            vec![bridge(&ipam, json!({}))]
        },
        differs: &[("routes", "ours says by which gateway a route leads")],
    },
    Case {
        name: "host-local in the old form",
        chain: |ipam| {
            let old = json!({"ranges": [], "subnet": "10.97.0.0/24"});
            vec![bridge(&with(ipam.clone(), old), json!({}))]
        },
        differs: &[],
    },
    Case {
        name: "a requested address",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"runtimeConfig": {"ips": ["10.99.0.77"]}}),
            )]
        },
        differs: &[],
    },
    Case {
        name: "a requested address elsewhere",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"runtimeConfig": {"ips": ["10.1.1.1"]}}),
            )]
        },
        differs: &[(
            "left addresses",
            "the reference takes another address before it sees that the wanted one can't be",
        )],
    },
    Case {
        name: "a requested hardware address",
        chain: |ipam| {
            vec![bridge(
                ipam,
                json!({"runtimeConfig": {"mac": "02:11:22:33:44:55"}}),
            )]
        },
        differs: &[],
    },
    Case {
        name: "overlapping ranges",
        chain: |ipam| {
            let ranges = json!([[{"subnet": "10.98.0.0/16"}], [{"subnet": "10.98.1.0/24"}]]);
            vec![bridge(&ranged(ipam, ranges), json!({}))]
        },
        differs: &[(
            "left links",
            "the reference makes the bridge before it reads the ranges",
        )],
    },
    Case {
        name: "ptp",
        chain: |ipam| vec![json!({"type": "ptp", "ipam": ipam})],
        differs: &[],
    },
    Case {
        name: "ptp with masquerade and an MTU",
        chain: |ipam| vec![json!({"type": "ptp", "ipam": ipam, "ipMasq": true, "mtu": 1400})],
        differs: &[],
    },
    Case {
        name: "portmap after the bridge",
        chain: |ipam| vec![bridge(ipam, json!({"isGateway": true})), portmap()],
        differs: &[CHECK_OF_PORTS],
    },
    Case {
        name: "portmap without ports",
        chain: |ipam| vec![bridge(ipam, json!({})), json!({"type": "portmap"})],
        differs: &[],
    },
    Case {
        name: "portmap with a bit that can't be",
        chain: |ipam| {
            let wrong = with(portmap(), json!({"markMasqBit": 99}));
            vec![bridge(ipam, json!({})), wrong]
        },
        differs: &[],
    },
    Case {
        name: "tuning, portmap and firewall after the bridge",
        chain: |ipam| {
            vec![
                bridge(ipam, json!({"isGateway": true})),
                json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}),
                portmap(),
                json!({"type": "firewall", "backend": "iptables"}),
            ]
        },
        differs: &[CHECK_OF_PORTS],
    },
    Case {
        name: "sbr and bandwidth after the bridge",
        chain: |ipam| {
            vec![
                bridge(ipam, json!({"isGateway": true})),
                json!({"type": "sbr"}),
                json!({"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
                    "egressRate": 8_000_000, "egressBurst": 800_000}),
            ]
        },
        differs: &[(
            "check",
            "sbr moves routes to another table, and the reference's bridge misses them",
        )],
    },
];
