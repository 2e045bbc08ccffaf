//! A new node takes no pods until it has said that it is ready.

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::text;
use serde_json::{Value, json};

use super::{array, creates};
use crate::{Lookup, Plugin, Request};

/// `TaintNodesByCondition`.
pub(crate) struct TaintNodesByCondition;

const NOT_READY: &str = "node.kubernetes.io/not-ready";

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        node: &mut Value,
        _: &dyn Lookup,
    ) -> Result<(), Status> {
        if creates(req, "", "nodes")
            && let Some(taints) = array(node, "spec", "taints")
        {
            let present =
                |t: &Value| text(t, "/key") == NOT_READY && text(t, "/effect") == "NoSchedule";
            if !taints.iter().any(present) {
                taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
            }
        }
        Ok(())
    }
}
