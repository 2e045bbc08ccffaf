//! Addresses of services that this node answers itself: they are its own, on the loopback interface, so that whoever is
//! on the node, pods and processes alike, reaches them without a translation.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::Handle;

use crate::Error;

/// The loopback interface's number in every network namespace (the kernel's `LOOPBACK_IFINDEX`).
const INDEX: u32 = 1;
/// How ours are known: IPv4 addresses have labels. (`ip address show label lo:keelson`)
const LABEL: &str = "lo:keelson";
/// IPv6 ones have none, but both have a protocol number: that of our routes (`IFA_PROTO`, Linux 5.18).
const PROTOCOL: u8 = 107;

/// Gives the node these addresses, and takes those of ours away that are not among them. Those of others with the same
/// address stay theirs.
pub async fn hold(ips: &[IpAddr]) -> Result<(), Error> {
    let fail = |source| Error::Netlink {
        action: "set addresses of the loopback interface",
        source,
    };
    let (connection, handle, _) = rtnetlink::new_connection().map_err(fail)?;
    let task = tokio::spawn(connection);
    let done = change(&handle, ips).await;
    task.abort();
    done.map_err(|e| fail(std::io::Error::other(e)))
}

async fn change(handle: &Handle, ips: &[IpAddr]) -> Result<(), rtnetlink::Error> {
    let all = handle
        .address()
        .get()
        .set_link_index_filter(INDEX)
        .execute();
    let all: Vec<AddressMessage> = all.try_collect().await?;
    for there in all.into_iter().filter(is_ours) {
        let gone = address(&there).is_some_and(|ip| !ips.contains(&ip));
        if gone {
            handle.address().del(there).execute().await?;
        }
    }
    for ip in ips {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        let mut add = handle.address().add(INDEX, *ip, length).replace();
        let message = add.message_mut();
        message
            .attributes
            .push(AddressAttribute::Protocol(PROTOCOL.into()));
        if ip.is_ipv4() {
            message
                .attributes
                .push(AddressAttribute::Label(LABEL.into()));
        } else {
            // Nobody else is on this link.
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        add.execute().await?;
    }
    Ok(())
}

fn is_ours(message: &AddressMessage) -> bool {
    message.attributes.iter().any(|a| match a {
        AddressAttribute::Label(label) => label == LABEL,
        AddressAttribute::Protocol(protocol) => *protocol == PROTOCOL.into(),
        _ => false,
    })
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    })
}
