//! Who has which devices, as it is told to those that ask (podresources/v1).

use std::collections::BTreeMap;

use crate::proto::resources::{
    ContainerDevices, ContainerResources, NumaNode, PodResources, TopologyInfo,
};

/// Devices of a resource that lie on the same NUMA nodes, by their nodes.
type ByNodes = BTreeMap<Vec<u32>, Vec<String>>;

/// What the node knows.
pub trait Lister: Send + Sync + 'static {
    /// Every pod that runs here.
    fn pods(&self) -> Vec<PodResources>;
    /// Every device that works.
    fn allocatable(&self) -> Vec<ContainerDevices>;
}

/// Builds one pod's answer.
#[derive(Debug, Default)]
pub struct Listing {
    containers: Vec<ContainerResources>,
}

impl Listing {
    /// A container with its devices: resource, and each device with its NUMA nodes.
    pub fn container<'a>(
        &mut self,
        name: &str,
        resources: impl Iterator<Item = (&'a str, Vec<(&'a str, Vec<u32>)>)>,
    ) {
        self.containers.push(ContainerResources {
            name: name.to_owned(),
            devices: resources.flat_map(|(r, d)| devices(r, d)).collect(),
            cpu_ids: Vec::new(),
            memory: Vec::new(),
        });
    }

    /// The pod.
    pub fn pod(self, namespace: &str, name: &str) -> PodResources {
        PodResources {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            containers: self.containers,
        }
    }

    /// Devices of a resource, together where they lie on the same nodes.
    pub fn devices<'a>(
        resource: &str,
        all: impl IntoIterator<Item = (&'a str, Vec<u32>)>,
    ) -> Vec<ContainerDevices> {
        devices(resource, all)
    }
}

fn devices<'a>(
    resource: &str,
    all: impl IntoIterator<Item = (&'a str, Vec<u32>)>,
) -> Vec<ContainerDevices> {
    let mut by_nodes = ByNodes::new();
    for (id, nodes) in all {
        by_nodes.entry(nodes).or_default().push(id.to_owned());
    }
    let node = |n: u32| NumaNode { id: i64::from(n) };
    by_nodes
        .into_iter()
        .map(|(nodes, device_ids)| ContainerDevices {
            resource_name: resource.to_owned(),
            device_ids,
            topology: (!nodes.is_empty()).then(|| TopologyInfo {
                nodes: nodes.into_iter().map(node).collect(),
            }),
        })
        .collect()
}
