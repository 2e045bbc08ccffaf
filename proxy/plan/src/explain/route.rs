//! Where a packet leaves.

use std::net::IpAddr;

/// What the kernel's routing says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// It leaves by an interface.
    By {
        /// The interface.
        interface: String,
        /// Whom it is handed to; none: its destination.
        gateway: Option<IpAddr>,
        /// The address that this node's own packets have there.
        source: Option<IpAddr>,
    },
    /// It is for this node itself.
    Here {
        /// The address that this node's own packets have.
        source: Option<IpAddr>,
    },
    /// Nowhere, for this reason.
    Nowhere(String),
}

impl Route {
    /// The interface that it leaves by.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::By { interface, .. } => Some(interface),
            _ => None,
        }
    }

    /// The address that this node's own packets have.
    pub fn source(&self) -> Option<IpAddr> {
        match self {
            Self::By { source, .. } | Self::Here { source } => *source,
            Self::Nowhere(_) => None,
        }
    }

    /// For people.
    pub fn words(&self) -> String {
        match self {
            Self::By {
                interface,
                gateway: None,
                ..
            } => format!("route: leaves by {interface}"),
            Self::By {
                interface,
                gateway: Some(gateway),
                ..
            } => format!("route: leaves by {interface} to gateway {gateway}"),
            Self::Here { .. } => "route: to this node itself".into(),
            Self::Nowhere(why) => format!("no route leads there: {why}"),
        }
    }
}
