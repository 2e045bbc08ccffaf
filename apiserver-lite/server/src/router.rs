//! From a request to its handler: parse, authenticate, authorize, look up the row, run.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use keelson_api::{Resource, Scope, Status};
use keelson_auth::User;

use crate::authn::{self, InProcess};
use crate::handler::{self, Ctx, fields};
use crate::negotiate::{self, Form};
use crate::query::Query;
use crate::request_info::{self, RequestInfo};
use crate::respond::{self, Style};
use crate::state::{Server, no_such_resource};
use crate::{authz, figures, paths, reviews, sub};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The server as a tower service, for requests from outside or of one user of this process.
#[derive(Clone)]
pub(crate) struct Router {
    server: Arc<Server>,
    user: Option<User>,
}

impl Router {
    /// For requests from outside (`user` `None`) or from inside this process.
    pub(crate) fn new(server: Arc<Server>, user: Option<User>) -> Router {
        Router { server, user }
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, mut request: Request<Body>) -> Response<Body> {
        if let Some(user) = &self.user {
            request.extensions_mut().insert(InProcess(user.clone()));
        }
        answer(self.server.clone(), request).await
    }
}

impl<B> tower::Service<Request<B>> for Router
where
    B: http_body_util::BodyExt<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let router = self.clone();
        let request = request.map(Body::new);
        Box::pin(async move { Ok(router.answer(request).await) })
    }
}

async fn answer(server: Arc<Server>, request: Request<Body>) -> Response<Body> {
    let began = Instant::now();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    if let Err(status) = query.check() {
        return respond::refuse(&status);
    }
    let info = match request_info::parse(request.method(), request.uri().path(), &query) {
        Ok(info) => info,
        Err(why) => return respond::refuse(&Status::bad_request(why)),
    };
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let known = info.is_resource
        && server
            .table()
            .get(&info.group, &info.version, &info.resource)
            .is_some();
    let outcome = route(&server, info.clone(), query, request, warnings.clone()).await;
    let mut response = outcome.unwrap_or_else(|status| respond::refuse(&status));
    for value in respond::warnings(&warnings.lock().unwrap_or_else(PoisonError::into_inner)) {
        response.headers_mut().append(header::WARNING, value);
    }
    server
        .metrics
        .answered(&info, known, response.status().as_u16(), began.elapsed());
    response
}

async fn route(
    server: &Arc<Server>,
    info: RequestInfo,
    query: Query,
    request: Request<Body>,
    warnings: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Body>, Status> {
    let user = match authn::authenticate(server, request.extensions(), request.headers()).await {
        Err(_) if authz::public(&info) => User::anonymous(),
        user => authn::impersonate(server, user?, request.headers())?,
    };
    let _place = server.limits.enter(&user, &info)?;
    authz::check(server, &user, &info)?;
    let style = style(request.headers(), &query);
    if !info.is_resource {
        return paths::answer(server, &info, &query, request.headers(), style).await;
    }
    let row = server.row(&info.group, &info.version, &info.resource)?;
    let accept = text(request.headers(), header::ACCEPT);
    let agent = fields::from_agent(text(request.headers(), header::USER_AGENT).unwrap_or_default());
    let ctx = Ctx {
        server: server.clone(),
        form: form(&info, &row, &query, accept)?,
        style,
        content_type: text(request.headers(), header::CONTENT_TYPE)
            .unwrap_or_default()
            .to_owned(),
        agent,
        now: jiff::Timestamp::now(),
        warnings,
        user,
        row,
        info: normal(info),
        query,
    };
    check_scope(&ctx)?;
    if !ctx.info.subresource.is_empty() {
        return sub::run(&ctx, request).await;
    }
    if sub::is_binding(&ctx.row) {
        return sub::bind(&ctx, request.into_body()).await;
    }
    if reviews::is_review(&ctx.row) {
        return reviews::run(&ctx, request.into_body()).await;
    }
    if figures::are(&ctx.row) {
        return figures::run(&ctx).await;
    }
    handler::run(&ctx, request.into_body()).await
}

/// The wanted form of the answer. What is answered and not stored has no Table.
fn form(
    info: &RequestInfo,
    row: &Resource,
    query: &Query,
    accept: Option<&str>,
) -> Result<Form, Status> {
    if !info.tail.is_empty() || sub::streams(&info.subresource) {
        return Ok(Form::Plain);
    }
    let form = negotiate::form(accept, row.allows("get"))?;
    match query.get("includeObject") {
        Some(other) if form == Form::Table && !["None", "Metadata", "Object"].contains(&other) => {
            Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: \
                 must be 'Metadata', 'Object', 'None', or empty"
            )))
        }
        _ => Ok(form),
    }
}

/// Namespaces themselves are found by name alone; the namespace in their info is for authorization only.
fn normal(mut info: RequestInfo) -> RequestInfo {
    if info.group.is_empty() && info.resource == "namespaces" {
        info.namespace.clear();
    }
    info
}

fn check_scope(ctx: &Ctx) -> Result<(), Status> {
    let namespaced = ctx.row.scope == Scope::Namespaced;
    let named = !ctx.info.name.is_empty();
    if (!namespaced && !ctx.info.namespace.is_empty())
        || (namespaced && named && ctx.info.namespace.is_empty())
    {
        return Err(no_such_resource());
    }
    Ok(())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

fn style(headers: &HeaderMap, query: &Query) -> Style {
    let agent = text(headers, header::USER_AGENT).unwrap_or_default();
    let by_hand = ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|p| agent.starts_with(p));
    Style {
        pretty: query
            .get("pretty")
            .map_or(by_hand, |_| query.flag("pretty")),
        yaml: negotiate::yaml(text(headers, header::ACCEPT)),
        gzip: text(headers, header::ACCEPT_ENCODING).is_some_and(|v| v.contains("gzip")),
    }
}

/// Whether a path is discovery.
pub(crate) fn is_discovery(path: &str) -> bool {
    path == "/api" || path == "/apis" || path.starts_with("/api/") || path.starts_with("/apis/")
}
