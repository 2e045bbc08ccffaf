//! Who may use an image that is on the node already (KEP-2535): one that was pulled with a pod's secrets is not for pods
//! without them.

use std::fmt;
use std::str::FromStr;

/// Whose right to an image is verified (`imagePullCredentialsVerificationPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// Whatever is on the node is for every pod.
    NeverVerify,
    /// Images that the agent did not pull are for every pod.
    #[default]
    NeverVerifyPreloadedImages,
    /// Of those only the ones that are listed.
    NeverVerifyAllowlistedImages,
    /// Nothing is for every pod.
    AlwaysVerify,
}

const NAMES: [(Verification, &str); 4] = [
    (Verification::NeverVerify, "NeverVerify"),
    (
        Verification::NeverVerifyPreloadedImages,
        "NeverVerifyPreloadedImages",
    ),
    (
        Verification::NeverVerifyAllowlistedImages,
        "NeverVerifyAllowlistedImages",
    ),
    (Verification::AlwaysVerify, "AlwaysVerify"),
];

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(v, _)| v == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Verification {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(_, name)| *name == text);
        let known = || NAMES.map(|(_, name)| name).join(", ");
        found
            .map(|(v, _)| v.clone())
            .ok_or_else(|| format!("{text:?} is none of {}", known()))
    }
}

/// The policy with its list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whose right is verified.
    pub verification: Verification,
    /// Images (without tag) for every pod, `*` at the end of a path for all below it
    /// (`preloadedImagesVerificationAllowlist`).
    pub allowlist: Vec<String>,
}

/// A secret an image was pulled with, or that a pod has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A hash of the credentials that are in it for the image.
    pub hash: String,
}

/// With what an image was pulled under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// With nothing, or what every pod of the node has.
    ByAnybody,
    /// With one of these.
    With(Vec<Secret>),
}

/// What is known about an image that is on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The agent has pulled it, under any name, or was about to when it was ended.
    pub by_agent: bool,
    /// How it was pulled under the name (without tag) that the pod uses.
    pub pulled: Option<Pulled>,
}

/// Whether a pod may use the image as it is; if not, the registry has to be asked with the pod's credentials.
/// `repository` is the image's normalised name without tag and digest.
pub fn may_use(policy: &Policy, repository: &str, known: &Known, has: &[Secret]) -> bool {
    let free = match policy.verification {
        Verification::NeverVerify => true,
        Verification::NeverVerifyPreloadedImages => !known.by_agent,
        Verification::NeverVerifyAllowlistedImages => {
            !known.by_agent && policy.allowlist.iter().any(|l| listed(l, repository))
        }
        Verification::AlwaysVerify => false,
    };
    free || match &known.pulled {
        None => false,
        Some(Pulled::ByAnybody) => true,
        Some(Pulled::With(secrets)) => has.iter().any(|h| secrets.iter().any(|s| same(s, h))),
    }
}

/// The same secret, even with new contents, or the same contents in another one.
fn same(a: &Secret, b: &Secret) -> bool {
    let contents = !a.hash.is_empty() && a.hash == b.hash;
    contents || (&a.uid, &a.namespace, &a.name) == (&b.uid, &b.namespace, &b.name)
}

fn listed(pattern: &str, repository: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(path) => repository
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('/')),
        None => pattern == repository,
    }
}

/// What a pull has shown, added to what is known of the name: once free for everybody, it stays so.
pub fn learned(known: Option<Pulled>, now: Pulled) -> Pulled {
    match (known, now) {
        (Some(Pulled::With(mut secrets)), Pulled::With(new)) => {
            secrets.retain(|s| !new.iter().any(|n| (&n.uid, &n.name) == (&s.uid, &s.name)));
            secrets.extend(new);
            Pulled::With(secrets)
        }
        (Some(Pulled::ByAnybody), _) | (_, Pulled::ByAnybody) => Pulled::ByAnybody,
        (None, now) => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: &str, hash: &str) -> Secret {
        Secret {
            uid: uid.into(),
            namespace: "ns".into(),
            name: "s".into(),
            hash: hash.into(),
        }
    }

    fn with(secrets: &[(&str, &str)]) -> Option<Pulled> {
        Some(Pulled::With(
            secrets.iter().map(|(u, h)| secret(u, h)).collect(),
        ))
    }

    #[test]
    fn who_may_use_an_image() {
        use Verification::*;
        let mine = [secret("u", "h")];
        type Row<'a> = (
            &'a str,
            Verification,
            bool,
            Option<Pulled>,
            &'a [Secret],
            bool,
        );
        let rows: &[Row<'_>] = &[
            (
                "preloaded",
                NeverVerifyPreloadedImages,
                false,
                None,
                &[],
                true,
            ),
            (
                "preloaded, listed",
                NeverVerifyAllowlistedImages,
                false,
                None,
                &[],
                true,
            ),
            (
                "preloaded, always verified",
                AlwaysVerify,
                false,
                None,
                &[],
                false,
            ),
            (
                "pulled under another name",
                NeverVerifyPreloadedImages,
                true,
                None,
                &mine,
                false,
            ),
            (
                "pulled, listed",
                NeverVerifyAllowlistedImages,
                true,
                None,
                &[],
                false,
            ),
            (
                "pulled, never verified",
                NeverVerify,
                true,
                with(&[("o", "x")]),
                &[],
                true,
            ),
            (
                "pulled by anybody",
                NeverVerifyPreloadedImages,
                true,
                Some(Pulled::ByAnybody),
                &[],
                true,
            ),
            (
                "by anybody, always verified",
                AlwaysVerify,
                true,
                Some(Pulled::ByAnybody),
                &[],
                true,
            ),
            (
                "with a secret, none here",
                NeverVerifyPreloadedImages,
                true,
                with(&[("u", "h")]),
                &[],
                false,
            ),
            (
                "the same secret",
                NeverVerifyPreloadedImages,
                true,
                with(&[("u", "h")]),
                &mine,
                true,
            ),
            (
                "the same secret, changed",
                NeverVerifyPreloadedImages,
                true,
                with(&[("u", "old")]),
                &mine,
                true,
            ),
            (
                "the same contents",
                NeverVerifyPreloadedImages,
                true,
                with(&[("o", "h")]),
                &mine,
                true,
            ),
            (
                "another secret",
                NeverVerifyPreloadedImages,
                true,
                with(&[("o", "x")]),
                &mine,
                false,
            ),
            (
                "no contents known",
                NeverVerifyPreloadedImages,
                true,
                with(&[("o", "")]),
                &[secret("u", "")],
                false,
            ),
            (
                "one of several",
                NeverVerifyPreloadedImages,
                true,
                with(&[("o", "x"), ("p", "h")]),
                &mine,
                true,
            ),
        ];
        for (name, verification, by_agent, pulled, has, want) in rows {
            let policy = Policy {
                verification: verification.clone(),
                allowlist: vec!["r.example/a".into()],
            };
            let known = Known {
                by_agent: *by_agent,
                pulled: pulled.clone(),
            };
            assert_eq!(
                may_use(&policy, "r.example/a", &known, has),
                *want,
                "{name}"
            );
        }
    }

    #[test]
    fn lists_of_images() {
        for (pattern, repository, want) in [
            ("r.example/a", "r.example/a", true),
            ("r.example/a", "r.example/ab", false),
            ("r.example/*", "r.example/a/b", true),
            ("r.example/*", "r.example2/a", false),
            ("r.example", "r.example/a", false),
        ] {
            assert_eq!(listed(pattern, repository), want, "{pattern} {repository}");
        }
    }

    #[test]
    fn pulls_add_up() {
        let learn = |known, now: Option<Pulled>| learned(known, now.expect("given"));
        let rows = [
            ("first", None, with(&[("u", "h")]), with(&[("u", "h")])),
            (
                "another",
                with(&[("u", "h")]),
                with(&[("v", "i")]),
                with(&[("u", "h"), ("v", "i")]),
            ),
            (
                "the same, changed",
                with(&[("u", "h")]),
                with(&[("u", "i")]),
                with(&[("u", "i")]),
            ),
            (
                "by anybody",
                with(&[("u", "h")]),
                Some(Pulled::ByAnybody),
                Some(Pulled::ByAnybody),
            ),
            (
                "stays free",
                Some(Pulled::ByAnybody),
                with(&[("u", "h")]),
                Some(Pulled::ByAnybody),
            ),
        ];
        for (name, known, now, want) in rows {
            assert_eq!(Some(learn(known, now)), want, "{name}");
        }
    }

    #[test]
    fn policies_by_name() {
        for (policy, name) in NAMES {
            assert_eq!(
                (policy.to_string().as_str(), name.parse()),
                (name, Ok(policy))
            );
        }
        assert!("Sometimes".parse::<Verification>().is_err());
    }
}
