//! WireGuard's own settings, by generic netlink.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use futures::StreamExt;
use genetlink::GenetlinkHandle;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};

use crate::Error;
use crate::key::{PrivateKey, PublicKey};
use crate::plan::{Entry, Link, LinkKind, WIREGUARD};

/// A device as it is.
#[derive(Default)]
pub(super) struct Device {
    pub(super) key: Option<PublicKey>,
    port: u16,
    peers: BTreeMap<PublicKey, (Option<SocketAddr>, Vec<IpNet>)>,
}

impl Device {
    /// The pieces it consists of. A peer without an endpoint is none of ours, and taken for one at no address, so that it
    /// goes or gets its endpoint.
    pub(super) fn entries(self, name: &str, mtu: u32) -> Vec<Entry> {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let peers = self
            .peers
            .into_iter()
            .map(|(key, (endpoint, mut allowed))| {
                allowed.sort();
                Entry::Peer {
                    key,
                    endpoint: endpoint.unwrap_or(nowhere),
                    allowed,
                }
            });
        let link = self.key.map(|key| {
            let (name, port) = (name.to_owned(), self.port);
            let kind = LinkKind::WireGuard { port, key };
            Entry::Link(Link { name, mtu, kind })
        });
        peers.chain(link).collect()
    }

    fn take(&mut self, attribute: WireguardAttribute) {
        match attribute {
            WireguardAttribute::PublicKey(key) => self.key = Some(PublicKey(key)),
            WireguardAttribute::ListenPort(port) => self.port = port,
            WireguardAttribute::Peers(peers) => peers.into_iter().for_each(|p| self.peer(p)),
            _ => {}
        }
    }

    /// One with many networks comes in several parts.
    fn peer(&mut self, peer: WireguardPeer) {
        let key = peer.iter().find_map(|a| match a {
            WireguardPeerAttribute::PublicKey(key) => Some(PublicKey(*key)),
            _ => None,
        });
        let Some(key) = key else { return };
        let (endpoint, allowed) = self.peers.entry(key).or_default();
        for attribute in peer.0 {
            match attribute {
                WireguardPeerAttribute::Endpoint(at) => *endpoint = Some(at),
                WireguardPeerAttribute::AllowedIps(all) => {
                    allowed.extend(all.iter().filter_map(network));
                }
                _ => {}
            }
        }
    }
}

fn network(allowed: &WireguardAllowedIp) -> Option<IpNet> {
    let address = allowed.0.iter().find_map(|a| match a {
        WireguardAllowedIpAttr::IpAddr(ip) => Some(*ip),
        _ => None,
    });
    let bits = allowed.0.iter().find_map(|a| match a {
        WireguardAllowedIpAttr::Cidr(bits) => Some(*bits),
        _ => None,
    });
    IpNet::new(address?, bits?).ok()
}

/// Reads a device.
pub(super) async fn get(handle: &mut GenetlinkHandle, name: &str) -> Result<Device, Error> {
    let attributes = vec![WireguardAttribute::IfName(name.to_owned())];
    let mut device = Device::default();
    let each = |attribute| device.take(attribute);
    ask(
        handle,
        WireguardCmd::GetDevice,
        attributes,
        NLM_F_DUMP,
        each,
    )
    .await?;
    Ok(device)
}

/// Sets who the node is.
pub(super) async fn set_key(
    handle: &mut GenetlinkHandle,
    name: &str,
    port: u16,
    key: &PrivateKey,
) -> Result<(), Error> {
    let attributes = vec![
        WireguardAttribute::IfName(name.to_owned()),
        WireguardAttribute::PrivateKey(key.bytes()),
        WireguardAttribute::ListenPort(port),
    ];
    set(handle, attributes).await
}

/// Makes a peer, or makes it another.
pub(super) async fn set_peer(
    handle: &mut GenetlinkHandle,
    key: PublicKey,
    endpoint: SocketAddr,
    allowed: &[IpNet],
) -> Result<(), Error> {
    let allowed = allowed.iter().map(|net| {
        let family = match net.addr() {
            IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
            IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
        };
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(net.network()),
            WireguardAllowedIpAttr::Cidr(net.prefix_len()),
        ])
    });
    let peer = vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::Endpoint(endpoint),
        WireguardPeerAttribute::AllowedIps(allowed.collect()),
    ];
    change(handle, peer).await
}

/// Removes a peer.
pub(super) async fn remove_peer(handle: &mut GenetlinkHandle, key: PublicKey) -> Result<(), Error> {
    let peer = vec![
        WireguardPeerAttribute::PublicKey(key.0),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
    ];
    change(handle, peer).await
}

async fn change(
    handle: &mut GenetlinkHandle,
    peer: Vec<WireguardPeerAttribute>,
) -> Result<(), Error> {
    let attributes = vec![
        WireguardAttribute::IfName(WIREGUARD.to_owned()),
        WireguardAttribute::Peers(vec![WireguardPeer(peer)]),
    ];
    set(handle, attributes).await
}

async fn set(
    handle: &mut GenetlinkHandle,
    attributes: Vec<WireguardAttribute>,
) -> Result<(), Error> {
    ask(
        handle,
        WireguardCmd::SetDevice,
        attributes,
        NLM_F_ACK,
        |_| {},
    )
    .await
}

async fn ask(
    handle: &mut GenetlinkHandle,
    cmd: WireguardCmd,
    attributes: Vec<WireguardAttribute>,
    flags: u16,
    mut each: impl FnMut(WireguardAttribute),
) -> Result<(), Error> {
    let message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    let mut answers = handle.request(message).await?;
    while let Some(answer) = answers.next().await {
        match answer.map_err(genetlink::GenetlinkError::from)?.payload {
            NetlinkPayload::InnerMessage(m) => m.payload.attributes.into_iter().for_each(&mut each),
            NetlinkPayload::Error(e) if e.code.is_some() => return Err(Error::Kernel(e.to_io())),
            _ => {}
        }
    }
    Ok(())
}
