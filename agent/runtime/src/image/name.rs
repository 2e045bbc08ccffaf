//! Image names as docker writes them, and where their registries are.

use std::net::IpAddr;

use oci_client::Reference;

use crate::error::Error;

/// Parses a name and completes it: `busybox` is `docker.io/library/busybox:latest`. With a digest
/// the tag says nothing and is dropped.
pub(crate) fn parse(name: &str) -> Result<Reference, Error> {
    let invalid = |reason: String| Error::invalid("image name", name, reason);
    let reference = Reference::try_from(name).map_err(|error| invalid(error.to_string()))?;
    let repository = reference.repository();
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(invalid("repository name must be lowercase".into()));
    }
    let bare = name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit());
    if bare {
        return Err(invalid(
            "a name cannot be 64 hexadecimal characters; write sha256:<id>".into(),
        ));
    }
    Ok(match reference.digest() {
        Some(digest) => Reference::with_digest(
            reference.registry().to_owned(),
            repository.to_owned(),
            digest.to_owned(),
        ),
        None => reference,
    })
}

/// `<registry>/<repository>@<digest>` of the image `reference` names.
pub(crate) fn by_digest(reference: &Reference, digest: &str) -> String {
    format!(
        "{}/{}@{digest}",
        reference.registry(),
        reference.repository()
    )
}

/// Whether the text is a digest or an image id instead of a name.
pub(crate) fn is_digest(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm == "sha256" && hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit())
    })
}

/// Whether a registry (`host[:port]`) is spoken to over plain HTTP: loopback, or listed.
pub(crate) fn plain_http(registry: &str, insecure: &[String]) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    };
    let loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || host == "localhost" || insecure.iter().any(|entry| entry == registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let hex = "f".repeat(64);
        for (name, expected) in [
            (
                "busybox",
                Some("docker.io/library/busybox:latest".to_owned()),
            ),
            ("index.docker.io/a/b:1", Some("docker.io/a/b:1".to_owned())),
            ("localhost/a", Some("localhost/a:latest".to_owned())),
            (
                "127.0.0.1:5000/a/b:x",
                Some("127.0.0.1:5000/a/b:x".to_owned()),
            ),
            (
                &format!("a:1@sha256:{hex}"),
                Some(format!("docker.io/library/a@sha256:{hex}")),
            ),
            (&hex, None),
            ("Busybox", None),
            ("a:b:c", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(parse(name).ok().map(|r| r.whole()), expected, "{name}");
        }
    }

    #[test]
    fn only_loopback_and_listed_registries_are_plain() {
        let listed = ["r.example:5000".to_owned()];
        for (registry, expected) in [
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("[2001:db8::1]:5000", false),
            ("r.example:5000", true),
            ("r.example", false),
            ("localhost.example", false),
            ("docker.io", false),
        ] {
            assert_eq!(plain_http(registry, &listed), expected, "{registry}");
        }
    }
}
