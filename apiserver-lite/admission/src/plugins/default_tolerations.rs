//! A pod stays five minutes on a node that is lost, unless it says how long.

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::text;
use serde_json::{Value, json};

use super::{array, makes_pod};
use crate::{Lookup, Plugin, Request};

/// `DefaultTolerationSeconds`.
pub(crate) struct DefaultTolerationSeconds;

const KEYS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
const SECONDS: i64 = 300;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        pod: &mut Value,
        _: &dyn Lookup,
    ) -> Result<(), Status> {
        if !makes_pod(req) {
            return Ok(());
        }
        let Some(tolerations) = array(pod, "spec", "tolerations") else {
            return Ok(());
        };
        for key in KEYS {
            let tolerated = |t: &Value| {
                ["", key].contains(&text(t, "/key"))
                    && ["", "NoExecute"].contains(&text(t, "/effect"))
            };
            if !tolerations.iter().any(tolerated) {
                tolerations.push(json!({
                    "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        Ok(())
    }
}
