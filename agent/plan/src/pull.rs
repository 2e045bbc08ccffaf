//! Whether an image has to be pulled.

/// What to do about an image before a container is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is there: use it.
    Use,
    /// Ask the registry.
    Pull,
    /// The policy forbids to pull and it is not there (`ErrImageNeverPull`).
    NeverPull,
}

/// Decides from the policy and whether the image is present.
/// An empty policy is `Always` for the tag `latest` and `IfNotPresent` otherwise, as the API defaults it.
pub fn decide(policy: Option<&str>, image: &str, present: bool) -> Decision {
    let policy = policy
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| default_policy(image));
    match (policy, present) {
        ("Always", _) => Decision::Pull,
        (_, true) => Decision::Use,
        ("Never", false) => Decision::NeverPull,
        (_, false) => Decision::Pull,
    }
}

fn default_policy(image: &str) -> &'static str {
    let rest = image.rsplit('/').next().unwrap_or(image);
    match rest.split_once('@') {
        Some(_) => "IfNotPresent",
        None => match rest.split_once(':') {
            None | Some((_, "latest")) => "Always",
            Some(_) => "IfNotPresent",
        },
    }
}

/// A name without tag and digest.
pub fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => name,
    }
}

/// Whether the name can be an image reference at all (`InvalidImageName` if not).
pub fn valid_name(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or(image);
    let path = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => {
            let ok = !tag.is_empty()
                && tag.len() <= 128
                && tag
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if !ok {
                return false;
            }
            path
        }
        _ => name,
    };
    let mut parts = path.split('/').peekable();
    let first_is_host = path.contains('/')
        && path
            .split('/')
            .next()
            .is_some_and(|h| h.contains(['.', ':']) || h == "localhost");
    if first_is_host {
        parts.next();
    }
    parts.peek().is_some()
        && parts.all(|p| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
                && p.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        use Decision::{NeverPull, Pull, Use};
        let rows = [
            ("always, present", Some("Always"), "a:1", true, Pull),
            (
                "if not present, present",
                Some("IfNotPresent"),
                "a:1",
                true,
                Use,
            ),
            (
                "if not present, absent",
                Some("IfNotPresent"),
                "a:1",
                false,
                Pull,
            ),
            ("never, present", Some("Never"), "a:1", true, Use),
            ("never, absent", Some("Never"), "a:1", false, NeverPull),
            ("no policy, latest", None, "a", true, Pull),
            ("no policy, tag", None, "localhost:5000/a:1", true, Use),
            (
                "no policy, port and no tag",
                None,
                "localhost:5000/a",
                true,
                Pull,
            ),
            ("no policy, digest", None, "a@sha256:00", true, Use),
        ];
        for (name, policy, image, present, want) in rows {
            assert_eq!(decide(policy, image, present), want, "{name}");
        }
    }

    #[test]
    fn repositories() {
        for (image, want) in [
            ("docker.io/library/a:1", "docker.io/library/a"),
            ("localhost:5000/a", "localhost:5000/a"),
            ("localhost:5000/a:1@sha256:00", "localhost:5000/a"),
        ] {
            assert_eq!(repository(image), want);
        }
    }

    #[test]
    fn image_names() {
        for good in [
            "a",
            "a:1",
            "localhost:5000/a/b:v1.2",
            "docker.io/library/busybox@sha256:0000",
            "ghcr.io/A".to_lowercase().as_str(),
        ] {
            assert!(valid_name(good), "{good}");
        }
        for bad in [
            "",
            "A:1",
            "a b",
            "a:",
            "/a",
            "a//b",
            ":1",
            "localhost:5000/",
        ] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
