//! Names of the table's sets and maps. Most are there twice: for service addresses, and for ports of the node's addresses.

use crate::nft::table::{Field, Holds, Load, Name, Set};

/// Cluster addresses: what is sent to one and to none of its services is refused.
pub const CLUSTER_IPS: &str = "cluster-ips";
/// Pairs of an endpoint's address with itself: what an endpoint sends to itself must have another source.
pub const HAIRPIN: &str = "hairpin";
/// Pods' networks.
pub const PODS: &str = "pods";
/// Networks on whose addresses node ports are reached.
pub const NODE_PORT_NETS: &str = "node-port-nets";

/// Clients that are remembered at once, of all services with affinity.
const CLIENTS: u32 = 65_536;

/// Maps whose keys begin with a front.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    node_port: bool,
}

impl Maps {
    /// Those for node ports, or those for addresses.
    pub fn of(node_port: bool) -> Self {
        Self { node_port }
    }

    /// What a front is read from.
    pub fn key(&self) -> Vec<Load> {
        let node = vec![Load::Protocol, Load::Port];
        if self.node_port {
            node
        } else {
            [vec![Load::Destination], node].concat()
        }
    }

    fn fields(&self) -> Vec<Field> {
        let node = vec![Field::Protocol, Field::Port];
        if self.node_port {
            node
        } else {
            [vec![Field::Address], node].concat()
        }
    }

    fn name(&self, address: &'static str, node_port: &'static str) -> Name {
        if self.node_port { node_port } else { address }.into()
    }

    /// Front to chain.
    pub fn services(&self) -> Name {
        self.name("services", "node-ports")
    }

    /// The same for those from outside, where they go another way.
    pub fn outside(&self) -> Name {
        self.name("outside", "outside-node-ports")
    }

    /// Front to who is refused.
    pub fn guards(&self) -> Name {
        self.name("guards", "node-port-guards")
    }

    /// Front and slot to endpoint.
    pub fn endpoints(&self) -> Name {
        self.name("endpoints", "node-port-endpoints")
    }

    /// Client and front to endpoint.
    pub fn affinity(&self) -> Name {
        self.name("affinity", "node-port-affinity")
    }

    /// Front and endpoint, where clients may stay with it; those of this node, or all.
    pub fn sticky(&self, local: bool) -> Name {
        if local {
            self.name("sticky-local", "node-port-sticky-local")
        } else {
            self.name("sticky", "node-port-sticky")
        }
    }

    /// All of them, empty.
    pub fn sets(&self) -> Vec<(Name, Set)> {
        let endpoint = [Field::Address, Field::Port];
        let holds = || Holds::Fields(endpoint.to_vec());
        let with = |more: &[Field]| [&self.fields(), more].concat();
        let mut affinity = Set::new(&[&[Field::Address], &*self.fields()].concat(), holds());
        affinity.dynamic = Some(CLIENTS);
        let verdicts = || Set::new(&self.fields(), Holds::Verdicts);
        vec![
            (self.services(), verdicts()),
            (self.outside(), verdicts()),
            (self.guards(), verdicts()),
            (self.endpoints(), Set::new(&with(&[Field::Number]), holds())),
            (self.sticky(false), Set::new(&with(&endpoint), holds())),
            (self.sticky(true), Set::new(&with(&endpoint), holds())),
            (self.affinity(), affinity),
        ]
    }
}
