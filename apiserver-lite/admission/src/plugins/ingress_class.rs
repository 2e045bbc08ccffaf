//! Ingresses get the default class.

use async_trait::async_trait;
use keelson_api::Status;
use keelson_api::json::{has, set, text};
use serde_json::Value;

use super::creates;
use crate::{Lookup, Plugin, Request};

/// `DefaultIngressClass`.
pub(crate) struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn mutate(
        &self,
        req: &Request<'_>,
        ingress: &mut Value,
        lookup: &dyn Lookup,
    ) -> Result<(), Status> {
        const OLD_FORM: &str = "/metadata/annotations/kubernetes.io~1ingress.class";
        const DEFAULT: &str = "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class";
        let says = has(ingress, "/spec/ingressClassName") || has(ingress, OLD_FORM);
        if !creates(req, "networking.k8s.io", "ingresses") || says {
            return Ok(());
        }
        let classes = lookup
            .list("networking.k8s.io", "v1", "ingressclasses", "")
            .await?;
        let mut defaults: Vec<&Value> = classes
            .iter()
            .filter(|c| text(c, DEFAULT) == "true")
            .collect();
        defaults.sort_by_key(|c| {
            (
                std::cmp::Reverse(text(c, "/metadata/creationTimestamp")),
                text(c, "/metadata/name"),
            )
        });
        if let (Some(class), Some(spec)) = (defaults.first(), ingress.get_mut("spec")) {
            set(spec, "ingressClassName", text(class, "/metadata/name"));
        }
        Ok(())
    }
}
