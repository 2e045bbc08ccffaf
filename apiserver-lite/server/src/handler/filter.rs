//! Which objects a list, a watch or a collection's deletion is about.

use keelson_api::selector::{Fields, Labels};
use keelson_api::{Resource, Status};
use serde_json::Value;

use super::Ctx;
use crate::object;

/// Label selector, field selector and the name in the URL.
#[derive(Default)]
pub(crate) struct Filter {
    labels: Option<Labels>,
    fields: Option<Fields>,
    name: String,
}

impl Filter {
    /// The filter of a request.
    pub(crate) fn of(ctx: &Ctx) -> Result<Filter, Status> {
        let labels = ctx
            .query
            .get("labelSelector")
            .map(Labels::parse)
            .transpose()
            .map_err(Status::bad_request)?;
        let fields = ctx
            .query
            .get("fieldSelector")
            .map(Fields::parse)
            .transpose()
            .map_err(Status::bad_request)?;
        if let Some(fields) = &fields {
            fields.check(&ctx.row).map_err(Status::bad_request)?;
        }
        Ok(Filter {
            labels: labels.filter(|l| !l.is_everything()),
            fields: fields.filter(|f| !f.is_everything()),
            name: ctx.info.name.clone(),
        })
    }

    /// Whether everything matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_none() && self.fields.is_none() && self.name.is_empty()
    }

    /// Whether an object matches.
    pub(crate) fn matches(&self, row: &Resource, object: &Value) -> bool {
        (self.name.is_empty() || object::name(object) == self.name)
            && self.labels.as_ref().is_none_or(|l| l.matches(object))
            && self.fields.as_ref().is_none_or(|f| f.matches(row, object))
    }
}
