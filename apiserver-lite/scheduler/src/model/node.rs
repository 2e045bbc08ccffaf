//! A node as the scheduler sees it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::ResourceExt;

use super::{Labels, Resources};

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// New ones stay away.
    NoSchedule,
    /// New ones rather go elsewhere.
    PreferNoSchedule,
    /// Running ones are evicted too.
    NoExecute,
}

impl Effect {
    /// The API's word.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, often empty.
    pub value: String,
    /// What it does.
    pub effect: Effect,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub is_unschedulable: bool,
    /// What pods may ask for altogether.
    pub allocatable: Resources,
    /// The images it has, by each of their names; bytes.
    pub images: BTreeMap<String, i64>,
}

impl Node {
    /// The node in an API object.
    pub fn parse(node: &ApiNode) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let taints = spec
            .and_then(|spec| spec.taints.as_ref())
            .into_iter()
            .flatten();
        let images = status
            .and_then(|status| status.images.as_ref())
            .into_iter()
            .flatten();
        Self {
            name: node.name_any(),
            labels: node.labels().clone(),
            taints: taints
                .filter_map(|taint| {
                    let effect = Effect::parse(&taint.effect)?;
                    let value = taint.value.clone().unwrap_or_default();
                    Some(Taint {
                        key: taint.key.clone(),
                        value,
                        effect,
                    })
                })
                .collect(),
            is_unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
            allocatable: Resources::parse(status.and_then(|status| status.allocatable.as_ref())),
            images: images
                .flat_map(|image| {
                    let size = image.size_bytes.unwrap_or_default();
                    image
                        .names
                        .iter()
                        .flatten()
                        .map(move |name| (name.clone(), size))
                })
                .collect(),
        }
    }
}
