//! Image names as docker writes them, and where their registries are.

use std::net::{IpAddr, Ipv6Addr};

use oci_client::Reference;

use crate::error::Error;

const HUB: &str = "docker.io";
const LATEST: &str = "latest";
/// The most that a repository's name may have, bytes.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
/// Digest algorithms, and their lengths in hexadecimal digits.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];
const MALFORMED: &str = "invalid reference format";

/// Parses a name and completes it: `busybox` is `docker.io/library/busybox:latest`. With a digest
/// the tag says nothing and is dropped.
///
/// The grammar is that of `github.com/distribution/reference`. It is read by hand: the expression by which `oci-client`
/// reads it takes 5 MB as long as the process lives.
pub(crate) fn parse(name: &str) -> Result<Reference, Error> {
    let invalid = |reason: &str| Error::invalid("image name", name, reason);
    if name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(invalid(
            "a name cannot be 64 hexadecimal characters; write sha256:<id>",
        ));
    }
    let (tagged, digest) = match name.split_once('@') {
        Some((tagged, digest)) => (tagged, Some(digest)),
        None => (name, None),
    };
    let last = tagged.rfind('/').map_or(0, |slash| slash + 1);
    let (bare, tag) = match tagged[last..].split_once(':') {
        Some((_, tag)) => (&tagged[..tagged.len() - tag.len() - 1], Some(tag)),
        None => (tagged, None),
    };
    let (registry, repository) = split_registry(bare);
    if repository.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err(invalid("repository name must be lowercase"));
    }
    if !is_registry(registry) || !is_repository(repository) || tag.is_some_and(|t| !is_tag(t)) {
        return Err(invalid(MALFORMED));
    }
    let repository = match registry == HUB && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository.to_owned(),
    };
    if repository.len() > NAME_MAX {
        return Err(invalid(
            "repository name must not be more than 255 characters",
        ));
    }
    let registry = registry.to_owned();
    match digest {
        Some(digest) => {
            check_digest(digest).map_err(invalid)?;
            let digest = digest.to_owned();
            Ok(Reference::with_digest(registry, repository, digest))
        }
        None => {
            let tag = tag.unwrap_or(LATEST).to_owned();
            Ok(Reference::with_tag(registry, repository, tag))
        }
    }
}

/// The first part is a registry when it can't be a part of a repository's name.
fn split_registry(name: &str) -> (&str, &str) {
    let is_host = |first: &str| {
        first == "localhost"
            || first.contains(['.', ':'])
            || first.bytes().any(|c| c.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => (HUB, rest),
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (HUB, name),
    }
}

/// `host[:port]`; an IPv6 address in brackets.
fn is_registry(registry: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
    if let Some((address, rest)) = registry
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        let port = rest.strip_prefix(':');
        return address.parse::<Ipv6Addr>().is_ok()
            && (rest.is_empty() || port.is_some_and(is_port));
    }
    let (host, port) = match registry.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let is_label = |label: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_repository(repository: &str) -> bool {
    repository.split('/').all(is_component)
}

/// Lower case letters and digits; between them one `.`, one or two `_`, or any number of `-`.
fn is_component(component: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = [component.chars().next(), component.chars().next_back()];
    let is_separator = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|c| c == b'-');
    ends.into_iter().all(|end| end.is_some_and(is_plain))
        && component.split(is_plain).all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let inner = |c: u8| is_word(c) || matches!(c, b'.' | b'-');
    tag.len() <= TAG_MAX && tag.bytes().next().is_some_and(is_word) && tag.bytes().all(inner)
}

fn check_digest(digest: &str) -> Result<(), &'static str> {
    let (algorithm, hex) = digest.split_once(':').ok_or(MALFORMED)?;
    if !hex.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(MALFORMED);
    }
    match DIGESTS.iter().find(|(known, _)| *known == algorithm) {
        None => Err("unsupported digest algorithm"),
        Some((_, length)) if hex.len() != *length => Err("invalid checksum digest length"),
        Some(_) => Ok(()),
    }
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
    fn the_grammar_is_the_librarys() {
        let (hex, long) = ("a".repeat(64), "b".repeat(128));
        let names = [
            "a/b/c:v1.2-x_y",
            "r.example/a",
            "r.example:5000/a/b",
            "localhost:5000/a",
            "x/a.b-c__d/e---f.g",
            "a..b",
            "a___b",
            "a_.b",
            "-a",
            "a-",
            "/a",
            "a/",
            "a//b",
            "a:",
            "a:-x",
            "a:.x",
            "a:_x",
            "a:b/c",
            "-r.example/a",
            "r-.example/a",
            "r..example/a",
            "r.example:/a",
            "r.example:x/a",
            "a@sha256",
            "a@sha256:abc",
            "a@sha257:0123456789012345678901234567890123456789",
            "a\u{e9}",
            "a\n",
            &format!("a:{}", "t".repeat(128)),
            &format!("a:{}", "t".repeat(129)),
            &"n".repeat(247),
            &"n".repeat(248),
            &format!("a@sha256:{hex}"),
            &format!("a@sha256:{hex}@sha256:{hex}"),
            &format!("a:1@sha512:{long}"),
            &format!("a@sha256:{long}"),
        ];
        for name in names {
            // What parse does besides.
            let expected = Reference::try_from(name).ok().map(|r| match r.digest() {
                Some(digest) => by_digest(&r, digest),
                None => r.whole(),
            });
            assert_eq!(parse(name).ok().map(|r| r.whole()), expected, "{name}");
        }
        let ours = parse("[::1]:5000/a").map(|r| r.whole()).ok();
        assert_eq!(ours.as_deref(), Some("[::1]:5000/a:latest"));
        for name in ["[::1/a", "[x]/a", "[::1]x/a", "[::1]:/a", "a:\u{e9}"] {
            assert!(parse(name).is_err(), "{name}");
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
