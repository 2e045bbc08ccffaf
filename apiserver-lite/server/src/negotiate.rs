//! Which form an answer takes, from `Accept`. Only JSON is served; a client that would also take
//! protobuf gets JSON, one that takes nothing else gets 406.

use keelson_api::Status;

/// What an answer is made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object itself.
    Plain,
    /// `meta.k8s.io` Table.
    Table,
    /// `PartialObjectMetadata` and its list.
    Metadata,
}

/// Which aggregated discovery a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// One document a group version.
    Plain,
    /// Everything in one document, of this version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
}

struct Media<'a> {
    kind: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

impl Media<'_> {
    fn param(&self, name: &str) -> &str {
        self.params
            .iter()
            .find(|(k, _)| *k == name)
            .map_or("", |(_, v)| v)
    }
    fn json(&self) -> bool {
        matches!(
            self.kind,
            "application/json" | "application/*" | "*/*" | "*"
        )
    }
    fn yaml(&self) -> bool {
        self.kind == "application/yaml"
    }
}

fn media(accept: &str) -> impl Iterator<Item = Media<'_>> {
    accept.split(',').map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        Media {
            kind,
            params: parts.filter_map(|p| p.split_once('=')).collect(),
        }
    })
}

/// The form of an object or list; `tables`: the resource has columns, as all that is stored has and reviews have not.
pub(crate) fn form(accept: Option<&str>, tables: bool) -> Result<Form, Status> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else {
        return Ok(Form::Plain);
    };
    for m in media(accept).filter(|m| m.json() || m.yaml()) {
        let of_meta = m.param("g") == "meta.k8s.io" && matches!(m.param("v"), "v1" | "v1beta1");
        match m.param("as") {
            "" => return Ok(Form::Plain),
            "Table" if of_meta && tables => return Ok(Form::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if of_meta => {
                return Ok(Form::Metadata);
            }
            _ => {}
        }
    }
    Err(not_acceptable())
}

/// Whether the client prefers YAML: it names `application/yaml` before anything that takes JSON.
pub(crate) fn yaml(accept: Option<&str>) -> bool {
    media(accept.unwrap_or_default())
        .find(|m| m.json() || m.yaml())
        .is_some_and(|m| m.yaml())
}

/// The form of discovery.
pub(crate) fn discovery(accept: Option<&str>) -> Result<Discovery, Status> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else {
        return Ok(Discovery::Plain);
    };
    for m in media(accept).filter(|m| m.json() || m.yaml()) {
        match (m.param("as"), m.param("g"), m.param("v")) {
            ("", _, _) => return Ok(Discovery::Plain),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => {
                return Ok(Discovery::Aggregated("v2"));
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                return Ok(Discovery::Aggregated("v2beta1"));
            }
            _ => {}
        }
    }
    Err(not_acceptable())
}

/// 406.
pub(crate) fn not_acceptable() -> Status {
    Status::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let table = [
            (None, Ok(Form::Plain)),
            (Some("*/*"), Ok(Form::Plain)),
            (Some("application/json"), Ok(Form::Plain)),
            (
                Some("application/vnd.kubernetes.protobuf,application/json"),
                Ok(Form::Plain),
            ),
            (
                Some("application/vnd.kubernetes.protobuf, */*"),
                Ok(Form::Plain),
            ),
            (
                Some(
                    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                ),
                Ok(Form::Table),
            ),
            (
                Some("application/json; as=PartialObjectMetadataList; g=meta.k8s.io; v=v1"),
                Ok(Form::Metadata),
            ),
            (
                Some("application/json;as=Table;v=v9;g=meta.k8s.io,application/json"),
                Ok(Form::Plain),
            ),
            (
                Some(
                    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                ),
                Ok(Form::Metadata),
            ),
        ];
        for (accept, want) in table {
            assert_eq!(form(accept, true), want, "{accept:?}");
        }
        for accept in [
            "application/vnd.kubernetes.protobuf",
            "text/html",
            "application/json;as=Table;g=x;v=v1",
        ] {
            assert_eq!(form(Some(accept), true).expect_err(accept).code, 406);
        }
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(form(Some(table), false).expect_err(table).code, 406);
        let either = format!("{table},application/json");
        assert_eq!(form(Some(&either), false), Ok(Form::Plain));
    }

    #[test]
    fn discoveries() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(Some(kubectl)), Ok(Discovery::Aggregated("v2")));
        assert_eq!(discovery(Some("application/json")), Ok(Discovery::Plain));
        assert!(
            yaml(Some("application/yaml")) && !yaml(Some("application/json, application/yaml"))
        );
    }
}
