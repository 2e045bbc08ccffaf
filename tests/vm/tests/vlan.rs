//! VLANs of the bridge plugin, in a machine whose kernel has them.
#![allow(missing_docs)]

use keelson_tests::bins::program;
use keelson_tests_vm::Machine;

/// Calls the plugin for a pod: command, pod, and fields of the configuration. Namespaces are made as they are needed.
const CALL: &str = r#"
call() {
  ip netns list | grep -qw "$2" || ip netns add "$2"
  CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/$2 CNI_PATH=/none /opt/keelson/bin/keelson-cni <<E
{"cniVersion": "1.1.0", "name": "vlans", "type": "bridge", "bridge": "br0", $3, "prevResult": ${4:-null},
 "ipam": {"type": "host-local", "dataDir": "/run/vlans", "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]]}}
E
}
vlans() { bridge -d vlan show dev "$(bridge link | grep -o 'ksn[0-9a-f]*' | head -1)" | grep -v ^port | sed 's/^[^ \t]*//; s/ state .*//' | xargs; }
reaches() { ip netns exec "$1" ping -q -c1 -W3 "$2" >/dev/null; }
address() { ip netns exec "$1" ip -4 -br addr show eth0 | grep -o '10[0-9.]*' | head -1; }
# The link into a VLAN stays with the bridge, as it does with the reference.
gone() {
  for pod in "$@"; do call DEL "$pod" '"vlan": 0'; done
  ip link del br0.7 2>/dev/null || true; ip link del br0; ! ip link | grep -q ksn
}
"#;

/// What is done, and what is printed then.
const STEPS: &[(&str, &str, &str)] = &[
    (
        "a port stays in the default VLAN unless it is to leave it",
        r#"call ADD a '"vlan": 7' >/dev/null; vlans; gone a"#,
        "1 Egress Untagged 7 PVID Egress Untagged",
    ),
    (
        "and leaves it",
        r#"call ADD a '"vlan": 7, "preserveDefaultVlan": false' >/dev/null; vlans; gone a"#,
        "7 PVID Egress Untagged",
    ),
    (
        "a trunk has ranges and single VLANs",
        r#"call ADD a '"vlanTrunk": [{"minID": 100, "maxID": 102}, {"id": 7}], "preserveDefaultVlan": false' >/dev/null
        vlans; gone a"#,
        "7 100-102",
    ),
    (
        "a gateway is on a link of its own in the VLAN, which the result names, and CHECK finds all of it",
        r#"conf='"vlan": 7, "preserveDefaultVlan": false, "isGateway": true'
        result=$(call ADD a "$conf"); call ADD b "$conf" >/dev/null
        grep -o '"name":"br0.7"' <<<"$result"; call CHECK a "$conf" "$result"
        reaches a 10.99.0.1; reaches a fd99::1; reaches a "$(address b)"; gone a b"#,
        "\"name\":\"br0.7\"",
    ),
    (
        "VLANs do not meet",
        r#"call ADD a '"vlan": 7, "preserveDefaultVlan": false' >/dev/null
        call ADD b '"vlan": 7, "preserveDefaultVlan": false' >/dev/null
        call ADD c '"vlan": 8, "preserveDefaultVlan": false' >/dev/null
        reaches a "$(address b)"; if reaches a "$(address c)"; then exit 1; fi; gone a b c"#,
        "",
    ),
];

#[test]
fn vlans_of_the_bridge() {
    let mut machine = Machine::bare(&program("keelson-cni"));
    for (name, script, want) in STEPS {
        let output = machine.run(&format!("set -e\n{CALL}{script}"));
        println!("{name}: {}", output.text);
        assert_eq!((output.code, output.text.trim()), (0, *want), "{name}");
    }
}
