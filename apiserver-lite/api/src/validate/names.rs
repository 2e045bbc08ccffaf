//! The forms that names, labels, keys and ports take, in upstream's words (RFC 1123, RFC 1035,
//! `k8s.io/apimachinery/pkg/util/validation`). Every check gives the reasons why a text does not fit.

use std::sync::LazyLock;

use regex::Regex;

/// Longest DNS label.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

/// A form: the pattern, what is said when a text does not fit it, and how long a text may be.
struct Form {
    pattern: &'static str,
    says: &'static str,
    examples: &'static [&'static str],
    max: usize,
    regex: LazyLock<Option<Regex>>,
}

macro_rules! form {
    ($name:ident, $pattern:literal, $max:expr, $says:literal, [$($example:literal),*]) => {
        static $name: Form = Form {
            pattern: $pattern,
            says: $says,
            examples: &[$($example),*],
            max: $max,
            regex: LazyLock::new(|| Regex::new(concat!("^(?:", $pattern, ")$")).ok()),
        };
    };
}

form!(
    LABEL,
    "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    LABEL_MAX,
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
    ["my-name", "123-abc"]
);
form!(
    SUBDOMAIN,
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    SUBDOMAIN_MAX,
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
    ["example.com"]
);
form!(
    LABEL_1035,
    "[a-z]([-a-z0-9]*[a-z0-9])?",
    LABEL_MAX,
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
    ["my-name", "abc-123"]
);
form!(
    NAME_PART,
    "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
    LABEL_MAX,
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    ["MyName", "my.name", "123-abc"]
);
form!(
    LABEL_VALUE,
    "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
    LABEL_MAX,
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    ["MyValue", "my_value", "12345"]
);
form!(
    ENV_NAME,
    "[ -<>-~]+",
    usize::MAX,
    "a valid environment variable name must consist only of printable ASCII characters other than '='",
    []
);
form!(
    CONFIG_KEY,
    "[-._a-zA-Z0-9]+",
    SUBDOMAIN_MAX,
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    ["key.name", "KEY_NAME", "key-name"]
);
form!(
    WILDCARD,
    r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    SUBDOMAIN_MAX,
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
    ["*.example.com"]
);
form!(
    PERCENT,
    "[0-9]+%",
    usize::MAX,
    "a valid percent string must be a numeric string followed by an ending '%'",
    ["1%", "93%"]
);

impl Form {
    fn fits(&self, s: &str) -> bool {
        s.len() <= self.max && self.matches(s)
    }

    fn matches(&self, s: &str) -> bool {
        self.regex.as_ref().is_some_and(|r| r.is_match(s))
    }

    fn check(&self, s: &str) -> Vec<String> {
        let mut errs = Vec::new();
        if s.len() > self.max {
            errs.push(max_len(self.max));
        }
        if !self.matches(s) {
            errs.push(self.message());
        }
        errs
    }

    fn message(&self) -> String {
        let examples = self
            .examples
            .iter()
            .map(|e| format!("'{e}', "))
            .collect::<Vec<_>>()
            .join(" or ");
        let (open, regex) = if examples.is_empty() {
            (" (", "regex used for validation is '")
        } else {
            (" (e.g. ", "regex used for validation is '")
        };
        format!("{}{open}{examples}{regex}{}')", self.says, self.pattern)
    }
}

/// What is said of a text that is too long.
pub fn max_len(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// DNS label (RFC 1123).
pub fn dns_label(s: &str) -> Vec<String> {
    LABEL.check(s)
}

/// DNS subdomain (RFC 1123): what most objects are called.
pub fn dns_subdomain(s: &str) -> Vec<String> {
    SUBDOMAIN.check(s)
}

/// DNS label (RFC 1035): what Services are called.
pub fn dns_label_1035(s: &str) -> Vec<String> {
    LABEL_1035.check(s)
}

/// `*.` and a subdomain: hosts of Ingresses.
pub fn wildcard_subdomain(s: &str) -> Vec<String> {
    WILDCARD.check(s)
}

/// A label's value.
pub fn label_value(s: &str) -> Vec<String> {
    LABEL_VALUE.check(s)
}

/// An environment variable's name.
pub fn env_name(s: &str) -> Vec<String> {
    if s.is_empty() {
        vec![ENV_NAME.message()]
    } else {
        ENV_NAME.check(s)
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key(s: &str) -> Vec<String> {
    let mut errs = CONFIG_KEY.check(s);
    match s {
        "." => errs.push("must not be '.'".into()),
        ".." => errs.push("must not be '..'".into()),
        _ if s.starts_with("..") => errs.push("must not start with '..'".into()),
        _ => {}
    }
    errs
}

/// A percentage such as `25%`.
pub fn percent(s: &str) -> Vec<String> {
    PERCENT.check(s)
}

/// A qualified name (`example.com/MyName`): keys of labels, finalizers, resource names.
pub fn qualified_name(s: &str) -> Vec<String> {
    let (prefix, name) = match s.split('/').collect::<Vec<_>>().as_slice() {
        [name] => (None, *name),
        [prefix, name] => (Some(*prefix), *name),
        _ => {
            let shape = NAME_PART.message();
            return vec![format!(
                "a qualified name {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    let mut errs = Vec::new();
    match prefix {
        Some("") => errs.push("prefix part must be non-empty".into()),
        Some(p) => errs.extend(
            SUBDOMAIN
                .check(p)
                .into_iter()
                .map(|e| format!("prefix part {e}")),
        ),
        None => {}
    }
    if name.is_empty() {
        errs.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        errs.push(format!("name part {}", max_len(LABEL_MAX)));
    }
    if !NAME_PART.matches(name) {
        errs.push(format!("name part {}", NAME_PART.message()));
    }
    errs
}

/// A part of a URL path: what RBAC objects are called.
pub fn path_segment(s: &str) -> Vec<String> {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|c| s.contains(c))
        .map(|c| format!("may not contain '{c}'"))
        .collect()
}

/// The name of a port of a container (`IANA_SVC_NAME`, RFC 6335).
pub fn port_name(s: &str) -> Vec<String> {
    let mut errs = Vec::new();
    if s.len() > 15 {
        errs.push(max_len(15));
    }
    if !s
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        || s.is_empty()
    {
        errs.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        errs.push("must contain at least one letter (a-z)".into());
    }
    if s.contains("--") {
        errs.push("must not contain consecutive hyphens".into());
    }
    if s.starts_with('-') || s.ends_with('-') {
        errs.push("must not begin or end with a hyphen".into());
    }
    errs
}

/// The number of a port.
pub fn port(n: i64) -> Vec<String> {
    if (1..=65535).contains(&n) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".into()]
    }
}

/// An IP address, without leading zeros.
pub fn ip(s: &str) -> Vec<String> {
    if s.parse::<std::net::IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()]
    }
}

/// An IP network, such as `10.9.8.0/24`.
pub fn cidr(s: &str) -> Vec<String> {
    if s.parse::<ipnet::IpNet>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()]
    }
}

/// Whether a text is a DNS label.
pub fn is_dns_label(s: &str) -> bool {
    LABEL.fits(s)
}

/// Whether a text is a DNS subdomain.
pub fn is_dns_subdomain(s: &str) -> bool {
    SUBDOMAIN.fits(s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        type Check = fn(&str) -> Vec<String>;
        let long = "a".repeat(64);
        let rows: &[(Check, &str, bool)] = &[
            (dns_label, "a-1", true),
            (dns_label, "1a", true),
            (dns_label, "A", false),
            (dns_label, "a.b", false),
            (dns_label, "-a", false),
            (dns_label, "a\n", false),
            (dns_label, "", false),
            (dns_label, &long, false),
            (dns_subdomain, "a.b-c.d", true),
            (dns_subdomain, "a..b", false),
            (dns_subdomain, &long, true),
            (dns_label_1035, "a1", true),
            (dns_label_1035, "1a", false),
            (label_value, "", true),
            (label_value, "a_B.c-1", true),
            (label_value, "-", false),
            (qualified_name, "app", true),
            (qualified_name, "a.b/C_d", true),
            (qualified_name, "a/b/c", false),
            (qualified_name, "/c", false),
            (qualified_name, "a/", false),
            (qualified_name, "A/b", false),
            (env_name, "my.env-NAME", true),
            (env_name, "1 a", true),
            (env_name, "a=b", false),
            (env_name, "é", false),
            (env_name, "", false),
            (config_key, "a.b_c-D", true),
            (config_key, "..", false),
            (config_key, "..a", false),
            (config_key, "a/b", false),
            (percent, "25%", true),
            (percent, "25", false),
            (path_segment, "system:node", true),
            (path_segment, "a/b", false),
            (path_segment, "..", false),
            (port_name, "http-2", true),
            (port_name, "123", false),
            (port_name, "a--b", false),
            (port_name, "abcdefghijklmnop", false),
            (wildcard_subdomain, "*.a.b", true),
            (wildcard_subdomain, "a.b", false),
            (ip, "010.0.0.1", false),
            (ip, "::1", true),
            (cidr, "10.0.0.0/8", true),
            (cidr, "10.0.0.0", false),
        ];
        for (check, text, fits) in rows {
            assert_eq!(check(text).is_empty(), *fits, "{text:?}: {:?}", check(text));
        }
    }

    #[test]
    fn words_are_upstreams() {
        let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        assert_eq!(dns_label("A"), [label]);
        assert_eq!(
            dns_label(&"a".repeat(64)),
            ["must be no more than 63 bytes"]
        );
        assert_eq!(
            qualified_name("a/"),
            [
                "name part must be non-empty",
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ]
        );
    }
}
