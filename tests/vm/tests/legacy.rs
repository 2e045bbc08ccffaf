//! A kernel without nftables: masquerade and host ports are iptables' then, of the plugin and of the network between
//! nodes. In a machine that has lost the module.
#![allow(missing_docs)]

#[path = "../../../cni/overlay/tests/kernel/bed.rs"]
#[allow(dead_code)]
mod bed;

use bed::{Bed, all_reach_all, masked_outside, sh};
use keelson_overlay::Mode;
use keelson_tests_vm::{Machine, in_machine};

/// Takes nftables away, and makes `iptables` what it is where there is none.
const WITHOUT: &str = "set -e
mount -o remount,rw /; rm \"$(modinfo -n nf_tables)\"; depmod
for f in iptables ip6tables; do update-alternatives --quiet --set $f /usr/sbin/$f-legacy; done
if nft list ruleset 2>/dev/null; then echo \"nftables is still there\"; exit 1; fi
";

#[test]
fn what_leaves_the_cluster_is_masqueraded_by_iptables() {
    let test = "what_leaves_the_cluster_is_masqueraded_by_iptables";
    in_machine(test, WITHOUT, inside);
}

fn inside() {
    let mut bed = Bed::new();
    let (a, c) = (bed.machine(1, 1), bed.machine(3, 2));
    let nodes = [a.node.clone(), c.node.clone()];
    let running = [&a, &c].map(|m| m.start(m.options(Mode::Vxlan)));
    running.iter().for_each(|r| r.know(&nodes));
    all_reach_all(&[&a, &c]);
    masked_outside(&bed, &a, &c);
    running.into_iter().for_each(bed::Running::stop);
    let rules = sh(&a.space, "iptables-save; ip6tables-save");
    assert!(rules.contains("MASQUERADE"), "kept for the pods: {rules}");
}

/// A pod whose packets get answers only if they are masqueraded, and a server in it that is reached by a host port.
const PLUGIN: &str = r#"
call() {
  CNI_COMMAND=$1 CNI_CONTAINERID=a CNI_IFNAME=eth0 CNI_NETNS=/run/netns/a CNI_PATH=/none /opt/keelson/bin/keelson-cni <<E
{"cniVersion": "1.1.0", "name": "pods", "type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": true, "prevResult": ${2:-null},
 "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
 "ipam": {"type": "host-local", "dataDir": "/run/pods", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
  "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd99::/64"}]]}}
E
}
end() { ip $1 addr add 198.51.100.$3/24 dev $2; ip $1 addr add fd51::$3/64 dev $2 nodad; ip $1 link set $2 up; }
ip netns add a; ip netns add outside
ip link add out0 type veth peer name eth0 netns outside
end "" out0 1; end "-n outside" eth0 2
result=$(call ADD); call CHECK "$result"
for to in 198.51.100.2 fd51::2; do ip netns exec a ping -q -c1 -W5 $to >/dev/null; done
ip netns exec a busybox nc -l -p 80 -e echo served & sleep 1
ip netns exec outside busybox nc -w 5 198.51.100.1 8080 </dev/null
call DEL "$result"
! { iptables-save; ip6tables-save; } | grep -E 'ksn|8080'
"#;

#[test]
fn the_plugin_falls_back_to_iptables() {
    let plugin = keelson_tests::bins::program("keelson-cni");
    let output = Machine::bare(&plugin).run(&format!("{WITHOUT}{PLUGIN}"));
    assert_eq!((output.code, output.text.trim()), (0, "served"));
}
