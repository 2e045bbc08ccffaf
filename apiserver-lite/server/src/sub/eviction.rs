//! `pods/eviction`: a deletion that a PodDisruptionBudget may refuse.

use axum::body::Body;
use http::Response;
use keelson_admission::Operation;
use keelson_api::selector::Labels;
use keelson_api::{Cause, Status};
use serde_json::{Value, json};

use crate::handler::delete::{self, Options};
use crate::handler::{Ctx, get, list, write};
use crate::object::{self, text};
use crate::state::store_error;

/// How often taking from a budget that others take from is tried.
const RACES: usize = 16;

/// Answers an Eviction.
pub(crate) async fn run(ctx: &Ctx, body: Body) -> Result<Response<Body>, Status> {
    let eviction = ctx.object_of(body, "policy", "v1", "Eviction").await?;
    let given = text(&eviction, "/metadata/name");
    if !given.is_empty() && given != ctx.info.name {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let options = options(ctx, &eviction);
    let (_, pod) = get::load(&ctx.server, &ctx.row, &ctx.info.namespace, &ctx.info.name).await?;
    write::validate(
        ctx,
        Operation::Create,
        "eviction",
        &ctx.info.name,
        None,
        &eviction,
    )
    .await?;
    if !ignores_budget(&pod) {
        take(ctx, &pod, options.dry_run).await?;
    }
    let mut ctx = ctx.clone();
    if options.dry_run && !ctx.dry_run() {
        ctx.query = crate::query::Query::parse("dryRun=All");
    }
    delete::delete(&ctx, &ctx.info.name, &options).await?;
    Ok(ctx.plain(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}

fn options(ctx: &Ctx, eviction: &Value) -> Options {
    let asked = eviction.get("deleteOptions").cloned().unwrap_or_default();
    let owned = |pointer: &str| Some(text(&asked, pointer).to_owned()).filter(|t| !t.is_empty());
    Options {
        grace: asked.get("gracePeriodSeconds").and_then(Value::as_i64),
        propagation: owned("/propagationPolicy"),
        uid: owned("/preconditions/uid"),
        revision: owned("/preconditions/resourceVersion"),
        dry_run: ctx.dry_run() || !object::items(&asked, "/dryRun").is_empty(),
    }
}

/// Pods that serve nobody may always go: finished, not started, or going already.
fn ignores_budget(pod: &Value) -> bool {
    object::deleting(pod)
        || matches!(
            text(pod, "/status/phase"),
            "Succeeded" | "Failed" | "Pending"
        )
}

fn ready(pod: &Value) -> bool {
    let mut conditions = object::items(pod, "/status/conditions").iter();
    conditions.any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
}

/// Takes one disruption from the budget the pod is under, or refuses with 429.
async fn take(ctx: &Ctx, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let row = ctx.server.row("policy", "v1", "poddisruptionbudgets")?;
    for _ in 0..RACES {
        let all = list::all(&ctx.server, &row, &ctx.info.namespace)
            .await?
            .items;
        let mut over = all.into_iter().filter(|budget| covers(budget, pod));
        let Some(mut budget) = over.next() else {
            return Ok(());
        };
        if over.next().is_some() {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::internal(why));
        }
        if may_go_unready(&budget, pod) {
            return Ok(());
        }
        decide(ctx, &mut budget)?;
        if dry_run {
            return Ok(());
        }
        let key = object::key(&row, &ctx.info.namespace, object::name(&budget));
        let expected = Some(object::revision(&budget)?);
        match ctx
            .server
            .store
            .swap(&key, expected, Some(object::save(&row, &budget)))
            .await
        {
            Ok(_) => return Ok(()),
            Err(keelson_store::Error::Conflict { .. }) => {}
            Err(other) => return Err(store_error(other)),
        }
    }
    Err(too_many(
        "the disruption budget is contended; try again",
        Vec::new(),
    ))
}

fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = budget.pointer("/spec/selector").filter(|s| !s.is_null());
    selector
        .and_then(|s| Labels::from_object(s).ok())
        .is_some_and(|l| l.matches(pod))
}

/// A pod that is not ready does not count for the budget (`IfHealthyBudget`: only while the budget is met).
fn may_go_unready(budget: &Value, pod: &Value) -> bool {
    if ready(pod) {
        return false;
    }
    let number = |f: &str| {
        budget
            .pointer(&format!("/status/{f}"))
            .and_then(Value::as_i64)
            .unwrap_or(0)
    };
    let always = text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
    always || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0)
}

fn decide(ctx: &Ctx, budget: &mut Value) -> Result<(), Status> {
    let name = object::name(budget).to_owned();
    let number = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_i64).unwrap_or(0);
    if number(budget, "/status/observedGeneration") < number(budget, "/metadata/generation") {
        let cause = Cause {
            reason: "DisruptionBudget",
            field: String::new(),
            message: format!(
                "The disruption budget {name} is still being processed by the server."
            ),
        };
        let mut status = too_many(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            vec![cause],
        );
        status.retry_after = Some(10);
        return Err(status);
    }
    let allowed = number(budget, "/status/disruptionsAllowed");
    if allowed <= 0 {
        let message = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number(budget, "/status/desiredHealthy"),
            number(budget, "/status/currentHealthy"),
        );
        let cause = Cause {
            reason: "DisruptionBudget",
            field: String::new(),
            message,
        };
        return Err(too_many(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            vec![cause],
        ));
    }
    let status = object::child_mut(budget, "status");
    status.insert("disruptionsAllowed".into(), json!(allowed - 1));
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    if let Some(map) = disrupted.as_object_mut() {
        map.insert(ctx.info.name.clone(), json!(object::timestamp(ctx.now)));
    }
    Ok(())
}

fn too_many(message: &str, causes: Vec<Cause>) -> Status {
    let mut status = Status::new(429, "TooManyRequests", message);
    status.causes = causes;
    status
}
