//! The generic handler: what each verb does, the same for every row of the table.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod fields;
pub(crate) mod filter;
pub(crate) mod get;
pub(crate) mod kind;
pub(crate) mod list;
pub(crate) mod patch;
pub(crate) mod update;
pub(crate) mod watch;
pub(crate) mod write;

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use http::Response;
use keelson_api::{Resource, Status};
use keelson_auth::User;
use serde_json::Value;

use crate::decode::{self, FieldValidation};
use crate::negotiate::Form;
use crate::query::Query;
use crate::request_info::RequestInfo;
use crate::respond::{self, Style};
use crate::state::Server;
use crate::table;

/// Everything a handler knows about its request but the body.
#[derive(Clone)]
pub(crate) struct Ctx {
    /// The server.
    pub(crate) server: Arc<Server>,
    /// The row of the table.
    pub(crate) row: Arc<Resource>,
    /// The parsed URL.
    pub(crate) info: RequestInfo,
    /// The query.
    pub(crate) query: Query,
    /// Who asks.
    pub(crate) user: User,
    /// The wanted form of objects.
    pub(crate) form: Form,
    /// The wanted form of bytes.
    pub(crate) style: Style,
    /// `Content-Type`.
    pub(crate) content_type: String,
    /// Who manages the fields that are written when the query does not say: the user agent up to `/`.
    pub(crate) agent: String,
    /// When the request came.
    pub(crate) now: jiff::Timestamp,
    /// Warnings to send along.
    pub(crate) warnings: Arc<Mutex<Vec<String>>>,
}

impl Ctx {
    /// Adds warnings to the answer.
    pub(crate) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(warnings);
    }

    /// Whether the write is only tried. Checked when the request came in.
    pub(crate) fn dry_run(&self) -> bool {
        self.query.dry_run().unwrap_or(true)
    }

    /// Reads a body of the row's kind.
    pub(crate) async fn object(&self, body: Body) -> Result<Value, Status> {
        let bytes = decode::read(body).await?;
        let mut object = decode::parse(&self.content_type, &bytes)?;
        let mode = self.field_validation()?;
        let twice = decode::duplicates(&bytes, mode);
        self.warn(decode::conform(&self.row, &mut object, twice, mode)?);
        Ok(object)
    }

    /// `fieldValidation`.
    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Status> {
        FieldValidation::parse(self.query.get("fieldValidation"))
    }

    /// Checks an object against the row's schema as `fieldValidation` asks for.
    pub(crate) fn conform(&self, object: &mut Value) -> Result<(), Status> {
        let mode = self.field_validation()?;
        self.warn(decode::conform(&self.row, object, Vec::new(), mode)?);
        Ok(())
    }

    /// Reads a body of another kind, as subresources take.
    pub(crate) async fn object_of(
        &self,
        body: Body,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Result<Value, Status> {
        let bytes = decode::read(body).await?;
        let mut object = decode::parse(&self.content_type, &bytes)?;
        let gvk = keelson_schema::Gvk {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        };
        let mode = self.field_validation()?;
        let twice = decode::duplicates(&bytes, mode);
        self.warn(decode::conform_as(&gvk, &mut object, twice, mode)?);
        Ok(object)
    }

    /// Answers with an object or list in the wanted form.
    pub(crate) fn answer(&self, code: u16, object: Value) -> Response<Body> {
        let include = self.query.get("includeObject");
        let value = table::shape(&self.row, self.form, include, object, self.now);
        respond::value(code, &value, self.style)
    }

    /// Whether the answer is what is stored, as compact JSON.
    pub(crate) fn verbatim(&self) -> bool {
        self.form == Form::Plain && !self.style.pretty && !self.style.yaml
    }

    /// Answers with JSON that is encoded already.
    pub(crate) fn json(&self, mut body: Vec<u8>) -> Response<Body> {
        body.push(b'\n');
        respond::bytes(200, "application/json", body.into(), self.style.gzip)
    }

    /// Answers with a value as it is.
    pub(crate) fn plain(&self, code: u16, value: &Value) -> Response<Body> {
        respond::value(code, value, self.style)
    }

    /// A 404 for the object.
    pub(crate) fn not_found(&self) -> Status {
        self.row.not_found(&self.info.name)
    }
}

/// 405.
pub(crate) fn method_not_allowed(ctx: &Ctx) -> Status {
    Status::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
    .about(&ctx.row.group, &ctx.row.plural, &ctx.info.name)
}

/// Runs a verb of the main resource.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    ctx.query.dry_run()?;
    let verb = ctx.info.verb.as_str();
    if !ctx.row.allows(verb) {
        return Err(method_not_allowed(ctx));
    }
    match verb {
        "get" => get::run(ctx).await,
        "list" => list::run(ctx).await,
        "watch" => watch::run(ctx).await,
        "create" => create::run(ctx, body).await,
        "update" => update::run(ctx, body).await,
        "patch" => patch::run(ctx, body).await,
        "delete" => delete::run(ctx, body).await,
        "deletecollection" => delete::run_collection(ctx, body).await,
        _ => Err(method_not_allowed(ctx)),
    }
}
