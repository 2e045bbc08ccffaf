//! Nobody may hand out what he has not: roles and bindings are checked against the writer's own rules,
//! unless he may `escalate` or `bind`.

use keelson_api::Status;
use keelson_auth::rbac::{Rule, rules_of};
use keelson_auth::{Attributes, Decision};
use serde_json::Value;

use crate::handler::Ctx;
use crate::object::{self, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a role or binding that would give more than the writer has.
pub(crate) fn check(ctx: &Ctx, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    if ctx.row.group != GROUP || ctx.user.in_group("system:masters") {
        return Ok(());
    }
    let role = matches!(&*ctx.row.plural, "roles" | "clusterroles");
    let unchanged = |field: &str| old.is_some_and(|o| o.get(field) == new.get(field));
    if role {
        if unchanged("rules") && unchanged("aggregationRule")
            || may(ctx, "escalate", &ctx.row.plural, object::name(new))
        {
            return Ok(());
        }
        let everything = Rule {
            verbs: vec!["*".into()],
            api_groups: vec!["*".into()],
            resources: vec!["*".into()],
            ..Rule::default()
        };
        let aggregated = new.get("aggregationRule").is_some_and(|a| !a.is_null());
        let rules = if aggregated {
            vec![everything]
        } else {
            rules_of(new)
        };
        return grant(ctx, new, &rules);
    }
    if unchanged("roleRef") && unchanged("subjects") {
        return Ok(());
    }
    let (kind, name) = (text(new, "/roleRef/kind"), text(new, "/roleRef/name"));
    let plural = if kind == "Role" {
        "roles"
    } else {
        "clusterroles"
    };
    if may(ctx, "bind", plural, name) {
        return Ok(());
    }
    let rules = ctx.server.authority.read_rbac(|index| {
        index
            .role(kind, &ctx.info.namespace, name)
            .map(<[Rule]>::to_vec)
    });
    match rules {
        Some(rules) => grant(ctx, new, &rules),
        None => Err(Status::not_found(GROUP, plural, name)),
    }
}

fn may(ctx: &Ctx, verb: &str, resource: &str, name: &str) -> bool {
    let asked = Attributes {
        verb: verb.into(),
        group: GROUP.into(),
        version: "v1".into(),
        resource: resource.into(),
        namespace: ctx.info.namespace.clone(),
        name: name.into(),
        ..Attributes::default()
    };
    matches!(ctx.server.authorize(&ctx.user, &asked), Decision::Allow(_))
}

fn grant(ctx: &Ctx, new: &Value, rules: &[Rule]) -> Result<(), Status> {
    let lacking = ctx
        .server
        .authority
        .read_rbac(|index| index.may_grant(&ctx.user, &ctx.info.namespace, rules));
    lacking.map_err(|why| Status::forbidden(GROUP, &ctx.row.plural, object::name(new), &why))
}
