//! What these rules can't do yet: to leave it out without a word would open what was to be shut.

use crate::options::{Options, Pods};

/// Names of what the options ask for and the rules don't have.
pub fn beyond(options: &Options) -> Vec<&'static str> {
    let usual = Options::default();
    let several = |v4: bool| {
        let Pods::Within(nets) = &options.pods else {
            return false;
        };
        nets.iter().filter(|n| n.addr().is_ipv4() == v4).count() > 1
    };
    let asked = [
        (!options.node_port_nets.is_empty(), "nodePortAddresses"),
        (options.masquerade_all, "masqueradeAll"),
        (
            options.masquerade_mark != usual.masquerade_mark,
            "a masqueradeBit other than 14",
        ),
        (
            matches!(options.pods, Pods::Behind(_)),
            "pods that are known by their interface",
        ),
        (
            several(true) || several(false),
            "several pod networks of one family",
        ),
    ];
    let found = asked.into_iter().filter(|(is, _)| *is);
    found.map(|(_, what)| what).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        type Change = fn(&mut Options);
        let within =
            |nets: &[&str]| Pods::Within(nets.iter().map(|n| n.parse().expect("net")).collect());
        let cases: &[(Change, &[&str])] = &[
            (|_| (), &[]),
            (|o| o.localhost_node_ports = false, &[]),
            (
                |o| o.node_port_nets = vec!["192.168.0.0/16".parse().expect("net")],
                &["nodePortAddresses"],
            ),
            (
                |o| (o.masquerade_all, o.masquerade_mark) = (true, 1),
                &["masqueradeAll", "a masqueradeBit other than 14"],
            ),
            (
                |o| o.pods = Pods::Behind("cni0".into()),
                &["pods that are known by their interface"],
            ),
        ];
        for (change, want) in cases {
            let mut options = Options::default();
            change(&mut options);
            assert_eq!(beyond(&options), *want, "{options:?}");
        }
        let with = |pods| Options {
            pods,
            ..Options::default()
        };
        assert!(beyond(&with(within(&["10.42.0.0/16", "fd42::/48"]))).is_empty());
        let two = beyond(&with(within(&["10.42.0.0/16", "10.44.0.0/16"])));
        assert_eq!(two, ["several pod networks of one family"]);
    }
}
