//! What a URL asks for: the parse every later step works on.
//!
//! The rules are those of the API's URL conventions: `/api/v1/...` for the core group,
//! `/apis/<group>/<version>/...` for the rest, an optional `watch` or `proxy` word before the
//! resource (legacy), and `namespaces/<ns>/` in front of what lives in one.

use http::Method;
use keelson_api::selector::Fields;

use crate::query::{Query, percent_decode};

/// A parsed request line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInfo {
    /// Whether the path names a resource of a group and version.
    pub(crate) is_resource: bool,
    /// Decoded path.
    pub(crate) path: String,
    /// API verb, or the HTTP method in lower case for other paths.
    pub(crate) verb: String,
    /// API group, `""` for core.
    pub(crate) group: String,
    /// Version.
    pub(crate) version: String,
    /// Namespace, or empty.
    pub(crate) namespace: String,
    /// Plural.
    pub(crate) resource: String,
    /// Name, or empty.
    pub(crate) name: String,
    /// Subresource, or empty.
    pub(crate) subresource: String,
    /// What follows the subresource: the path behind a proxy.
    pub(crate) tail: String,
    /// What the field selector of a list or watch demands: field and value.
    pub(crate) demands: Vec<(String, String)>,
}

impl RequestInfo {
    /// The name of the one object a request is about: a list or watch may demand one too.
    pub(crate) fn one(&self) -> Option<&str> {
        let demanded = self.demands.iter().find(|(f, _)| f == "metadata.name");
        let demanded = demanded.map(|(_, name)| name.as_str());
        Some(self.name.as_str())
            .filter(|name| !name.is_empty())
            .or(demanded)
    }
}

/// Parses a request line. `Err` has why the URL makes no sense.
pub(crate) fn parse(method: &Method, path: &str, query: &Query) -> Result<RequestInfo, String> {
    let path =
        percent_decode(path, false).ok_or_else(|| "the URL is not valid UTF-8".to_owned())?;
    let mut info = RequestInfo {
        verb: method.as_str().to_ascii_lowercase(),
        path: path.clone(),
        ..RequestInfo::default()
    };
    let all: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let trimmed: Vec<&str> = path.trim_matches('/').split('/').collect();
    let Some((group, version, rest)) = split_prefix(&trimmed) else {
        return Ok(info);
    };
    let skipped = trimmed.len() - rest.len();
    info.is_resource = true;
    (info.group, info.version) = (group.to_owned(), version.to_owned());
    info.verb = verb_of(method).unwrap_or(&info.verb).to_owned();
    let (rest, skipped) = special_verb(&mut info, rest, skipped)?;
    let (rest, skipped) = namespace(&mut info, rest, skipped);
    let part = |i: usize| rest.get(i).copied().unwrap_or_default().to_owned();
    (info.resource, info.name, info.subresource) = (part(0), part(1), part(2));
    info.tail = all
        .get(skipped + 3..)
        .map(|t| t.join("/"))
        .unwrap_or_default();
    adjust_collection_verb(&mut info, query);
    Ok(info)
}

fn split_prefix<'a, 'b>(parts: &'a [&'b str]) -> Option<(&'b str, &'b str, &'a [&'b str])> {
    match parts {
        ["api", version, rest @ ..] if !rest.is_empty() => Some(("", version, rest)),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => Some((group, version, rest)),
        _ => None,
    }
}

fn verb_of(method: &Method) -> Option<&'static str> {
    Some(match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => return None,
    })
}

fn special_verb<'a, 'b>(
    info: &mut RequestInfo,
    rest: &'a [&'b str],
    skipped: usize,
) -> Result<(&'a [&'b str], usize), String> {
    match rest {
        [word @ ("watch" | "proxy"), tail @ ..] => {
            if tail.is_empty() {
                return Err(format!(
                    "unable to determine kind and namespace from url, {}",
                    info.path
                ));
            }
            info.verb = (*word).to_owned();
            Ok((tail, skipped + 1))
        }
        _ => Ok((rest, skipped)),
    }
}

fn namespace<'a, 'b>(
    info: &mut RequestInfo,
    rest: &'a [&'b str],
    skipped: usize,
) -> (&'a [&'b str], usize) {
    match rest {
        ["namespaces", ns, sub, ..] if *sub != "status" && *sub != "finalize" => {
            info.namespace = (*ns).to_owned();
            (rest.get(2..).unwrap_or_default(), skipped + 2)
        }
        ["namespaces", ns, ..] => {
            info.namespace = (*ns).to_owned();
            (rest, skipped)
        }
        _ => (rest, skipped),
    }
}

/// `get` without a name is a list or a watch, `delete` without one a collection. What the field selector of a list
/// or watch demands is kept, so that authorization can see it.
fn adjust_collection_verb(info: &mut RequestInfo, query: &Query) {
    if info.name.is_empty() {
        match info.verb.as_str() {
            "get" => info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned(),
            "delete" => info.verb = "deletecollection".to_owned(),
            _ => {}
        }
    } else if info.verb == "get" && info.subresource.is_empty() && query.flag("watch") {
        info.verb = "watch".to_owned();
    }
    if matches!(info.verb.as_str(), "list" | "watch") {
        let selector = query.get("fieldSelector").map(Fields::parse);
        // One that makes no sense is refused by the handler.
        info.demands = selector.and_then(Result::ok).unwrap_or_default().demands();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(method: &str, url: &str) -> String {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let method: Method = method.parse().expect("method");
        let i = parse(&method, path, &Query::parse(query)).expect("parses");
        if !i.is_resource {
            return format!("path {} {}", i.verb, i.path);
        }
        format!(
            "{} {}/{} ns={} {}/{}/{} tail={}",
            i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.tail
        )
    }

    #[test]
    fn urls() {
        let table = [
            ("GET", "/", "path get /"),
            ("GET", "/healthz", "path get /healthz"),
            ("GET", "/api", "path get /api"),
            ("GET", "/api/v1", "path get /api/v1"),
            ("GET", "/apis/apps", "path get /apis/apps"),
            ("GET", "/apis/apps/v1", "path get /apis/apps/v1"),
            ("POST", "/apis/apps/v1/", "path post /apis/apps/v1/"),
            ("GET", "/api/v1/pods", "list /v1 ns= pods// tail="),
            ("GET", "/api/v1/pods?watch=1", "watch /v1 ns= pods// tail="),
            (
                "GET",
                "/api/v1/pods?watch=false",
                "list /v1 ns= pods// tail=",
            ),
            ("HEAD", "/api/v1/nodes/a", "get /v1 ns= nodes/a/ tail="),
            (
                "GET",
                "/api/v1/namespaces",
                "list /v1 ns= namespaces// tail=",
            ),
            (
                "GET",
                "/api/v1/namespaces/x",
                "get /v1 ns=x namespaces/x/ tail=",
            ),
            (
                "PUT",
                "/api/v1/namespaces/x/finalize",
                "update /v1 ns=x namespaces/x/finalize tail=",
            ),
            (
                "PUT",
                "/api/v1/namespaces/x/status",
                "update /v1 ns=x namespaces/x/status tail=",
            ),
            (
                "POST",
                "/api/v1/namespaces/x/pods",
                "create /v1 ns=x pods// tail=",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/x/pods",
                "deletecollection /v1 ns=x pods// tail=",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/x/pods/a",
                "delete /v1 ns=x pods/a/ tail=",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/x/deployments/d/scale",
                "patch apps/v1 ns=x deployments/d/scale tail=",
            ),
            (
                "GET",
                "/api/v1/watch/namespaces/x/pods",
                "watch /v1 ns=x pods// tail=",
            ),
            ("GET", "/api/v1/watch/nodes", "watch /v1 ns= nodes// tail="),
            (
                "GET",
                "/api/v1/namespaces/x/services/http:s:80/proxy/a/b/",
                "get /v1 ns=x services/http:s:80/proxy tail=a/b/",
            ),
            (
                "GET",
                "/api/v1/namespaces/x/pods/a%20b",
                "get /v1 ns=x pods/a b/ tail=",
            ),
            ("OPTIONS", "/api/v1/pods", "options /v1 ns= pods// tail="),
        ];
        for (method, url, want) in table {
            assert_eq!(short(method, url), want, "{method} {url}");
        }
    }

    #[test]
    fn demands_of_field_selectors() {
        for (method, url, want) in [
            (
                "GET",
                "/api/v1/pods?fieldSelector=spec.nodeName%3Dn",
                "spec.nodeName=n",
            ),
            (
                "GET",
                "/api/v1/namespaces/x/pods?watch=1&fieldSelector=metadata.name%3D%3Da,spec.nodeName!%3Dn",
                "metadata.name=a",
            ),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name", ""),
            (
                "GET",
                "/api/v1/namespaces/x/pods/a?fieldSelector=metadata.name%3Db",
                "",
            ),
            (
                "DELETE",
                "/api/v1/namespaces/x/pods?fieldSelector=metadata.name%3Db",
                "",
            ),
        ] {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let method: Method = method.parse().expect("method");
            let info = parse(&method, path, &Query::parse(query)).expect("parses");
            let demands: Vec<String> = info
                .demands
                .iter()
                .map(|(f, v)| format!("{f}={v}"))
                .collect();
            assert_eq!(demands.join(","), want, "{url}");
        }
    }

    #[test]
    fn refuses_nonsense() {
        assert!(parse(&Method::GET, "/api/v1/watch", &Query::parse("")).is_err());
        assert!(parse(&Method::GET, "/api/v1/pods/%ff", &Query::parse("")).is_err());
    }
}
