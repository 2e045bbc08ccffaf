//! iptables is two programs: one writes the kernel's own tables (legacy), one nf_tables. Packets pass the rules of
//! both, so all who write rules on a machine should use the same. Which one that is, is seen as iptables-wrappers
//! (kubernetes-sigs) sees it: by the kubelet's chains, then by who holds more rules.

use std::fmt;

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// The kernel's own tables.
    Legacy,
    /// nf_tables.
    Nft,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Nft => "nf_tables",
        })
    }
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Legacy, Self::Nft];

    /// From what `iptables --version` printed. Before 1.8 there was but one, and nothing was said of it.
    pub fn of_version(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.ends_with("(nf_tables)") {
            Some(Self::Nft)
        } else {
            text.starts_with("iptables v").then_some(Self::Legacy)
        }
    }
}

/// Chains that a kubelet makes (since 1.17) in the variant that it uses; they are not ours to remove.
pub(super) const KUBELET: &[&str] = &["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// What a variant holds, both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// A kubelet's chain.
    pub kubelet: bool,
    /// Number of rules in chains and jumps of Kubernetes.
    pub kubernetes: usize,
    /// Number of all rules.
    pub rules: usize,
}

impl Holds {
    /// From what its `iptables-save` printed.
    pub fn of(saved: &str) -> Self {
        let chains = || saved.lines().filter_map(|l| l.strip_prefix(':'));
        let rules = || saved.lines().filter(|l| l.starts_with("-A "));
        let hint = |chain: &str| KUBELET.iter().any(|k| chain.split(' ').next() == Some(k));
        Self {
            kubelet: chains().any(hint),
            kubernetes: rules().filter(|r| r.contains(" KUBE-")).count(),
            rules: rules().count(),
        }
    }
}

/// What was found on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The variants that are installed, and what they hold.
    pub variants: Vec<(Variant, Holds)>,
    /// What `iptables` is.
    pub default: Option<Variant>,
}

/// Which variant is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// This one.
    pub variant: Variant,
    /// What somebody should know who runs this machine.
    pub warning: Option<String>,
}

/// Chooses; `None`: neither variant is installed by its own name.
pub fn choose(found: &Found) -> Option<Choice> {
    // Of equals it is what `iptables` is, and nf_tables where nobody knows.
    let preferred = |v: Variant| match found.default {
        Some(default) => v == default,
        None => v == Variant::Nft,
    };
    // Kubelets of both, one of them of old: nf_tables' goes first.
    let rank = |(v, h): &&(Variant, Holds)| {
        let kubelet = (h.kubelet, h.kubelet && *v == Variant::Nft);
        (kubelet, h.kubernetes, h.rules, preferred(*v))
    };
    let (variant, _) = found.variants.iter().max_by_key(rank)?;
    Some(Choice {
        variant: *variant,
        warning: warning(found, *variant),
    })
}

fn warning(found: &Found, chosen: Variant) -> Option<String> {
    let holding = found.variants.iter().filter(|(_, h)| h.rules > 0);
    let holding: Vec<String> = holding
        .map(|(v, h)| {
            format!(
                "{v} holds {} rules ({} of Kubernetes)",
                h.rules, h.kubernetes
            )
        })
        .collect();
    (holding.len() > 1).then(|| {
        format!(
            "both variants of iptables are in use on this machine and packets pass the rules of both: {}; services go by {chosen}. \
             Let all programs use one of them (update-alternatives --config iptables) and remove the rules of the other",
            holding.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            ("iptables v1.8.9 (nf_tables)\n", Some(Variant::Nft)),
            ("iptables v1.8.9 (legacy)\n", Some(Variant::Legacy)),
            ("iptables v1.6.1\n", Some(Variant::Legacy)),
            ("sh: not found", None),
        ];
        for (text, want) in cases {
            assert_eq!(Variant::of_version(text), want, "{text}");
        }
    }

    #[test]
    fn the_variant_in_use_is_used() {
        use Variant::{Legacy, Nft};
        const NONE: &str = "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
        const HINT: &str = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
        const OTHERS: &str = "*nat\n:DOCKER - [0:0]\n-A PREROUTING -j DOCKER\n-A OUTPUT -j DOCKER\n-A DOCKER -j RETURN\nCOMMIT\n";
        const SERVICES: &str =
            "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n";
        // Legacy's and nf_tables' rules, what `iptables` is, which is used, whether it is warned.
        let cases = [
            (NONE, NONE, Some(Legacy), Legacy, false),
            (NONE, NONE, Some(Nft), Nft, false),
            ("", "", None, Nft, false),
            (OTHERS, NONE, Some(Nft), Legacy, false),
            (NONE, OTHERS, Some(Legacy), Nft, false),
            (HINT, OTHERS, Some(Nft), Legacy, false),
            (HINT, HINT, Some(Legacy), Nft, false),
            (SERVICES, OTHERS, Some(Nft), Legacy, true),
            (SERVICES, SERVICES, Some(Nft), Nft, true),
        ];
        for (legacy, nft, default, want, warned) in cases {
            let found = Found {
                variants: vec![(Legacy, Holds::of(legacy)), (Nft, Holds::of(nft))],
                default,
            };
            let choice = choose(&found).expect("a choice");
            let row = format!("{legacy:?} {nft:?} {default:?}");
            assert_eq!(
                (choice.variant, choice.warning.is_some()),
                (want, warned),
                "{row}"
            );
        }
        assert_eq!(choose(&Found::default()), None);
        let only = Found {
            variants: vec![(Legacy, Holds::default())],
            default: Some(Nft),
        };
        assert_eq!(
            choose(&only).map(|c| c.variant),
            Some(Legacy),
            "what isn't installed isn't used"
        );
    }
}
