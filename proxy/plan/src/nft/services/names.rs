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

/// Class to the chain of a path.
pub const PATHS: &str = "paths";

/// Client, and what it asked for, to the endpoint that it was given.
pub const AFFINITY: &str = "affinity";
/// The same for those who are sent to endpoints of this node only.
pub const AFFINITY_LOCAL: &str = "affinity-local";

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

    /// What a front is read from, once it is translated.
    pub fn original_key(&self) -> Vec<Load> {
        let node = vec![Load::Protocol, Load::OriginalPort];
        if self.node_port {
            node
        } else {
            [vec![Load::OriginalDestination], node].concat()
        }
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

    /// Front to class.
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

    /// Front, once it is translated, to the chain that remembers where to; for those from outside where they differ.
    pub fn remember(&self, outside: bool) -> Name {
        if outside {
            self.name("outside-remember", "outside-node-port-remember")
        } else {
            self.name("remember", "node-port-remember")
        }
    }

    /// All of them, empty.
    pub fn sets(&self) -> Vec<(Name, Set)> {
        let endpoint = || Holds::Fields(vec![Field::Address, Field::Port]);
        let verdicts = || Set::new(&self.fields(), Holds::Verdicts);
        let classes = || Set::new(&self.fields(), Holds::Fields(vec![Field::Class]));
        let slots = [&*self.fields(), &[Field::Number]].concat();
        vec![
            (self.services(), classes()),
            (self.outside(), classes()),
            (self.guards(), verdicts()),
            (self.remember(false), verdicts()),
            (self.remember(true), verdicts()),
            (self.endpoints(), Set::new(&slots, endpoint())),
        ]
    }
}

/// The maps of clients, empty.
pub(super) fn clients() -> [(Name, Set); 2] {
    let key = [Field::Address, Field::Address, Field::Protocol, Field::Port];
    let mut set = Set::new(&key, Holds::Fields(vec![Field::Address, Field::Port]));
    set.dynamic = Some(CLIENTS);
    [(AFFINITY.into(), set.clone()), (AFFINITY_LOCAL.into(), set)]
}
