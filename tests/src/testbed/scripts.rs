//! What is run in namespaces for a layout: shell scripts as text.

use super::layout::{Kind, Machine, Nic};
use super::quality::Quality;

/// What makes a machine a router or gateway, before it has any interface. A gateway lets nobody in.
pub fn setup(kind: Kind) -> &'static str {
    match kind {
        Kind::Router => "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        Kind::Gateway => {
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
nft 'table inet keelson-nat {
  chain forward { type filter hook forward priority filter; ct state new iifname eth1 drop; }
  chain postrouting { type nat hook postrouting priority srcnat; oifname eth1 masquerade; }
}'"
        }
        Kind::Client | Kind::Server | Kind::Agent => "",
    }
}

/// A segment's switch.
pub fn bridge(name: &str, segment: &str) -> String {
    format!(
        "ip link add {name} alias {segment} type bridge mcast_snooping 0; ip link set {name} up\n"
    )
}

/// A link's end at the switch, which is there and up.
pub fn port(port: &str, nic: &Nic, bridge: &str) -> String {
    let (link, mtu) = (&nic.link, nic.mtu);
    format!("ip link set {port} alias {link} mtu {mtu} master {bridge}\n")
}

/// A machine's interfaces, which are there and up, and its routes. Repeating it is harmless.
pub fn machine(machine: &Machine) -> String {
    let nics = machine.nics.iter().flat_map(|nic| {
        let (device, mtu) = (&nic.device, nic.mtu);
        let addresses = nic.addresses.iter().map(move |address| {
            // Nobody else has it: nothing has to wait until that is found out.
            let nodad = if address.addr().is_ipv6() {
                " nodad"
            } else {
                ""
            };
            format!("ip address replace {address} dev {device}{nodad}\n")
        });
        [format!("ip link set {device} mtu {mtu}\n")]
            .into_iter()
            .chain(addresses)
    });
    let routes = machine
        .routes
        .iter()
        .map(|r| format!("ip route replace {} via {}\n", r.to, r.via));
    nics.chain(routes).collect()
}

/// Losses on a link's end at the switch, of both directions.
pub fn losses(port: &str, quality: Quality) -> String {
    let gone = format!("nft delete table netdev keelson-{port} 2>/dev/null || true\n");
    let chance = quality.loss.in_ten_thousand();
    if chance == 0 {
        return gone;
    }
    // The kernel has no number below all.
    let which = if chance < 10_000 {
        format!("numgen random mod 10000 < {chance} ")
    } else {
        String::new()
    };
    let chain = |hook: &str| {
        format!(
            "  chain {hook} {{ type filter hook {hook} device {port} priority filter; {which}counter drop; }}\n"
        )
    };
    format!(
        "{gone}nft 'table netdev keelson-{port} {{\n{}{}}}'\n",
        chain("ingress"),
        chain("egress")
    )
}

/// What is held up at one end of a link: what leaves there.
pub fn queue(device: &str, quality: Quality) -> String {
    let rate = quality
        .rate
        .map(|rate| format!(" rate {rate}"))
        .unwrap_or_default();
    let kind = if quality.delay.0.is_zero() {
        format!("tbf{rate} burst 64kb latency 100ms")
    } else {
        format!("netem delay {} limit 10000{rate}", quality.delay)
    };
    let gone = format!("tc qdisc delete dev {device} root 2>/dev/null || true\n");
    if quality.delay.0.is_zero() && quality.rate.is_none() {
        return gone;
    }
    format!("{gone}tc qdisc add dev {device} root {kind}\n")
}

/// How many packets the rules of [`losses`] have dropped, from what nft lists.
pub fn dropped(listed: &str) -> u64 {
    let counts = listed.split("counter packets ").skip(1);
    counts
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_degraded_link() {
        let table = [
            ("{}", "", ""),
            ("{loss: 10}", "mod 10000 < 1000 counter drop", ""),
            (
                "{rate: 2mbit}",
                "",
                "tbf rate 2000kbit burst 64kb latency 100ms",
            ),
            ("{delay: 20ms}", "", "netem delay 20000us limit 10000\n"),
            (
                "{delay: 1s, rate: 2mbit}",
                "",
                "netem delay 1000000us limit 10000 rate 2000kbit",
            ),
        ];
        for (text, lost, held) in table {
            let quality = serde_yaml_ng::from_str(text).unwrap();
            let (losses, queue) = (losses("port1", quality), queue("port1", quality));
            assert!(
                losses.contains(lost) && losses.contains("drop") != lost.is_empty(),
                "{text}: {losses}"
            );
            assert!(
                queue.contains(held) && queue.contains(" add ") != held.is_empty(),
                "{text}: {queue}"
            );
        }
    }

    #[test]
    fn counted() {
        let listed = "numgen random mod 10000 < 1000 counter packets 3 bytes 180 drop\n counter packets 12 bytes 9 drop";
        assert_eq!(dropped(listed), 15);
    }
}
