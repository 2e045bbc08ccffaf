//! What the reference's `portmap` plugin leaves behind: it makes three chains for all host ports, and never removes
//! them. Where no host port is mapped any more, they are nobody's.

use std::fmt::Write;

/// The chain that jumps to each mapping, and all of portmap's own.
const MAPPINGS: &str = "CNI-HOSTPORT-DNAT";
const CHAINS: &[&str] = &[MAPPINGS, "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"];

/// The transaction that removes portmap's chains and the jumps to them, from what `iptables-save` printed; `None`
/// where there are none, or a host port is still mapped.
pub fn leftovers(saved: &str) -> Option<String> {
    let nat = saved.split('*').find(|table| table.starts_with("nat\n"))?;
    let there: Vec<&str> = CHAINS
        .iter()
        .copied()
        .filter(|c| nat.contains(&format!(":{c} ")))
        .collect();
    let mapped = nat
        .lines()
        .any(|l| l.starts_with(&format!("-A {MAPPINGS} ")));
    if there.is_empty() || mapped {
        return None;
    }
    let mut text = String::from("*nat\n");
    for chain in &there {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    let ours = |rule: &str| there.iter().any(|c| rule.starts_with(&format!("{c} ")));
    let jumps = |rule: &str| there.iter().any(|c| rule.ends_with(&format!(" -j {c}")));
    for rule in nat
        .lines()
        .filter_map(|l| l.strip_prefix("-A "))
        .filter(|r| jumps(r) && !ours(r))
    {
        let _ = writeln!(text, "-D {rule}");
    }
    for chain in &there {
        let _ = writeln!(text, "-X {chain}");
    }
    text.push_str("COMMIT\n");
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n-A POSTROUTING -m comment --comment \"x\" -j CNI-HOSTPORT-MASQ\n\
        -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\nCOMMIT\n";

    #[test]
    fn chains_without_mappings_go_and_others_stay() {
        let want = "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
            -D POSTROUTING -m comment --comment \"x\" -j CNI-HOSTPORT-MASQ\n-X CNI-HOSTPORT-DNAT\n-X CNI-HOSTPORT-MASQ\nCOMMIT\n";
        assert_eq!(leftovers(SAVED).as_deref(), Some(want));
        let mapped = SAVED.replace(
            "-A CNI-HOSTPORT-MASQ",
            "-A CNI-HOSTPORT-DNAT -p tcp -j CNI-DN-1\n-A CNI-HOSTPORT-MASQ",
        );
        assert_eq!(leftovers(&mapped), None);
        assert_eq!(leftovers("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"), None);
    }
}
